//! The loop of a run: updates, measurements, the best weights, checkpoints, and when to stop.
//!
//! Everything that an update depends on follows from the seed, its number, and the checkpoint, so a run that
//! was killed ends with the same bits as one that was not (on the CPU).
//! Read next: `understanding.rs` and `generation.rs`, what is trained on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use engrad::nn::Module;
use engrad::optim::{AdamW, Schedule};
use engrad::train::{Loader, Trainer};
use engrad::{Error, Result, Tensor};

use super::folder::{Folder, Line, Outcome, RESULT};
use super::methods;
use super::options::Settings;
use super::pictures;
use super::progress::Progress;
use super::samples::median;
use super::subject::Subject;

/// A task as training sees it.
pub trait Work {
    /// Rows made ready for the model.
    type Batch;

    /// What is adapted.
    fn model(&self) -> &dyn Module;

    /// The layers that are adapted unless the settings name others.
    fn targets(&self) -> &str;

    /// Patterns of what is trained beside adapters.
    fn beside(&self) -> Vec<&str>;

    /// The number of tokens of each training row.
    fn lengths(&self) -> &[usize];

    /// Some training rows.
    fn batch(&self, rows: &[usize]) -> Result<Self::Batch>;

    /// What is made small.
    fn loss(&self, batch: &Self::Batch) -> Tensor;

    /// The measures of the model as it is, and the score by which the best is chosen: the higher, the better.
    fn measure(&self) -> Result<(f64, BTreeMap<String, f64>)>;

    /// Gives a fresh model the best weights from their files, measures once more, and writes what it answers.
    /// There may be more measures than while training, and another score: the one that runs are compared by.
    fn conclude(&self, folder: &Folder) -> Result<(f64, BTreeMap<String, f64>)>;
}

/// Why a run ended early.
#[derive(Debug)]
pub enum Ended {
    Failed(Error),
    /// The user stopped it.
    Interrupted,
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Failed(error)
    }
}

/// The best measurement, and how many in a row were no better since.
#[derive(Debug, Default)]
struct Best {
    found: Option<(f64, u64, BTreeMap<String, f64>)>,
    worse: u32,
}

impl Best {
    /// Takes a measurement, and says whether it is the best.
    fn take(&mut self, score: f64, step: u64, values: &BTreeMap<String, f64>) -> bool {
        let better = |best: f64| score > best || (best.is_nan() && !score.is_nan());
        let better = self.found.as_ref().is_none_or(|(best, ..)| better(*best));
        if better {
            (self.found, self.worse) = (Some((score, step, values.clone())), 0);
        } else {
            self.worse += 1;
        }
        better
    }
}

