//! One run: a method, a seed, so many steps, and what came of it.
//! Read next: `results.rs`, where it is kept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use engrad::adapters::Usual;
use engrad::metrics::Confusion;
use engrad::nn;
use engrad::optim::{AdamW, Schedule};
use engrad::tasks::Understanding;
use engrad::train::{Loader, Trainable, Trainer};
use engrad::{Result, Rng};

use super::answering::{self, Row};
use super::language::Language;
use super::options::{Options, Settings};
use super::pretraining::{self, Guesser};
use super::progress::Progress;
use super::results::Run;
use super::samples::median;
use super::subject::Subject;
use super::task::{self, Task};
use super::tokens;

/// The linear layers that are adapted by methods that have no preference.
const TARGETS: &str = "*.attention.self.{query,value}";
/// Training rows and rows to measure on of the program's own task.
const OWN: (usize, usize) = (2500, 1000);

/// What all runs have in common: base, task, and settings.
pub struct Subjects {
    settings: Settings,
    base: PathBuf,
    /// The published task; none for the program's own, which is judged by its accuracy.
    task: Option<Understanding>,
    train: Vec<Row>,
    dev: Vec<Row>,
}

impl Subjects {
    /// Reads model and data, or makes them.
    ///
    /// **Errors** when files are missing or malformed, or the directory cannot be written.
    pub fn read(options: &Options) -> Result<Subjects> {
        let settings = &options.settings;
        if let Some(published) = Subjects::published(settings)? {
            return Ok(published);
        }
        let base = options.out.join("base");
        let language = pretrain(settings, &base)?;
        let task = language.agreement(OWN.0.min(settings.rows as usize), OWN.1, 0);
        println!(
            "{} sentences such as {:?}, {} or not; guessing gives {:.2}",
            task.train.len(),
            language.text(&task.train[0].tokens),
            task.labels[task.train[0].label as usize],
            task.guessing()
        );
        let Task { train, dev, .. } = task;
        let rows = |examples: Vec<task::Example>| {
            let row = |example: task::Example| Row {
                types: vec![0; example.tokens.len()],
                tokens: example.tokens,
                label: f64::from(example.label),
            };
            examples.into_iter().map(row).collect()
        };
        Ok(Subjects { settings: settings.clone(), base, task: None, train: rows(train), dev: rows(dev) })
    }

    /// Reads a published model and its data, if the settings name them; nothing is written.
    ///
    /// **Errors** when files are missing or malformed.
    pub fn published(settings: &Settings) -> Result<Option<Subjects>> {
        let (Some(base), Some(task), Some(data)) = (&settings.model, &settings.task, &settings.data) else {
            return Ok(None);
        };
        let task: Understanding = task.parse()?;
        let mut examples = task.read(data)?;
        examples.train.truncate(settings.rows as usize);
        let model = answering::model(base, task.labels().len(), 0, &settings.device()?)?;
        let positions = Some(model.encoder.positions());
        let longest = tokens::longest(settings.max_length as usize, positions, settings.rank.into());
        let [train, dev] = answering::encode(base, longest, [examples.train, examples.dev])?;
        let (settings, base) = (settings.clone(), base.clone());
        Ok(Some(Subjects { settings, base, task: Some(task), train, dev }))
    }

    fn classes(&self) -> usize {
        self.task.map_or(2, |task| task.labels().len())
    }

