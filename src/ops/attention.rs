//! Scaled dot-product attention (arXiv 1706.03762, section 3.2.1).
//!
//! Its definition is `composed`: two products and a softmax, which store every weight. `fused` is one
//! kernel that computes the same block by block, so that memory grows with the time and not with its
//! square, and computes the weights again in the backward pass (FlashAttention, arXiv 2205.14135).
//! Read next: `device/kernel.rs` and `device/reference.rs` for the kernel.

use std::ops::Range;

pub use crate::device::kernel::MASKED;
use crate::device::kernel::{AttentionInputs, Kernel};
use crate::error::{Error, Result, refuse};
use crate::layout::broadcast;
use crate::ops::elementwise::elementwise;
use crate::tensor::Tensor;
use crate::tensor::autograd::{edge_to_each, next_mask_seed};

/// Which keys a query may look at.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    /// How many keys stand before the first query, if no query may look past itself.
    causal: Option<usize>,
    bias: Option<Tensor>,
    /// Whether a query may be left without any key.
    may_hide_all: bool,
}

impl Mask {
    /// Every query looks at every key.
    pub fn full() -> Mask {
        Mask::default()
    }

    /// Query i looks at the keys up to i.
    pub fn causal() -> Mask {
        Mask::causal_after(0)
    }

    /// Query i looks at the keys up to `past + i`: the queries continue a text of `past` tokens.
    pub fn causal_after(past: usize) -> Mask {
        Mask { causal: Some(past), ..Mask::default() }
    }

    /// Each sequence of a batch has its own number of keys, counted from the first: `[batch, 1, 1, time]`.
    ///
    /// **Errors** when a length is longer than `time`, or 0.
    pub fn lengths(lengths: &[usize], time: usize, device: &crate::Device) -> Result<Mask> {
        if let Some(bad) = lengths.iter().find(|&&length| length > time || length == 0) {
            return Err(Error::Data(format!("a sequence of {bad} tokens in a batch of {time}")));
        }
        let spans: Vec<Range<usize>> = lengths.iter().map(|&length| 0..length).collect();
        Ok(Mask::spans(&spans, time, device))
    }

    /// Of each sequence of a batch only the keys of its span: `[batch, 1, 1, time]`.
    pub fn spans(spans: &[Range<usize>], time: usize, device: &crate::Device) -> Mask {
        let bias: Vec<f32> = spans
            .iter()
            .flat_map(|span| (0..time).map(move |at| if span.contains(&at) { 0.0 } else { MASKED as f32 }))
            .collect();
        Mask::full().with_bias(&Tensor::new(&bias, [spans.len(), 1, 1, time], device))
    }

    /// Only where `keep` is not 0; it broadcasts to `[batch, heads, queries, keys]`. A query that may
    /// look nowhere sees zeros.
    pub fn keep(keep: &Tensor) -> Mask {
        let zero = Tensor::zeros([], &keep.device());
        let masked = Tensor::full(MASKED, [], &keep.device());
        Mask { may_hide_all: true, ..Mask::full() }.with_bias(&Tensor::where_(keep, &zero, &masked))
    }

    /// With `bias` added to the scores; it broadcasts to `[batch, heads, queries, keys]`.
    pub fn with_bias(mut self, bias: &Tensor) -> Mask {
        self.bias = Some(match self.bias {
            Some(other) => other + bias,
            None => bias.clone(),
        });
        self
    }

    /// What is added to the scores besides a causal mask.
    pub(crate) fn bias(&self) -> Option<Tensor> {
        self.bias.clone()
    }

    /// And no key after the query.
    pub fn and_causal(mut self) -> Mask {
        self.causal = Some(0);
        self
    }

    /// What is added to the scores `[.., queries, keys]`.
    fn scores(&self, queries: usize, keys: usize, device: &crate::Device) -> Option<Tensor> {
        // Where the first query sees every key, nothing is hidden from any.
        let past = self.causal.filter(|past| past + 1 < keys);
        let causal = past.map(|past| Tensor::full(MASKED, [queries, keys], device).triu(past as isize + 1));
        match (&self.bias, causal) {
            (Some(bias), Some(causal)) => Some(bias + causal),
            (Some(bias), None) => Some(bias.clone()),
            (None, causal) => causal,
        }
    }
}

