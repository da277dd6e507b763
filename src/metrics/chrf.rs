//! chrF (Popović 2015, doi:10.18653/v1/W15-3049) and chrF++, as sacrebleu 2 computes them.
//!
//! Precision and recall of character runs of length 1 to 6, without white space; chrF++ adds single words
//! and pairs of words. Read next: `rouge.rs`.

use super::ngrams::Overlap;
use super::same_count;
use super::words::{is_space, split};

const CHARACTER_ORDERS: usize = 6;
/// Recall weighs as much as precision times its square.
const BETA: f64 = 2.0;

/// How chrF is computed; the default is plain chrF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chrf {
    /// Runs of words up to this length count, too: 0 for chrF, 2 for chrF++.
    pub word_orders: usize,
}

impl Chrf {
    /// The score of a corpus, from 0 to 100: `hypotheses` `[count]`, and the references of each, of which
    /// the best counts.
    ///
    /// **Panics** when there are not as many lists of references as hypotheses.
    #[track_caller]
    pub fn corpus<T: AsRef<str>, R: AsRef<str>>(&self, hypotheses: &[T], references: &[Vec<R>]) -> f64 {
        same_count("Chrf::corpus", hypotheses.len(), references.len());
        let mut sums = vec![Overlap::default(); CHARACTER_ORDERS + self.word_orders];
        for (hypothesis, references) in hypotheses.iter().zip(references) {
            let mut best: Option<(f64, Vec<Overlap>)> = None;
            for reference in references {
                let overlaps = self.overlaps(hypothesis.as_ref(), reference.as_ref());
                let score = score(&overlaps);
                if best.as_ref().is_none_or(|(highest, _)| score > *highest) {
                    best = Some((score, overlaps));
                }
            }
            let (_, best) = best.unwrap_or_default();
            sums.iter_mut().zip(best).for_each(|(sum, overlap)| sum.add(overlap));
        }
        score(&sums)
    }

    fn overlaps(&self, hypothesis: &str, reference: &str) -> Vec<Overlap> {
        let [characters, others] =
            [hypothesis, reference].map(|text| text.chars().filter(|&c| !is_space(c)).collect::<Vec<_>>());
        let [words, other_words] = [hypothesis, reference].map(words);
        let of_characters = (1..=CHARACTER_ORDERS).map(|order| Overlap::of(&characters, &others, order));
        let of_words = (1..=self.word_orders).map(|order| Overlap::of(&words, &other_words, order));
        // A run too long for the reference is no mistake of the hypothesis.
        let counted = |overlap: Overlap| match overlap.reference {
            0 => Overlap { hypothesis: 0, ..overlap },
            _ => overlap,
        };
        of_characters.chain(of_words).map(counted).collect()
    }
}

/// The F score of the mean precision and the mean recall of all lengths that both sides have.
fn score(overlaps: &[Overlap]) -> f64 {
    let both: Vec<&Overlap> =
        overlaps.iter().filter(|overlap| overlap.hypothesis > 0 && overlap.reference > 0).collect();
    let mean = |part: fn(&Overlap) -> u64| {
        let shares = both.iter().map(|overlap| overlap.shared as f64 / part(overlap) as f64);
        shares.sum::<f64>() / both.len().max(1) as f64
    };
    let (precision, recall) = (mean(|overlap| overlap.hypothesis), mean(|overlap| overlap.reference));
    let factor = BETA * BETA;
    match precision + recall {
        0.0 => 0.0,
        _ => 100.0 * (1.0 + factor) * precision * recall / (factor * precision + recall),
    }
}

/// The words of a text, with one punctuation mark at their end, or else at their beginning, taken off.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for word in split(text) {
        let mut characters = word.char_indices();
        let (first, last) = (characters.next(), characters.next_back());
        let mark = |c: char| c.is_ascii_punctuation();
        match (first, last) {
            (Some(_), Some((at, c))) if mark(c) => words.extend([&word[..at], &word[at..]]),
            (Some((_, c)), Some(_)) if mark(c) => {
                words.extend([&word[..c.len_utf8()], &word[c.len_utf8()..]])
            }
            _ => words.push(word),
        }
    }
    words
}
