//! What a run is told: flags, and a file of the same names, in which case flags win.
//!
//! There is one list of settings, [`Settings`]. A line `rank = 8` of the file is read as the flag `--rank 8`
//! that stands before all others, so names, kinds and limits are said once. Read next: `folder.rs`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand};
use engrad::tasks::{Generation, Understanding, nearest};
use engrad::{Device, Error, Result};
use serde::{Deserialize, Serialize};

use super::flags::{device, number, positive};
use super::subject;

/// Adapts a published model to a published task, measures it, and keeps all that repeats the run.
///
/// Ctrl-C and even a kill lose nothing but the steps since the last checkpoint: go on with --resume DIR.
#[derive(Debug, Parser)]
#[command(
    name = "train",
    max_term_width = 100,
    args_override_self = true,
    args_conflicts_with_subcommands = true
)]
pub struct Command {
    #[command(subcommand)]
    pub other: Option<Other>,
    #[command(flatten)]
    pub source: Source,
    #[command(flatten)]
    pub settings: Settings,
}

/// What there is beside a run.
#[derive(Debug, Subcommand)]
pub enum Other {
    /// Turns finished runs into one table: mean, deviation, and a paired t-test against one method
    Report {
        /// Run directories, or directories of them
        #[arg(required = true, value_name = "DIR")]
        runs: Vec<PathBuf>,
        /// The method that the others are compared with, over the seeds that both have
        #[arg(long, default_value = "lora", value_parser = method)]
        against: String,
        /// Draws every seed, and each method's mean and deviation, as SVG
        #[arg(long, value_name = "FILE")]
        picture: Option<PathBuf>,
    },
    /// Makes all runs that a file plans, going on with what an earlier call left, and reports
    Study {
        /// TOML: [common] settings, and [[runs]] with settings, `seeds` and `rates` to choose from
        #[arg(long, value_name = "FILE")]
        plan: PathBuf,
        /// Where the runs go
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Where settings come from, besides flags.
#[derive(Debug, Args)]
pub struct Source {
    /// A file of settings in TOML, by the names of the flags; flags win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Goes on with the run in this directory, with its own settings
    #[arg(long, value_name = "DIR", exclusive = true)]
    pub resume: Option<PathBuf>,
}

/// All that a run depends on, beside the files of model and data.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Published model: a directory with config.json, model.safetensors and its tokenizer
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true, value_parser = path)]
    pub model: PathBuf,
    /// cola, sst2, mrpc, rte, stsb, mnli, qnli, qqp for encoders; e2e, webnlg, dart for decoders
    #[arg(long, default_value = "", hide_default_value = true)]
    pub task: String,
    /// Directory of the task's published files
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true, value_parser = path)]
    pub data: PathBuf,
    /// Where everything about the run goes
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true, value_parser = path)]
    pub out: PathBuf,
    /// What is trained: full, head, or the name of an adapter (unknown names list them)
    #[arg(long, default_value = "lora", value_parser = method)]
    pub method: String,
    /// The layers that are adapted: a pattern, or all-linear [default: where the method
    /// belongs, else queries and values]
    #[arg(long, value_name = "PATTERN")]
    pub targets: Option<String>,
    /// The rank of the adapter; the mean rank to reach where ranks change
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub rank: u32,
    /// The adapter's weight: its update is scaled by alpha / rank
    #[arg(long, default_value_t = 16.0, value_parser = positive)]
    pub alpha: f64,
    /// The probability of dropout on the adapter's input
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub adapter_dropout: f64,
    /// Everything random follows from it: fresh weights, batches, dropout
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << 60))]
    pub seed: u64,
    /// Highest learning rate; it falls in a straight line to 0
    #[arg(long, default_value_t = 2e-3, value_parser = positive)]
    pub rate: f64,
    /// The share of the steps in which the learning rate grows from 0
    #[arg(long, default_value_t = 0.06, value_parser = share)]
    pub warm_up: f64,
    /// AdamW's weight decay
    #[arg(long, default_value_t = 0.01, value_parser = amount)]
    pub weight_decay: f64,
    /// Gradients longer than this are cut to it
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub clip: f64,
    /// Times that the training rows are gone through
    #[arg(long, default_value_t = 1, overrides_with = "steps",
        value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub epochs: u64,
    /// Steps in all, instead of epochs; the later flag of the two counts
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..1 << 32), overrides_with = "epochs")]
    pub steps: Option<u64>,
    /// Rows that are computed at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Batches whose gradients are added up before an update
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub accumulate: u32,
    /// Rows of like length go together, chosen among so many batches; 0: rows as they come
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub bucket: u32,
    /// Training rows at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rows: Option<u32>,
    /// Rows, or records, to measure on at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub dev_rows: Option<u32>,
    /// Measure on so many rows that are taken out of the training rows, to choose settings by
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub hold_out: Option<u32>,
    /// Tokens of a row at most [default: 64; 128 where a row has two texts; 512 for decoders]
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    pub max_length: Option<u32>,
    /// The share of the target that is spread over all tokens, for decoders
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub label_smoothing: f64,
    /// Texts that are followed at once when one is written
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub beams: u32,
    /// Scores of texts are divided by their length to this power
    #[arg(long, default_value_t = 0.9, allow_negative_numbers = true, value_parser = finite)]
    pub length_penalty: f64,
    /// No run of so many tokens comes twice in a text; 0 allows all
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(..=1000))]
    pub no_repeat: u32,
    /// Tokens that are written for a record at most
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub new_tokens: u32,
    /// Steps between measurements [default: an epoch]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub evaluate: Option<u64>,
    /// Stop after so many measurements in a row that are no better than the best; 0: never
    #[arg(long, default_value_t = 0)]
    pub patience: u32,
    /// Steps between checkpoints: what a kill can lose
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint: u64,
    /// Keep only the input of each block, and compute the rest again in the backward pass: less memory, more time
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_missing_value = "true")]
    pub recompute: bool,
    /// cpu, gpu, or reference: every kernel in f64 and plain loops, exact and slow
    #[arg(long, default_value = "cpu", value_parser = device)]
    pub device: String,
    /// Threads [default: one per core]; the results do not depend on it
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// What is to be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Understanding(Understanding),
    Generation(Generation),
}

