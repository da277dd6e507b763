//! A wrong size is a mistake of the program: the panic names the op and the sizes. One line per
//! mistake.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use engrad::nn::{Fresh, Transformer, TransformerConfig};
use engrad::{CrossEntropy, Device, Ids, Mask, Reduction, Tensor, attention, elementwise};

/// The op that must be named, texts that must be there, and the wrong call.
type Mistake = (&'static str, &'static [&'static str], fn());

fn x<const N: usize>(sizes: [usize; N]) -> Tensor {
    Tensor::ones(sizes, &Device::Cpu)
}

fn ids<const N: usize>(sizes: [usize; N], limit: usize) -> Ids {
    Ids::new(vec![0; sizes.iter().product()], sizes, limit).unwrap()
}

const MISTAKES: &[Mistake] = &[
    ("Tensor::new", &["3 values", "[2, 2]"], || drop(Tensor::new(&[1.0; 3], [2, 2], &Device::Cpu))),
    ("Tensor::from_f64", &["3 values", "[2]"], || drop(Tensor::from_f64(&[1.0; 3], [2], &Device::Cpu))),
    ("sizes", &["[4294967296, 4294967296]"], || drop(x([1 << 32, 1 << 32]))),
    ("sizes", &["[0, 4294967296, 4294967296]"], || drop(x([0, 1 << 32, 1 << 32]))),
    ("sizes", &["[4294967296, 4294967296]"], || drop(x([1 << 32, 1]) + x([1 << 32]))),
    ("sizes", &["[4294967296, 4294967296]"], || drop(x([0]).reshape([1 << 32, 1 << 32]))),
    ("item", &["[2, 3]", "6"], || _ = x([2, 3]).item()),
    ("size", &["axis 2", "2 axes"], || _ = x([2, 3]).size(2)),
    ("backward", &["[2]", "backward_with"], || drop(x([2]).tracked().backward())),
    ("backward_with", &["[2]", "[3]"], || drop(x([2]).tracked().backward_with(x([3])))),
    // Elementwise.
    ("add", &["[2, 3]", "[4]"], || drop(x([2, 3]) + x([4]))),
    ("sub", &["[2, 3]", "[4]"], || drop(x([2, 3]) - x([4]))),
    ("mul", &["[2, 3]", "[3, 2]"], || drop(&x([2, 3]) * &x([3, 2]))),
    ("div", &["[2]", "[3]"], || drop(x([2]) / x([3]))),
    ("add", &["cpu", "reference"], || drop(x([2]) + Tensor::ones([2], &Device::Reference))),
    ("pow", &["[2]", "[3]"], || drop(x([2]).pow(&x([3])))),
    ("maximum", &["[2]", "[3]"], || drop(x([2]).maximum(&x([3])))),
    ("minimum", &["[2]", "[3]"], || drop(x([2]).minimum(&x([3])))),
    ("lt", &["[2]", "[3]"], || drop(x([2]).lt(&x([3])))),
    ("eq", &["[2]", "[3]"], || drop(x([2]).eq(&x([3])))),
    ("where", &["[2]", "[3]"], || drop(Tensor::where_(&x([1]), &x([2]), &x([3])))),
    ("masked_fill", &["[2]", "[3]"], || drop(x([2]).masked_fill(&x([3]), 0.0))),
    ("mine", &["[2]", "[3]"], || drop(elementwise("mine", [&x([2]), &x([3])], |[a, b]| a + b))),
    ("dropout", &["1.5"], || drop(x([2]).dropout(1.5))),
    // Folding and running.
    ("sum", &["axis 2", "2 axes"], || drop(x([2, 3]).sum(2))),
    ("sum", &["[0, -2]", "twice"], || drop(x([2, 3]).sum([0, -2]))),
    ("mean", &["axis -3", "2 axes"], || drop(x([2, 3]).mean(-3))),
    ("max", &["[0]", "[0, 3]"], || drop(x([0, 3]).max(0))),
    ("min", &["[0]", "[0, 3]"], || drop(x([0, 3]).min(0))),
    ("var", &["axis 2"], || drop(x([2, 3]).var(2, 0.0))),
    ("std", &["axis 2"], || drop(x([2, 3]).std(2, 0.0))),
    ("norm", &["axis 2"], || drop(x([2, 3]).norm(2))),
    ("logsumexp", &["axis 2"], || drop(x([2, 3]).logsumexp(2))),
    ("recurrence", &["[2]", "[3]"], || drop(Tensor::recurrence(&x([2]), &x([3])))),
    ("cumsum", &["axis 1", "1 axes"], || drop(x([3]).cumsum(1))),
    ("cumprod", &["axis 1", "1 axes"], || drop(x([3]).cumprod(1))),
    ("prod", &["axis 1", "1 axes"], || drop(x([3]).prod(1))),
    // Products.
    ("matmul", &["[2, 3]", "[4, 5]"], || drop(x([2, 3]).matmul(&x([4, 5])))),
    ("matmul", &["[7, 2, 3]", "[4, 5]"], || drop(x([7, 2, 3]).matmul(&x([4, 5])))),
    ("matmul", &["[2, 3, 4]", "[3, 4, 5]"], || drop(x([2, 3, 4]).matmul(&x([3, 4, 5])))),
    ("matmul", &["[]", "[2]"], || drop(x([]).matmul(&x([2])))),
    ("matmul", &["[3]", "[4]"], || drop(x([3]).matmul(&x([4])))),
    ("matmul", &["cpu", "reference"], || drop(x([2, 2]).matmul(&Tensor::ones([2, 2], &Device::Reference)))),
    ("add_matmul", &["[3]", "[2, 4]"], || drop(x([3]).add_matmul(&x([2, 3]), &x([3, 4]), 1.0))),
    ("add_matmul", &["[3]", "[3, 4]"], || drop(x([1]).add_matmul(&x([3]), &x([3, 4]), 1.0))),
    ("linear", &["[2, 3]", "[5, 4]"], || drop(x([2, 3]).linear(&x([5, 4]), None))),
    ("linear", &["[6]", "[2, 5]"], || drop(x([2, 4]).linear(&x([5, 4]), Some(&x([6]))))),
    ("linear", &["[3, 5]", "[2, 5]"], || drop(x([2, 4]).linear_add(&x([5, 4]), 1.0, Some(&x([3, 5]))))),
    ("outer", &["[2, 3]", "[4]"], || drop(x([2, 3]).outer(&x([4])))),
    ("einsum", &["ij,jk"], || drop(Tensor::einsum("ij,jk", &x([2, 3]), &x([3, 4])))),
    ("einsum", &["ij,jk->ik", "[2, 3]", "[4, 5]"], || {
        drop(Tensor::einsum("ij,jk->ik", &x([2, 3]), &x([4, 5])))
    }),
    ("einsum", &["ijk,jk->ik", "3 axes", "[2, 3]"], || {
        drop(Tensor::einsum("ijk,jk->ik", &x([2, 3]), &x([3, 4])))
    }),
    ("einsum", &["ij,jk->iz"], || drop(Tensor::einsum("ij,jk->iz", &x([2, 3]), &x([3, 4])))),
    ("einsum", &["ii,i->i", "[2, 3]"], || drop(Tensor::einsum("ii,i->i", &x([2, 3]), &x([2])))),
    // Views.
    ("permute", &["[0, 0]", "[2, 3]"], || drop(x([2, 3]).permute(&[0, 0]))),
    ("permute", &["[0]", "[2, 3]"], || drop(x([2, 3]).permute(&[0]))),
    ("permute", &["[0]", "[]"], || drop(x([]).permute(&[0]))),
    ("permute", &["axis 2"], || drop(x([2, 3]).permute(&[0, 2]))),
    ("transpose", &["axis 2"], || drop(x([2, 3]).transpose(0, 2))),
    ("move_axis", &["axis 2"], || drop(x([2, 3]).move_axis(0, 2))),
    ("reshape", &["[2, 3]", "[4]"], || drop(x([2, 3]).reshape([4]))),
    ("flatten", &["axis 1", "axis 0"], || drop(x([2, 3]).flatten(1, 0))),
    ("unflatten", &["[2, 2]", "[6]"], || drop(x([6]).unflatten(0, &[2, 2]))),
    ("unflatten", &["[1, 1]", "[]"], || drop(x([]).unflatten(0, &[1, 1]))),
    ("squeeze", &["axis 2"], || drop(x([2, 3]).squeeze(2))),
    ("unsqueeze", &["axis 4"], || drop(x([2, 3]).unsqueeze(4))),
    ("expand", &["[2, 3]", "[4, 3]"], || drop(x([2, 3]).expand([4, 3]))),
    ("slice", &["1..4", "[2, 3]"], || drop(x([2, 3]).slice(1, 1..4, 1))),
    ("slice", &["by 0", "[2, 3]"], || drop(x([2, 3]).slice(1, 1..2, 0))),
    ("narrow", &["2..4", "[2, 3]"], || drop(x([2, 3]).narrow(1, 2, 2))),
    ("select", &["3", "[2, 3]"], || drop(x([2, 3]).select(1, 3))),
    ("flip", &["axis 2"], || drop(x([2, 3]).flip(2))),
    ("diagonal", &["[3]"], || drop(x([3]).diagonal(0))),
    ("tril", &["[3]"], || drop(x([3]).tril(0))),
    ("triu", &["[3]"], || drop(x([3]).triu(0))),
    // Side by side.
    ("concat", &["[2, 3]", "[3, 3]"], || drop(Tensor::concat(&[&x([2, 3]), &x([3, 3])], 1))),
    ("concat", &["no tensors"], || drop(Tensor::concat(&[], 0))),
    ("concat", &["[]"], || drop(Tensor::concat(&[&x([]), &x([])], 0))),
    ("stack", &["[2]", "[3]"], || drop(Tensor::stack(&[&x([2]), &x([3])], 0))),
    ("stack", &["no tensors"], || drop(Tensor::stack(&[], 0))),
    ("split", &["[1, 1]", "[2, 3]"], || drop(x([2, 3]).split(1, &[1, 1]))),
    ("split", &["axis 2"], || drop(x([2, 3]).split(2, &[1, 1]))),
    ("chunk", &["axis 2"], || drop(x([2, 3]).chunk(2, 2))),
    ("pad", &["3 borders", "[2]"], || drop(x([2]).pad(&[(0, 0); 3], 0.0))),
    ("pad", &["(-2, -1)", "[2]"], || drop(x([2]).pad(&[(-2, -1)], 0.0))),
    ("pad", &["[]"], || drop(x([]).pad_axis(0, 1, 1, 0.0))),
    ("roll", &["axis 2"], || drop(x([2, 3]).roll(1, 2))),
    ("repeat", &["[2]", "[2, 3]"], || drop(x([2, 3]).repeat(&[2]))),
    // By index.
    ("embedding", &["below 5", "[4, 3]"], || drop(x([4, 3]).embedding(&ids([2], 5)))),
    ("embedding", &["[4]"], || drop(x([4]).embedding(&ids([2], 4)))),
    ("scatter_rows", &["[2, 3]", "[3]"], || drop(x([2, 3]).scatter_rows(&ids([3], 4), 4))),
    ("scatter_rows", &["below 5", "4 rows"], || drop(x([2, 3]).scatter_rows(&ids([2], 5), 4))),
    ("index_select", &["below 4", "[2, 3]"], || drop(x([2, 3]).index_select(1, &ids([2], 4)))),
    ("index_select", &["[2, 2]", "[2, 3]"], || drop(x([2, 3]).index_select(1, &ids([2, 2], 3)))),
    ("index_add", &["2 ids", "[2, 4]"], || drop(x([2, 3]).index_add(1, &ids([2], 3), &x([2, 4])))),
    ("index_add", &["[1, 2]", "[2, 3]"], || drop(x([2, 3]).index_add(1, &ids([2], 3), &x([1, 2])))),
    ("index_add", &["[2]", "[2, 3]"], || drop(x([2, 3]).index_add(1, &ids([2], 3), &x([2])))),
    ("gather", &["[3]", "[2, 3]"], || drop(x([2, 3]).gather(1, &ids([3], 3)))),
    ("gather", &["[131072, 131072]", "4294967295"], || {
        drop(x([1 << 17, 1 << 17]).gather(1, &ids([1, 1], 1)))
    }),
    ("gather", &["[3, 1]", "[2, 3]"], || drop(x([2, 3]).gather(1, &ids([3, 1], 3)))),
    ("scatter_add", &["[2, 2]", "[2, 1]"], || drop(x([2, 3]).scatter_add(1, &ids([2, 2], 3), &x([2, 1])))),
    // Rows.
    ("softmax", &["axis 2"], || drop(x([2, 3]).softmax(2))),
    ("log_softmax", &["axis 2"], || drop(x([2, 3]).log_softmax(2))),
    ("layer_norm", &["[2, 3]", "[4]"], || drop(x([2, 3]).layer_norm(Some(&x([4])), None, 1e-5))),
    ("layer_norm", &["[2, 3]", "[1]"], || drop(x([2, 3]).layer_norm(None, Some(&x([1])), 1e-5))),
    ("rms_norm", &["scalar"], || drop(x([]).rms_norm(None, 1e-5))),
    ("normalize", &["axis 2"], || drop(x([2, 3]).normalize(2, 1e-5))),
    ("argmax", &["axis 1", "[2, 0]"], || drop(x([2, 0]).argmax(1))),
    ("argmin", &["axis 2"], || drop(x([2, 3]).argmin(2))),
    ("argsort", &["axis 2"], || drop(x([2, 3]).argsort(2, false))),
    ("sort", &["axis 2"], || drop(x([2, 3]).sort(2, false))),
    ("argmax", &["[2, 16777217]", "16777216"], || drop(x([2, (1 << 24) + 1]).argmax(-1))),
    ("argsort", &["[16777217, 2]", "axis 0"], || drop(x([(1 << 24) + 1, 2]).argsort(0, true))),
    ("topk", &["4", "[2, 3]"], || drop(x([2, 3]).topk(4, 1, true))),
    ("max_at", &["axis 2"], || drop(x([2, 3]).max_at(2))),
    // Losses and attention.
    ("cross_entropy", &["[2, 3]", "[3]"], || drop(x([2, 3]).cross_entropy(&ids([3], 3)))),
    ("cross_entropy", &["[2, 3]", "below 4"], || drop(x([2, 3]).cross_entropy(&ids([2], 4)))),
    ("cross_entropy", &["[4]", "[2, 3]"], || {
        let loss = CrossEntropy { class_weights: Some(x([4])), ..CrossEntropy::default() };
        drop(loss.of(&x([2, 3]), &ids([2], 3)))
    }),
    ("cross_entropy", &["1.5"], || {
        let loss = CrossEntropy { label_smoothing: 1.5, ..CrossEntropy::default() };
        drop(loss.of(&x([2, 3]), &ids([2], 3)))
    }),
    ("nll_loss", &["[2, 3]", "[3]"], || drop(x([2, 3]).nll_loss(&ids([3], 3)))),
    ("nll_loss", &["[2, 3]", "below 4"], || drop(x([2, 3]).nll_loss(&ids([2], 4)))),
    ("mse_loss", &["[2]", "[3]"], || drop(x([2]).mse_loss(&x([3]), Reduction::Mean))),
    ("l1_loss", &["[2]", "[3]"], || drop(x([2]).l1_loss(&x([3]), Reduction::Mean))),
    ("huber_loss", &["[2]", "[3]"], || drop(x([2]).huber_loss(&x([3]), 1.0, Reduction::Mean))),
    ("bce_with_logits", &["[2]", "[3]"], || drop(x([2]).bce_with_logits(&x([3]), Reduction::Mean))),
    ("cosine_similarity", &["[2]", "[3]"], || drop(x([2]).cosine_similarity(&x([3]), 0, 1e-8))),
    ("attention", &["[2, 3]", "[2, 4]"], || {
        drop(attention(&x([2, 3]), &x([2, 4]), &x([2, 3]), &Mask::full(), 1.0, 0.0))
    }),
    ("attention", &["[2, 3, 4]", "[5, 3, 4]"], || {
        drop(attention(&x([2, 3, 4]), &x([5, 3, 4]), &x([5, 3, 4]), &Mask::full(), 1.0, 0.0))
    }),
    ("Transformer::new", &["3 heads", "width of 512"], || {
        let config = TransformerConfig { heads: 3, ..TransformerConfig::default() };
        drop(Transformer::new(&config, &mut Fresh::zeros(&Device::Cpu)))
    }),
];

/// What the call says when it panics, and the file that is blamed.
fn refusal(call: fn()) -> Option<(String, String)> {
    let blamed = Arc::new(Mutex::new(String::new()));
    let (note, thread) = (blamed.clone(), std::thread::current().id());
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(place) = panic.location().filter(|_| std::thread::current().id() == thread) {
            *note.lock().unwrap() = place.file().to_string();
        }
    }));
    let result = catch_unwind(AssertUnwindSafe(call));
    std::panic::set_hook(before);
    let panic = result.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
    Some((text, blamed.lock().unwrap().clone()))
}

#[test]
fn a_wrong_size_names_the_op_and_the_sizes_and_points_at_the_caller() {
    let mut unclear = Vec::new();
    for (op, texts, call) in MISTAKES {
        match refusal(*call) {
            None => unclear.push(format!("{op} {texts:?}: was accepted")),
            Some((text, file)) => {
                let named = text.starts_with(&format!("{op}: "));
                if !named || !texts.iter().all(|part| text.contains(part)) || !file.ends_with(file!()) {
                    unclear.push(format!("{op} {texts:?}: {text:?} in {file}"));
                }
            }
        }
    }
    assert!(unclear.is_empty(), "{} of {}:\n{}", unclear.len(), MISTAKES.len(), unclear.join("\n"));
}
