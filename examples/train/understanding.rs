//! Understanding: an encoder reads a text, or two, and a head answers with a class or a score.

use std::collections::BTreeMap;
use std::path::Path;

use engrad::nn::files::write_whole;
use engrad::nn::{Classifier, Model, Module, Pretrained, TokenBatch};
use engrad::tasks::{Example, Examples, Understanding};
use engrad::{Error, Ids, Reduction, Result, Rng, Tensor, inference};
use tokenizers::{EncodeInput, Tokenizer, TruncationParams};

use super::folder::Folder;
use super::methods;
use super::options::Settings;
use super::progress::Progress;
use super::tokens;
use super::training::Work;

/// Rows that are measured at once.
const MEASURED: usize = 64;

/// A row as the model reads it.
struct Row {
    tokens: Vec<u32>,
    /// The text that each token belongs to: 0 or 1.
    types: Vec<u32>,
    label: f64,
}

/// An encoder, a head, and a task's rows.
pub struct Answering {
    task: Understanding,
    model: Classifier,
    train: Vec<Row>,
    lengths: Vec<usize>,
    dev: Vec<Row>,
    settings: Settings,
}

/// Texts and labels, padded to the longest.
pub struct Batch {
    tokens: TokenBatch,
    labels: Labels,
}

enum Labels {
    /// `[batch]`
    Classes(Ids),
    /// `[batch, 1]`
    Scores(Tensor),
}

impl Answering {
    /// Reads the task and the model, and puts a fresh head on it.
    ///
    /// **Errors** when a file is missing or malformed, or the model is no encoder.
    pub fn new(task: Understanding, settings: &Settings) -> Result<Answering> {
        let Examples { mut train, mut dev } = task.read(&settings.data)?;
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
        let longest = settings.max_length.unwrap_or(if pairs { 128 } else { 64 }) as usize;
        let tokenizer = tokenizer(&settings.model, longest)?;
        let [train, dev] = [train, dev].map(|examples| encode(&tokenizer, examples));
        let train = train?;
        let lengths = train.iter().map(|row| row.tokens.len()).collect();
        let model = model(task, settings)?;
        Ok(Answering { task, model, train, lengths, dev: dev?, settings: settings.clone() })
    }

    fn rows<'a>(&self, rows: impl Iterator<Item = &'a Row>) -> Result<Batch> {
        let (mut tokens, mut types, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            tokens.push(row.tokens.clone());
            types.push(row.types.clone());
            labels.push(row.label);
        }
        let count = labels.len();
        // RoBERTa has one segment only.
        let segments = self.model.encoder.config().type_vocab_size > 1;
        let tokens = self.model.encoder.batch(&tokens, segments.then_some(&types))?;
        let labels = if self.task.labels().is_empty() {
            let scores: Vec<f32> = labels.iter().map(|&label| label as f32).collect();
            Labels::Scores(Tensor::new(&scores, [count, 1], &self.model.encoder.device()))
        } else {
            let classes = labels.iter().map(|&label| label as u32).collect::<Vec<_>>();
            Labels::Classes(Ids::new(classes, [count], self.task.labels().len())?)
        };
        Ok(Batch { tokens, labels })
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
        if self.model.dense.is_some() { vec!["classifier.*"] } else { vec!["*.pooler.*", "classifier.*"] }
    }

    fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        self.rows(rows.iter().map(|&row| &self.train[row]))
    }

    fn loss(&self, batch: &Batch) -> Tensor {
        let answers = self.model.forward(&batch.tokens);
        match &batch.labels {
            Labels::Classes(classes) => answers.cross_entropy(classes),
            Labels::Scores(scores) => answers.mse_loss(scores, Reduction::Mean),
        }
    }

    fn measure(&self) -> Result<(f64, BTreeMap<String, f64>)> {
        Ok(scored(self.measures(&self.answers(&self.model)?)))
    }

    fn conclude(&self, folder: &Folder) -> Result<(f64, BTreeMap<String, f64>)> {
        let model = model(self.task, &self.settings)?;
        methods::load(&model, &folder.best())?;
        let answers = self.answers(&model)?;
        let line = |(row, answer): (&Row, &f64)| format!("{}\t{answer}\n", row.label);
        let lines: String = self.dev.iter().zip(&answers).map(line).collect();
        write_whole(folder.file("answers.tsv"), format!("label\tanswer\n{lines}").as_bytes())?;
        Ok(scored(self.measures(&answers)))
    }
}

