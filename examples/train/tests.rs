//! What the tool promises: that a kill loses nothing, that every method and task trains, and what it saves measures
//! the same. Read next: `settings_tests.rs`, then `study_tests.rs`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use engrad::nn::{Encoder, EncoderConfig, Pretrained, files};
use engrad::{Device, Rng, Tensor};

use super::folder::Line;
use super::report::table;
use super::subject;
use super::*;

const WORDS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// A directory with a tiny encoder, and sentences that are acceptable when they hold a `b` (CoLA's layout).
pub fn tiny() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let config = EncoderConfig {
        vocab_size: 9,
        hidden_size: 8,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 12,
        max_position_embeddings: 12,
        hidden_dropout_prob: 0.1,
        attention_probs_dropout_prob: 0.1,
        initializer_range: 0.3,
        ..EncoderConfig::default()
    };
    let encoder = Encoder::new(&config, &mut Rng::seeded(1), &Device::Cpu).unwrap();
    encoder.save_directory(directory.path().join("model")).unwrap();
    let vocabulary: BTreeMap<&str, usize> = std::iter::once("[pad]").chain(WORDS).zip(0..).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[pad]"},
    });
    fs::write(directory.path().join("model/tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut rng = Rng::seeded(2);
    let mut rows = |count: usize| {
        let row = |_| {
            let words: Vec<&str> = (0..2 + rng.below(9)).map(|_| WORDS[rng.below(8)]).collect();
            format!("x\t{}\t\t{}\n", u8::from(words.contains(&"b")), words.join(" "))
        };
        (0..count).map(row).collect::<String>()
    };
    fs::create_dir(directory.path().join("data")).unwrap();
    fs::write(directory.path().join("data/train.tsv"), rows(60)).unwrap();
    fs::write(directory.path().join("data/dev.tsv"), rows(40)).unwrap();
    directory
}

/// The command line of a run in the directory of [`tiny`], and more flags.
fn arguments(directory: &Path, out: &str, more: &[&str]) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["train".into(), "--task=cola".into()];
    for (flag, name) in [("--model", "model"), ("--data", "data"), ("--out", out)] {
        words.extend([flag.into(), directory.join(name).into()]);
    }
    words.extend(more.iter().map(OsString::from));
    words
}

pub fn settings(directory: &Path, out: &str, more: &[&str]) -> Settings {
    options::read(&arguments(directory, out, more)).unwrap().settings
}

pub fn go(settings: Settings) -> Outcome {
    fresh(settings, &AtomicBool::new(false)).unwrap()
}

/// A run in which everything that a checkpoint must hold takes part: ranks that grow, dropout, several batches
/// an update, rows by length, measurements between checkpoints.
const KILLED: [&str; 9] = [
    "--method=triadaptlora",
    "--rank=3",
    "--adapter-dropout=0.1",
    "--batch=4",
    "--accumulate=2",
    "--bucket=3",
    "--steps=120",
    "--evaluate=9",
    "--checkpoint=4",
];
const RUN: &str = "ENGRAD_TRAIN_TEST_RUN";

/// The process that [`a_run_that_is_killed_at_any_moment_ends_with_the_same_bits`] kills; alone it does nothing.
#[test]
fn killed() {
    let Ok(directory) = std::env::var(RUN) else { return };
    let directory = Path::new(&directory);
    let never = AtomicBool::new(false);
    match directory.join("killed/run.toml").exists() {
        true => resume(&directory.join("killed"), &never).unwrap(),
        false => fresh(settings(directory, "killed", &KILLED), &never).unwrap(),
    };
}

/// All that must not depend on kills: weights, log and measures, without times.
pub fn remains(run: &Path) -> (Vec<Vec<u8>>, Vec<Line>, BTreeMap<String, f64>) {
    let files = [
        "checkpoint.safetensors",
        "best/adapter_model.safetensors",
        "best/adapter_config.json",
        "answers.tsv",
    ];
    let (mut folder, _) = Folder::open(run).unwrap();
    let outcome = folder.outcome().unwrap().unwrap();
    folder.keep(outcome.steps).unwrap();
    let without_time = |line: &Line| match line.clone() {
        Line::Step { step, loss, rate, norm, .. } => Line::Step { step, loss, rate, norm, seconds: 0.0 },
        Line::Measured { step, score, values, ranks, .. } => {
            Line::Measured { step, score, values, ranks, seconds: 0.0 }
        }
    };
    let lines = folder.lines().iter().map(without_time).collect();
    (files.iter().map(|name| fs::read(run.join(name)).unwrap()).collect(), lines, outcome.values)
}

