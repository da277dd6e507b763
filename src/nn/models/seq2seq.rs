//! Encoder-decoders: a source text read once, and a target text that looks across to it.
//!
//! Read next: `transformer.rs` (the original), `bart.rs` (BART and Marian), `t5.rs`.

use super::batch::{Sequences, Side};
use super::decoder::LanguageModel;
use crate::error::Result;
use crate::nn::cache::Cache;
use crate::ops::attention::Mask;
use crate::tensor::Tensor;

/// A language model over target texts that read a source text.
pub trait Seq2Seq: LanguageModel {
    /// How many tokens a source may hold.
    fn source_vocabulary(&self) -> usize {
        self.vocabulary()
    }

    /// The encoder's last hidden states: `[batch, time, width]`.
    fn encode(&self, source: &Sequences) -> Tensor;

    /// The token with which every target begins.
    fn start(&self) -> u32;

    /// Pads sources to the longest.
    ///
    /// **Errors** as [`LanguageModel::batch`].
    fn sources(&self, rows: &[Vec<u32>]) -> Result<Sequences> {
        Sequences::new(rows, Side::Right, self.source_vocabulary(), self.positions())
    }

    /// Pads targets to the longest, each behind the start token and without its own last token: what
    /// the decoder reads when it learns to write them.
    ///
    /// **Errors** as [`LanguageModel::batch`].
    fn targets(&self, rows: &[Vec<u32>]) -> Result<Sequences> {
        let shifted = |row: &Vec<u32>| {
            std::iter::once(self.start()).chain(row[..row.len().saturating_sub(1)].iter().copied()).collect()
        };
        self.batch(&rows.iter().map(shifted).collect::<Vec<_>>(), Side::Right)
    }

    /// A decoder's cache with what it makes of these sources.
    fn reading(&self, source: &Sequences, cache: Cache) -> Cache {
        cache.with_memory(&self.encode(source), source_mask(source, &self.device()))
    }

    /// What would follow each token of the targets, which may be padded on either side:
    /// `[batch, time, vocabulary]`; without meaning in the padding.
    fn translate(&self, source: &Sequences, target: &Sequences) -> Tensor {
        let mut cache = self.reading(source, Cache::none(target.starts()));
        self.head(&self.hidden(&target.ids, &mut cache))
    }
}

/// Only the texts of the sources, not their padding.
pub(super) fn source_mask(source: &Sequences, device: &crate::Device) -> Mask {
    match source.spans.iter().all(|span| span.len() == source.time()) {
        true => Mask::full(),
        false => Mask::spans(&source.spans, source.time(), device),
    }
}
