//! Measures of class answers: accuracy, precision, recall, F1 and Matthews' correlation.
//!
//! All follow from one table: how often each answer was given for each label.
//! Read next: `correlation.rs`.

use super::same_count;

/// How often each class was answered for each label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// `[label, answer]`, row by row.
    counts: Vec<u64>,
}

impl Confusion {
    /// Counts labels against answers, both `[examples]`. There are as many classes as the highest one
    /// says, and at least two.
    ///
    /// **Panics** when there are not as many answers as labels.
    #[track_caller]
    pub fn new(labels: &[u32], answers: &[u32]) -> Confusion {
        same_count("Confusion::new", labels.len(), answers.len());
        let highest = labels.iter().chain(answers).max().map_or(0, |&class| class as usize);
        let classes = (highest + 1).max(2);
        let mut counts = vec![0; classes * classes];
        for (&label, &answer) in labels.iter().zip(answers) {
            counts[label as usize * classes + answer as usize] += 1;
        }
        Confusion { classes, counts }
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How often `answer` was given where `label` was right.
    ///
    /// **Panics** when one of them is no class.
    pub fn count(&self, label: usize, answer: usize) -> u64 {
        assert!(
            label < self.classes && answer < self.classes,
            "Confusion::count: {label} or {answer} is no class"
        );
        self.counts[label * self.classes + answer]
    }

    /// How many examples have the label.
    fn labelled(&self, class: usize) -> u64 {
        (0..self.classes).map(|answer| self.count(class, answer)).sum()
    }

    /// How many examples were given the answer.
    fn answered(&self, class: usize) -> u64 {
        (0..self.classes).map(|label| self.count(label, class)).sum()
    }

    /// The share of right answers; not a number without examples.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes).map(|class| self.count(class, class)).sum();
        right as f64 / self.counts.iter().sum::<u64>() as f64
    }

    /// The share of right ones among the answers of a class; 0 when it was never answered.
    pub fn precision(&self, class: usize) -> f64 {
        share(self.count(class, class), self.answered(class))
    }

    /// The share of a class's examples that were found; 0 when it has none.
    pub fn recall(&self, class: usize) -> f64 {
        share(self.count(class, class), self.labelled(class))
    }

    /// F1 of a class, the harmonic mean of precision and recall; 0 when it neither occurs nor is answered.
    /// GLUE's F1 is that of class 1.
    pub fn f1(&self, class: usize) -> f64 {
        share(2 * self.count(class, class), self.labelled(class) + self.answered(class))
    }

    /// The mean F1 of the classes that occur as a label or as an answer; 0 without examples.
    pub fn f1_macro(&self) -> f64 {
        let occurs = |&class: &usize| self.labelled(class) + self.answered(class) > 0;
        let scores: Vec<f64> = (0..self.classes).filter(occurs).map(|class| self.f1(class)).collect();
        scores.iter().sum::<f64>() / scores.len().max(1) as f64
    }

    /// Matthews' correlation of labels and answers, from -1 to 1, for any number of classes
    /// (Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006); 0 when all labels, or all answers,
    /// are the same.
    pub fn matthews(&self) -> f64 {
        let total = self.counts.iter().sum::<u64>() as f64;
        let sum = |term: &dyn Fn(usize) -> f64| (0..self.classes).map(term).sum::<f64>();
        let [labelled, answered] = [Confusion::labelled, Confusion::answered];
        let (labelled, answered) = (|k| labelled(self, k) as f64, |k| answered(self, k) as f64);
        let together = total * sum(&|k| self.count(k, k) as f64) - sum(&|k| labelled(k) * answered(k));
        let labels = total * total - sum(&|k| labelled(k).powi(2));
        let answers = total * total - sum(&|k| answered(k).powi(2));
        if labels * answers == 0.0 { 0.0 } else { together / (labels * answers).sqrt() }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
