//! One encoder, one task, and three ways to train: the comparison itself.
//!
//! Each way starts from a fresh copy of the base with a fresh head. They differ in what is frozen, and
//! in whether LoRA sits beside the frozen weights; batches, schedule and measure are the same.
//! Read next: `stage.rs`, the loop and its interruption.

use std::path::Path;

use engrad::adapters::{self, Lora};
use engrad::nn::{self, Classifier, Directory, Encoder, EncoderConfig, TokenBatch};
use engrad::optim::{AdamW, Schedule};
use engrad::train::{Loader, Trainable, Trainer};
use engrad::{Error, Ids, Result, Rng, inference};

use super::options::{Method, Options};
use super::stage::{Ended, Record, Stages};
use super::task::{Example, Task};

/// The linear layers that get a LoRA adapter.
const TARGETS: &str = "*.attention.self.{query,value}";

/// What all ways have in common.
pub struct Tuning<'a> {
    pub stages: &'a Stages<'a>,
    pub options: &'a Options,
    /// The directory of the encoder to start from.
    pub base: &'a Path,
    pub task: &'a Task,
}

impl Tuning<'_> {
    /// Trains in one way and measures the result; LoRA's adapter is saved.
    pub fn run(&self, method: Method) -> std::result::Result<Record, Ended> {
        if let Some(record) = self.stages.finished(&method.to_string())? {
            return Ok(record);
        }
        let model = self.model()?;
        let record = match method {
            Method::Full => self.train(method, &model, &model)?.1,
            Method::Head => {
                nn::freeze(&model, "bert.{embeddings,encoder}.*")?;
                self.train(method, &model, &model)?.1
            }
            Method::Lora => {
                let Options { alpha, seed, .. } = *self.options;
                let lora = Lora { alpha, seed, ..Lora::new(self.options.rank.into()) };
                let tuned = adapters::attach(&model, TARGETS, lora)?
                    .also_train("bert.pooler.*")?
                    .also_train("classifier.*")?;
                let (tuned, record) = self.train(method, &model, tuned)?;
                let folder = self.stages.path("adapter");
                tuned.save(&folder)?;
                let copy = self.model()?;
                adapters::load(&copy, &folder)?;
                check_same(&model, &copy, &self.task.dev)?;
                record
            }
        };
        println!("{method:<11} accuracy {:.2} %", 100.0 * record.accuracy);
        Ok(self.stages.finish(record)?)
    }

    /// The base with a fresh head for the task, and a fresh pooler if the base has none, such as a masked
    /// language model.
    fn model(&self) -> Result<Classifier> {
        let rng = &mut Rng::derived(self.options.seed, 4 << 40);
        let dropout = self.options.dropout();
        let config = EncoderConfig {
            hidden_dropout_prob: dropout,
            attention_probs_dropout_prob: dropout,
            classifier_dropout: None,
            ..EncoderConfig::read(self.base)?
        };
        let device = &self.options.on.device;
        let directory = Directory::open(self.base, device)?;
        let encoder = Encoder::new(&config, rng, device)?;
        let pooled = directory.has("*pooler.dense.weight");
        let encoder = if pooled { encoder } else { encoder.without_pooler() };
        directory.fill(&encoder, "")?;
        Ok(Classifier::new(encoder, self.task.labels.len(), rng))
    }

    /// Trains `subject`, which is the model or adapters on it, and measures the model.
    fn train<T: Trainable>(
        &self,
        method: Method,
        model: &Classifier,
        subject: T,
    ) -> std::result::Result<(T, Record), Ended> {
        let seed = self.options.seed;
        let loader = Loader::new(self.task.train.len(), self.options.batch as usize, seed)?;
        let in_epochs = loader.batches_per_epoch() as u64 * self.options.epochs();
        let steps = self.options.steps.unwrap_or(in_epochs);
        let warm_up = (0.06 * steps as f64) as u64;
        let schedule = Schedule::linear(self.options.rate(method), warm_up, steps);
        let mut trainer = Trainer::new(subject, AdamW::new(0.01), schedule).clipped(1.0).seeded(seed);
        let batch = |step| {
            let chosen = loader.steps(step, step + 1).next().unwrap_or_default();
            batch(model, chosen.iter().map(|&at| &self.task.train[at]))
        };
        let loss = |(tokens, labels): &(TokenBatch, Ids)| model.forward(tokens).cross_entropy(labels);
        let mut record = self.stages.train(&method.to_string(), &mut trainer, steps, batch, loss)?;
        record.accuracy = accuracy(model, &self.task.dev)?;
        Ok((trainer.subject, record))
    }
}

/// Examples as the model wants them: padded to the longest, and their labels `[count]`.
fn batch<'a>(model: &Classifier, examples: impl Iterator<Item = &'a Example>) -> Result<(TokenBatch, Ids)> {
    let (tokens, labels): (Vec<Vec<u32>>, Vec<u32>) = examples.map(|e| (e.tokens.clone(), e.label)).unzip();
    let count = labels.len();
    Ok((model.encoder.batch(&tokens, None)?, Ids::new(labels, [count], model.head.outputs())?))
}

/// The share of examples whose highest score is that of their label. Rows of like length go together,
/// so that little is padded.
fn accuracy(model: &Classifier, examples: &[Example]) -> Result<f64> {
    let mut sorted: Vec<&Example> = examples.iter().collect();
    sorted.sort_by_key(|example| example.tokens.len());
    let mut right = 0;
    for part in sorted.chunks(64) {
        let (tokens, labels) = batch(model, part.iter().copied())?;
        let answers = inference(|| model.forward(&tokens)).argmax(-1);
        right +=
            answers.values().iter().zip(labels.values()).filter(|(answer, label)| answer == label).count();
    }
    Ok(right as f64 / examples.len() as f64)
}

/// What was saved must be what was trained: both models give the same bits for a few rows.
fn check_same(trained: &Classifier, loaded: &Classifier, examples: &[Example]) -> Result<()> {
    let (tokens, _) = batch(trained, examples.iter().take(16))?;
    let [trained, loaded] = [trained, loaded].map(|model| inference(|| model.forward(&tokens)).to_vec());
    match trained == loaded {
        true => Ok(()),
        false => Err(Error::Adapter("the saved adapter computes something else than the trained one".into())),
    }
}
