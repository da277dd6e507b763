//! Multi-head self-attention (arXiv 1706.03762, section 3.2.2).

use super::linear::Linear;
use super::module::{Module, Walker};
use crate::ops::attention::{Mask, attention};
use crate::tensor::Tensor;

/// Query, key and value projections, and attention in several heads; the output projection is the caller's.
pub struct SelfAttention {
    /// `width -> width`
    pub query: Linear,
    /// `width -> width`
    pub key: Linear,
    /// `width -> width`
    pub value: Linear,
    /// The width is divided among these.
    pub heads: usize,
    /// The probability with which an attention weight is dropped in training.
    pub dropout: f64,
}

impl SelfAttention {
    /// `[batch, time, width] -> [batch, time, width]`; the mask broadcasts to `[batch, heads, time, time]`.
    ///
    /// **Panics** when the heads do not divide the width.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, mask: &Mask) -> Tensor {
        let [batch, time, width] = [x.size(0), x.size(1), x.size(2)];
        let head = width / self.heads;
        // [batch, time, width] -> [batch, heads, time, head]
        let split = |x: Tensor| x.reshape([batch, time, self.heads, head]).transpose(1, 2);
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|part| split(part.forward(x)));
        let context = attention(&q, &k, &v, mask, 1.0 / (head as f64).sqrt(), self.dropout);
        context.transpose(1, 2).reshape([batch, time, width])
    }
}

impl Module for SelfAttention {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("query", &self.query);
        at.child("key", &self.key);
        at.child("value", &self.value);
    }
}
