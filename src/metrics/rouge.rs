//! ROUGE-L (Lin 2004, aclanthology W04-1013): the longest sequence of words that both texts have in order.
//!
//! As the E2E and WebNLG evaluations count it: of several references the best precision and the best recall
//! are taken, and recall weighs more (beta 1.2); the corpus has the mean of its texts.
//! Read next: `significance.rs`.

use super::same_count;
use super::words::Tokenization;

/// How ROUGE-L is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RougeL {
    /// How texts are cut into words, in lower case.
    pub tokenization: Tokenization,
    /// How much more recall weighs than precision.
    pub beta: f64,
}

impl Default for RougeL {
    fn default() -> RougeL {
        RougeL { tokenization: Tokenization::V13a, beta: 1.2 }
    }
}

impl RougeL {
    /// The mean score of a corpus, from 0 to 100: `hypotheses` `[count]`, and the references of each.
    /// It is not a number without hypotheses.
    ///
    /// **Panics** when there are not as many lists of references as hypotheses.
    #[track_caller]
    pub fn corpus<T: AsRef<str>, R: AsRef<str>>(&self, hypotheses: &[T], references: &[Vec<R>]) -> f64 {
        same_count("RougeL::corpus", hypotheses.len(), references.len());
        let words = |text: &str| self.tokenization.words(&text.to_lowercase());
        let score = |(hypothesis, references): (&T, &Vec<R>)| {
            let hypothesis = words(hypothesis.as_ref());
            let (mut precision, mut recall) = (0f64, 0f64);
            for reference in references {
                let reference = words(reference.as_ref());
                let common = longest_common(&hypothesis, &reference) as f64;
                precision = precision.max(common / hypothesis.len().max(1) as f64);
                recall = recall.max(common / reference.len().max(1) as f64);
            }
            let factor = self.beta * self.beta;
            let sum = recall + factor * precision;
            if sum == 0.0 { 0.0 } else { (1.0 + factor) * precision * recall / sum }
        };
        let sum: f64 = hypotheses.iter().zip(references).map(score).sum();
        100.0 * sum / hypotheses.len() as f64
    }
}

/// The length of the longest sequence that stands in both, in order but with gaps.
fn longest_common<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    // `lengths[j]`: of what was read of `a`, and of the first j of `b`.
    let mut lengths = vec![0; b.len() + 1];
    for item in a {
        let mut before = 0;
        for (j, other) in b.iter().enumerate() {
            let above = lengths[j + 1];
            lengths[j + 1] = if item == other { before + 1 } else { above.max(lengths[j]) };
            before = above;
        }
    }
    lengths[b.len()]
}