/// `softmax(scale · q·kᵀ + mask)·v`: `q: [.., queries, width]`, `k: [.., keys, width]`,
/// `v: [.., keys, out] -> [.., queries, out]`. The usual scale is `1/√width`.
///
/// `dropout` is the probability with which an attention weight is dropped in training.
///
/// **Panics** when the sizes do not fit.
#[track_caller]
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Mask, scale: f64, dropout: f64) -> Tensor {
    attention_over(q, &[(k.clone(), v.clone())], mask, scale, dropout)
}

/// As [`attention`] over keys and values that stand in several parts, one behind the other: a cache
/// grows without being copied.
///
/// Keys of `[batch, groups, keys, width]` may have fewer heads than the queries
/// `[batch, heads, queries, width]`: each then serves `heads / groups` of them (arXiv 2305.13245).
///
/// **Panics** when there is no part, or the sizes do not fit.
#[track_caller]
pub fn attention_over(
    q: &Tensor,
    parts: &[(Tensor, Tensor)],
    mask: &Mask,
    scale: f64,
    dropout: f64,
) -> Tensor {
    let Some((first, _)) = parts.first() else { refuse("attention", "no keys") };
    if q.ndim() == 4 && first.ndim() == 4 && first.size(1) > 1 && first.size(1) != q.size(1) {
        return in_groups(q, parts, mask, scale, dropout);
    }
    for (k, v) in parts {
        let fits = || {
            let batch = |x: &Tensor| x.sizes()[..x.ndim() - 2].to_vec();
            let queries_and_keys = broadcast(&batch(q), &batch(k));
            q.size(-1) == k.size(-1)
                && k.size(-2) == v.size(-2)
                && queries_and_keys.is_some_and(|sizes| broadcast(&sizes, &batch(v)).is_some())
        };
        if q.ndim() < 2 || k.ndim() < 2 || v.ndim() < 2 || !fits() {
            refuse("attention", format_args!("q {:?}, k {:?}, v {:?}", q.sizes(), k.sizes(), v.sizes()));
        }
    }
    let keys = parts.iter().map(|(k, _)| k.size(-2)).sum();
    let seen = match parts {
        [(k, v)] if can_fuse(q, k, v, mask) => fused(q, k, v, mask, scale, dropout),
        _ => composed(q, parts, mask.scores(q.size(-2), keys, &q.device()), scale, dropout),
    };
    if !mask.may_hide_all || seen.count() == 0 || keys == 0 {
        return seen;
    }
    // Equally hidden keys would share the weight of a row; the sum over them is taken back.
    match mask.scores(q.size(-2), keys, &q.device()) {
        Some(added) => {
            let best = added.detach().max_keep(-1);
            elementwise("seen", [&seen, &best], |[x, best]| best.less_equal(0.5 * MASKED).select(0.0, x))
        }
        None => seen,
    }
}

/// Whether the kernel does it, where the device gains by it. Composed are: a bias that is learned,
/// because its gradient is a matrix of scores all the same; several parts, which are a cache and looked
/// at by few queries; values of a larger batch than the weights; nothing to look at.
fn can_fuse(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Mask) -> bool {
    let batch = |x: &Tensor| x.sizes()[..x.ndim() - 2].to_vec();
    let weights = broadcast(&batch(q), &batch(k));
    let learned = mask.bias.as_ref().is_some_and(Tensor::is_recorded);
    let one_weight_each = weights.as_ref().and_then(|sizes| broadcast(sizes, &batch(v))) == weights;
    !learned && one_weight_each && k.size(-2) > 0 && q.device().fuses_attention()
}

