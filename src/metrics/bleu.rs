//! BLEU (Papineni et al. 2002, doi:10.3115/1073083.1073135), as sacrebleu 2 computes it.
//!
//! The share of word runs of length 1 to 4 that stand in a reference, over the whole corpus, and a penalty
//! for being shorter than the references. Read next: `chrf.rs`.

use std::collections::HashMap;

use super::ngrams::{ngrams, shared};
use super::same_count;
use super::words::Tokenization;

const ORDERS: usize = 4;

/// How BLEU is computed; the default is sacrebleu's, to which published scores refer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bleu {
    /// How texts are cut into words.
    pub tokenization: Tokenization,
    /// Upper and lower case are the same.
    pub lowercase: bool,
    /// Runs longer than the hypothesis do not count: for single sentences.
    pub effective_order: bool,
}

/// A BLEU score and what it is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BleuScore {
    /// From 0 to 100.
    pub score: f64,
    /// The share of word runs of length 1 to 4 found in a reference, in percent, smoothed where it is 0.
    pub precisions: [f64; ORDERS],
    /// The factor for being too short, at most 1.
    pub brevity_penalty: f64,
    /// Words of all hypotheses.
    pub hypothesis_length: u64,
    /// Words of all references, the one closest in length for each hypothesis.
    pub reference_length: u64,
    /// Word runs of length 1 to 4 found in a reference.
    pub found: [u64; ORDERS],
    /// Word runs of length 1 to 4 in all hypotheses.
    pub total: [u64; ORDERS],
}

impl Bleu {
    /// The score of a corpus: `hypotheses` `[count]`, and the references of each, any number of them.
    ///
    /// **Panics** when there are not as many lists of references as hypotheses, or one is empty.
    #[track_caller]
    pub fn corpus<T: AsRef<str>, R: AsRef<str>>(&self, hypotheses: &[T], references: &[Vec<R>]) -> BleuScore {
        same_count("Bleu::corpus", hypotheses.len(), references.len());
        let mut sums = BleuScore::default();
        for (hypothesis, references) in hypotheses.iter().zip(references) {
            assert!(!references.is_empty(), "Bleu::corpus: a hypothesis has no reference");
            let references: Vec<Vec<String>> =
                references.iter().map(|text| self.words(text.as_ref())).collect();
            sums.count(&self.words(hypothesis.as_ref()), &references);
        }
        sums.finish(self.effective_order)
    }

    fn words(&self, text: &str) -> Vec<String> {
        if self.lowercase {
            self.tokenization.words(&text.to_lowercase())
        } else {
            self.tokenization.words(text)
        }
    }
}

impl BleuScore {
    /// Adds one hypothesis.
    fn count(&mut self, hypothesis: &[String], references: &[Vec<String>]) {
        let length = hypothesis.len() as u64;
        let closest = references.iter().map(|words| words.len() as u64);
        let closest = closest.min_by_key(|&reference| (reference.abs_diff(length), reference));
        self.hypothesis_length += length;
        self.reference_length += closest.unwrap_or(0);
        for order in 1..=ORDERS {
            // A run may be used as often as the reference that has it most often.
            let mut most: HashMap<&[String], u64> = HashMap::new();
            for (run, count) in references.iter().flat_map(|words| ngrams(words, order)) {
                let known = most.entry(run).or_insert(0);
                *known = count.max(*known);
            }
            let runs = ngrams(hypothesis, order);
            self.found[order - 1] += shared(&runs, &most);
            self.total[order - 1] += runs.values().sum::<u64>();
        }
    }

    /// Score and precisions from the counts, with exponential smoothing: the first precision of 0 counts as
    /// half a run found, the next as a quarter (Chen and Cherry 2014, method 3).
    fn finish(mut self, effective_order: bool) -> BleuScore {
        let (hypothesis, reference) = (self.hypothesis_length as f64, self.reference_length as f64);
        self.brevity_penalty = match hypothesis {
            0.0 if reference > 0.0 => 0.0,
            _ if hypothesis < reference => (1.0 - reference / hypothesis).exp(),
            _ => 1.0,
        };
        if self.found == [0; ORDERS] {
            return self;
        }
        let mut halved = 1.0;
        let mut orders = 0;
        for order in (0..ORDERS).take_while(|&order| self.total[order] > 0) {
            let total = self.total[order] as f64;
            self.precisions[order] = if self.found[order] == 0 {
                halved *= 2.0;
                100.0 / (halved * total)
            } else {
                100.0 * self.found[order] as f64 / total
            };
            orders = order + 1;
        }
        // Without the effective order, a length that no hypothesis reaches makes the score 0.
        if orders == ORDERS || effective_order {
            let logarithms: f64 = self.precisions[..orders].iter().map(|precision| precision.ln()).sum();
            self.score = self.brevity_penalty * (logarithms / orders as f64).exp();
        }
        self
    }
}
