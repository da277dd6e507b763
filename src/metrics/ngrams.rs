//! Runs of neighbouring words or characters, counted: what BLEU and chrF compare.
//! Read next: `bleu.rs`.

use std::collections::HashMap;
use std::hash::Hash;

/// How often each run of `order` neighbours occurs.
pub(super) fn ngrams<T: Hash + Eq>(items: &[T], order: usize) -> HashMap<&[T], u64> {
    let mut counts = HashMap::new();
    for run in items.windows(order) {
        *counts.entry(run).or_insert(0) += 1;
    }
    counts
}

/// How many runs two counts share.
pub(super) fn shared<T: Hash + Eq>(counts: &HashMap<&[T], u64>, others: &HashMap<&[T], u64>) -> u64 {
    counts.iter().map(|(run, &count)| count.min(others.get(run).copied().unwrap_or(0))).sum()
}

/// Runs of one length in a hypothesis and in its reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overlap {
    pub hypothesis: u64,
    pub reference: u64,
    pub shared: u64,
}

impl Overlap {
    /// Counts the runs of `order` neighbours.
    pub fn of<T: Hash + Eq>(hypothesis: &[T], reference: &[T], order: usize) -> Overlap {
        let counts = |items: &[T]| (items.len() + 1).saturating_sub(order) as u64;
        let shared = shared(&ngrams(hypothesis, order), &ngrams(reference, order));
        Overlap { hypothesis: counts(hypothesis), reference: counts(reference), shared }
    }

    pub fn add(&mut self, other: Overlap) {
        self.hypothesis += other.hypothesis;
        self.reference += other.reference;
        self.shared += other.shared;
    }
}
