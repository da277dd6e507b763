//! Adapters that PEFT saved, against the values that PEFT computed with them.
//!
//! `cargo test --release --test golden_peft -- --nocapture` runs the small folders committed under
//! `tests/golden/peft` (made by `tools/make_tiny_golden.py`). `ENGRAD_GOLDEN=DIR` runs another golden
//! folder instead, whose models are looked for where each reference says, `ENGRAD_DEVICE=NAME` one
//! device instead of all, and `-- FILTER` the folders whose name contains the text. A folder passes
//! when on every device the outputs before, with and after merging the adapter agree, and the loss,
//! each gradient, each merged weight, and the file that we save of it. A larger golden folder also has a
//! run of AdaLoRA with its allocator. The last line counts folders.
//! What is saved stays under `target/tmp`, where `tools/peft_interop.py` lets PEFT load it.

mod common;
mod stored;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use common::larger;
use engrad::adapters::{self, AdaLora, Adapted};
use engrad::nn::{
    Cache, CausalLm, Classifier, Encoder, LanguageModel, Model, Module, Pretrained, Sequences, Side,
    TokenBatch, Walker, Weights, files, named_params, sockets,
};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Ids, Rng, Tensor, inference};
use stored::{Stored, deviation, summarised};

fn main() -> ExitCode {
    let root = std::env::var_os("ENGRAD_GOLDEN").map_or("tests/golden".into(), PathBuf::from);
    let filter = common::filter();
    let devices = match std::env::var("ENGRAD_DEVICE") {
        Ok(name) => vec![name.parse().expect("ENGRAD_DEVICE names a device")],
        Err(_) => common::devices(),
    };
    let entries = std::fs::read_dir(root.join("peft")).expect("the golden folder has adapters");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    folders.retain(|folder| common::is_named(folder, &filter));
    folders.sort();
    let mut counts = [0, 0];
    for folder in &folders {
        let passed = devices.iter().filter(|device| check(&root, folder, device)).count();
        counts[usize::from(passed < devices.len())] += 1;
    }
    let run = root.join("train/adalora_allocation");
    if run.exists() && common::is_named(&run, &filter) {
        let passed = devices.iter().filter(|device| allocation(&root, &run, device)).count();
        counts[usize::from(passed < devices.len())] += 1;
    }
    println!("{} passed, {} failed", counts[0], counts[1]);
    // A filter may be meant for other test files.
    let tried = counts[0] > 0 || !filter.is_empty();
    if counts[1] == 0 && tried { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// AdaLoRA's allocator over a whole run: every loss, the ranks left at each site after every step, and
/// all values where they are stored.
fn allocation(root: &Path, path: &Path, device: &Device) -> bool {
    let stored = Stored::read(path.join("run"));
    let Base::Decoder(model) = Base::read(root, &stored, device) else { panic!("a language model") };
    let number = |key: &str| stored.notes["config"][key].as_f64().expect("a setting of the run");
    let [first, target] = ["init_r", "target_r"].map(|key| number(key) as usize);
    let method = AdaLora {
        alpha: number("lora_alpha"),
        warm_up: number("tinit") as u64,
        final_steps: number("tfinal") as u64,
        interval: number("deltaT") as u64,
        orthogonality: number("orth_reg_weight"),
        ..AdaLora::new(first, target, number("total_step") as u64)
    };
    let tuned = adapters::attach(&model, ["c_attn", "c_fc", "c_proj"], method).expect("it has these layers");
    for (name, param) in tuned.trainable() {
        param.set(&stored.tensor(&format!("init.{name}"), device));
    }
    let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.02));
    let [mut loss_off, mut value_off] = [0.0f64; 2];
    let mut decided = true;
    let [_, rows, time] = stored.sizes("batches")[..] else { panic!("[step, batch, time]") };
    let batches = stored.values("batches");
    for (step, log) in batches.chunks(rows * time).zip(stored.notes["log"].as_array().expect("a list")) {
        let texts: Vec<Vec<u32>> =
            step.chunks(time).map(|row| row.iter().map(|&id| id as u32).collect()).collect();
        let batch = model.batch(&texts, Side::Right).expect("it fits");
        let done = trainer.step(|| model.loss(&batch)).expect("a finite step");
        let expected = log["loss"].as_f64().expect("a number");
        loss_off = larger(loss_off, (done.loss - expected).abs());
        for (name, param) in trainer.subject.trainable() {
            let (found, step) = (param.value().to_f64(), &log["step"]);
            let alive = found.iter().filter(|value| **value != 0.0).count();
            decided &= !name.ends_with("lora_E") || log["nonzero_E"][&name] == alive;
            // Of the singular values the file holds the last state only, under each step's name.
            let key = format!("step{step}.{name}");
            if stored.has(&key) && (!name.ends_with("lora_E") || *step == 60) {
                value_off = larger(value_off, deviation(&found, &stored.values(&key), 0.0));
            }
        }
    }
    // Adam turns the sign of a tiny gradient into a whole step, so single values drift in f32.
    let allowed = if *device == Device::Reference { [1e-8, 1e-7] } else { [1e-4, 1e-3] };
    let good = decided && loss_off <= allowed[0] && value_off <= allowed[1];
    let (mark, same) = (if good { "ok  " } else { "FAIL" }, if decided { "the same" } else { "other" });
    println!(
        "{mark} adalora_allocation on {device}: losses off by {loss_off:.1e}, values by {value_off:.1e}, \
         {same} ranks at every step"
    );
    good
}