/// Trains, or goes on with training, and writes how it went.
pub fn train<W: Work>(
    work: &W,
    settings: &Settings,
    folder: &mut Folder,
    stop: &AtomicBool,
) -> std::result::Result<Outcome, Ended> {
    let (batch, accumulate) = (settings.batch as usize, u64::from(settings.accumulate));
    let loader = Loader::new(work.lengths().len(), batch, settings.seed)?
        .bucketed(work.lengths(), settings.bucket as usize);
    let batches = loader.batches_per_epoch() as u64;
    if accumulate > batches {
        let what =
            format!("--accumulate {accumulate} is more than an epoch's {batches} batches of {batch} rows");
        return Err(Error::Config(what).into());
    }
    let steps = settings.steps.unwrap_or((settings.epochs * batches).div_ceil(accumulate));
    let interval = settings.evaluate.unwrap_or(batches.div_ceil(accumulate)).min(steps);

    let subject = methods::prepare(work.model(), settings, work.targets(), &work.beside(), steps)?;
    let warm_up = (settings.warm_up * steps as f64) as u64;
    let schedule = Schedule::linear(settings.rate, warm_up, steps);
    let optimiser = AdamW::new(settings.weight_decay);
    let trainer = Trainer::new(subject, optimiser, schedule).clipped(settings.clip).seeded(settings.seed);
    let mut trainer = trainer.recomputing(settings.recompute);
    if folder.is_begun() {
        if folder.checkpoint().exists() {
            trainer.resume(folder.checkpoint())?;
        }
        folder.keep(trainer.steps())?;
    }
    let mut best = Best::default();
    for line in folder.lines() {
        if let Line::Measured { step, score, values, .. } = line {
            best.take(*score, *step, values);
        }
    }

    let progress = Progress::new(&settings.method, trainer.steps(), steps);
    let device = settings.device()?;
    device.forget_peak();
    let enough = |best: &Best| settings.patience > 0 && best.worse >= settings.patience;
    let mut batches = loader.steps(trainer.steps() * accumulate, u64::MAX);
    while trainer.steps() < steps && !enough(&best) {
        let parts: Result<Vec<W::Batch>> =
            batches.by_ref().take(accumulate as usize).map(|rows| work.batch(&rows)).collect();
        let parts = parts?;
        let started = Instant::now();
        let done = trainer.step_over(parts.len(), |part| work.loss(&parts[part]))?;
        let seconds = started.elapsed().as_secs_f64();
        let step = trainer.steps();
        folder.begin(settings)?;
        folder.add(Line::Step { step, loss: done.loss, rate: done.rate, norm: done.norm, seconds })?;
        progress.show(step, format!("loss {:.4}  rate {:.1e}", recent(folder), done.rate));
        if step.is_multiple_of(interval) || step == steps {
            measure(work, &trainer.subject, folder, &mut best, step)?;
        }
        let stopped = stop.load(Ordering::Relaxed);
        if step.is_multiple_of(settings.checkpoint) || step == steps || stopped || enough(&best) {
            folder.sync()?;
            trainer.save(folder.checkpoint())?;
        }
        if stopped {
            return Err(Ended::Interrupted);
        }
    }
    let peak = device.peak_bytes();
    Ok(finish(work, folder, best, &trainer, peak)?)
}

/// Measures, and keeps the weights if they are the best so far.
fn measure<W: Work>(
    work: &W,
    subject: &Subject,
    folder: &mut Folder,
    best: &mut Best,
    step: u64,
) -> Result<()> {
    let started = Instant::now();
    let (score, values) = work.measure()?;
    let seconds = started.elapsed().as_secs_f64();
    let shown: Vec<String> = values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
    eprintln!("step {step}: {}", shown.join("  "));
    if best.take(score, step, &values) {
        methods::save(subject, &folder.best())?;
    }
    folder.add(Line::Measured { step, score, values, ranks: subject.ranks(), seconds })
}

/// The mean loss of the last twenty updates.
fn recent(folder: &Folder) -> f64 {
    let losses = folder.lines().iter().rev().filter_map(|line| match line {
        Line::Step { loss, .. } => Some(*loss),
        Line::Measured { .. } => None,
    });
    let losses: Vec<f64> = losses.take(20).collect();
    losses.iter().sum::<f64>() / losses.len().max(1) as f64
}

fn finish<W: Work>(
    work: &W,
    folder: &Folder,
    best: Best,
    trainer: &Trainer<Subject, AdamW>,
    peak: Option<u64>,
) -> Result<Outcome> {
    let times = folder.lines().iter().filter_map(|line| match line {
        Line::Step { seconds, .. } => Some(*seconds),
        Line::Measured { .. } => None,
    });
    let times: Vec<f64> = times.collect();
    let (_, best_step, measured) = best.found.unwrap_or_default();
    let (score, values) = work.conclude(folder)?;
    for (name, value) in &measured {
        // Weights that were cut down or merged for the file may round one answer in a hundred otherwise.
        let again = values.get(name).copied().unwrap_or(f64::NAN);
        if (again - value).abs() > 0.01 || (again.is_nan() && !value.is_nan()) {
            let best = folder.best();
            let what = format!(
                "{name} is {again} with the weights in {}, and was {value} in training",
                best.display()
            );
            return Err(Error::Adapter(what));
        }
    }
    let outcome = Outcome {
        steps: trainer.steps(),
        best_step,
        score,
        values,
        trained: trainer.subject.count(),
        seconds: times.iter().sum(),
        step_seconds: median(&times),
        peak,
    };
    pictures::draw(folder)?;
    folder.write_json(RESULT, &outcome)?;
    Ok(outcome)
}
