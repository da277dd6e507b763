//! What the command line says.
//! Read next: `running.rs`.

use std::path::PathBuf;

use clap::Parser;
use engrad::tasks::Understanding;
use engrad::{Device, Result};
use serde::{Deserialize, Serialize};

use super::flags::{device, positive};
use super::subject::names;

/// Every method on the same base, task, seeds and number of steps: a table and a picture.
///
/// Without --model it makes its own language, pretrains an encoder on it and adapts that. Results are
/// kept as each run ends: the same command again goes on where it stopped, and more methods or seeds
/// are added to those that are there.
#[derive(Clone, Debug, Parser)]
#[command(name = "compare", max_term_width = 100)]
pub struct Options {
    /// Methods to compare [default: full, head and every adapter]
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = method)]
    pub methods: Vec<String>,
    /// Runs of each method, with the seeds 0, 1, ...
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub seeds: u32,
    /// Where results, table and picture go
    #[arg(long, value_name = "DIR", default_value = "runs/compare")]
    pub out: PathBuf,
    #[command(flatten)]
    pub settings: Settings,
}

/// What all runs of a comparison have in common.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct Settings {
    /// Published encoder: a directory with config.json, model.safetensors and its tokenizer
    #[arg(long, value_name = "DIR", requires_all = ["task", "data"])]
    pub model: Option<PathBuf>,
    /// What the published encoder learns: cola, sst2, mrpc, rte, stsb, mnli, qnli or qqp
    #[arg(long, requires_all = ["model", "data"], value_parser = task)]
    pub task: Option<String>,
    /// Directory of the task's published files
    #[arg(long, value_name = "DIR", requires_all = ["model", "task"])]
    pub data: Option<PathBuf>,
    /// Steps of a run
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub steps: u64,
    /// The rank of an adapter, and the mean rank to reach where ranks change
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub rank: u16,
    /// Highest learning rate of adapters and heads
    #[arg(long, default_value_t = 2e-3, value_parser = positive)]
    pub rate: f64,
    /// Highest learning rate where every parameter is trained
    #[arg(long, default_value_t = 1e-4, value_parser = positive)]
    pub full_rate: f64,
    /// Rows of a step
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Rows of like length go together, chosen among so many batches; 0: rows as they come
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub bucket: u32,
    /// Training rows at most
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rows: u32,
    /// Tokens of a row at most
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    pub max_length: u32,
    /// Steps of pretraining on the program's own language
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub pretraining_steps: u64,
    /// cpu, gpu, or reference: every kernel in f64 and plain loops, exact and slow
    #[arg(long, default_value = "cpu", value_parser = device)]
    pub device: String,
}

impl Options {
    /// What to compare, each once, in the order of the table.
    pub fn methods(&self) -> Vec<&'static str> {
        let asked = |name: &&str| self.methods.is_empty() || self.methods.iter().any(|asked| asked == name);
        names().filter(asked).collect()
    }
}

impl Settings {
    pub fn device(&self) -> Result<Device> {
        self.device.parse()
    }
}

fn method(name: &str) -> std::result::Result<String, String> {
    match names().any(|known| known == name) {
        true => Ok(name.into()),
        false => Err(format!("expected one of {}", names().collect::<Vec<_>>().join(", "))),
    }
}

fn task(name: &str) -> std::result::Result<String, String> {
    name.parse::<Understanding>().map(|task| task.to_string()).map_err(|error| error.to_string())
}
