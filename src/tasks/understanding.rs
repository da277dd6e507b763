//! The tasks of GLUE (Wang et al. 2018, arXiv 1804.07461) but WNLI, which most papers leave out: read a text, or two,
//! and answer.
//!
//! Each task is published in one or two layouts: GLUE's own `train.tsv` and `dev.tsv`, and the files of its
//! authors. Which one a directory holds is seen from the names of its files. Where no file for measuring
//! is published with labels, the last rows of the training file are held out, as many as `LAYOUTS` says.
//! Read next: `table.rs`, or `metrics/` for the measures.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::mersenne::Mersenne;
use super::nearest;
use super::table::{Format, Incomplete, Row, Table};
use crate::error::{Error, Result};
use crate::metrics::{Confusion, pearson, spearman};

/// A task of GLUE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Understanding {
    /// Is a sentence acceptable English (Warstadt et al. 2019, arXiv 1805.12471)?
    Cola,
    /// Does a sentence of a film review praise (Socher et al. 2013)? The training rows come in the order of
    /// Python's `random.Random(0).shuffle`, so that its first rows are a sample.
    Sst2,
    /// Do two sentences say the same (Dolan and Brockett 2005)?
    Mrpc,
    /// Does the second text follow from the first (Dagan et al. 2006)?
    Rte,
    /// How alike are two sentences, from 0 to 5 (Cer et al. 2017, arXiv 1708.00055)?
    Stsb,
    /// Does the second text follow from the first, contradict it, or neither (Williams et al. 2018, arXiv
    /// 1704.05426)? Measured on the rows of known genres (`dev_matched.tsv`).
    Mnli,
    /// Does a sentence answer a question (Wang et al. 2018)?
    Qnli,
    /// Do two questions ask the same?
    Qqp,
}

/// One text or two, and what is to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The first text, or the only one.
    pub first: String,
    /// The second text, where the task has two.
    pub second: Option<String>,
    /// The number of the class in [`Understanding::labels`], or the score to be predicted.
    pub label: f64,
}

/// The rows of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Examples {
    /// To train on.
    pub train: Vec<Example>,
    /// To measure on.
    pub dev: Vec<Example>,
    /// How many rows are not among these, because a column is missing or empty: QQP is published with some.
    pub left_out: usize,
}

/// How a task's files are laid out.
struct Layout {
    task: Understanding,
    train: &'static str,
    /// The file to measure on, or how many of the last training rows are held out where it is not there.
    dev: &'static str,
    held_out: usize,
    columns: Columns,
}

/// Where texts and labels stand: in columns called by one of several names, or counted from 0.
enum Columns {
    Named { first: &'static [&'static str], second: Option<&'static str>, label: &'static str },
    Placed { first: usize, second: Option<usize>, label: usize },
}

use Columns::{Named, Placed};
use Understanding::{Cola, Mnli, Mrpc, Qnli, Qqp, Rte, Sst2, Stsb};

const fn named(first: &'static [&'static str], second: Option<&'static str>, label: &'static str) -> Columns {
    Named { first, second, label }
}

const fn layout(
    task: Understanding,
    train: &'static str,
    dev: &'static str,
    held_out: usize,
    columns: Columns,
) -> Layout {
    Layout { task, train, dev, held_out, columns }
}

const COLA: Columns = Placed { first: 3, second: None, label: 1 };
const MRPC: Columns = named(&["#1 String"], Some("#2 String"), "Quality");

/// Every layout that is read. The first whose training file is there is taken.
const LAYOUTS: [Layout; 11] = [
    layout(Cola, "in_domain_train.tsv", "in_domain_dev.tsv", 0, COLA),
    layout(Cola, "train.tsv", "dev.tsv", 0, COLA),
    layout(Sst2, "train.tsv", "dev.tsv", 0, named(&["sentence", "content"], None, "label")),
    // GLUE's script leaves the authors' files beside its own, whose rows are others.
    layout(Mrpc, "train.tsv", "dev.tsv", 408, MRPC),
    layout(Mrpc, "msr_paraphrase_train.txt", "", 408, MRPC),
    layout(Rte, "train.tsv", "dev.tsv", 250, named(&["sentence1"], Some("sentence2"), "label")),
    layout(Stsb, "sts-train.csv", "sts-dev.csv", 0, Placed { first: 5, second: Some(6), label: 4 }),
    layout(Stsb, "train.tsv", "dev.tsv", 0, named(&["sentence1"], Some("sentence2"), "score")),
    layout(Mnli, "train.tsv", "dev_matched.tsv", 0, named(&["sentence1"], Some("sentence2"), "gold_label")),
    layout(Qnli, "train.tsv", "dev.tsv", 0, named(&["question"], Some("sentence"), "label")),
    layout(Qqp, "train.tsv", "dev.tsv", 0, named(&["question1"], Some("question2"), "is_duplicate")),
];

impl Understanding {
    /// Every task.
    pub const ALL: [Understanding; 8] = [Cola, Sst2, Mrpc, Rte, Stsb, Mnli, Qnli, Qqp];

