//! Pretrains a small decoder of GPT-2's kind on a text file, as a base for adaptation.
//!
//! ```text
//! cargo run --release --example pretrain -- --text FILE --out DIR
//! cargo run --release --example generate -- --model DIR "Once"
//! cargo run --release --example train -- --model DIR --task e2e --data DIR --out runs/e2e
//! ```
//! The vocabulary, byte-level pairs, is learned from the text first. The last tenth of the text is not
//! trained on, but measured. Started again with the same options, it goes on from its last checkpoint; a directory that
//! holds any other model is refused.
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

use std::path::PathBuf;
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
#[derive(Clone, Debug, Parser, Serialize, Deserialize)]
struct Options {
    /// A text in UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Where the model goes: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
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

impl Options {
    /// What other options say otherwise, by name. The directory is left out: results do not depend on it.
    ///
    /// **Errors** when a path cannot be written as text.
    fn differences(&self, other: &Options) -> Result<Vec<String>> {
        let said = |options: &Options| {
            serde_json::to_value(options).map_err(|error| Error::Config(error.to_string()))
        };
        let (ours, theirs) = (said(self)?, said(other)?);
        let names = ours.as_object().into_iter().flat_map(|ours| ours.keys());
        let different = names.filter(|name| ours[*name] != theirs[*name]);
        Ok(different.map(|name| format!("{name} is {} there, here {}", theirs[name], ours[name])).collect())
    }
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

/// Begins a run in its directory.
fn begin(options: &Options, tokenizer: &Tokenizer) -> Result<()> {
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(|source| Error::Io { path: out.clone(), source })?;
    record(options, &[])?;
    let path = out.join(TOKENIZER);
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

/// What an earlier run of the same options has left to go on from, if anything.
///
/// **Errors** when the directory holds another model, which would be lost.
fn begun(options: &Options) -> Result<Option<Begun>> {
    let there = |name: &&str| options.out.join(name).exists();
    let refused = |what: String| {
        Err(Error::Config(format!("{} holds {what}; choose another --out", options.out.display())))
    };
    let Some(found) = ["config.json", "model.safetensors", CHECKPOINT, TOKENIZER].into_iter().find(there)
    else {
        return Ok(None);
    };
    if !there(&RECORD) {
        return refused(format!("{found} already, and no {RECORD} to go on by"));
    }
    // Killed before its first checkpoint: what there is, is quickly made again.
    if found == TOKENIZER {
        return Ok(None);
    }
    let path = options.out.join(RECORD);
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let begun: Begun =
        serde_json::from_str(&text).map_err(|error| Error::Format { path, what: error.to_string() })?;
    let differences = options.differences(&begun.options)?;
    if !differences.is_empty() {
        return refused(format!("a model of other options: {}", differences.join("; ")));
    }
    if !there(&CHECKPOINT) {
        return refused(format!("{found} already, and no {CHECKPOINT} to go on from"));
    }
    Ok(Some(begun))
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
    use std::path::Path;

    use super::*;

    /// Options of a small run on a text, which is written to `folder`, and where its model goes.
    fn small(folder: &Path, text: &str, out: &str) -> Options {
        let path = folder.join("text");
        std::fs::write(&path, text.repeat(300)).unwrap();
        let words = [
            "pretrain",
            "--width=16",
            "--layers=1",
            "--heads=2",
            "--length=16",
            "--steps=60",
            "--vocabulary=300",
            "--rate=0.01",
            "--text",
            path.to_str().unwrap(),
            "--out",
            folder.join(out).to_str().unwrap(),
        ]
        .map(String::from);
        Options::parse_from(words)
    }

    const CAT: &str = "the cat sat on the mat, and the dog sat on the cat.\n";
    const FILES: [&str; 5] = ["config.json", "model.safetensors", CHECKPOINT, TOKENIZER, RECORD];

    #[test]
    fn a_small_decoder_is_learned_from_a_text_saved_and_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let options = small(folder.path(), CAT, "out");
        let (loss, bits) = run(&options).unwrap();
        assert!(loss > 0.0 && loss < 3.0 && bits < loss, "{loss} {bits}");
        let saved = Pretrained::from_directory(&options.out, &Device::Cpu).unwrap();
        assert!(matches!(saved.model, Model::CausalLm(_)));
        // Nothing is left to do, and nothing is done again, wherever the directory is by now.
        let moved = Options { out: folder.path().join("moved"), ..options.clone() };
        std::fs::rename(&options.out, &moved.out).unwrap();
        assert!(begun(&moved).unwrap().is_some_and(|begun| begun.losses.len() == 60));
        assert_eq!(run(&moved).unwrap(), (loss, bits));
        // What cannot be begun leaves nothing.
        let short = Options { length: 5000, ..options.clone() };
        assert!(run(&short).unwrap_err().to_string().contains("expected more than --length 5000"));
        std::fs::write(&options.text, b"the cat\nsat\xff").unwrap();
        let error = run(&options).unwrap_err().to_string();
        assert!(error.contains("text, line 2, column 4: byte 4 of the line"), "{error}");
        assert!(!options.out.exists());
    }

    #[test]
    fn what_was_killed_before_its_first_checkpoint_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let cat = small(folder.path(), CAT, "out");
        begin(&cat, &learned(CAT, &cat).unwrap()).unwrap();
        let zebra = small(folder.path(), "zebras graze where other zebras gaze\n", "out");
        run(&Options { steps: 20, ..zebra }).unwrap();
        let words = tokens::need(&cat.out).unwrap().get_vocab(true);
        assert!(words.into_keys().any(|word| word.contains("zebra")));
    }

    #[test]
    fn no_model_is_lost_to_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let made = Options { steps: 20, ..small(folder.path(), CAT, "out") };
        run(&made).unwrap();
        let longer = Options { steps: 30, rate: 0.5, ..made.clone() };
        let different = "a model of other options: rate is 0.01 there, here 0.5; steps is 20 there, here 30";
        // Each row begins by removing files.
        for (removed, options, expected) in [
            (&[][..], &longer, different),
            (&["config.json", "model.safetensors"], &longer, different),
            (&[RECORD], &made, "checkpoint.safetensors already, and no pretraining.json to go on by"),
            (&[CHECKPOINT], &made, "tokenizer.json already, and no pretraining.json to go on by"),
        ] {
            removed.iter().for_each(|name| std::fs::remove_file(made.out.join(name)).unwrap());
            let files = || FILES.map(|name| std::fs::read(made.out.join(name)).ok());
            let before = files();
            let outcome = run(options);
            assert!(files() == before, "without {removed:?}: {outcome:?}");
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(&format!("out holds {expected}; choose another --out")), "{error}");
        }
        run(&Options { out: folder.path().join("other"), ..made.clone() }).unwrap();
        std::fs::remove_file(folder.path().join("other").join(CHECKPOINT)).unwrap();
        let error = run(&Options { out: folder.path().join("other"), ..made }).unwrap_err().to_string();
        assert!(
            error.contains("config.json already, and no checkpoint.safetensors to go on from"),
            "{error}"
        );
    }
}
