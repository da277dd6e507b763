//! Sentence similarity: ranks the lines of a file against a query.
//!
//! With `--model` a directory of a published sentence encoder (config.json, model.safetensors and
//! tokenizer.json, such as all-MiniLM-L6-v2). Without, a small encoder with fresh weights, which knows
//! words only by their letters: lines that share words with the query come first, meaning plays no part.
//!
//! ```text
//! cargo run --release --example embed -- "a quiet evening at home"
//! cargo run --release --example embed -- --model DIR --file lines.txt "how do I cook rice?"
//! ```
//! Read next: `generate/main.rs`, a model that answers in words.

#[path = "common/device.rs"]
mod device;
#[path = "common/ending.rs"]
mod ending;
#[path = "common/tokens.rs"]
mod tokens;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use device::OnDevice;
use ending::exit_code;
use engrad::device::cpu::use_threads;
use engrad::nn::{Encoder, EncoderConfig};
use engrad::{Device, Error, Result, Rng, inference, tasks};
use tokenizers::Tokenizer;

/// Ranks the lines of a file by how similar they are to a query.
#[derive(Parser)]
struct Options {
    /// What to look for
    query: String,
    /// Published sentence encoder: a directory with config.json, model.safetensors and tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The lines to rank [default: a few of our own]
    #[arg(long)]
    file: Option<PathBuf>,
    /// How many to show
    #[arg(long, default_value_t = 5)]
    top: usize,
    #[command(flatten)]
    on: OnDevice,
}

const LINES: &str = "The cat sleeps beside the warm stove.
Rain fell on the roof all evening.
She spends a quiet evening reading at home.
The engine needs a new belt before the trip.
Boil the rice in twice as much water.
Two dogs bark at the postman.
A quiet street, far from the station.";

/// Rows that are encoded together.
const ROWS: usize = 32;

fn main() -> ExitCode {
    exit_code(use_threads(None).and_then(|()| run(&Options::parse())))
}

fn run(options: &Options) -> Result<()> {
    let device = &options.on.device;
    let lines = match &options.file {
        Some(path) => tasks::text(path)?,
        None => LINES.into(),
    };
    let lines: Vec<&str> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let (encoder, words) = match &options.model {
        Some(directory) => {
            let encoder = Encoder::from_directory(directory, device)?;
            let tokenizer = tokens::cutting(directory, encoder.positions())?;
            (encoder, Words::Published(Box::new(tokenizer)))
        }
        None => (own(device)?, Words::Own),
    };
    let embed = |lines: &[&str]| -> Result<Vec<Vec<f32>>> {
        let ids = lines.iter().map(|line| words.ids(line)).collect::<Result<Vec<_>>>()?;
        let vectors = inference(|| encoder.batch(&ids, None).map(|batch| encoder.embed(&batch)))?;
        Ok(vectors.to_vec().chunks(vectors.size(1)).map(<[f32]>::to_vec).collect())
    };
    let query = embed(&[&options.query])?.swap_remove(0);
    let mut ranked = Vec::new();
    for lines in lines.chunks(ROWS) {
        for (line, vector) in lines.iter().zip(embed(lines)?) {
            // The vectors have length 1, so their product is the cosine of their angle.
            let similarity: f32 = query.iter().zip(&vector).map(|(a, b)| a * b).sum();
            ranked.push((similarity, line));
        }
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (similarity, line) in ranked.iter().take(options.top) {
        println!("{similarity:7.4}  {line}");
    }
    Ok(())
}

/// What turns a line into ids.
enum Words {
    Published(Box<Tokenizer>),
    Own,
}

impl Words {
    fn ids(&self, line: &str) -> Result<Vec<u32>> {
        match self {
            Words::Published(tokenizer) => match tokenizer.encode_fast(line, true) {
                Ok(encoding) => Ok(encoding.get_ids().to_vec()),
                Err(error) => Err(Error::Data(format!("the tokenizer refuses {line:?}: {error}"))),
            },
            Words::Own => {
                let words = line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
                let ids: Vec<u32> = words.map(|word| id_of(&word.to_lowercase())).take(POSITIONS).collect();
                Ok(if ids.is_empty() { vec![0] } else { ids })
            }
        }
    }
}

const VOCABULARY: usize = 1 << 14;
/// Words of a line that our own encoder reads.
const POSITIONS: usize = 256;

/// A number for each word, by its letters alone (FNV-1a).
fn id_of(word: &str) -> u32 {
    let mixed = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    word.bytes().fold(0x811C_9DC5, mixed) % VOCABULARY as u32
}

/// An encoder with fresh weights: words that differ get vectors that have nothing in common.
fn own(device: &Device) -> Result<Encoder> {
    let config = EncoderConfig {
        vocab_size: VOCABULARY,
        hidden_size: 64,
        num_hidden_layers: 1,
        num_attention_heads: 4,
        intermediate_size: 128,
        max_position_embeddings: POSITIONS,
        type_vocab_size: 1,
        ..EncoderConfig::default()
    };
    let encoder = Encoder::new(&config, &mut Rng::seeded(1), device)?;
    // Positions and segments would outweigh what the words share.
    for (name, param) in engrad::nn::named_params(&encoder) {
        if name.contains("position_embeddings") || name.contains("token_type_embeddings") {
            param.set(&(param.value() * 0.0));
        }
    }
    Ok(encoder)
}
