//! Whole models against PyTorch: hidden states, gradients, training curves, tokens.
//! Saved adapters are in `golden_peft.rs`.
//!
//! A small BERT and its values are committed under `tests/golden` (made by
//! `tools/make_tiny_golden.py`). `ENGRAD_GOLDEN=DIR` adds another folder of the same format; published
//! models such as all-MiniLM-L6-v2 are looked for in `DIR/../models`. `ENGRAD_DEVICE=reference|cpu|gpu`
//! restricts the run to one device, `-- FILTER` to the folders whose name contains the text, and
//! `ENGRAD_WHOLE_CURVES=1` lets slow devices follow curves to their end.
//! Each line says how far the largest error is from zero, relative to the largest magnitude stored; the
//! last one counts folders, each of which passes when all in it does, on every device.

mod common;
mod stored;
#[path = "../examples/common/tokens.rs"]
mod tokens;
mod zoo;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::larger;
use engrad::adapters::{self, Lora};
use engrad::nn::{Classifier, Encoder, EncoderConfig, TokenBatch, files, named_params};
use engrad::optim::{AdamW, Schedule};
use engrad::train::{Trainable, Trainer};
use engrad::{Device, Rng, Tensor, inference};
use stored::{Stored, deviation, summarised};

/// A model and where its references lie.
struct Subject {
    /// Holds `config.json` and `model.safetensors`.
    model: PathBuf,
    /// Holds hidden states and gradients.
    values: PathBuf,
    /// The stored training run.
    curve: PathBuf,
    /// Steps of a curve that slow devices follow; they take seconds for each of a real model.
    slow_steps: usize,
    /// How exactly the values were stored: MiniLM's were partly rounded to f32.
    stored_to: f64,
}

/// How far results may be from the stored ones, relative to the largest magnitude.
struct Tolerance {
    hidden: f64,
    /// At positions behind a sentence's end, which nothing reads. Layer norms there magnify what is
    /// left of almost equal numbers: PyTorch's own float32 run is off by 2e-5.
    padding: f64,
    gradient: f64,
    /// Absolute, over a whole curve.
    loss: f64,
}

fn tolerance(subject: &Subject, device: &Device) -> Tolerance {
    match device {
        Device::Reference => {
            let exact = subject.stored_to;
            Tolerance { hidden: exact, padding: exact, gradient: exact, loss: exact }
        }
        _ => Tolerance { hidden: 2e-5, padding: 1e-4, gradient: 1e-4, loss: 1e-4 },
    }
}

fn main() {
    let mut report = Report::default();
    let only = std::env::var("ENGRAD_DEVICE").unwrap_or_default();
    let filter = common::filter();
    let devices: Vec<Device> = common::devices()
        .into_iter()
        .filter(|device| only.is_empty() || device.to_string() == only)
        .collect();
    let published = std::env::var_os("ENGRAD_GOLDEN").map(PathBuf::from);
    if published.is_none() {
        println!("skipped: published models (set ENGRAD_GOLDEN to a folder of references)");
    }
    for golden in [Some("tests/golden".into()), published].into_iter().flatten() {
        let mut folders: Vec<_> = std::fs::read_dir(golden.join("models"))
            .expect("the golden folder has models")
            .map(|entry| entry.expect("readable").path())
            .collect();
        folders.retain(|folder| common::is_named(folder, &filter));
        folders.sort();
        for folder in folders.iter().filter(|folder| has_values(folder)) {
            for device in &devices {
                report.begin(folder, device);
                // What stops one folder is its failure, and the others go on.
                let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    check(&golden, folder, device, &mut report);
                }));
                if checked.is_err() {
                    report.that(false, "stopped by the panic above");
                }
            }
        }
    }
    println!("{} passed, {} failed", report.count(true), report.count(false));
    // A filter may be meant for other test files.
    let tried = !report.folders.is_empty() || !filter.is_empty();
    std::process::exit(i32::from(report.count(false) > 0 || !tried));
}

