//! Understanding: an encoder reads a text, or two, and a head answers with a class or a score.
//! Read next: `common/answering.rs`, the model and its rows.

use std::collections::BTreeMap;

use engrad::nn::files::write_whole;
use engrad::nn::{Classifier, Module};
use engrad::tasks::{Examples, Understanding};
use engrad::{Error, Result, Rng, Tensor};

use super::answering::{self, Batch, Row};
use super::folder::Folder;
use super::methods;
use super::options::Settings;
use super::progress::Progress;
use super::tokens;
use super::training::Work;

/// An encoder, a head, and a task's rows.
pub struct Answering {
    task: Understanding,
    model: Classifier,
    train: Vec<Row>,
    lengths: Vec<usize>,
    dev: Vec<Row>,
    settings: Settings,
}

impl Answering {
    /// Reads the task and the model, and puts a fresh head on it.
    ///
    /// **Errors** when a file is missing or malformed, or the model is no encoder.
    pub fn new(task: Understanding, settings: &Settings) -> Result<Answering> {
        let Examples { mut train, mut dev, left_out } = task.read(&settings.data)?;
        if left_out > 0 {
            eprintln!("{left_out} rows are left out, in which a column is missing or empty");
        }
        if let Some(count) = settings.hold_out.map(|count| count as usize) {
            if count >= train.len() {
                let rows = train.len();
                return Err(Error::Config(format!("--hold-out {count} of {rows} training rows leaves none")));
            }
            // The same rows for every method and seed, spread over the whole file.
            Rng::seeded(0).shuffle(&mut train);
            dev = train.split_off(train.len() - count);
        }
        train.truncate(settings.rows.map_or(usize::MAX, |rows| rows as usize));
        dev.truncate(settings.dev_rows.map_or(usize::MAX, |rows| rows as usize));
        let pairs = train.iter().any(|example| example.second.is_some());
        let asked = settings.max_length.unwrap_or(if pairs { 128 } else { 64 }) as usize;
        let model = model(task, settings)?;
        let longest = tokens::longest(asked, Some(model.encoder.positions()), settings.rank as usize);
        let [train, dev] = answering::encode(&settings.model, longest, [train, dev])?;
        let lengths = train.iter().map(|row| row.tokens.len()).collect();
        Ok(Answering { task, model, train, lengths, dev, settings: settings.clone() })
    }
}

impl Work for Answering {
    type Batch = Batch;

    fn model(&self) -> &dyn Module {
        &self.model
    }

    fn targets(&self) -> &str {
        "*.attention.self.{query,value}"
    }

    fn beside(&self) -> Vec<&str> {
        answering::beside(&self.model)
    }

    fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        answering::batch(&self.model, self.task.labels().len(), rows.iter().map(|&row| &self.train[row]))
    }

    fn loss(&self, batch: &Batch) -> Tensor {
        answering::loss(&self.model, batch)
    }

    fn measure(&self) -> Result<(f64, BTreeMap<String, f64>)> {
        let answers = self.answers(&self.model)?;
        Ok(scored(answering::measures(self.task, &self.dev, &answers)))
    }

    fn conclude(&self, folder: &Folder) -> Result<(f64, BTreeMap<String, f64>)> {
        let model = model(self.task, &self.settings)?;
        methods::load(&model, &folder.best())?;
        let answers = self.answers(&model)?;
        let line = |(row, answer): (&Row, &f64)| format!("{}\t{answer}\n", row.label);
        let lines: String = self.dev.iter().zip(&answers).map(line).collect();
        write_whole(folder.file("answers.tsv"), format!("label\tanswer\n{lines}").as_bytes())?;
        Ok(scored(answering::measures(self.task, &self.dev, &answers)))
    }
}

impl Answering {
    /// A class or a score for each row to measure on.
    fn answers(&self, model: &Classifier) -> Result<Vec<f64>> {
        let progress = Progress::new("measuring", 0, self.dev.len() as u64);
        let mut watch = |done| progress.show(done as u64, String::new());
        answering::answers(model, self.task.labels().len(), &self.dev, &mut watch)
    }
}

/// Measures and their mean, which is the score, as GLUE takes it.
fn scored(values: BTreeMap<String, f64>) -> (f64, BTreeMap<String, f64>) {
    (values.values().sum::<f64>() / values.len() as f64, values)
}

/// A published encoder with a fresh head.
fn model(task: Understanding, settings: &Settings) -> Result<Classifier> {
    answering::model(&settings.model, task.labels().len(), settings.seed, &settings.device()?)
}
