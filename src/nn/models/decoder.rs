//! Decoders: token vectors, positions, a stack of causal blocks, a norm; and the heads on them.
//!
//! GPT-2 and the Llama family are two ways to fill in this picture.
//! Read next: `gpt2.rs`, `llama.rs`, then `generate/`.

use std::sync::Arc;

use super::batch::{Sequences, Side};
use crate::device::Device;
use crate::device::array::Ids;
use crate::error::Result;
use crate::nn::block::{Block, states_after};
use crate::nn::cache::Cache;
use crate::nn::embedding::Embedding;
use crate::nn::fresh::Fresh;
use crate::nn::linear::Linear;
use crate::nn::module::{Module, Walker};
use crate::nn::norm::Norm;
use crate::nn::rotary::Rotary;
use crate::nn::virtual_tokens::{VirtualTokens, own};
use crate::tensor::Tensor;

/// A model that says which token comes next.
pub trait LanguageModel: Module {
    /// How many tokens it knows.
    fn vocabulary(&self) -> usize;

    /// The longest text it takes, if that is limited.
    fn positions(&self) -> Option<usize>;

    /// Where it lives.
    fn device(&self) -> Device;

    /// The last hidden state of each token, which stand on what the cache knows and are added to it:
    /// `[batch, time] -> [batch, time, width]`.
    fn hidden(&self, ids: &Ids, cache: &mut Cache) -> Tensor;

    /// The score of each token of the vocabulary: `[.., width] -> [.., vocabulary]`.
    fn head(&self, hidden: &Tensor) -> Tensor;

    /// Pads texts to the longest.
    ///
    /// **Errors** when there is no text, one is empty or longer than the positions, or a token is
    /// outside of the vocabulary.
    fn batch(&self, rows: &[Vec<u32>], side: Side) -> Result<Sequences> {
        Sequences::new(rows, side, self.vocabulary(), self.positions())
    }

    /// What would follow each token: `[batch, time, vocabulary]`; without meaning in the padding.
    ///
    /// **Panics**, as [`LanguageModel::loss`], when the model reads a source first: its scores come from
    /// [`Seq2Seq::translate`](super::seq2seq::Seq2Seq::translate).
    fn forward(&self, batch: &Sequences) -> Tensor {
        self.head(&self.hidden(&batch.ids, &mut Cache::none(batch.starts())))
    }

    /// The mean cross-entropy of every token that follows another.
    fn loss(&self, batch: &Sequences) -> Tensor {
        self.forward(batch).flatten(0, 1).cross_entropy(&batch.next_tokens())
    }
}

/// How a decoder knows where a token stands.
pub enum Positions {
    /// A vector per position, added to the token's.
    Learned(Embedding),
    /// Queries and keys turn.
    Rotary(Rotary),
}

/// The names of a decoder's parts in the files.
#[derive(Clone, Copy, Debug)]
pub struct DecoderNames {
    /// In front of all below a head.
    pub prefix: &'static str,
    /// The table of token vectors.
    pub tokens: &'static str,
    /// The table of position vectors.
    pub positions: &'static str,
    /// The blocks, followed by their numbers.
    pub blocks: &'static str,
    /// The last norm.
    pub norm: &'static str,
}

/// The body of a decoder.
pub struct Decoder {
    /// A vector for each token.
    pub tokens: Embedding,
    /// Where an adapter may put virtual tokens.
    pub virtual_tokens: VirtualTokens,
    /// How it knows where a token stands.
    pub positions: Positions,
    /// How many positions there are.
    pub limit: usize,
    /// The probability with which an element of the first hidden state is dropped in training.
    pub dropout: f64,
    /// The stack.
    pub blocks: Vec<Arc<Block>>,
    /// On the last hidden state.
    pub norm: Norm,
    /// The names of these parts.
    pub names: DecoderNames,
}

impl Decoder {
    /// Each block's input, and the last hidden state behind the norm: `[batch, time] -> [batch, time, width]`
    /// each.
    ///
    /// **Panics** when there are more tokens than positions; batches are checked when they are made.
    #[track_caller]
    pub fn hidden_states(&self, ids: &Ids, cache: &mut Cache) -> Vec<Tensor> {
        own(self.all_states(ids, cache), ids.sizes()[1])
    }

