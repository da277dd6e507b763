//! Pretrains a small decoder of GPT-2's kind on a text file, as a base for adaptation.
//!
//! ```text
//! cargo run --release --example pretrain -- --text FILE --out DIR
//! cargo run --release --example generate -- --model DIR "Once"
//! cargo run --release --example train -- --model DIR --task e2e --data DIR --out runs/e2e
//! ```
//! The vocabulary, byte-level pairs, is learned from the text first. The last tenth of the text is not
//! trained on, but measured. Started again with the same settings, it goes on from its last checkpoint; with others
//! it begins anew, in place of what was there.
//! Read next: `train/main.rs`.

#[path = "../common/curves.rs"]
mod curves;
#[path = "../common/ending.rs"]
mod ending;
#[path = "../common/flags.rs"]
mod flags;
#[path = "../common/progress.rs"]
mod progress;
#[path = "../common/tokens.rs"]
mod tokens;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use curves::{Curve, smooth};
use ending::exit_code;
use engrad::device::cpu::use_threads;
use engrad::nn::files::write_whole;
use engrad::nn::{CausalLm, LanguageModel, Model, Pretrained, Side};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Error, Result, Rng, inference, tasks};
use flags::{device, positive};
use progress::Progress;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

const END: &str = "<|endoftext|>";
const CHECKPOINT: &str = "checkpoint.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const RECORD: &str = "pretraining.json";
/// Rows that are measured at once.
const MEASURED: usize = 8;

/// Pretrains a small decoder on a text file.
#[derive(Clone, Debug, PartialEq, Parser, Serialize, Deserialize)]
struct Options {
    /// A text in UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Where the model goes: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Tokens that the vocabulary has at most
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(300..=100_000))]
    vocabulary: u32,
    /// The size of a hidden state
    #[arg(long, default_value_t = 192, value_parser = clap::value_parser!(u32).range(8..=8192))]
    width: u32,
    /// Blocks
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    layers: u32,
    /// Attention heads; they divide the width
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    heads: u32,
    /// Tokens that it can look back on
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=8192))]
    positions: u32,
    /// Steps of training
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..1 << 32))]
    steps: u64,
    /// Pieces of the text in a step
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Tokens of a piece; no more than the positions
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..=8192))]
    length: u32,
    /// Highest learning rate
    #[arg(long, default_value_t = 2e-3, value_parser = positive)]
    rate: f64,
    /// Everything random follows from it
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// cpu, gpu, or reference
    #[arg(long, default_value = "cpu", value_parser = device)]
    device: String,
}

/// What was said and done so far, beside the checkpoint.
#[derive(Serialize, Deserialize)]
struct Begun {
    options: Options,
    losses: Vec<f64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    exit_code(use_threads(None).and_then(|()| run(&options)).map(|(loss, bits)| {
        println!("{loss:.4} nats a token on the last tenth, about {bits:.3} bits a character");
        println!("saved in {}", options.out.display());
    }))
}

/// Pretrains, and gives the loss of a token of the last tenth in nats, and that of a character in bits.
fn run(options: &Options) -> Result<(f64, f64)> {
    let text = tasks::text(&options.text)?;
    let begun = begun(options)?;
    if begun.is_none() {
        check_free(&options.out)?;
    }
    let tokenizer = match &begun {
        Some(_) => tokens::need(&options.out)?,
        None => learned(&text, options)?,
    };
    let ids = ids(&tokenizer, &text, options)?;
    let (train, dev) = ids.split_at(ids.len() - ids.len() / 10);
    let length = options.length as usize;
    if dev.len() <= length || options.length > options.positions {
        return Err(Error::Config(format!(
            "{} tokens to measure on and {} positions, expected more than --length {length}",
            dev.len(),
            options.positions
        )));
    }
    let device: Device = options.device.parse()?;
    let end = tokenizer.token_to_id(END).unwrap_or(0);
    let config = json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": tokenizer.get_vocab_size(true),
        "n_embd": options.width, "n_layer": options.layers, "n_head": options.heads,
        "n_positions": options.positions, "n_ctx": options.positions, "resid_pdrop": 0.1, "embd_pdrop": 0.1,
        "attn_pdrop": 0.1, "bos_token_id": end, "eos_token_id": end, "tie_word_embeddings": true,
    });
    let pretrained = Pretrained::from_config(config, &mut Rng::derived(options.seed, 1 << 40), &device)?;
    let Model::CausalLm(model) = &pretrained.model else { unreachable!("a GPT-2 goes on with texts") };
    if begun.is_none() {
        begin(options, &tokenizer)?;
    }
    let losses = train_on(model, train, options, begun)?;
    pretrained.save(&options.out)?;
    let curve = Curve { name: "loss".into(), points: (1..).map(f64::from).zip(smooth(&losses)).collect() };
    curves::write(&options.out.join("loss.svg"), "step", &[("Loss of pretraining", "loss", &[curve])])?;
    let loss = measured(model, dev, length)?;
    // The last tenth of the tokens is taken for the last tenth of the characters.
    let characters = text.chars().count() as f64 / ids.len() as f64;
    let bits = loss / std::f64::consts::LN_2 / characters;
    Ok((loss, bits))
}

