//! Products of matrices, and attention, which is made of them.

use engrad::{Mask, Tensor, attention};

use super::super::argument::{Argument, BY_NAME, Call};
use super::Row;

pub const ROWS: &[Row] = &[
    ("matmul", |c| c.x().matmul(&c.tensor(0, "other")).into()),
    ("mm", |c| c.x().matmul(&c.tensor(0, "mat2")).into()),
    ("bmm", |c| c.x().matmul(&c.tensor(0, "mat2")).into()),
    ("mv", |c| c.x().matmul(&c.tensor(0, "vec")).into()),
    ("dot", |c| c.x().matmul(&c.tensor(0, "tensor")).into()),
    ("outer", |c| c.x().outer(&c.tensor(0, "vec2")).into()),
    ("addmm", |c| add_product(c).into()),
    ("baddbmm", |c| add_product(c).into()),
    ("linear", |c| match c.tensor(0, "weight") {
        // A single output unit may be given as a vector.
        weight if weight.ndim() == 1 => {
            let product = c.x().matmul(&weight);
            c.tensor_if(1, "bias").map_or(product.clone(), |bias| product + bias).into()
        }
        weight => c.x().linear(&weight, c.tensor_if(1, "bias").as_ref()).into(),
    }),
    ("einsum", |c| einsum(c).into()),
    ("scaled_dot_product_attention", |c| scaled_dot_product_attention(c).into()),
];

/// `beta·x + alpha·a·b`; with beta 0, x is not even looked at.
fn add_product(c: &Call) -> Tensor {
    let beta = c.number(BY_NAME, "beta", 1.0);
    let x = if beta == 0.0 { Tensor::zeros([], &c.device) } else { c.x() * beta };
    x.add_matmul(&c.tensor(0, "mat1"), &c.tensor(1, "mat2"), c.number(BY_NAME, "alpha", 1.0))
}

/// One operand is a product with 1; an ellipsis stands for letters that the formula does not use.
fn einsum(c: &Call) -> Tensor {
    let mut operands = c.tensors(c.input());
    let formula = c.text(0, "equation", "").replace(' ', "");
    let (inputs, output) = formula.split_once("->").expect("every formula here names its result");
    let mut inputs: Vec<String> = inputs.split(',').map(String::from).collect();
    if operands.len() == 1 {
        operands.push(Tensor::ones([], &c.device));
        inputs.push(String::new());
    }
    let hidden = |letters: &str, ndim: usize| ndim + "...".len() - letters.len();
    let unused = || ('A'..='Z').filter(|letter| !formula.contains(*letter));
    let most = inputs.iter().zip(&operands).filter(|(letters, _)| letters.contains("..."));
    let most = most.map(|(letters, x)| hidden(letters, x.ndim())).max().unwrap_or(0);
    let names: String = unused().take(most).collect();
    let output = output.replace("...", &names);
    for (letters, operand) in inputs.iter_mut().zip(&operands) {
        if letters.contains("...") {
            *letters = letters.replace("...", &names[most - hidden(letters, operand.ndim())..]);
        }
    }
    Tensor::einsum(&format!("{}->{output}", inputs.join(",")), &operands[0], &operands[1])
}

fn scaled_dot_product_attention(c: &Call) -> Tensor {
    let (q, mut k, mut v) = (c.x(), c.tensor(0, "key"), c.tensor(1, "value"));
    if c.flag(BY_NAME, "enable_gqa", false) {
        let groups = q.size(-3) / k.size(-3);
        (k, v) = (shared(&k, groups), shared(&v, groups));
    }
    let mut mask = match c.get(2, "attn_mask") {
        Argument::Null => Mask::full(),
        Argument::Mask(keep) => Mask::keep(keep),
        _ => Mask::full().with_bias(&c.tensor(2, "attn_mask")),
    };
    if c.flag(4, "is_causal", false) {
        mask = mask.and_causal();
    }
    let scale = c.number(5, "scale", 1.0 / (q.size(-1) as f64).sqrt());
    attention(&q, &k, &v, &mask, scale, 0.0)
}

/// Each key or value head serves several query heads in a row.
fn shared(x: &Tensor, groups: usize) -> Tensor {
    let heads = x.ndim() as isize - 3;
    let mut sizes = x.unsqueeze(heads + 1).sizes().to_vec();
    sizes[heads as usize + 1] = groups;
    x.unsqueeze(heads + 1).expand(sizes).flatten(heads, heads + 1)
}
