//! A classification task: labelled rows of tokens.
//! Read next: `language.rs`, which makes one.

/// A labelled row of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub tokens: Vec<u32>,
    pub label: u32,
}

/// What is to be learned, and what it is measured on.
pub struct Task {
    /// What each label means.
    pub labels: Vec<&'static str>,
    pub train: Vec<Example>,
    pub dev: Vec<Example>,
}

impl Task {
    /// The accuracy of always giving the commonest answer on the dev set.
    pub fn guessing(&self) -> f64 {
        let count = |label| self.dev.iter().filter(|example| example.label == label).count();
        let commonest = (0..self.labels.len() as u32).map(count).max().unwrap_or(0);
        commonest as f64 / self.dev.len().max(1) as f64
    }
}
