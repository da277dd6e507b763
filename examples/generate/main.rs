//! A decoder tells a story, word by word as it is made.
//!
//! With `--model` a published directory of GPT-2's or Llama's kind (config.json, model.safetensors, and
//! a vocabulary). Without, a small Llama that is trained first, for some seconds, on sentences of a
//! few words.
//!
//! ```text
//! cargo run --release --example generate
//! cargo run --release --example generate -- --model DIR --tokens 200 "Once upon a time"
//! cargo run --release --example generate -- --model DIR --temperature 0.8 --top-p 0.9 --seed 7
//! ```
//! Read next: `words.rs`, where text becomes ids and ids become text.

#[path = "../common/device.rs"]
mod device;
#[path = "../common/ending.rs"]
mod ending;
mod own;
#[path = "../common/tokens.rs"]
mod tokens;
mod words;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use device::OnDevice;
use ending::exit_code;
use engrad::device::cpu::use_threads;
use engrad::nn::{Choose, Generation, LanguageModel, Model, Pretrained, Side, generate};
use engrad::{Error, Result};
use words::Words;

/// Lets a decoder go on with a text.
#[derive(Parser)]
struct Options {
    /// How the text begins
    #[arg(default_value = "")]
    prompt: String,
    /// Published decoder: a directory with config.json, model.safetensors and a vocabulary
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Tokens to add at most
    #[arg(long, default_value_t = 256)]
    tokens: usize,
    /// Draw by chance: above 1 more varied, below 1 less [default: always the most probable]
    #[arg(long)]
    temperature: Option<f64>,
    /// With --temperature: only the most probable so many; 0 takes all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// With --temperature: only the fewest tokens whose probabilities sum to this
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// With --temperature: the same seed draws the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Search for the most probable text with so many beams
    #[arg(long, conflicts_with = "temperature")]
    beams: Option<usize>,
    /// Above 1: prefer words that were not said yet
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    /// No run of so many tokens twice; 0 allows all
    #[arg(long, default_value_t = 0)]
    no_repeat: usize,
    /// Go on past the end token
    #[arg(long)]
    endless: bool,
    #[command(flatten)]
    on: OnDevice,
}

fn main() -> ExitCode {
    exit_code(use_threads(None).and_then(|()| run(&Options::parse())))
}

fn run(options: &Options) -> Result<()> {
    let (loaded, words) = match &options.model {
        Some(directory) => {
            let loaded = Pretrained::from_directory(directory, &options.on.device)?;
            let words = Words::open(directory, &loaded.config)?;
            (loaded, words)
        }
        None => own::trained(&options.on.device)?,
    };
    let Model::CausalLm(model) = &loaded.model else {
        return Err(Error::Config("this model does not go on with texts".into()));
    };
    let prompt = words.ids(&options.prompt)?;
    let longest = model.positions().map_or(options.tokens, |limit| (limit + 1).saturating_sub(prompt.len()));
    let mut settings = Generation {
        choose: match (options.temperature, options.beams) {
            (Some(temperature), _) => {
                let (seed, top_k, top_p) = (options.seed, options.top_k, options.top_p);
                Choose::Sample { seed, temperature, top_k, top_p }
            }
            (None, Some(beams)) => Choose::Beams { beams, length_penalty: 1.0, early: true },
            (None, None) => Choose::Greedy,
        },
        repetition_penalty: options.repetition_penalty,
        no_repeat: options.no_repeat,
        ..Generation::greedy(options.tokens.min(longest)).forbidding_as(&loaded.config)?
    };
    if !options.endless {
        settings = settings.ending_as(&loaded.config);
    }
    let prompts = model.batch(std::slice::from_ref(&prompt), Side::Left)?;
    let mut said = words.speaker(&prompt);
    print!("{}", said.so_far());
    let texts = generate(model, &prompts, &settings, &mut |_, token| {
        if !settings.end.contains(&token) {
            print!("{}", said.next(token));
            // A terminal that cannot be written to loses words, not the program.
            let _ = std::io::stdout().flush();
        }
    })?;
    println!();
    eprintln!("({} tokens)", texts[0].len());
    Ok(())
}