/// One folder on one device.
fn check(root: &Path, path: &Path, device: &Device) -> bool {
    let start = Instant::now();
    let name = path.file_name().expect("it was listed").to_string_lossy().into_owned();
    let reference = *device == Device::Reference;
    // Some reference values are rounded to f32, and so is what PEFT saved of a projected prompt: 1e-6.
    let projected = ["_projection", "p_tuning"].iter().any(|end| name.ends_with(end));
    let allowed = match () {
        () if !reference => [2e-5, 1e-4],
        () if projected => [1e-6; 2],
        () => [1e-7; 2],
    };
    let stored = Stored::read(path.join("reference"));
    let model = Base::read(root, &stored, device);
    let mut folder = Folder { path, name, stored, device, allowed, worst: [0.0; 2], wrong: Vec::new() };
    folder.run(&model);
    let ([values, gradients], seconds) = (folder.worst, start.elapsed().as_secs_f64());
    println!(
        "{} {} on {device}: values off by {values:.1e}, gradients by {gradients:.1e}, {seconds:.1} s{}",
        if folder.wrong.is_empty() { "ok  " } else { "FAIL" },
        folder.name,
        folder.wrong.join("")
    );
    folder.wrong.is_empty()
}

/// The model below an adapter.
enum Base {
    Decoder(CausalLm),
    Classifier(Classifier),
}

/// Its input.
enum Batch {
    Sequences(Sequences),
    Tokens(TokenBatch),
}

impl Base {
    /// The model that a reference was made with: a language model, or an encoder with a stored head.
    fn read(root: &Path, stored: &Stored, device: &Device) -> Base {
        let base = stored.notes["base"].as_str().expect("a reference names its model");
        let beside = |path: &str| root.join(path);
        let directory = match base.strip_prefix("golden/") {
            Some(inside) => beside(inside),
            None if beside(base).exists() => beside(base),
            None => root.join("..").join(base),
        };
        if !stored.has("init_classifier.bias") {
            let loaded = Pretrained::from_directory(directory, device).expect("the model loads");
            let Model::CausalLm(model) = loaded.model else { panic!("{base} is a language model") };
            return Base::Decoder(model);
        }
        let encoder = Encoder::from_directory(directory, device).expect("the model loads");
        let labels = stored.sizes("init_classifier.bias")[0];
        let model = Classifier::new(encoder, labels, &mut Rng::seeded(0));
        for (name, param) in named_params(&model).iter().filter(|(name, _)| name.starts_with("classifier")) {
            param.set(&stored.tensor(&format!("init_{name}"), device));
        }
        Base::Classifier(model)
    }

    fn batch(&self, stored: &Stored) -> Batch {
        let (rows, types) = stored.sequences(None);
        match self {
            Base::Decoder(model) => Batch::Sequences(model.batch(&rows, Side::Right).expect("it fits")),
            Base::Classifier(model) => {
                Batch::Tokens(model.encoder.batch(&rows, types.as_deref()).expect("it fits"))
            }
        }
    }

    fn logits(&self, batch: &Batch) -> Tensor {
        match (self, batch) {
            // Scores of virtual tokens are compared too.
            (Base::Decoder(model), Batch::Sequences(batch)) => {
                let mut states = model.body.all_states(&batch.ids, &mut Cache::none(batch.starts()));
                model.head(&states.pop().expect("at least the input"))
            }
            (Base::Classifier(model), Batch::Tokens(batch)) => model.forward(batch),
            _ => unreachable!("a model makes its own batches"),
        }
    }