impl Settings {
    /// The task by its name.
    ///
    /// **Errors** name the nearest one.
    pub fn task(&self) -> Result<Task> {
        let understanding =
            Understanding::ALL.into_iter().map(|task| (task.name(), Task::Understanding(task)));
        let generation = Generation::ALL.into_iter().map(|task| (task.name(), Task::Generation(task)));
        let tasks: Vec<(&str, Task)> = understanding.chain(generation).collect();
        let names = || tasks.iter().map(|(name, _)| *name);
        tasks.iter().find(|(name, _)| *name == self.task).map(|(_, task)| *task).ok_or_else(|| {
            let near = nearest(&self.task, names()).unwrap_or_default();
            let (task, all) = (&self.task, names().collect::<Vec<_>>().join(", "));
            Error::Config(format!("{task} is no task; did you mean {near}? There are {all}"))
        })
    }

    /// The device that was asked for.
    pub fn device(&self) -> Result<Device> {
        self.device.parse()
    }

    /// Paths as they are from everywhere, so that a run can be gone on with from another directory.
    ///
    /// **Errors** when the model, the data or the run's directory are not named, or the first two not there, and when
    /// a setting is given that task or method has no use for.
    pub fn resolved(mut self) -> Result<Settings> {
        for (flag, path) in [("model", &self.model), ("data", &self.data), ("out", &self.out)] {
            if path.as_os_str().is_empty() {
                return Err(Error::Config(format!("--{flag} DIR is missing, as a flag or in --config")));
            }
        }
        for path in [&mut self.model, &mut self.data] {
            *path = path.canonicalize().map_err(|source| Error::Io { path: path.clone(), source })?;
        }
        let task = self.task()?;
        let useless = |flag: &str, what: &str| {
            Err(Error::Config(format!("--{flag} does nothing with {what}; leave it out")))
        };
        if self.label_smoothing > 0.0 && matches!(task, Task::Understanding(_)) {
            return useless("label-smoothing", &self.task);
        }
        if self.targets.is_some() && subject::BASELINES.contains(&self.method.as_str()) {
            return useless("targets", &self.method);
        }
        Ok(self)
    }

