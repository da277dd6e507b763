//! Virtual tokens: what stands before every text of a batch without being a token of the vocabulary.
//!
//! An adapter gives them as vectors in front of the token vectors (prompt tuning), or as keys and values
//! of each block, which enter as if a cache had kept them (prefix tuning). Models know only this place.
//! Read next: `cache.rs`, then `adapters/prompt_tuning.rs`.

use std::sync::Arc;

use super::block::Block;
use super::cache::Cache;
use super::embedding::Embedding;
use super::module::{Module, Walker};
use super::socket::{Socket, Stack};
use crate::device::array::Ids;
use crate::tensor::{Tensor, autograd::inference};

/// What stands before every text.
pub enum Prefix {
    /// A vector for each virtual token, in front of those of the text: `[tokens, width]`.
    Vectors(Tensor),
    /// For each block the keys and the values of the virtual tokens: `[key heads, tokens, head]` each.
    KeysValues(Vec<(Tensor, Tensor)>),
}

impl Prefix {
    /// How many virtual tokens there are.
    pub fn count(&self) -> usize {
        match self {
            Prefix::Vectors(vectors) => vectors.size(0),
            Prefix::KeysValues(blocks) => blocks.first().map_or(0, |(keys, _)| keys.size(1)),
        }
    }
}

/// The place before a stack of blocks where an adapter may put virtual tokens.
#[derive(Clone)]
pub struct VirtualTokens(Socket);

impl VirtualTokens {
    /// The place before these blocks, which read the vectors of a table.
    pub fn new(tokens: &Embedding, blocks: &[Arc<Block>]) -> VirtualTokens {
        let sizes = |block: &Arc<Block>| Stack {
            blocks: blocks.len(),
            width: tokens.weight().sizes()[1],
            key_heads: block.attention.key_heads,
            head: block.attention.output.inputs() / block.attention.heads,
        };
        let stack = blocks.first().map_or(Stack::default(), sizes);
        VirtualTokens(Socket::stack(tokens.weight().clone(), stack))
    }

    /// How many virtual tokens stand before every text: 0 without an adapter.
    pub fn count(&self) -> usize {
        inference(|| self.prefix()).map_or(0, |prefix| prefix.count())
    }

    fn prefix(&self) -> Option<Prefix> {
        self.0.adapter()?.prefix()
    }

    /// Begins a forward pass over texts: virtual tokens before `x: [batch, time, width]`, or in the
    /// cache; nothing where the cache has seen them already.
    #[track_caller]
    pub(super) fn begin(&self, x: Tensor, cache: &mut Cache) -> Tensor {
        if cache.past() > 0 {
            return x;
        }
        match self.prefix() {
            None => x,
            Some(Prefix::Vectors(vectors)) => {
                cache.expect(vectors.size(0));
                let vectors = vectors.unsqueeze(0).expand([x.size(0), vectors.size(0), x.size(2)]);
                Tensor::concat(&[&vectors, &x], 1)
            }
            Some(Prefix::KeysValues(blocks)) => {
                cache.stand_on(&blocks);
                x
            }
        }
    }
}

/// Ids `[batch, time]` behind as many others, which are all `fill`: `[batch, front + time]`.
pub(super) fn behind(front: usize, fill: u32, ids: &Ids) -> Ids {
    let [batch, time] = [ids.sizes()[0], ids.sizes()[1]];
    let rows = ids.values().chunks(time).flat_map(|row| [vec![fill; front], row.to_vec()].concat());
    Ids::new(rows.collect::<Vec<_>>(), [batch, front + time], ids.limit()).expect("they were checked before")
}

/// Only the states of a text's own `time` tokens, which stand last: each `[batch, time, width]`.
#[track_caller]
pub(super) fn own(states: Vec<Tensor>, time: usize) -> Vec<Tensor> {
    match states.first().map_or(0, |state| state.size(1) - time) {
        0 => states,
        front => states.iter().map(|state| state.narrow(1, front, time)).collect(),
    }
}

/// Only what the adapter has: the table belongs to the model.
impl Module for VirtualTokens {
    fn walk(&self, at: &mut Walker<'_>) {
        if let Some(adapter) = self.0.adapter() {
            adapter.walk(at);
        }
    }

    fn socket(&self) -> Option<&Socket> {
        Some(&self.0)
    }
}
