//! Matrix products. One kernel computes `scale · a·b + add`; everything here is that kernel.

use crate::device::array::Array;
use crate::device::kernel::Kernel;
use crate::error::refuse;
use crate::layout::broadcast;
use crate::tensor::Tensor;
use crate::tensor::autograd::edge;

/// Products of matrices and vectors. Each panics when inner or batch sizes do not fit.
impl Tensor {
    /// Matrix product over the last two axes: `[.., m, k] · [.., k, n] -> [.., m, n]`.
    ///
    /// Leading axes broadcast. A vector on the left counts as one row, on the right as one column,
    /// and its axis disappears from the result, as in PyTorch.
    #[track_caller]
    pub fn matmul(&self, other: &Tensor) -> Tensor {
        if self.ndim() == 0 || other.ndim() == 0 {
            refuse("matmul", format_args!("{:?} · {:?}: a scalar", self.sizes(), other.sizes()));
        }
        if self.size(-1) != other.size(if other.ndim() == 1 { -1 } else { -2 }) {
            refuse("matmul", format_args!("{:?} · {:?}: sizes do not fit", self.sizes(), other.sizes()));
        }
        match (self.ndim(), other.ndim()) {
            (1, 1) => self.unsqueeze(0).matmul(&other.unsqueeze(1)).reshape([]),
            (1, _) => self.unsqueeze(0).matmul(other).squeeze(-2),
            (_, 1) => self.matmul(&other.unsqueeze(1)).squeeze(-1),
            // One tall product instead of many small ones, and one gradient for the right side.
            (left, 2) if left > 2 => {
                let sizes = [&self.sizes()[..left - 1], &[other.sizes()[1]]].concat();
                self.flatten(0, -2).matmul(other).reshape(sizes)
            }
            _ => product("matmul", self, other, 1.0, None),
        }
    }

    /// `self + scale · a·b` in one pass: `a: [.., m, k]`, `b: [.., k, n]`, and `self` broadcast to the product.
    #[track_caller]
    pub fn add_matmul(&self, a: &Tensor, b: &Tensor, scale: f64) -> Tensor {
        if a.ndim() < 2 || b.ndim() < 2 {
            refuse("add_matmul", format_args!("{:?} · {:?}: not two matrices", a.sizes(), b.sizes()));
        }
        product("add_matmul", a, b, scale, Some(self))
    }

    /// `x·Wᵀ + b`: `[.., in]`, weight `[out, in]`, bias `[out] -> [.., out]`.
    #[track_caller]
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        self.linear_add(weight, 1.0, bias)
    }

    /// `scale · x·Wᵀ + add`: `[.., in]`, weight `[out, in] -> [.., out]`; `add` broadcasts.
    #[track_caller]
    pub fn linear_add(&self, weight: &Tensor, scale: f64, add: Option<&Tensor>) -> Tensor {
        let fits = self.ndim() > 0 && weight.ndim() == 2 && self.size(-1) == weight.sizes()[1];
        if !fits {
            refuse(
                "linear",
                format_args!("{:?} with a weight of {:?} [out, in]", self.sizes(), weight.sizes()),
            );
        }
        let sizes = [&self.sizes()[..self.ndim() - 1], &[weight.sizes()[0]]].concat();
        if let Some(add) = add.filter(|add| broadcast(add.sizes(), &sizes).as_ref() != Some(&sizes)) {
            refuse("linear", format_args!("{:?} does not broadcast to the product's {sizes:?}", add.sizes()));
        }
        let rows: usize = sizes[..sizes.len() - 1].iter().product();
        let x = self.reshape([rows, weight.sizes()[1]]);
        let add = add.map(|add| match add.ndim() {
            0 | 1 => add.clone(),
            _ => add.expand(&sizes).reshape([rows, weight.sizes()[0]]),
        });
        let value = run(&x, &weight.t(), scale, add.as_ref());
        let out = Tensor::from_op(
            "linear",
            value,
            [
                edge(&x, [weight], move |g, [weight]| scaled(g, weight, scale)),
                // In this order the gradient lies in memory as the weight does.
                edge(weight, [&x], move |g, [x]| scaled(&g.t(), x, scale)),
                add.as_ref().and_then(|add| edge(add, [], |g, []| g.clone())),
            ],
        );
        out.reshape(sizes)
    }

    /// All products of two vectors: `[m]`, `[n] -> [m, n]`.
    #[track_caller]
    pub fn outer(&self, other: &Tensor) -> Tensor {
        if self.ndim() != 1 || other.ndim() != 1 {
            refuse("outer", format_args!("{:?} and {:?}: not two vectors", self.sizes(), other.sizes()));
        }
        self.unsqueeze(-1) * other.unsqueeze(0)
    }
}

#[track_caller]
fn product(name: &'static str, a: &Tensor, b: &Tensor, scale: f64, add: Option<&Tensor>) -> Tensor {
    let (left, right) = (a.ndim() - 2, b.ndim() - 2);
    let batch = broadcast(&a.sizes()[..left], &b.sizes()[..right]);
    let (Some(batch), true) = (batch, a.size(-1) == b.size(-2)) else {
        refuse(name, format_args!("{:?} · {:?}: sizes do not fit", a.sizes(), b.sizes()))
    };
    let a_batch = a.expand([&batch[..], &a.sizes()[left..]].concat());
    let b_batch = b.expand([&batch[..], &b.sizes()[right..]].concat());
    let sizes = [&batch[..], &[a.size(-2), b.size(-1)]].concat();
    if let Some(add) = add.filter(|add| broadcast(add.sizes(), &sizes).as_ref() != Some(&sizes)) {
        refuse(name, format_args!("{:?} does not broadcast to the product's {sizes:?}", add.sizes()));
    }
    let value = run(&a_batch.detach(), &b_batch.detach(), scale, add);
    Tensor::from_op(
        name,
        value,
        [
            edge(a, [b], move |g, [b]| scaled(g, &b.t(), scale)),
            edge(b, [a], move |g, [a]| scaled(&a.t(), g, scale)),
            add.and_then(|add| edge(add, [], |g, []| g.clone())),
        ],
    )
}

/// `scale · a·b` without history.
fn scaled(a: &Tensor, b: &Tensor, scale: f64) -> Tensor {
    product("matmul", a, b, scale, None)
}

#[track_caller]
fn run(a: &Tensor, b: &Tensor, scale: f64, add: Option<&Tensor>) -> Array {
    let sizes = [&a.sizes()[..a.ndim() - 1], &[b.size(-1)]].concat();
    if [Some(b), add].into_iter().flatten().any(|x| x.device() != a.device()) {
        refuse("matmul", format_args!("operands on {}, {}", a.device(), b.device()));
    }
    let add = add.map(|add| match add.layout().expand(&sizes) {
        Some(layout) => add.array().view(layout),
        None => refuse("matmul", format_args!("{:?} does not broadcast to {sizes:?}", add.sizes())),
    });
    let [value] = a.device().run(Kernel::MatMul { a: a.array(), b: b.array(), scale, add: add.as_ref() });
    value
}
