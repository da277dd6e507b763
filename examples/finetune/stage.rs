//! A stage of the job: training of one thing, which can be interrupted and gone on with.
//!
//! A stage leaves a record of how it went, `NAME.json`, and while it is interrupted a checkpoint of its
//! trainer, `NAME.checkpoint.safetensors`. Batches, dropout masks and rates follow from seed and step,
//! so a stage that was interrupted ends with the same bits as one that was not.
//! Read next: `report.rs`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use engrad::nn::files::write_whole;
use engrad::optim::AdamW;
use engrad::train::{Trainable, Trainer};
use engrad::{Device, Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::options::Options;
use super::progress::Progress;

/// Why the job ended early.
#[derive(Debug)]
pub enum Ended {
    /// Something went wrong.
    Failed(Error),
    /// The user stopped it; the checkpoint tells how to go on.
    Interrupted(PathBuf),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Failed(error)
    }
}

/// How a stage went, step by step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    /// Nothing is left to be done.
    pub finished: bool,
    /// The loss of each step.
    pub losses: Vec<f64>,
    /// The time of each step: forward, backward and update.
    pub seconds: Vec<f64>,
    /// Bytes that tensors held at most at once, where the device counts them.
    pub peak: Option<u64>,
    /// How many numbers were trained.
    pub trained: usize,
    /// The share of right answers in the end.
    pub accuracy: f64,
}

/// Where the stages of a job keep their files, and whether one of them is to be gone on with.
pub struct Stages<'a> {
    folder: PathBuf,
    /// The stage that was interrupted. What came before it is finished.
    resumed: Option<String>,
    stop: &'a AtomicBool,
    /// Steps until the job stops by itself.
    stop_after: Option<u64>,
    device: Device,
}

/// Every stage that a job may have.
const NAMES: [&str; 4] = [PRETRAINING, "full", "head", "lora"];
/// The stage before all methods, which are called by their own names.
pub const PRETRAINING: &str = "pretraining";
const SETTINGS: &str = "settings.json";
const CHECKPOINT: &str = ".checkpoint.safetensors";

impl<'a> Stages<'a> {
    /// A new job in `options.out`, or the one that left the checkpoint `options.resume`, with the
    /// settings that it had.
    ///
    /// **Errors** when the folder holds an interrupted job or cannot be written, or the checkpoint's files cannot be
    /// read.
    pub fn open(options: Options, stop: &'a AtomicBool) -> Result<(Stages<'a>, Options)> {
        let stop_after = options.stop_after;
        let Some(checkpoint) = &options.resume else {
            let folder = options.out.clone();
            let checkpoints = NAMES.map(|name| folder.join(format!("{name}{CHECKPOINT}")));
            if let Some(left) = checkpoints.iter().find(|path| path.exists()) {
                let left = left.display();
                return Err(Error::Config(format!(
                    "a job was interrupted here; go on with --resume {left}, or remove that file to begin anew"
                )));
            }
            std::fs::create_dir_all(&folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
            // What another job left here must not be taken for a part of this one.
            for name in NAMES {
                remove(&folder.join(format!("{name}.json")))?;
            }
            write_json(&folder.join(SETTINGS), &options)?;
            let device = options.on.device.clone();
            return Ok((Stages { folder, resumed: None, stop, stop_after, device }, options));
        };
        std::fs::metadata(checkpoint).map_err(|source| Error::Io { path: checkpoint.clone(), source })?;
        let name = checkpoint
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(CHECKPOINT));
        let resumed = name.map(String::from).ok_or_else(|| Error::Format {
            path: checkpoint.clone(),
            what: format!("not a checkpoint of this program, whose names end in {CHECKPOINT}"),
        })?;
        let folder = checkpoint.parent().unwrap_or(Path::new("")).to_path_buf();
        let settings = Options { out: folder.clone(), ..read_json(&folder.join(SETTINGS))? };
        let device = settings.on.device.clone();
        Ok((Stages { folder, resumed: Some(resumed), stop, stop_after, device }, settings))
    }

    /// A file of this job.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The record of a stage that was finished before this job was interrupted.
    pub fn finished(&self, name: &str) -> Result<Option<Record>> {
        let path = self.path(&format!("{name}.json"));
        if self.resumed.is_none() || !path.exists() {
            return Ok(None);
        }
        Ok(Some(read_json(&path)?).filter(|record: &Record| record.finished))
    }

    /// Marks a stage as done, so that its checkpoint is of no use any more.
    pub fn finish(&self, mut record: Record) -> Result<Record> {
        record.finished = true;
        write_json(&self.path(&format!("{}.json", record.name)), &record)?;
        remove(&self.path(&format!("{}{CHECKPOINT}", record.name)))?;
        Ok(record)
    }

    /// Trains up to `steps`, with a progress bar; `batch` makes the input of a step.
    ///
    /// **Errors** when a batch or a step fails, or when the user stops the job.
    pub fn train<T: Trainable, B>(
        &self,
        name: &str,
        trainer: &mut Trainer<T, AdamW>,
        steps: u64,
        batch: impl Fn(u64) -> Result<B>,
        loss: impl Fn(&B) -> Tensor,
    ) -> std::result::Result<Record, Ended> {
        let checkpoint = self.path(&format!("{name}{CHECKPOINT}"));
        let mut record = Record { name: name.into(), ..Record::default() };
        if self.resumed.as_deref() == Some(name) {
            trainer.resume(&checkpoint)?;
            record = read_json(&self.path(&format!("{name}.json")))?;
            record.losses.truncate(trainer.steps() as usize);
            record.seconds.truncate(trainer.steps() as usize);
        }
        let groups = trainer.subject.groups();
        record.trained = groups.iter().flat_map(|group| &group.params).map(|(_, param)| param.count()).sum();
        let progress = Progress::new(name, trainer.steps(), steps);
        self.device.forget_peak();
        let first = trainer.steps();
        while trainer.steps() < steps {
            let input = batch(trainer.steps())?;
            let started = Instant::now();
            let done = trainer.step(|| loss(&input))?;
            record.seconds.push(started.elapsed().as_secs_f64());
            record.losses.push(done.loss);
            record.peak = record.peak.max(self.device.peak_bytes());
            let recent = &record.losses[record.losses.len().saturating_sub(20)..];
            let loss = recent.iter().sum::<f64>() / recent.len() as f64;
            progress.show(trainer.steps(), format!("loss {loss:.4}  rate {:.1e}", done.rate));
            let enough = self.stop_after.is_some_and(|limit| trainer.steps() - first >= limit);
            if enough || self.stop.load(Ordering::Relaxed) {
                // The record first: the checkpoint says how many of its steps count.
                write_json(&self.path(&format!("{name}.json")), &record)?;
                trainer.save(&checkpoint)?;
                return Err(Ended::Interrupted(checkpoint));
            }
        }
        Ok(record)
    }
}

/// The record that a job left in its folder.
///
/// **Errors** when there is none, or when it cannot be read.
pub fn recorded(folder: &Path, name: &str) -> Result<Record> {
    read_json(&folder.join(format!("{name}.json")))
}

/// Removes a file that need not be there.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::Io { path: path.into(), source }),
        _ => Ok(()),
    }
}

/// Writes a file of settings or results, whole or not at all.
fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::Format { path: path.into(), what: error.to_string() })?;
    write_whole(path, text.as_bytes())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
    serde_json::from_str(&text).map_err(|error| Error::Format { path: path.into(), what: error.to_string() })
}