/// A folder without values of its own holds the base of adapters.
fn has_values(folder: &Path) -> bool {
    let mut files = std::fs::read_dir(folder).expect("readable").map(|file| file.expect("readable").path());
    files.any(|file| file.extension().is_some_and(|end| end == "json") && !file.ends_with("config.json"))
}

/// All that is stored in a folder of `golden/models`.
fn check(golden: &Path, folder: &Path, device: &Device, report: &mut Report) {
    let name = folder.file_name().expect("it was listed").to_string_lossy();
    let published = golden.join("../models");
    let subject = |model, curve, slow_steps, stored_to| Subject {
        model,
        values: folder.into(),
        curve: golden.join("train").join(curve).join("run"),
        slow_steps,
        stored_to,
    };
    let subject = match &*name {
        "bert_tiny" => subject(folder.into(), "bert_tiny", usize::MAX, 1e-12),
        "minilm" => subject(published.join("all-MiniLM-L6-v2"), "minilm_cola", 2, 1e-7),
        "gpt2-bpe" => return token_ids(folder, &published.join("gpt2-bpe"), report),
        _ => return zoo::check(folder, &published, device, report),
    };
    if folder.join("tokenise.json").exists() {
        token_ids(folder, &subject.model, report);
    }
    hidden_states(&subject, device, report);
    gradients(&subject, device, report);
    curves(&subject, device, report);
}

/// Prints what each check found and knows which folders failed.
#[derive(Default)]
struct Report {
    folders: BTreeMap<PathBuf, bool>,
    folder: PathBuf,
    context: String,
}

impl Report {
    /// What follows belongs to `folder`, which passes when all does, on every device.
    fn begin(&mut self, folder: &Path, device: &Device) {
        self.folder = folder.into();
        self.folders.entry(folder.into()).or_insert(true);
        self.context = format!("{} on {device}", folder.file_name().unwrap_or_default().to_string_lossy());
    }

    fn check(&mut self, what: &str, found: f64, allowed: f64) {
        self.that(found <= allowed, &format!("{what}: off by {found:.1e}, allowed {allowed:.0e}"));
    }

    fn that(&mut self, good: bool, what: &str) {
        println!("{} {}: {what}", if good { "ok  " } else { "FAIL" }, self.context);
        *self.folders.entry(self.folder.clone()).or_insert(true) &= good;
    }

    /// How many folders have passed, or not.
    fn count(&self, passed: bool) -> usize {
        self.folders.values().filter(|&&good| good == passed).count()
    }
}

fn batch_of(stored: &Stored, step: Option<usize>, encoder: &Encoder) -> TokenBatch {
    let (sequences, types) = stored.sequences(step);
    encoder.batch(&sequences, types.as_deref()).expect("the stored ids fit the model")
}

fn classifier(subject: &Subject, head: &Stored, prefix: &str, device: &Device) -> Classifier {
    // The references were made without dropout.
    let config = EncoderConfig::read(&subject.model).expect("the configuration loads");
    let config = EncoderConfig {
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        classifier_dropout: None,
        ..config
    };
    let encoder = Encoder::new(&config, &mut Rng::seeded(0), device).expect("it fits");
    files::load(subject.model.join("model.safetensors"), &encoder).expect("the model loads");
    let model =
        Classifier::new(encoder, head.sizes(&format!("{prefix}classifier.bias"))[0], &mut Rng::seeded(0));
    for (name, param) in named_params(&model).into_iter().filter(|(name, _)| name.starts_with("classifier")) {
        param.set(&head.tensor(&format!("{prefix}{name}"), device));
    }
    model
}