/// Attention as one kernel, whose gradient is another.
#[track_caller]
fn fused(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Mask, scale: f64, dropout: f64) -> Tensor {
    let batch = broadcast(&q.sizes()[..q.ndim() - 2], &k.sizes()[..k.ndim() - 2])
        .expect("`can_fuse` saw that they broadcast");
    let over_batch = |x: &Tensor| x.detach().expand([&batch[..], &x.sizes()[x.ndim() - 2..]].concat());
    let scores = [&batch[..], &[q.size(-2), k.size(-2)]].concat();
    let bias = mask.bias.as_ref().map(|bias| match broadcast(bias.sizes(), &scores) {
        Some(sizes) if sizes == scores => bias.detach().expand(&scores),
        _ => refuse("attention", format_args!("a mask of {:?} for scores of {scores:?}", bias.sizes())),
    });
    let dropout = super::dropout::checked("attention", dropout);
    let dropout = if dropout == 0.0 { None } else { next_mask_seed().map(|seed| (seed, dropout)) };
    let past = mask.causal;
    let [all_q, all_k, all_v] = [q, k, v].map(over_batch);
    let [seen, sums] = q.device().run(Kernel::Attention {
        inputs: inputs([&all_q, &all_k, &all_v], bias.as_ref(), scale, past, dropout),
    });
    let sums = Tensor::constant(sums);
    let pulls =
        edge_to_each([q, k, v], [&all_q, &all_k, &all_v, &sums], move |g, [q, k, v, sums], wanted| {
            let inputs = inputs([q, k, v], bias.as_ref(), scale, past, dropout);
            let grad = Kernel::AttentionGrad { inputs, sums: sums.array(), g: g.array(), wanted };
            g.device().run::<3>(grad).map(Tensor::constant)
        });
    Tensor::from_op("attention", seen, [pulls])
}

fn inputs<'a>(
    [q, k, v]: [&'a Tensor; 3],
    bias: Option<&'a Tensor>,
    scale: f64,
    past: Option<usize>,
    dropout: Option<(u64, f64)>,
) -> AttentionInputs<'a> {
    let [q, k, v] = [q, k, v].map(Tensor::array);
    AttentionInputs { q, k, v, bias: bias.map(Tensor::array), scale, past, dropout }
}

/// Attention by its formula; `added` is what the mask adds to the scores.
#[track_caller]
fn composed(
    q: &Tensor,
    parts: &[(Tensor, Tensor)],
    added: Option<Tensor>,
    scale: f64,
    dropout: f64,
) -> Tensor {
    let mut start = 0;
    let scores: Vec<Tensor> = parts
        .iter()
        .map(|(k, _)| {
            let from = start;
            start += k.size(-2);
            match &added {
                Some(added) if added.size(-1) == 1 => added.clone(),
                Some(added) => added.narrow(-1, from, k.size(-2)),
                None => Tensor::zeros([], &q.device()),
            }
            .add_matmul(q, &k.t(), scale)
        })
        .collect();
    let weights = joined(&scores).softmax(-1).dropout(dropout);
    let mut start = 0;
    let products = parts.iter().map(|(k, v)| {
        start += k.size(-2);
        weights.narrow(-1, start - k.size(-2), k.size(-2)).matmul(v)
    });
    products.reduce(|sum, product| sum + product).expect("at least one part")
}

/// Without a pass over the scores when there is only one part.
fn joined(scores: &[Tensor]) -> Tensor {
    match scores {
        [only] => only.clone(),
        _ => Tensor::concat(&scores.iter().collect::<Vec<_>>(), -1),
    }
}

/// Each key head beside the query heads that it serves, on an axis of their own.
#[track_caller]
fn in_groups(q: &Tensor, parts: &[(Tensor, Tensor)], mask: &Mask, scale: f64, dropout: f64) -> Tensor {
    let (heads, groups) = (q.size(1), parts[0].0.size(1));
    if !heads.is_multiple_of(groups) || parts.iter().any(|(k, v)| k.size(1) != groups || v.ndim() != 4) {
        refuse("attention", format_args!("{heads} heads of queries, {groups} of keys"));
    }
    let grouped = [groups, heads / groups];
    let parts: Vec<_> = parts.iter().map(|(k, v)| (k.unsqueeze(2), v.unsqueeze(2))).collect();
    let bias = mask.bias.as_ref().map(|bias| match bias.ndim() {
        4 if bias.size(1) == 1 => bias.unsqueeze(2),
        4 => bias.unflatten(1, &grouped),
        3 if bias.size(0) > 1 => bias.unflatten(0, &grouped),
        _ => bias.clone(),
    });
    let mask = Mask { bias, ..mask.clone() };
    attention_over(&q.unflatten(1, &grouped), &parts, &mask, scale, dropout).flatten(1, 2)
}