#[test]
fn a_run_that_is_killed_at_any_moment_ends_with_the_same_bits() {
    let directory = tiny();
    let killed = directory.path().join("killed");
    let spawn = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::killed"])
            .env(RUN, directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let started = Instant::now();
    assert!(spawn().wait().unwrap().success());
    let whole = started.elapsed();
    let undisturbed = remains(&killed);
    assert!(
        undisturbed
            .1
            .iter()
            .any(|line| matches!(line, Line::Measured { ranks, .. } if ranks.iter().sum::<usize>() > 4))
    );
    fs::remove_dir_all(&killed).unwrap();

    let mut rng = Rng::seeded(3);
    let (mut kills, mut resumed, mut finished) = (0, 0, 0);
    // The first line of the log, with its time: what came before a checkpoint is not done again.
    let mut first: Option<String> = None;
    let read_first = || fs::read_to_string(killed.join("log.jsonl")).ok()?.lines().next().map(String::from);
    while kills < 20 || finished == 0 {
        if killed.join("checkpoint.safetensors").exists() {
            resumed += 1;
            first = first.or_else(read_first);
        }
        let mut process = spawn();
        if kills < 20 {
            std::thread::sleep(whole.mul_f64(0.6 * rng.uniform()));
            // A process that has ended already cannot be killed any more.
            process.kill().unwrap();
        }
        let status = process.wait().unwrap();
        if status.code().is_none() {
            kills += 1;
            continue;
        }
        assert!(status.success(), "{}", killed.display());
        finished += 1;
        assert!(remains(&killed) == undisturbed, "the run differs after {kills} kills");
        assert!(first.is_none() || first == read_first(), "the first step was done twice");
        first = None;
        fs::remove_dir_all(&killed).unwrap();
    }
    assert!(resumed > 5, "only {resumed} of the killed runs had a checkpoint");
}

#[test]
fn every_method_trains_and_what_it_saves_measures_the_same() {
    let directory = tiny();
    for name in subject::names() {
        let more = [
            &format!("--method={name}"),
            "--rank=2",
            "--steps=6",
            "--evaluate=3",
            "--batch=8",
            "--rate=0.01",
        ];
        // The tool itself refuses weights that measure otherwise when they are read from their files.
        let outcome = go(settings(directory.path(), name, &more.map(|word: &str| word)));
        assert!(outcome.steps == 6 && outcome.trained > 0 && outcome.best_step > 0, "{name}: {outcome:?}");
        let picture = fs::read_to_string(directory.path().join(name).join("loss.svg")).unwrap();
        assert!(picture.starts_with("<svg"), "{name}");
    }
}

/// A tiny decoder, and records with two texts each, in E2E's layout.
pub fn tiny_decoder() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let words = "[end] name : | area is in the at Ann Bob Cid north south east west . there".split(' ');
    let vocabulary: BTreeMap<&str, usize> = words.zip(0..).collect();
    let config = serde_json::json!({
        "model_type": "gpt2", "vocab_size": vocabulary.len(), "n_embd": 32, "n_layer": 2, "n_head": 2,
        "initializer_range": 0.1, "n_positions": 32, "eos_token_id": [0],
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    });
    let model = Pretrained::from_config(config, &mut Rng::seeded(1), &Device::Cpu).unwrap();
    model.save(directory.path().join("model")).unwrap();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[end]"},
    });
    fs::write(directory.path().join("model/tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut rows = "mr,ref\n".to_string();
    for name in ["Ann", "Bob", "Cid"] {
        for area in ["north", "south", "east", "west"] {
            for text in ["is in the", "is at the"] {
                rows += &format!("\"name[{name}], area[{area}]\",{name} {text} {area} .\n");
            }
        }
    }
    fs::create_dir(directory.path().join("data")).unwrap();
    fs::write(directory.path().join("data/trainset.csv"), &rows).unwrap();
    fs::write(directory.path().join("data/devset.csv"), &rows).unwrap();
    directory
}

#[test]
fn a_decoder_learns_to_put_records_into_words() {
    let directory = tiny_decoder();
    let more = [
        "--task=e2e",
        "--method=full",
        "--steps=600",
        "--evaluate=200",
        "--rate=0.01",
        "--batch=8",
        "--beams=3",
    ];
    let outcome = go(settings(directory.path(), "run", &more));
    let measure = |name: &str| outcome.values[name];
    assert!(measure("bleu") > 90.0 && measure("bleu") == outcome.score, "{outcome:?}");
    // Two texts for each record differ in one of six tokens: nobody can guess which.
    assert!((measure("loss") - 2f64.ln() / 6.0).abs() < 0.05, "{outcome:?}");
    let answers = fs::read_to_string(directory.path().join("run/answers.jsonl")).unwrap();
    assert!(answers.lines().count() == 12 && answers.contains("\"text\":\"Ann is "), "{answers}");

    let adapted =
        ["--task=e2e", "--rank=2", "--steps=4", "--beams=2", "--dev-rows=3", "--label-smoothing=0.1"];
    let outcome = go(settings(directory.path(), "lora", &adapted));
    assert!(outcome.trained == 2 * 2 * (32 + 96) && outcome.values["chrf"] >= 0.0, "{outcome:?}");
}

#[test]
fn a_masked_language_model_is_a_base_too() {
    let directory = tiny();
    let file = directory.path().join("model/model.safetensors");
    // As BERT itself is published.
    let tensors = files::read(&file, &Device::Cpu).unwrap().tensors;
    let mut tensors: BTreeMap<String, Tensor> =
        tensors.into_iter().map(|(name, tensor)| (format!("bert.{name}"), tensor)).collect();
    tensors.insert("cls.predictions.bias".into(), Tensor::zeros([9], &Device::Cpu));
    files::write(&file, &tensors, Default::default()).unwrap();
    go(settings(directory.path(), "run", &["--steps=2"]));
    tensors.retain(|name, _| !name.contains("pooler"));
    files::write(&file, &tensors, Default::default()).unwrap();
    go(settings(directory.path(), "without a pooler", &["--steps=2"]));
}

#[test]
fn texts_beyond_the_positions_are_cut_with_every_method() {
    let encoder = tiny();
    let row = format!("x\t1\t\t{}\n", "a b c d ".repeat(10));
    fs::write(encoder.path().join("data/train.tsv"), row.repeat(6)).unwrap();
    let decoder = tiny_decoder();
    let rows = format!("mr,ref\nname[{}],Ann is in the north .\n", "Ann Bob ".repeat(20));
    fs::write(decoder.path().join("data/trainset.csv"), &rows).unwrap();
    fs::write(decoder.path().join("data/devset.csv"), &rows).unwrap();
    for method in ["full", "prompt-tuning", "prefix-tuning"] {
        let more = [&format!("--method={method}"), "--rank=3", "--steps=2", "--max-length=100", "--beams=2"];
        let more = more.map(|word: &str| word);
        go(settings(encoder.path(), method, &more));
        go(settings(decoder.path(), method, &[&more[..], &["--task=e2e"]].concat()));
    }
}

#[test]
fn training_stops_when_measurements_get_no_better() {
    let directory = tiny();
    // A rate at which nothing changes: the first measurement stays the best.
    let more =
        ["--rate=1e-30", "--weight-decay=0", "--steps=50", "--evaluate=2", "--patience=3", "--warm-up=0"];
    let outcome = go(settings(directory.path(), "run", &more));
    assert_eq!((outcome.steps, outcome.best_step), (8, 2));
}

#[test]
fn a_measure_without_a_value_is_kept_as_such() {
    let directory = tiny();
    let row = "x\tx\tx\tx\t2.5\ta b\tc\n";
    fs::write(directory.path().join("data/sts-train.csv"), row.repeat(8)).unwrap();
    // One answer correlates with nothing.
    fs::write(directory.path().join("data/sts-dev.csv"), row).unwrap();
    let run = directory.path().join("run");
    let outcome = go(settings(directory.path(), "run", &["--task=stsb", "--steps=4", "--evaluate=2"]));
    let nothing = |outcome: &Outcome| outcome.score.is_nan() && outcome.values["pearson"].is_nan();
    assert!(nothing(&outcome), "{outcome:?}");
    let never = AtomicBool::new(false);
    assert!(nothing(&resume(&run, &never).unwrap()));
    assert!(table(&report::finished(std::slice::from_ref(&run)).unwrap().0, "lora").contains("pearson NaN"));
    // The log holds the measurements for a run that goes on.
    fs::remove_file(run.join("result.json")).unwrap();
    assert_eq!(resume(&run, &never).unwrap().best_step, outcome.best_step);
}