fn hidden_states(subject: &Subject, device: &Device, report: &mut Report) {
    let start = Instant::now();
    let encoder = Encoder::from_directory(&subject.model, device).expect("the model loads");
    let allowed = tolerance(subject, device);
    for file in ["encode", "pairs"] {
        let path = subject.values.join(file);
        if !path.with_extension("json").exists() {
            continue;
        }
        let stored = Stored::read(path);
        let batch = batch_of(&stored, None, &encoder);
        let (states, pooled, embedding) =
            inference(|| (encoder.hidden_states(&batch), encoder.pooled(&batch), encoder.embed(&batch)));
        let last = states.len() - 1;
        let mut all: Vec<(String, Tensor)> =
            states.into_iter().enumerate().map(|(layer, state)| (format!("hidden.{layer}"), state)).collect();
        all.push(("last_hidden".into(), all[last].1.clone()));
        all.push(("pooler_output".into(), pooled));
        all.push(("embedding".into(), embedding));
        let keep: Vec<bool> = stored.values("attention_mask").iter().map(|&counts| counts == 1.0).collect();
        for (name, found) in all.iter().filter(|(name, _)| stored.has(name)) {
            let (found, expected) = (found.to_f64(), stored.values(name));
            if !name.contains("hidden") {
                report.check(&format!("{file} {name}"), deviation(&found, &expected, 0.0), allowed.hidden);
                continue;
            }
            let [tokens, padding] = [true, false].map(|wanted| {
                let width = found.len() / keep.len();
                let of = |x: &[f64]| -> Vec<f64> {
                    let rows = x.chunks(width).zip(&keep).filter(|(_, kept)| **kept == wanted);
                    rows.flat_map(|(row, _)| row.iter().copied()).collect()
                };
                let scale = largest(expected.iter().map(|x| x.abs()));
                deviation(&of(&found), &of(&expected), scale)
            });
            report.check(&format!("{file} {name}, tokens"), tokens, allowed.hidden);
            report.check(&format!("{file} {name}, padding"), padding, allowed.padding);
        }
    }
    println!("     {}: {:.1} s", report.context, start.elapsed().as_secs_f64());
}

fn gradients(subject: &Subject, device: &Device, report: &mut Report) {
    let start = Instant::now();
    let stored = Stored::read(subject.values.join("classify_grad"));
    let model = classifier(subject, &stored, "", device);
    let batch = batch_of(&stored, None, &model.encoder);
    let labels = stored.labels("labels", None, model.head.outputs());
    let allowed = tolerance(subject, device);
    let logits = model.forward(&batch);
    report.check("logits", deviation(&logits.to_f64(), &stored.values("logits"), 0.0), allowed.hidden);
    let loss = logits.cross_entropy(&labels);
    report.check("loss", (loss.item() - stored.number("loss")).abs(), allowed.hidden);
    let gradients = loss.backward();
    let mut worst = (0.0, String::new());
    for (name, param) in named_params(&model) {
        let found = gradients.of(&param.value()).expect("every parameter matters").to_f64();
        let off = gradient_deviation(&stored, &name, &found, *param.sizes().last().expect("no scalars"));
        if off > worst.0 || off.is_nan() {
            worst = (off, name.clone());
        }
    }
    report.check(&format!("every gradient, worst {}", worst.1), worst.0, allowed.gradient);
    println!("     {}: {:.1} s", report.context, start.elapsed().as_secs_f64());
}

/// The gradient of a key's bias is zero but for rounding, since softmax does not see a shift; it is
/// measured against what the key's weight receives.
fn gradient_scale(stored: &Stored, name: &str) -> f64 {
    let largest = |values: Vec<f64>| values.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let Some(weight) = name.strip_suffix("self.key.bias").map(|start| format!("grad.{start}self.key.weight"))
    else {
        return 0.0;
    };
    match stored.has(&weight) {
        true => largest(stored.values(&weight)),
        false => stored.values(&format!("{weight}.stats"))[2],
    }
}

/// The deviation of one parameter's gradient from what is stored of it: all, or sums and samples.
fn gradient_deviation(stored: &Stored, name: &str, found: &[f64], width: usize) -> f64 {
    let key = format!("grad.{name}");
    if stored.has(&key) {
        return deviation(found, &stored.values(&key), gradient_scale(stored, name));
    }
    summarised(stored, &key, found, width)
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, larger)
}