/// A vocabulary of byte pairs that are frequent in the text.
fn learned(text: &str, options: &Options) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let trainer = BpeTrainer::builder()
        .vocab_size(options.vocabulary as usize)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END, true)])
        .show_progress(true)
        .build();
    let lines = text.split_inclusive('\n');
    tokenizer
        .train(&mut TrainerWrapper::BpeTrainer(trainer), lines)
        .map_err(|error| Error::Format { path: options.text.clone(), what: error.to_string() })?;
    Ok(tokenizer)
}

/// Refuses a directory that holds a model, or the beginning of one, of other options: it must not be gone on with, nor
/// be lost. What a run left that was killed before its first checkpoint is not missed.
fn check_free(directory: &Path) -> Result<()> {
    let names = [CHECKPOINT, "config.json", "model.safetensors", TOKENIZER];
    let is_lost = |name: &&str| {
        directory.join(name).exists() && (*name != TOKENIZER || !directory.join(RECORD).exists())
    };
    match names.into_iter().find(is_lost) {
        None => Ok(()),
        Some(name) => Err(Error::Config(format!(
            "{} holds {name} of another model, or of other options; choose another --out, or remove it",
            directory.display()
        ))),
    }
}

/// Begins a run in its directory.
fn begin(options: &Options, tokenizer: &Tokenizer) -> Result<()> {
    check_free(&options.out)?;
    std::fs::create_dir_all(&options.out)
        .map_err(|source| Error::Io { path: options.out.clone(), source })?;
    record(options, &[])?;
    let path = options.out.join(TOKENIZER);
    let json = tokenizer.to_string(true);
    let json = json.map_err(|error| Error::Format { path: path.clone(), what: error.to_string() })?;
    write_whole(&path, json.as_bytes())
}

/// Writes what was said and done so far.
fn record(options: &Options, losses: &[f64]) -> Result<()> {
    let path = options.out.join(RECORD);
    let begun = Begun { options: options.clone(), losses: losses.to_vec() };
    let text = serde_json::to_string(&begun);
    let text = text.map_err(|error| Error::Format { path: path.clone(), what: error.to_string() })?;
    write_whole(&path, text.as_bytes())
}

fn ids(tokenizer: &Tokenizer, text: &str, options: &Options) -> Result<Vec<u32>> {
    let encoding = tokenizer.encode_fast(text, false);
    let encoding =
        encoding.map_err(|error| Error::Format { path: options.text.clone(), what: error.to_string() })?;
    Ok(encoding.get_ids().to_vec())
}

/// Trains on pieces of the text from random places, and gives the loss of each step.
fn train_on(model: &CausalLm, ids: &[u32], options: &Options, begun: Option<Begun>) -> Result<Vec<f64>> {
    let (length, steps) = (options.length as usize, options.steps);
    let schedule = Schedule::cosine(options.rate, steps / 20, steps);
    let mut trainer = Trainer::new(model, AdamW::new(0.1), schedule).clipped(1.0).seeded(options.seed);
    let mut losses = Vec::new();
    if let Some(begun) = begun {
        trainer.resume(options.out.join(CHECKPOINT))?;
        losses = begun.losses;
        losses.truncate(trainer.steps() as usize);
    }
    let progress = Progress::new("pretraining", trainer.steps(), steps);
    while trainer.steps() < steps {
        let rng = &mut Rng::derived(options.seed, (2 << 40) + trainer.steps());
        let mut piece = || {
            let at = rng.below(ids.len() - length);
            ids[at..at + length].to_vec()
        };
        let rows: Vec<Vec<u32>> = (0..options.batch).map(|_| piece()).collect();
        let batch = model.batch(&rows, Side::Right)?;
        let done = trainer.step(|| model.loss(&batch))?;
        losses.push(done.loss);
        let recent = &losses[losses.len().saturating_sub(20)..];
        let mean = recent.iter().sum::<f64>() / recent.len() as f64;
        progress.show(trainer.steps(), format!("loss {mean:.4}  rate {:.1e}", done.rate));
        if trainer.steps().is_multiple_of(200) || trainer.steps() == steps {
            // The losses first: the checkpoint says how many of them count.
            record(options, &losses)?;
            trainer.save(options.out.join(CHECKPOINT))?;
        }
    }
    Ok(losses)
}