    /// What other settings say otherwise, by name. Directory and threads are left out: results do not depend on
    /// them.
    ///
    /// **Errors** when a path cannot be written as text.
    pub fn differences(&self, other: &Settings) -> Result<Vec<String>> {
        let table = |settings: &Settings| {
            let settings = Settings { out: PathBuf::new(), threads: None, ..settings.clone() };
            toml::Table::try_from(settings).map_err(|error| Error::Config(error.to_string()))
        };
        let (ours, theirs) = (table(self)?, table(other)?);
        let said = |table: &toml::Table, key| table.get(key).map_or("none".into(), toml::Value::to_string);
        let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let different = keys.into_iter().filter(|&key| ours.get(key) != theirs.get(key));
        Ok(different
            .map(|key| format!("{key} is {} there, here {}", said(&theirs, key), said(&ours, key)))
            .collect())
    }
}

/// Reads the command line, and the file that it names.
///
/// **Errors** when the file cannot be read or names an unknown setting; clap ends the program with its own
/// message when a flag is wrong.
pub fn read(arguments: &[OsString]) -> Result<Command> {
    let command = Command::parse_from(arguments);
    let Some(path) = &command.source.config else { return Ok(command) };
    let (program, rest) =
        arguments.split_first().map_or((OsString::new(), arguments), |(p, rest)| (p.clone(), rest));
    let from_file = flags(path, &table(path)?)?.into_iter().map(OsString::from);
    let all = std::iter::once(program).chain(from_file).chain(rest.iter().cloned());
    Command::try_parse_from(all)
        .map_err(|error| Error::Format { path: path.clone(), what: error.to_string() })
}

/// Settings that a table of a file gives.
///
/// **Errors** as [`read`].
pub fn settings(path: &Path, table: &toml::Table) -> Result<Settings> {
    let flags = flags(path, table)?;
    let parsed = Command::try_parse_from(std::iter::once("train".to_string()).chain(flags));
    let parsed = parsed.map_err(|error| Error::Format { path: path.into(), what: error.to_string() })?;
    Ok(parsed.settings)
}

/// A file in TOML.
///
/// **Errors** name line and column.
pub fn table(path: &Path) -> Result<toml::Table> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
    text.parse()
        .map_err(|error: toml::de::Error| Error::Format { path: path.into(), what: error.to_string() })
}

/// The flags that say what a table says.
fn flags(path: &Path, table: &toml::Table) -> Result<Vec<String>> {
    let command = Settings::augment_args(clap::Command::new("train"));
    let known: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
    let malformed = |what: String| Error::Format { path: path.into(), what };
    let mut flags = Vec::new();
    for (key, value) in table {
        if !known.contains(&key.as_str()) {
            let near = nearest(key, known.iter().copied()).unwrap_or_default();
            return Err(malformed(format!("{key} is no setting; did you mean {near}?")));
        }
        let value = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(yes) => yes.to_string(),
            other => {
                return Err(malformed(format!("{key} is {other}, expected one number, text, true or false")));
            }
        };
        // One word, because a value may begin with a hyphen.
        flags.push(format!("--{key}={value}"));
    }
    Ok(flags)
}

/// A path that may be missing here, because a file can name it.
fn path(text: &str) -> std::result::Result<PathBuf, String> {
    Ok(text.into())
}

fn finite(text: &str) -> std::result::Result<f64, String> {
    number(text, |_| true, "a finite number")
}

fn amount(text: &str) -> std::result::Result<f64, String> {
    number(text, |number| number >= 0.0, "a number that is not below 0")
}

fn share(text: &str) -> std::result::Result<f64, String> {
    number(text, |number| (0.0..1.0).contains(&number), "a number from 0 to below 1")
}

fn method(name: &str) -> std::result::Result<String, String> {
    let names = subject::names;
    match names().any(|known| known == name) {
        true => Ok(name.into()),
        false => {
            let near = nearest(name, names()).unwrap_or_default();
            Err(format!("did you mean {near}? There are {}", names().collect::<Vec<_>>().join(", ")))
        }
    }
}
