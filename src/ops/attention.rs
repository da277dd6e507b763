//! Scaled dot-product attention (arXiv 1706.03762, section 3.2.1), composed of two products and a
//! softmax; scale and mask ride along in the first product.

use crate::error::{Error, Result, refuse};
use crate::layout::broadcast;
use crate::ops::elementwise::elementwise;
use crate::tensor::Tensor;

/// Which keys a query may look at.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    causal: bool,
    bias: Option<Tensor>,
    /// Whether a query may be left without any key.
    may_hide_all: bool,
}

/// Takes a key out of a softmax: finite, because shaders may assume that nothing is infinite.
pub const MASKED: f64 = -1e30;

impl Mask {
    /// Every query looks at every key.
    pub fn full() -> Mask {
        Mask::default()
    }

    /// Query i looks at the keys up to i.
    pub fn causal() -> Mask {
        Mask { causal: true, ..Mask::default() }
    }

    /// Each sequence of a batch has its own number of keys, counted from the first: `[batch, 1, 1, time]`.
    ///
    /// **Errors** when a length is longer than `time`, or 0.
    pub fn lengths(lengths: &[usize], time: usize, device: &crate::Device) -> Result<Mask> {
        if let Some(bad) = lengths.iter().find(|&&length| length > time || length == 0) {
            return Err(Error::Data(format!("a sequence of {bad} tokens in a batch of {time}")));
        }
        let bias: Vec<f32> = lengths
            .iter()
            .flat_map(|&length| (0..time).map(move |at| if at < length { 0.0 } else { MASKED as f32 }))
            .collect();
        Ok(Mask::full().with_bias(&Tensor::new(&bias, [lengths.len(), 1, 1, time], device)))
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

    /// And no key after the query.
    pub fn and_causal(mut self) -> Mask {
        self.causal = true;
        self
    }

    /// What is added to the scores `[.., queries, keys]`.
    fn scores(&self, queries: usize, keys: usize, device: &crate::Device) -> Option<Tensor> {
        let causal = self.causal.then(|| Tensor::full(MASKED, [queries, keys], device).triu(1));
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
    let bias = mask.scores(q.size(-2), k.size(-2), &q.device());
    let scores = match &bias {
        Some(bias) => bias.add_matmul(q, &k.t(), scale),
        None => Tensor::zeros([], &q.device()).add_matmul(q, &k.t(), scale),
    };
    let seen = scores.softmax(-1).dropout(dropout).matmul(v);
    match bias.filter(|bias| mask.may_hide_all && bias.count() > 0) {
        // Equally hidden keys would share the weight of a row; the sum over them is taken back.
        Some(bias) => {
            let best = bias.detach().max_keep(-1);
            elementwise("seen", [&seen, &best], |[x, best]| best.less_equal(0.5 * MASKED).select(0.0, x))
        }
        None => seen,
    }
}
