//! The transformer block: attention, in decoders of encoders also attention across to a memory, and
//! feed-forward, each added to its input and normalised before (pre-norm) or after (post-norm).
//!
//! Every model is a stack of these; what differs is data.
//! Read next: `models/`, where each file builds its blocks and says what stands around them.

use std::sync::Arc;

use super::attention::Attention;
use super::cache::{BlockCache, Cache};
use super::feed_forward::FeedForward;
use super::module::{Module, Walker};
use super::norm::Norm;
use super::rotary::Rotation;
use crate::ops::attention::Mask;
use crate::tensor::Tensor;
use crate::tensor::recompute::{is_recomputing, recomputed};

/// Where the norm of a residual part stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `x + part(norm(x))` (GPT-2, Llama, T5).
    PreNorm,
    /// `norm(x + part(x))` (the original Transformer, BERT, BART).
    PostNorm,
}

/// One block.
pub struct Block {
    /// Where the norms stand.
    pub order: Order,
    /// Among the tokens of the text.
    pub attention: Attention,
    /// Beside `attention`.
    pub attention_norm: Norm,
    /// From the text to a memory, with its norm.
    pub across: Option<(Attention, Norm)>,
    /// On each token.
    pub feed_forward: FeedForward,
    /// Beside `feed_forward`.
    pub norm: Norm,
    /// The probability with which an element of each part's output is dropped in training.
    pub dropout: f64,
    /// The module paths of the norms beside `attention`, `across` and `feed_forward`.
    pub names: [&'static str; 3],
}

/// What all blocks of a stack see besides their input.
#[derive(Clone)]
pub struct Surroundings {
    /// Which tokens of the text may be looked at.
    pub mask: Mask,
    /// How positions turn queries and keys.
    pub rotation: Option<Rotation>,
    /// What blocks with attention across look at, and which of it.
    pub memory: Option<(Tensor, Mask)>,
}

impl Surroundings {
    /// A mask alone.
    pub fn of(mask: Mask) -> Surroundings {
        Surroundings { mask, rotation: None, memory: None }
    }
}

impl Block {
    /// `[batch, time, width] -> [batch, time, width]`; with `kept`, as [`Attention::forward`].
    ///
    /// **Panics** when the block looks across and there is no memory.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, around: &Surroundings, kept: Option<&mut BlockCache>) -> Tensor {
        let (own, kept_across) = kept.map(|kept| (&mut kept.own, &mut kept.across)).unzip();
        let attend = |x: &Tensor| self.attention.forward(x, &around.mask, around.rotation.as_ref(), own);
        let mut x = self.residual(x, &self.attention_norm, attend);
        if let Some((across, norm)) = &self.across {
            let (memory, mask) = around.memory.as_ref().expect("a block that looks across needs a memory");
            x = self.residual(&x, norm, |x| across.across(x, memory, mask, kept_across));
        }
        self.residual(&x, &self.norm, |x| self.feed_forward.forward(x))
    }

    /// As [`Block::forward`] of an encoder's block (post-norm, without rotation, memory or cache) for the first token
    /// alone, which looks at all: `[batch, time, width] -> [batch, 1, width]`.
    #[track_caller]
    fn first(&self, x: &Tensor, mask: &Mask) -> Tensor {
        debug_assert!(self.order == Order::PostNorm && self.across.is_none(), "an encoder's block");
        let attend = |first: &Tensor| self.attention.across(first, x, mask, None);
        let first = self.residual(&x.narrow(1, 0, 1), &self.attention_norm, attend);
        self.residual(&first, &self.norm, |x| self.feed_forward.forward(x))
    }

    #[track_caller]
    fn residual(&self, x: &Tensor, norm: &Norm, part: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        match self.order {
            Order::PreNorm => x + part(&norm.forward(x)).dropout(self.dropout),
            Order::PostNorm => norm.forward(&(x + part(x).dropout(self.dropout))),
        }
    }
}

impl Module for Block {
    fn walk(&self, at: &mut Walker<'_>) {
        let across = self.across.as_ref().map(|(across, norm)| (across as &dyn Module, norm));
        let parts = [
            Some((&self.attention as &dyn Module, &self.attention_norm)),
            across,
            Some((&self.feed_forward as &dyn Module, &self.norm)),
        ];
        for (part, name) in parts.into_iter().zip(self.names) {
            let Some((part, norm)) = part else { continue };
            if self.order == Order::PreNorm {
                at.child(name, norm);
            }
            at.child("", part);
            if self.order == Order::PostNorm {
                at.child(name, norm);
            }
        }
    }
}

/// The input and the output of each block in turn: each `[batch, time, width]`.
#[track_caller]
pub(super) fn states(blocks: &[Arc<Block>], x: Tensor, around: &Surroundings) -> Vec<Tensor> {
    states_with(&mut Cache::none(Vec::new()), blocks, x, around)
}

/// As [`states`]; the cache gives what each block stands on, and keeps what it makes of the tokens.
#[track_caller]
pub(super) fn states_with(
    cache: &mut Cache,
    blocks: &[Arc<Block>],
    x: Tensor,
    around: &Surroundings,
) -> Vec<Tensor> {
    let mut states = vec![x];
    for (number, block) in blocks.iter().enumerate() {
        let x = &states[number];
        states.push(match cache.block(number) {
            None if is_recomputing() => {
                let (block, x, around) = (block.clone(), x.clone(), around.clone());
                recomputed(move || block.forward(&x, &around, None))
            }
            kept => block.forward(x, around, kept),
        });
    }
    states
}

/// The first token of the last of an encoder's [`states_with`]: `[batch, width]`. The last block makes keys and
/// values of every token, and everything else of this one.
#[track_caller]
pub(super) fn first_state(
    cache: &mut Cache,
    blocks: &[Arc<Block>],
    x: Tensor,
    around: &Surroundings,
) -> Tensor {
    let Some((last, before)) = blocks.split_last() else { return x.select(1, 0) };
    let x = states_with(cache, before, x, around).pop().expect("at least the input");
    let first = match cache.block(before.len()) {
        None => last.first(&x, &around.mask),
        // Virtual tokens have put keys and values there.
        kept => last.forward(&x, around, kept),
    };
    first.select(1, 0)
}

/// As [`states`] for tokens that stand on what a cache knows: each looks at those before it, and
/// across to the cache's memory. `bias` is added to the scores.
#[track_caller]
pub(super) fn states_after(
    cache: &mut Cache,
    blocks: &[Arc<Block>],
    x: Tensor,
    rotation: Option<Rotation>,
    bias: Option<&Tensor>,
) -> Vec<Tensor> {
    let (time, mask) = (x.size(1), cache.mask(x.size(1), &x.device()));
    let mask = bias.map_or(mask.clone(), |bias| mask.with_bias(bias));
    let around = Surroundings { mask, rotation, memory: cache.memory().cloned() };
    let states = states_with(cache, blocks, x, &around);
    cache.advance(time);
    states
}