impl Answering {
    /// A class or a score for each row to measure on. Rows of like length go together, so that little is padded.
    fn answers(&self, model: &Classifier) -> Result<Vec<f64>> {
        let mut sorted: Vec<usize> = (0..self.dev.len()).collect();
        sorted.sort_by_key(|&row| self.dev[row].tokens.len());
        let progress = Progress::new("measuring", 0, sorted.len() as u64);
        let mut answers = vec![0.0; sorted.len()];
        let mut done = 0;
        for part in sorted.chunks(MEASURED) {
            let batch = self.rows(part.iter().map(|&row| &self.dev[row]))?;
            let scores = inference(|| model.forward(&batch.tokens)).read()?;
            for (&row, scores) in part.iter().zip(scores.chunks(scores.len() / part.len())) {
                answers[row] = match self.task.labels() {
                    [] => f64::from(scores[0]),
                    _ => highest(scores) as f64,
                };
            }
            done += part.len();
            progress.show(done as u64, String::new());
        }
        Ok(answers)
    }

    /// The task's own measures by name.
    fn measures(&self, answers: &[f64]) -> BTreeMap<String, f64> {
        let labels: Vec<f64> = self.dev.iter().map(|row| row.label).collect();
        let names = self.task.measures().iter().map(|name| name.to_string());
        names.zip(self.task.measure(&labels, answers)).collect()
    }
}

/// Measures and their mean, which is the score, as GLUE takes it.
fn scored(values: BTreeMap<String, f64>) -> (f64, BTreeMap<String, f64>) {
    (values.values().sum::<f64>() / values.len() as f64, values)
}

/// The place of the highest number, the first of equal ones.
fn highest(scores: &[f32]) -> usize {
    (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
}

/// A published encoder with a fresh head.
fn model(task: Understanding, settings: &Settings) -> Result<Classifier> {
    let encoder = match Pretrained::from_directory(&settings.model, &settings.device()?)?.model {
        Model::Encoder(encoder) => encoder,
        Model::Classifier(model) => model.encoder,
        Model::MaskedLm(model) => model.encoder,
        _ => {
            let what = format!("{task} needs an encoder such as BERT or RoBERTa, and this is none");
            return Err(Error::Format { path: settings.model.join("config.json"), what });
        }
    };
    let labels = task.labels().len().max(1);
    Ok(Classifier::new(encoder, labels, &mut Rng::derived(settings.seed, 4 << 40)))
}

/// The model's tokenizer, which cuts pairs of texts at their longer one.
fn tokenizer(directory: &Path, longest: usize) -> Result<Tokenizer> {
    let mut tokenizer = tokens::need(directory)?;
    let truncation = TruncationParams { max_length: longest, ..TruncationParams::default() };
    let set = tokenizer.with_truncation(Some(truncation)).map(drop);
    set.map_err(|error| Error::Format { path: directory.into(), what: error.to_string() })?;
    Ok(tokenizer)
}

fn encode(tokenizer: &Tokenizer, examples: Vec<Example>) -> Result<Vec<Row>> {
    let labels: Vec<f64> = examples.iter().map(|example| example.label).collect();
    let texts = examples.into_iter().map(|Example { first, second, .. }| match second {
        Some(second) => EncodeInput::Dual(first.into(), second.into()),
        None => EncodeInput::Single(first.into()),
    });
    let encoded = tokenizer
        .encode_batch_fast(texts.collect(), true)
        .map_err(|error| Error::Data(format!("the tokenizer refuses a text: {error}")))?;
    let row = |(encoding, label): (tokenizers::Encoding, f64)| Row {
        tokens: encoding.get_ids().to_vec(),
        types: encoding.get_type_ids().to_vec(),
        label,
    };
    Ok(encoded.into_iter().zip(labels).map(row).collect())
}
