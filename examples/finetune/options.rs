//! What the command line says, and the recipe that follows from it.
//!
//! Two recipes, one for the language that the program makes itself and one for a published encoder on
//! SST-2. The second is common practice for encoders of MiniLM's size, and its figures can be compared
//! with a PyTorch and PEFT run of the same numbers.
//! Read next: `tuning.rs`, which follows it.

use std::fmt;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use super::device::OnDevice;
use super::flags::positive;

/// Fine-tunes a small encoder with LoRA, and compares that with training everything or only the head.
///
/// Without arguments it makes its own language, pretrains an encoder on it and teaches it a task it was
/// not trained for. With --model, --task and --data it fine-tunes a published encoder. Ctrl-C finishes
/// the step, leaves a checkpoint and says how to go on.
#[derive(Clone, Debug, Parser, Serialize, Deserialize)]
#[command(name = "finetune", max_term_width = 100)]
pub struct Options {
    /// Published encoder: a directory with config.json, model.safetensors and tokenizer.json
    #[arg(long, value_name = "DIR", requires_all = ["task", "data"])]
    pub model: Option<PathBuf>,
    /// What the published encoder learns
    #[arg(long, requires_all = ["model", "data"])]
    pub task: Option<TaskName>,
    /// Directory of the task's tab-separated files, train.tsv and dev.tsv
    #[arg(long, value_name = "DIR", requires_all = ["model", "task"])]
    pub data: Option<PathBuf>,
    /// Ways of training to compare [default: full,head,lora; with --model: lora]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub methods: Vec<Method>,
    /// Everything random follows from it: data of the language, fresh weights, batches, dropout
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where the adapter, the loss curve and checkpoints go
    #[arg(long, value_name = "DIR", default_value = "runs/finetune")]
    pub out: PathBuf,
    #[command(flatten)]
    #[serde(flatten)]
    pub on: OnDevice,
    /// Threads [default: one per core]; the results do not depend on it
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Rank of the LoRA matrices on query and value
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub rank: u16,
    /// Weight of the LoRA matrices: they are scaled by alpha / rank
    #[arg(long, default_value_t = 16.0, value_parser = positive)]
    pub alpha: f64,
    /// Highest learning rate, for every method [default: one that suits the method]
    #[arg(long, value_parser = positive)]
    pub rate: Option<f64>,
    /// Times that the training rows are gone through [default: 4; with --model: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub epochs: Option<u32>,
    /// Training steps of each method, in place of --epochs
    #[arg(long, conflicts_with = "epochs", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub steps: Option<u64>,
    /// Rows of a training step
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Training rows at most [default: 2500; with --model: 10000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub rows: Option<u32>,
    /// Tokens of a row at most, for --model
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub max_length: u32,
    /// Steps of pretraining on the program's own language
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub pretraining_steps: u32,
    /// Says how far each loss is from that of another run, whose --out this was
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub against: Option<PathBuf>,
    /// Stops like Ctrl-C does, after so many steps: to try out --resume
    #[arg(long, value_name = "STEPS")]
    #[serde(skip)]
    pub stop_after: Option<u64>,
    /// Goes on from the checkpoint of an interrupted run, with that run's own settings
    #[arg(long, value_name = "FILE", exclusive = true)]
    #[serde(skip)]
    pub resume: Option<PathBuf>,
}

/// A task with published data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum TaskName {
    /// Does a sentence of a film review praise or not (Socher et al. 2013)
    Sst2,
}

/// A way of training a frozen encoder's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Method {
    /// Every parameter
    Full,
    /// Pooler and classifier only, on the frozen encoder
    Head,
    /// As head, with LoRA on the encoder's queries and values
    Lora,
}

/// Its name on the command line, in the table and in file names.
impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Method::Full => "full",
            Method::Head => "head",
            Method::Lora => "lora",
        })
    }
}

impl Options {
    /// Is there a published encoder, or does the program make its own?
    fn published(&self) -> bool {
        self.model.is_some()
    }

    /// What to compare, each once, in the order of the table.
    pub fn methods(&self) -> Vec<Method> {
        let wanted = |method: &Method| match (self.methods.is_empty(), self.published()) {
            (false, _) => self.methods.contains(method),
            (true, published) => !published || *method == Method::Lora,
        };
        Method::value_variants().iter().copied().filter(wanted).collect()
    }

    /// How often the training rows are gone through.
    pub fn epochs(&self) -> u64 {
        u64::from(self.epochs.unwrap_or(if self.published() { 1 } else { 4 }))
    }

    /// How many training rows are used.
    pub fn rows(&self) -> usize {
        self.rows.unwrap_or(if self.published() { 10_000 } else { 2500 }) as usize
    }

    /// The highest learning rate of a method.
    pub fn rate(&self, method: Method) -> f64 {
        self.rate.unwrap_or(match (method, self.published()) {
            (Method::Full, true) => 1e-4,
            (Method::Full, false) => 1e-3,
            (_, true) => 2e-3,
            (_, false) => 5e-3,
        })
    }

    /// The probability of dropout inside the encoder; the small one never sees a row often enough to need it.
    pub fn dropout(&self) -> f64 {
        if self.published() { 0.1 } else { 0.0 }
    }
}
