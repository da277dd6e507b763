//! The directory of a run: everything needed to repeat it, to go on with it, and to see how it went.
//!
//! ```text
//! run.toml                every setting; `train --config run.toml --out OTHER` repeats the run
//! versions.json           this program's version and what it ran on
//! log.jsonl               a line per step and per measurement
//! checkpoint.safetensors  where to go on
//! best/                   the best weights so far: an adapter in PEFT's layout, or the whole model
//! result.json             how it ended
//! answers.tsv             what the best weights answer to each row that was measured on (`answers.jsonl`: texts)
//! loss.svg, measures.svg, ranks.svg
//! ```
//! After a kill, the checkpoint says how far the run is: later lines of the log are taken away, and what
//! training must remember (the best measurement, and how long ago it was) is read from the lines that stay.
//! Read next: `training.rs`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use engrad::nn::files::write_whole;
use engrad::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::lock;
use super::numbers;
use super::options::{self, Settings};

/// The file that says that a directory is a run's.
pub const SETTINGS: &str = "run.toml";
const VERSIONS: &str = "versions.json";
const LOG: &str = "log.jsonl";
pub const RESULT: &str = "result.json";
const CHECKPOINT: &str = "checkpoint.safetensors";
const BEST: &str = "best";

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// An update.
    Step { step: u64, loss: f64, rate: f64, norm: Option<f64>, seconds: f64 },
    /// A measurement after `step` updates; the higher the score, the better.
    Measured {
        step: u64,
        #[serde(deserialize_with = "numbers::number")]
        score: f64,
        #[serde(deserialize_with = "numbers::measures")]
        values: BTreeMap<String, f64>,
        ranks: Vec<usize>,
        seconds: f64,
    },
}