    fn loss(&self, logits: &Tensor, batch: &Batch, stored: &Stored) -> Tensor {
        match batch {
            Batch::Tokens(_) => logits.cross_entropy(&stored.labels("labels", None, logits.size(-1))),
            Batch::Sequences(batch) => {
                // A label belongs to the token before it, which may be virtual; some tokens do not count.
                let (labels, time, front) =
                    (stored.values("labels"), batch.time(), logits.size(1) - batch.time());
                let next = labels.chunks(time).flat_map(|row| {
                    let row = [vec![-1.0; front], row.to_vec(), vec![-1.0]].concat();
                    row[1..]
                        .iter()
                        .map(|&id| if id < 0.0 { Ids::IGNORED } else { id as u32 })
                        .collect::<Vec<_>>()
                });
                let next: Vec<u32> = next.collect();
                let sizes = [next.len()];
                let next = Ids::new(next, sizes, logits.size(-1)).expect("valid labels");
                logits.flatten(0, 1).cross_entropy(&next)
            }
        }
    }

    /// What a base parameter has become with the adapter in it, as a file holds it.
    fn adapted(&self, path: &str) -> Tensor {
        let (module, name) = path.rsplit_once('.').expect("a module and a name");
        let params = named_params(self);
        let (_, param) = params.iter().find(|(other, _)| other == path).expect("a parameter of the model");
        let mut layers = sockets(self).into_iter().filter(|(_, layer)| !layer.is_embedding());
        let linear = layers.find(|(other, _)| other == module);
        let value = match linear.and_then(|(_, linear)| Some((linear.adapter()?, linear.base()))) {
            None => param.value(),
            Some((adapter, base)) => {
                let Weights { weight, bias } = inference(|| adapter.adapt(&base));
                if name == "weight" { weight } else { bias.expect("the layer has a bias") }
            }
        };
        param.stored(&value)
    }
}

impl Module for Base {
    fn walk(&self, at: &mut Walker<'_>) {
        match self {
            Base::Decoder(model) => model.walk(at),
            Base::Classifier(model) => model.walk(at),
        }
    }
}

struct Folder<'a> {
    path: &'a Path,
    name: String,
    stored: Stored,
    device: &'a Device,
    /// How far values and gradients may be off, relative to the largest.
    allowed: [f64; 2],
    /// How far they are.
    worst: [f64; 2],
    wrong: Vec<String>,
}