/// What a run of the same settings has left, if it was interrupted.
fn begun(options: &Options) -> Result<Option<Begun>> {
    let path = options.out.join(RECORD);
    if !path.exists() || !options.out.join(CHECKPOINT).exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let begun: Begun =
        serde_json::from_str(&text).map_err(|error| Error::Format { path, what: error.to_string() })?;
    Ok(Some(begun).filter(|begun| begun.options == *options))
}

/// The mean loss of a token over pieces that lie side by side.
fn measured(model: &CausalLm, ids: &[u32], length: usize) -> Result<f64> {
    let pieces: Vec<Vec<u32>> = ids.chunks_exact(length).map(<[u32]>::to_vec).collect();
    let mut sum = 0.0;
    for rows in pieces.chunks(MEASURED) {
        let batch = model.batch(rows, Side::Right)?;
        sum += inference(|| model.loss(&batch)).read_item()? * rows.len() as f64;
    }
    Ok(sum / pieces.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_decoder_is_learned_from_a_text_saved_and_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let (text, out) = (folder.path().join("text"), folder.path().join("out"));
        std::fs::write(&text, "the cat sat on the mat, and the dog sat on the cat.\n".repeat(200)).unwrap();
        let flags =
            [("--text", text.to_str()), ("--out", out.to_str())].map(|(flag, path)| [flag, path.unwrap()]);
        let sizes = [
            "--width=16",
            "--layers=1",
            "--heads=2",
            "--length=16",
            "--steps=60",
            "--vocabulary=300",
            "--rate=0.01",
        ];
        let words = ["pretrain"].into_iter().chain(flags.concat()).chain(sizes);
        let options = Options::parse_from(words);
        let (loss, bits) = run(&options).unwrap();
        assert!(loss > 0.0 && loss < 3.0 && bits < loss, "{loss} {bits}");
        assert!(matches!(Pretrained::from_directory(&out, &Device::Cpu).unwrap().model, Model::CausalLm(_)));
        // Nothing is left to do, and nothing is done again.
        assert_eq!(run(&options).unwrap(), (loss, bits));
        // Another text has other words, and is not gone on with from this one's checkpoint.
        let other = folder.path().join("other");
        std::fs::write(&other, "zebras graze where other zebras gaze\n".repeat(300)).unwrap();
        let other = Options { text: other, ..options.clone() };
        let files = || {
            ["config.json", "model.safetensors", TOKENIZER, CHECKPOINT, RECORD]
                .map(|name| std::fs::read(out.join(name)).unwrap())
        };
        let before = files();
        assert!(run(&other).unwrap_err().to_string().contains("or of other options; choose another --out"));
        assert!(files() == before);
        // Killed before its first checkpoint.
        let killed = Options { out: folder.path().join("killed"), ..other };
        let tokenizer = learned(&tasks::text(&killed.text).unwrap(), &killed).unwrap();
        begin(&killed, &tokenizer).unwrap();
        assert!(begun(&killed).unwrap().is_none());
        run(&killed).unwrap();
        let words = tokens::need(&killed.out).unwrap().get_vocab(true);
        assert!(words.into_keys().any(|word| word.contains("zebra")));
        // What cannot be begun leaves nothing, and what is there as it is.
        let short = Options { length: 5000, out: folder.path().join("short"), ..options.clone() };
        assert!(run(&short).unwrap_err().to_string().contains("expected more than --length 5000"));
        assert!(!short.out.exists());
        std::fs::write(&text, b"the cat\nsat\xff").unwrap();
        assert!(
            run(&options).unwrap_err().to_string().contains("text, line 2, column 4: byte 4 of the line")
        );
        assert!(files() == before);
    }
}