impl Line {
    fn step(&self) -> u64 {
        match self {
            Line::Step { step, .. } | Line::Measured { step, .. } => *step,
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Updates that were done.
    pub steps: u64,
    /// The update after which the best weights were kept.
    pub best_step: u64,
    /// What runs are compared by: the higher, the better.
    #[serde(deserialize_with = "numbers::number")]
    pub score: f64,
    /// The measures of the best weights.
    #[serde(deserialize_with = "numbers::measures")]
    pub values: BTreeMap<String, f64>,
    /// How many numbers were trained at the end.
    pub trained: usize,
    /// The time of all updates, and of one in the middle of all.
    pub seconds: f64,
    pub step_seconds: f64,
    /// Bytes that tensors held at most at once while training, since the run was begun or gone on with;
    /// none where the device does not count them.
    pub peak: Option<u64>,
}

/// A run's directory.
pub struct Folder {
    path: PathBuf,
    lines: Vec<Line>,
    log: Option<File>,
    /// Held while a process is at work here.
    lock: Option<File>,
}

impl Folder {
    /// A directory for a new run. Nothing is written before [`Folder::begin`].
    ///
    /// **Errors** when it holds a run already.
    pub fn create(settings: &Settings) -> Result<Folder> {
        let folder = Folder { path: settings.out.clone(), lines: Vec::new(), log: None, lock: None };
        folder.check_free()?;
        Ok(folder)
    }

    fn check_free(&self) -> Result<()> {
        let path = self.path.display();
        let there = |name: &&&str| self.file(name).exists();
        let what = match [SETTINGS, CHECKPOINT, BEST, RESULT].iter().find(there) {
            None => return Ok(()),
            Some(&SETTINGS) => {
                format!("{path} holds a run already; go on with --resume {path}, or choose another --out")
            }
            Some(left) => {
                format!("{path} holds {left} of another run; remove the directory, or choose another --out")
            }
        };
        Err(Error::Config(what))
    }

    /// Writes what a new run is, once its first update has shown that it can be done, and opens its log. Nothing
    /// is left to do where the run was begun before.
    ///
    /// **Errors** when the directory holds another run by now, or cannot be written.
    pub fn begin(&mut self, settings: &Settings) -> Result<()> {
        if self.is_begun() {
            return Ok(());
        }
        self.check_free()?;
        let io = |path: PathBuf| move |source| Error::Io { path, source };
        std::fs::create_dir_all(&self.path).map_err(io(self.path.clone()))?;
        let versions = serde_json::json!({
            "engrad": env!("CARGO_PKG_VERSION"),
            "system": std::env::consts::OS,
            "processor": std::env::consts::ARCH,
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "debug": cfg!(debug_assertions),
        });
        // In place, since this file is what is locked; whoever else begins here writes the same.
        let path = self.file(VERSIONS);
        std::fs::write(&path, format!("{versions:#}\n")).map_err(io(path))?;
        self.lock()?;
        self.check_free()?;
        let text = toml::to_string(settings).map_err(|error| self.malformed(SETTINGS, error))?;
        write_whole(self.file(SETTINGS), text.as_bytes())?;
        self.keep(0)
    }

    /// Whether this process holds the directory.
    pub fn is_begun(&self) -> bool {
        self.lock.is_some()
    }

    /// The directory of a run that was begun, and its settings.
    ///
    /// **Errors** when there is none, or a setting cannot be used.
    pub fn open(path: &Path) -> Result<(Folder, Settings)> {
        let folder = Folder { path: path.into(), lines: Vec::new(), log: None, lock: None };
        let file = folder.file(SETTINGS);
        let settings = options::settings(&file, &options::table(&file)?)?;
        Ok((folder, Settings { out: path.into(), ..settings }))
    }

    /// A file of the run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where training goes on from.
    pub fn checkpoint(&self) -> PathBuf {
        self.file(CHECKPOINT)
    }

    /// Where the best weights are kept.
    pub fn best(&self) -> PathBuf {
        self.file(BEST)
    }

    /// Keeps other processes out of the run, which two at once would spoil.
    ///
    /// **Errors** when another one is at work here.
    pub fn lock(&mut self) -> Result<()> {
        self.lock = Some(lock::hold(&self.file(VERSIONS))?);
        Ok(())
    }

    /// Opens the log behind the lines of the first `steps` updates; what came later, or was cut off, goes.
    ///
    /// **Errors** when the log cannot be read or written, or lacks one of them, without which the best weights would
    /// be forgotten.
    pub fn keep(&mut self, steps: u64) -> Result<()> {
        let path = self.file(LOG);
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(Error::Io { path, source }),
        };
        let whole = text.lines().map_while(|line| serde_json::from_str::<Line>(line).ok());
        let lines: Vec<Line> = whole.take_while(|line| line.step() <= steps).collect();
        let known = lines.iter().filter(|line| matches!(line, Line::Step { .. })).count() as u64;
        if known < steps {
            let what = format!(
                "it has {known} of the {steps} updates that {CHECKPOINT} has; restore it, or remove {CHECKPOINT} to \
                 begin anew"
            );
            return Err(Error::Format { path, what });
        }
        self.lines = lines;
        let kept: String = self.lines.iter().map(|line| json(line) + "\n").collect();
        write_whole(&path, kept.as_bytes())?;
        let log = OpenOptions::new().append(true).open(&path);
        self.log = Some(log.map_err(|source| Error::Io { path, source })?);
        Ok(())
    }

    /// Adds a line to the log.
    ///
    /// **Errors** when it cannot be written.
    pub fn add(&mut self, line: Line) -> Result<()> {
        if let Some(log) = &mut self.log {
            let written = log.write_all((json(&line) + "\n").as_bytes());
            written.map_err(|source| Error::Io { path: self.file(LOG), source })?;
        }
        self.lines.push(line);
        Ok(())
    }

    /// Makes the log as lasting as the checkpoint that is written next.
    ///
    /// **Errors** when the system reports a failure.
    pub fn sync(&self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        log.sync_data().map_err(|source| Error::Io { path: self.file(LOG), source })
    }

    /// The log so far.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// How the run ended, if it did.
    ///
    /// **Errors** when the file is malformed.
    pub fn outcome(&self) -> Result<Option<Outcome>> {
        if self.file(RESULT).exists() { self.read_json(RESULT).map(Some) } else { Ok(None) }
    }

    /// Writes a file whole or not at all.
    ///
    /// **Errors** when it cannot be written.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|error| self.malformed(name, error))?;
        write_whole(self.file(name), text.as_bytes())
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.file(name);
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { path, source })?;
        serde_json::from_str(&text).map_err(|error| self.malformed(name, error))
    }

    fn malformed(&self, name: &str, error: impl ToString) -> Error {
        Error::Format { path: self.file(name), what: error.to_string() }
    }
}

fn json(line: &Line) -> String {
    serde_json::to_string(line).expect("numbers and text can always be written")
}