impl Folder<'_> {
    fn run(&mut self, model: &Base) {
        let batch = model.batch(&self.stored);
        let before = inference(|| model.logits(&batch));
        self.logits("base_logits", &before, &batch);
        let tuned = match adapters::load(model, self.path) {
            Ok(tuned) => tuned,
            Err(error) => return self.wrong.push(format!("\n       {error}")),
        };
        let batch = model.batch(&self.stored);
        let logits = model.logits(&batch);
        self.logits("logits", &logits, &batch);
        let loss = model.loss(&logits, &batch, &self.stored);
        let loss = tuned.penalty().map_or(loss.clone(), |penalty| loss + penalty);
        self.value("loss", &loss.to_f64(), &self.stored.values("loss"));
        self.gradients(&tuned, loss);
        self.saved(&tuned);
        if self.stored.notes["merged_params_changed"].is_null() && !self.stored.has("merged_loss") {
            return;
        }
        self.merged_weights(model);
        tuned.merge().unwrap();
        let merged = inference(|| model.logits(&batch));
        self.logits("logits", &merged, &batch);
        let loss = model.loss(&merged, &batch, &self.stored);
        self.value("merged_loss", &loss.to_f64(), &self.stored.values("merged_loss"));
        tuned.unmerge();
        tuned.detach();
    }

    fn that(&mut self, good: bool, what: &str) {
        if !good {
            self.wrong.push(format!("\n       {what}"));
        }
    }

    fn off(&mut self, kind: usize, what: &str, off: f64) {
        self.worst[kind] = larger(self.worst[kind], off);
        self.that(off <= self.allowed[kind], &format!("{what}: off by {off:.1e}"));
    }

    fn value(&mut self, what: &str, found: &[f64], expected: &[f64]) {
        self.off(0, what, deviation(found, expected, 0.0));
    }

    /// Scores of the tokens, virtual ones included; padding means nothing.
    fn logits(&mut self, key: &str, found: &Tensor, batch: &Batch) {
        let Batch::Sequences(batch) = batch else {
            return self.value(key, &found.to_f64(), &self.stored.values(key));
        };
        let (time, width) = (found.size(1), found.size(2));
        let front = time - batch.time();
        let ends: Vec<usize> = batch.spans.iter().map(|span| front + span.end).collect();
        let of_tokens = |values: &[f64]| -> Vec<f64> {
            let rows = values.chunks(time * width).zip(&ends);
            rows.flat_map(|(row, end)| row[..end * width].to_vec()).collect()
        };
        let (found, expected) = (of_tokens(&found.to_f64()), of_tokens(&self.stored.values(key)));
        self.value(key, &found, &expected);
    }

    /// Every stored gradient, and none besides.
    fn gradients(&mut self, tuned: &Adapted, loss: Tensor) {
        let gradients = loss.backward();
        let keys = self.stored.names().filter_map(|key| Some((key.strip_prefix("grad.")?, key)));
        // In a live PEFT model some parameters stand in modules that the file does not name.
        let plain = |key: &str| {
            key.replace("base_model.", "")
                .replace("modules_to_save.", "")
                .replace("ln_tuning_layers.", "")
                .replace("base_layer.", "")
                .replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
        };
        let mut keys: BTreeMap<String, String> = keys.map(|(name, key)| (plain(name), key.into())).collect();
        for (mut path, param) in tuned.trainable() {
            let Some(found) = gradients.of(&param.value()) else {
                self.that(false, &format!("{path} got no gradient"));
                continue;
            };
            if path.ends_with("virtual_tokens.prompt_embeddings") {
                path = "prompt_encoder.embedding.weight".into();
                // The file holds what came out of a network, of which only the last bias can be compared:
                // it is added to every row.
                let bias = ["transform.2.bias", "mlp_head.4.bias"].map(|end| format!("prompt_encoder.{end}"));
                if let Some(key) = bias.iter().find_map(|bias| keys.remove(bias)) {
                    let found = found.sum([0]).to_f64();
                    self.off(1, &key, deviation(&found, &self.stored.values(&key), 0.0));
                    keys.retain(|name, _| !name.starts_with("prompt_encoder."));
                    continue;
                }
            }
            match keys.remove(&path) {
                None => self.that(false, &format!("{path} is not trained by PEFT")),
                Some(key) => {
                    let found = param.stored(found).to_f64();
                    self.off(1, &key, deviation(&found, &self.stored.values(&key), 0.0));
                }
            }
        }
        self.that(keys.is_empty(), &format!("PEFT also trains {keys:?}"));
    }

    /// Each weight that merging changed: whole, or as sums and samples.
    fn merged_weights(&mut self, model: &Base) {
        let names = |prefix: &str| -> Vec<String> {
            self.stored.names().filter_map(|name| Some(name.strip_prefix(prefix)?.to_string())).collect()
        };
        let (whole, summed) = (names("merged."), names("mergedsum."));
        for path in whole {
            let key = format!("merged.{path}");
            self.value(&key, &model.adapted(&path).to_f64(), &self.stored.values(&key));
        }
        for path in summed.iter().filter_map(|name| name.strip_suffix(".stats")) {
            let found = model.adapted(path);
            let key = format!("mergedsum.{path}");
            let off = summarised(&self.stored, &key, &found.to_f64(), found.size(-1));
            self.off(0, &key, off);
        }
    }

    /// What is saved again has PEFT's names and numbers.
    fn saved(&mut self, tuned: &Adapted) {
        let again = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peft").join(&self.name);
        tuned.save(&again).expect("the target folder can be written");
        let [theirs, ours] = [self.path, &again].map(|folder| -> BTreeMap<_, _> {
            let path = folder.join("adapter_model.safetensors");
            let tensors = files::read(path, self.device).expect("it loads").tensors;
            tensors.into_iter().map(|(name, tensor)| (name, tensor.to_f64())).collect()
        });
        for name in theirs.keys().chain(ours.keys().filter(|name| !theirs.contains_key(*name))) {
            let [theirs, ours] = [theirs.get(name), ours.get(name)];
            // PEFT copies the base's weights into the file of an adapted output head; they say nothing new.
            let copy = name.ends_with(".base_layer.weight") && ours.is_none();
            self.that(theirs == ours || copy, &format!("{name} is not saved as PEFT saves it"));
        }
    }
}