    /// As [`Decoder::hidden_states`], those of virtual tokens before the text's.
    #[track_caller]
    pub fn all_states(&self, ids: &Ids, cache: &mut Cache) -> Vec<Tensor> {
        let x = self.virtual_tokens.begin(self.tokens.forward(ids), cache);
        let time = x.size(1);
        let (x, rotation) = match &self.positions {
            Positions::Learned(table) => (x + table.forward(&cache.position_ids(time, self.limit)), None),
            Positions::Rotary(rotary) => (x, Some(rotary.at(&cache.positions(time), &self.device()))),
        };
        let x = x.dropout(self.dropout);
        let mut states = states_after(cache, &self.blocks, x, rotation, None);
        let last = states.pop().expect("at least the input");
        states.push(self.norm.forward(&last));
        states
    }

    fn device(&self) -> Device {
        self.tokens.weight().device()
    }

    /// The longest text it takes.
    fn longest(&self) -> usize {
        self.limit.saturating_sub(self.virtual_tokens.count())
    }

    fn hidden(&self, ids: &Ids, cache: &mut Cache) -> Tensor {
        self.hidden_states(ids, cache).pop().expect("at least the input")
    }
}

impl Module for Decoder {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("virtual_tokens", &self.virtual_tokens);
        at.child(self.names.tokens, &self.tokens);
        if let Positions::Learned(table) = &self.positions {
            at.child(self.names.positions, table);
        }
        at.children(self.names.blocks, &self.blocks);
        at.child(self.names.norm, &self.norm);
    }
}

/// A decoder that says which token comes next.
pub struct CausalLm {
    /// Its parameters stand behind the family's prefix.
    pub body: Decoder,
    /// `width -> vocabulary`, called `lm_head`; its weight may be that of the token vectors.
    pub output: Linear,
}

impl CausalLm {
    /// A decoder with a head of its own, or one that shares the token vectors.
    pub fn new(body: Decoder, output: Option<Linear>) -> CausalLm {
        let shared = || Linear::from_param(body.tokens.weight().clone());
        CausalLm { output: output.unwrap_or_else(shared), body }
    }
}

impl LanguageModel for CausalLm {
    fn vocabulary(&self) -> usize {
        self.body.tokens.weight().sizes()[0]
    }

    fn positions(&self) -> Option<usize> {
        Some(self.body.longest())
    }

    fn device(&self) -> Device {
        self.body.device()
    }

    fn hidden(&self, ids: &Ids, cache: &mut Cache) -> Tensor {
        self.body.hidden(ids, cache)
    }

    /// Virtual tokens take part: the last of them is followed by the text's first.
    fn loss(&self, batch: &Sequences) -> Tensor {
        let mut states = self.body.all_states(&batch.ids, &mut Cache::none(batch.starts()));
        let last = states.pop().expect("at least the input");
        let next = batch.next_tokens_behind(last.size(1) - batch.time());
        self.head(&last).flatten(0, 1).cross_entropy(&next)
    }

    fn head(&self, hidden: &Tensor) -> Tensor {
        self.output.forward(hidden)
    }
}

impl Module for CausalLm {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child(self.body.names.prefix, &self.body);
        at.child("lm_head", &self.output);
    }
}

/// A decoder with a linear head over the last token of each text.
pub struct DecoderClassifier {
    /// Its parameters stand behind the family's prefix.
    pub body: Decoder,
    /// `width -> labels` without a bias, called `score`.
    pub score: Linear,
}

impl DecoderClassifier {
    /// A fresh head for `labels` classes on a decoder.
    pub fn new(body: Decoder, labels: usize, fresh: &mut Fresh) -> DecoderClassifier {
        let width = body.tokens.weight().sizes()[1];
        DecoderClassifier { score: fresh.linear_with(width, labels, false), body }
    }

    /// Pads texts to the longest.
    ///
    /// **Errors** as [`LanguageModel::batch`].
    pub fn batch(&self, rows: &[Vec<u32>], side: Side) -> Result<Sequences> {
        Sequences::new(rows, side, self.body.tokens.weight().sizes()[0], Some(self.body.longest()))
    }

    /// The score of each class: `[batch, labels]`.
    #[track_caller]
    pub fn forward(&self, batch: &Sequences) -> Tensor {
        let hidden = self.body.hidden(&batch.ids, &mut Cache::none(batch.starts()));
        self.score.forward(&hidden.flatten(0, 1).embedding(&batch.last_tokens()))
    }
}

impl Module for DecoderClassifier {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child(self.body.names.prefix, &self.body);
        at.child("score", &self.score);
    }
}
