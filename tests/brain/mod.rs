//! The two kinds of folders in `golden/brain`: `still`, an adapter as it was saved, and `run`, the
//! training of one from `start`. Both stand on a base model of `golden/models`.

pub mod run;
mod start;
pub mod still;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engrad::nn::{LanguageModel, Model, Pretrained, Side, files};
use engrad::{Device, Tensor};
use serde_json::Value;

use crate::stored::{Stored, deviation, where_kept};

/// How far the reference device may be off: whole runs were found within 1e-11.
pub const EXACT: f64 = 1e-9;

/// What was compared in one folder on one device.
pub struct Checks {
    pub exact: bool,
    /// The largest deviation of each kind.
    pub worst: BTreeMap<&'static str, f64>,
    /// What is wrong.
    pub wrong: Vec<String>,
}

impl Checks {
    pub fn new(device: &Device) -> Checks {
        Checks { exact: *device == Device::Reference, worst: BTreeMap::new(), wrong: Vec::new() }
    }

    pub fn that(&mut self, good: bool, what: impl FnOnce() -> String) {
        if !good {
            self.wrong.push(what());
        }
    }

    /// Numbers are those expected, relative to the largest magnitude (or to `scale`, if that is larger):
    /// within `allowed` in f32, and on the reference device as exactly as they were stored.
    pub fn values(
        &mut self,
        kind: &'static str,
        name: &str,
        [found, expected]: [&[f64]; 2],
        scale: f64,
        allowed: f64,
    ) {
        let rounded = expected.iter().all(|&x| f64::from(x as f32) == x);
        let (kind, exact) = if rounded { ("stored in f32", 1e-7) } else { (kind, EXACT) };
        let allowed = if self.exact { exact } else { allowed };
        self.off(kind, name, deviation(found, expected, scale), allowed);
    }

    /// A deviation is at most what is allowed.
    pub fn off(&mut self, kind: &'static str, name: &str, off: f64, allowed: f64) {
        let worst = self.worst.entry(kind).or_default();
        if off > *worst || off.is_nan() {
            *worst = off;
        }
        self.that(off <= allowed, || format!("{kind} {name}: off by {off:.1e}, allowed {allowed:.0e}"));
    }
}

/// The base model of a folder, fresh from its files.
pub fn base(root: &Path, notes: &Value, device: &Device) -> Model {
    let path = notes["base"].as_str().and_then(|base| base.strip_prefix("golden/")).expect("a base is named");
    Pretrained::from_directory(root.join(path), device).expect("the base model loads").model
}

/// Logits, and the loss without any penalty, on the ids, mask and labels of `inputs`.
pub fn outputs(model: &Model, inputs: &Stored) -> [Tensor; 2] {
    let (sequences, _) = inputs.sequences(None);
    match model {
        Model::CausalLm(model) => {
            let batch = model.batch(&sequences, Side::Right).expect("the stored ids fit");
            let logits = model.forward(&batch);
            let labels = match inputs.has("labels") {
                true => inputs.next_labels(model.vocabulary()),
                false => batch.next_tokens(),
            };
            let loss = logits.flatten(0, 1).cross_entropy(&labels);
            [logits, loss]
        }
        Model::Classifier(model) => {
            let batch = model.encoder.batch(&sequences, None).expect("the stored ids fit");
            let logits = model.forward(&batch);
            let loss = logits.cross_entropy(&inputs.labels("labels", None, model.head.outputs()));
            [logits, loss]
        }
        _ => panic!("the folders of golden/brain stand on two kinds of models"),
    }
}

/// Logits of which only those of tokens are kept, not those of padding, which have no meaning.
pub fn meaningful(model: &Model, inputs: &Stored, logits: &[f64]) -> Vec<f64> {
    match model {
        Model::CausalLm(_) => where_kept(logits, &inputs.values("attention_mask")),
        _ => logits.to_vec(),
    }
}

/// The configuration and the tensors of an adapter's directory, by their names without the prefix.
pub fn saved(directory: &Path, device: &Device) -> (Value, BTreeMap<String, Tensor>) {
    let text = std::fs::read_to_string(directory.join("adapter_config.json")).expect("readable");
    let tensors = files::read(directory.join("adapter_model.safetensors"), device).expect("it reads").tensors;
    let short = |name: &str| name.strip_prefix("base_model.model.").expect("every name has it").to_string();
    let tensors = tensors.into_iter().map(|(name, tensor)| (short(&name), tensor)).collect();
    (serde_json::from_str(&text).expect("JSON"), tensors)
}

/// A place for files of a folder.
pub fn scratch(folder: &Path, what: &str) -> PathBuf {
    let name = folder.file_name().expect("a folder has a name").to_string_lossy();
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{what}"))
}