    /// Trains and measures.
    ///
    /// **Errors** when the method does not fit the model, or a loss is not finite.
    pub fn run(&self, method: &str, seed: u64) -> Result<Run> {
        let settings = &self.settings;
        let (steps, classes, device) = (settings.steps, self.classes(), settings.device()?);
        let model = answering::model(&self.base, classes, seed, &device)?;
        let beside = answering::beside(&model);
        let usual = Usual { seed, ..Usual::new(settings.rank.into(), steps) };
        let subject = Subject::new(&model, method, &usual, None, TARGETS, &beside)?;
        let rate = if method == "full" { settings.full_rate } else { settings.rate };
        // No group learns faster than that: LoRA+ gives one matrix 16 times the rate of the other.
        let fastest = subject.groups().iter().map(|group| group.rate).fold(1.0, f64::max);
        let schedule = Schedule::linear(rate / fastest, (0.06 * steps as f64) as u64, steps);
        let mut trainer = Trainer::new(subject, AdamW::new(0.01), schedule).clipped(1.0).seeded(seed);
        let lengths: Vec<usize> = self.train.iter().map(|row| row.tokens.len()).collect();
        let loader = Loader::new(lengths.len(), settings.batch as usize, seed)?
            .bucketed(&lengths, settings.bucket as usize);

        let progress = Progress::new(method, 0, steps);
        let (mut losses, mut times, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
        device.forget_peak();
        for rows in loader.steps(0, steps) {
            let before = trainer.subject.ranks();
            if losses.is_empty() && !before.is_empty() {
                ranks.push((0, before.clone()));
            }
            let batch = answering::batch(&model, classes, rows.iter().map(|&row| &self.train[row]))?;
            let started = Instant::now();
            let done = trainer.step(|| answering::loss(&model, &batch))?;
            times.push(started.elapsed().as_secs_f64());
            losses.push(done.loss);
            let now = trainer.subject.ranks();
            if now != before {
                ranks.push((trainer.steps(), now));
            }
            progress.show(trainer.steps(), format!("loss {:.4}", done.loss));
        }
        drop(progress);
        let peak = device.peak_bytes().unwrap_or(0);
        Ok(Run {
            method: method.into(),
            seed,
            measures: self.measures(&answering::answers(&model, classes, &self.dev, &mut |_| ())?),
            trained: trainer.subject.count(),
            step_seconds: median(&times),
            peak: peak as usize,
            losses,
            ranks,
        })
    }

    fn measures(&self, answers: &[f64]) -> BTreeMap<String, f64> {
        if let Some(task) = self.task {
            return answering::measures(task, &self.dev, answers);
        }
        let labels: Vec<f64> = self.dev.iter().map(|row| row.label).collect();
        let classes = |values: &[f64]| values.iter().map(|&class| class as u32).collect::<Vec<_>>();
        let confusion = Confusion::new(&classes(&labels), &classes(answers));
        BTreeMap::from([("accuracy".to_string(), confusion.accuracy())])
    }
}

/// An encoder that knows the program's own language, as a model directory; made once.
fn pretrain(settings: &Settings, base: &std::path::Path) -> Result<Language> {
    const BATCH: usize = 64;
    let language = Language::new();
    // The configuration is written last.
    if base.join("config.json").exists() && base.join("model.safetensors").exists() {
        return Ok(language);
    }
    let mut config = pretraining::config(&language);
    // Virtual tokens of prompt tuning take positions, too.
    config.max_position_embeddings += usize::from(settings.rank);
    let guesser = Guesser::new(&config, &mut Rng::derived(0, 1 << 40), &settings.device()?)?;
    nn::freeze(&guesser, "bert.pooler.*")?;
    let steps = settings.pretraining_steps;
    let schedule = Schedule::linear(3e-3, steps / 10, steps);
    let mut trainer = Trainer::new(&guesser, AdamW::new(0.01), schedule).clipped(1.0);
    let progress = Progress::new("pretraining", 0, steps);
    for step in 0..steps {
        let puzzle = guesser.puzzle(&language, BATCH, &mut Rng::derived(0, (2 << 40) + step))?;
        let done = trainer.step(|| guesser.loss(&puzzle))?;
        progress.show(step + 1, format!("loss {:.4}", done.loss));
    }
    drop(progress);
    let right = guesser.agreement(&language, 1000, &mut Rng::derived(0, 3 << 40))?;
    println!("pretrained: {:.1} % of hidden verbs are guessed in their right number", 100.0 * right);
    guesser.encoder.save_directory(base)?;
    Ok(language)
}