fn curves(subject: &Subject, device: &Device, report: &mut Report) {
    let stored = Stored::read(&subject.curve);
    let run = &stored.notes;
    let lora = || {
        let model = classifier(subject, &stored, "init.", device);
        let (rank, alpha) = (
            run["lora"]["r"].as_u64().expect("a number"),
            run["lora"]["lora_alpha"].as_f64().expect("a number"),
        );
        let method = Lora { alpha, ..Lora::new(rank as usize) };
        let tuned = adapters::attach(&model, "*.attention.self.{query,value}", method)
            .and_then(|tuned| tuned.also_train("classifier.*"))
            .expect("the model has these layers");
        for (path, param) in tuned.trainable() {
            let start = format!("lora_init.{path}");
            if stored.has(&start) {
                param.set(&stored.tensor(&start, device));
            }
        }
        (model, tuned)
    };
    let (model, tuned) = lora();
    follow("lora", subject, &stored, &model, tuned, device, report);
    let model = classifier(subject, &stored, "init.", device);
    follow("full", subject, &stored, &model, &model, device, report);
}

/// The reference device and a GPU that computes on the processor, unless `ENGRAD_WHOLE_CURVES=1` gives them
/// the time.
fn is_slow(device: &Device) -> bool {
    let computes_slowly = match device {
        Device::Reference => true,
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu.adapter().is_software(),
        _ => false,
    };
    computes_slowly && std::env::var("ENGRAD_WHOLE_CURVES").map_or(true, |whole| whole != "1")
}

/// Follows a stored curve step by step.
fn follow(
    name: &str,
    subject: &Subject,
    stored: &Stored,
    model: &Classifier,
    trained: impl Trainable,
    device: &Device,
    report: &mut Report,
) {
    let start = Instant::now();
    let curve = &stored.notes[format!("{name}_curve")]["float64"];
    let series = |key: &str| -> Vec<f64> {
        curve[key].as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
    };
    let (losses, norms) = (series("loss"), series("grad_norm"));
    let total = stored.sizes("input_ids")[0] as u64;
    let rate = stored.notes[name]["lr"].as_f64().expect("a number");
    let mut trainer = Trainer::new(trained, AdamW::new(0.01), Schedule::linear(rate, 5, total)).clipped(1.0);
    let steps = if is_slow(device) { losses.len().min(subject.slow_steps) } else { losses.len() };
    let (mut loss_off, mut norm_off): (f64, f64) = (0.0, 0.0);
    for step in 0..steps {
        let batch = batch_of(stored, Some(step), &model.encoder);
        let labels = stored.labels("labels", Some(step), model.head.outputs());
        let done = trainer.step(|| model.forward(&batch).cross_entropy(&labels)).expect("a finite step");
        loss_off = larger(loss_off, (done.loss - losses[step]).abs());
        norm_off = larger(norm_off, (done.norm.expect("clipped") - norms[step]).abs() / norms[step]);
    }
    let allowed = tolerance(subject, device);
    report.check(
        &format!("{name} curve, losses of {steps} of {} steps", losses.len()),
        loss_off,
        allowed.loss,
    );
    // A norm moves with the weights, and these with every step before: ten times the loss's share.
    report.check(&format!("{name} curve, gradient norms"), norm_off, 10.0 * allowed.loss);
    println!("     {}: {:.2} s a step", report.context, start.elapsed().as_secs_f64() / steps as f64);
}

/// The published tokenizer gives the stored ids.
fn token_ids(folder: &Path, model: &Path, report: &mut Report) {
    let tokenizer = tokens::need(model).expect("it loads");
    let text = std::fs::read_to_string(folder.join("tokenise.json")).expect("readable");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&text).expect("a list");
    let wrong = rows.iter().filter(|row| {
        let encoding = tokenizer.encode(row["text"].as_str().expect("a text"), true).expect("it encodes");
        serde_json::json!(encoding.get_ids()) != row["ids"]
    });
    let wrong: Vec<_> = wrong.map(|row| &row["text"]).collect();
    report.that(wrong.is_empty(), &format!("{} texts give their ids, except {wrong:?}", rows.len()));
}
