//! Multi-head attention (arXiv 1706.03762, section 3.2.2): one module for every model.
//!
//! What differs between models is data: separate or fused projections, fewer key heads than query
//! heads, turned or plain queries and keys, and the names in the files.
//! Read next: `cache.rs`, `block.rs`.

use super::cache::KeysValues;
use super::linear::Linear;
use super::module::{Module, Walker};
use super::rotary::Rotation;
use crate::ops::attention::{Mask, attention_over};
use crate::tensor::Tensor;

/// What makes queries, keys and values.
pub enum Projections {
    /// One layer for each.
    Separate {
        /// `width -> heads · head`
        query: Linear,
        /// `width -> key heads · head`
        key: Linear,
        /// `width -> key heads · head`
        value: Linear,
    },
    /// One layer whose output holds queries, keys and values side by side.
    Fused(Linear),
}

/// Queries, keys and values, attention in several heads, and the output projection.
pub struct Attention {
    /// What makes queries, keys and values.
    pub inputs: Projections,
    /// `heads · head -> width`
    pub output: Linear,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; each serves as many query heads as there are more of these.
    pub key_heads: usize,
    /// Multiplies the scores; usually `1/√head`.
    pub scale: f64,
    /// The probability with which an attention weight is dropped in training.
    pub dropout: f64,
    /// The module paths of query (or the fused layer), key, value and output.
    pub names: [&'static str; 4],
}

impl Attention {
    /// Each token looks at those of the same text: `[batch, time, width] -> [batch, time, width]`; the
    /// mask broadcasts to `[batch, heads, time, keys]`. With `kept`, the keys are those kept so far
    /// and the new ones, which are added.
    ///
    /// **Panics** when the heads do not divide the width.
    #[track_caller]
    pub fn forward(
        &self,
        x: &Tensor,
        mask: &Mask,
        rotation: Option<&Rotation>,
        kept: Option<&mut KeysValues>,
    ) -> Tensor {
        let [q, k, v] = match &self.inputs {
            Projections::Separate { query, key, value } => [query, key, value].map(|part| part.forward(x)),
            Projections::Fused(fused) => {
                let all = fused.forward(x);
                let parts = all.split(-1, &self.widths(all.size(-1)));
                parts.try_into().expect("three widths make three parts")
            }
        };
        let (q, k, v) = (split(&q, self.heads), split(&k, self.key_heads), split(&v, self.key_heads));
        let (q, k) = match rotation {
            Some(rotation) => (rotation.apply(&q), rotation.apply(&k)),
            None => (q, k),
        };
        match kept {
            Some(kept) => {
                kept.push(&k, &v);
                self.attend(&q, kept.parts(), mask)
            }
            None => self.attend(&q, &[(k, v)], mask),
        }
    }

    /// Each token looks at a memory `[batch, keys, width]`, such as an encoder's output. With `kept`,
    /// the memory's keys and values are computed once and kept there.
    #[track_caller]
    pub fn across(
        &self,
        x: &Tensor,
        memory: &Tensor,
        mask: &Mask,
        kept: Option<&mut Option<(Tensor, Tensor)>>,
    ) -> Tensor {
        let mut unkept = None;
        let kept = kept.unwrap_or(&mut unkept);
        let (query, (k, v)) = match &self.inputs {
            Projections::Separate { query, key, value } => {
                (query.forward(x), kept.get_or_insert_with(|| (key.forward(memory), value.forward(memory))))
            }
            // The layer also computes what the other side of the attention asks of it: the price of
            // keeping it whole, adapter included.
            Projections::Fused(fused) => {
                let [heads, keys, values] = self.widths(fused.outputs());
                let memory = || {
                    let all = fused.forward(memory);
                    (all.narrow(-1, heads, keys), all.narrow(-1, heads + keys, values))
                };
                (fused.forward(x).narrow(-1, 0, heads), kept.get_or_insert_with(memory))
            }
        };
        let parts = [(split(k, self.key_heads), split(v, self.key_heads))];
        self.attend(&split(&query, self.heads), &parts, mask)
    }

    #[track_caller]
    fn attend(&self, q: &Tensor, parts: &[(Tensor, Tensor)], mask: &Mask) -> Tensor {
        let context = attention_over(q, parts, mask, self.scale, self.dropout);
        self.output.forward(&context.transpose(1, 2).flatten(2, 3))
    }

    /// How a fused output of `width` is cut.
    fn widths(&self, width: usize) -> [usize; 3] {
        let head = width / (self.heads + 2 * self.key_heads);
        [self.heads * head, self.key_heads * head, self.key_heads * head]
    }
}

/// `[batch, time, width] -> [batch, heads, time, width / heads]`
#[track_caller]
fn split(x: &Tensor, heads: usize) -> Tensor {
    x.unflatten(2, &[heads, x.size(2) / heads]).transpose(1, 2)
}

impl Module for Attention {
    fn walk(&self, at: &mut Walker<'_>) {
        match &self.inputs {
            Projections::Separate { query, key, value } => {
                at.child(self.names[0], query);
                at.child(self.names[1], key);
                at.child(self.names[2], value);
            }
            Projections::Fused(fused) => at.child(self.names[0], fused),
        }
        at.child(self.names[3], &self.output);
    }
}