    /// The task's name in commands and tables.
    pub fn name(self) -> &'static str {
        match self {
            Cola => "cola",
            Sst2 => "sst2",
            Mrpc => "mrpc",
            Rte => "rte",
            Stsb => "stsb",
            Mnli => "mnli",
            Qnli => "qnli",
            Qqp => "qqp",
        }
    }

    /// What the classes mean, by their numbers; empty where the answer is a score.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Cola => &["unacceptable", "acceptable"],
            Sst2 => &["negative", "positive"],
            Mrpc | Qqp => &["different", "equivalent"],
            Rte | Qnli => &["not_entailment", "entailment"],
            Mnli => &["entailment", "neutral", "contradiction"],
            Stsb => &[],
        }
    }

    /// The measures that GLUE judges the task by.
    pub fn measures(self) -> &'static [&'static str] {
        match self {
            Cola => &["matthews"],
            Sst2 | Rte | Mnli | Qnli => &["accuracy"],
            Mrpc | Qqp => &["accuracy", "f1"],
            Stsb => &["pearson", "spearman"],
        }
    }

    /// The values of [`Understanding::measures`] for labels and answers, both `[examples]`: numbers of
    /// classes, or scores. F1 is that of class 1.
    ///
    /// **Panics** when there are not as many answers as labels.
    pub fn measure(self, labels: &[f64], answers: &[f64]) -> Vec<f64> {
        let classes = |values: &[f64]| values.iter().map(|&value| value as u32).collect::<Vec<_>>();
        let confusion = || Confusion::new(&classes(labels), &classes(answers));
        match self {
            Cola => vec![confusion().matthews()],
            Sst2 | Rte | Mnli | Qnli => vec![confusion().accuracy()],
            Mrpc | Qqp => vec![confusion().accuracy(), confusion().f1(1)],
            Stsb => vec![pearson(labels, answers), spearman(labels, answers)],
        }
    }

    /// Reads the task from a directory with its published files.
    ///
    /// **Errors** when no training file of the task is there, or one is malformed.
    pub fn read(self, directory: impl AsRef<Path>) -> Result<Examples> {
        let directory = directory.as_ref();
        let layouts = || LAYOUTS.iter().filter(|layout| layout.task == self);
        let Some(layout) = layouts().find(|layout| directory.join(layout.train).is_file()) else {
            let names: Vec<&str> = layouts().map(|layout| layout.train).collect();
            let (directory, names) = (directory.display(), names.join(" or "));
            return Err(Error::Data(format!("{directory} holds no {names}, the training file of {self}")));
        };
        let path = directory.join(layout.train);
        let (mut train, mut left_out) = self.rows(&path, &layout.columns)?;
        let dev = directory.join(layout.dev);
        let dev = if layout.held_out == 0 || dev.is_file() {
            let (dev, incomplete) = self.rows(&dev, &layout.columns)?;
            left_out += incomplete;
            dev
        } else if train.len() > layout.held_out {
            train.split_off(train.len() - layout.held_out)
        } else {
            let (rows, held_out) = (train.len(), layout.held_out);
            let what =
                format!("has {rows} rows, expected more than the {held_out} that are held out to measure on");
            return Err(Error::format(path, what));
        };
        if self == Sst2 {
            Mersenne::seeded(0).shuffle(&mut train);
        }
        Ok(Examples { train, dev, left_out })
    }

    /// The rows of a file, and how many more are incomplete.
    fn rows(self, path: &Path, columns: &Columns) -> Result<(Vec<Example>, usize)> {
        let incomplete = if self == Qqp { Incomplete::LeftOut } else { Incomplete::Refused };
        let table = Table::read(path, Format::Tabs, matches!(columns, Named { .. }), incomplete)?;
        let (first, second, label) = match *columns {
            Placed { first, second, label } => (first, second, label),
            Named { first, second, label } => {
                let second = second.map(|name| table.column(&[name])).transpose()?;
                (table.column(first)?, second, table.column(&[label])?)
            }
        };
        let example = |row: &Row| {
            Ok(Example {
                first: table.field(row, first)?.into(),
                second: second.map(|at| Ok(table.field(row, at)?.into())).transpose()?,
                label: self.label(&table, row, label)?,
            })
        };
        let examples: Result<Vec<Example>> = table.rows.iter().map(example).collect();
        Ok((examples?, table.left_out))
    }

    fn label(self, table: &Table, row: &Row, at: usize) -> Result<f64> {
        let text = table.field(row, at)?.trim();
        let spelled: &[&str] = match self {
            Cola | Sst2 | Mrpc | Qqp => &["0", "1"],
            Rte | Qnli | Mnli => self.labels(),
            Stsb => &[],
        };
        if spelled.is_empty() {
            let score = text.parse().ok().filter(|score| (0.0..=5.0).contains(score));
            return score.ok_or_else(|| {
                table.fault_in(row, at, format!("found {text:?}, expected a score from 0 to 5"))
            });
        }
        let class = spelled.iter().position(|label| *label == text);
        let expected = spelled.join(" or ");
        class
            .map(|class| class as f64)
            .ok_or_else(|| table.fault_in(row, at, format!("found {text:?}, expected the label {expected}")))
    }
}

impl fmt::Display for Understanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// By its name; **errors** name the nearest one.
impl FromStr for Understanding {
    type Err = Error;

    fn from_str(name: &str) -> Result<Understanding> {
        let names = || Understanding::ALL.map(Understanding::name);
        Understanding::ALL.into_iter().find(|task| task.name() == name).ok_or_else(|| {
            let near = nearest(name, names()).unwrap_or_default();
            Error::Config(format!("{name} is no task; did you mean {near}? There are {}", names().join(", ")))
        })
    }
}
