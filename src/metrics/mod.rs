//! How good answers are: the measures that published results are given in.
//!
//! Plain arithmetic on labels, numbers and texts; no tensors. Each agrees with the program whose figures
//! papers quote: scikit-learn ([`Confusion`]), scipy ([`pearson`], [`spearman`]) and sacrebleu ([`Bleu`],
//! [`Chrf`]), held to by `tests/metrics.rs`.
//! Read next: `confusion.rs`, `correlation.rs`; for texts `words.rs`, `ngrams.rs`, then `bleu.rs`,
//! `chrf.rs`, `rouge.rs`; `significance.rs` for comparing runs.

mod bleu;
mod chrf;
mod confusion;
mod correlation;
mod ngrams;
mod rouge;
mod significance;
mod words;

pub use bleu::{Bleu, BleuScore};
pub use chrf::Chrf;
pub use confusion::Confusion;
pub use correlation::{mean_absolute_error, mean_squared_error, pearson, ranks, spearman};
pub use rouge::RougeL;
pub use significance::paired_t_test;
pub use words::Tokenization;

use crate::error::refuse;

/// Ends a measure of two lists that do not belong together.
#[track_caller]
fn same_count(name: &str, first: usize, second: usize) {
    if first != second {
        refuse(name, format_args!("{first} of one against {second} of the other; expected as many"));
    }
}
