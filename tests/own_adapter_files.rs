//! The files of methods that PEFT does not know: what must stand in them, and what is refused.

mod common;
mod tiny;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use engrad::adapters::{
    self, Adapted, IncreLora, Method, Mtlora, San, SanMode, Structure, TriAdaptLora, Variant,
};
use engrad::nn::{Classifier, files};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Result, Tensor, inference};
use serde_json::{Map, Value, json};
use tiny::Chain;

/// A method's file as these tests see it.
struct Row {
    attach: fn(&Classifier) -> Result<Adapted>,
    /// Keys without which the adapter, or how it goes on, would be unknown.
    required: &'static [&'static str],
    /// Values that no version of the format has.
    unknown: &'static [(&'static str, &'static str)],
    /// What stands behind a module's path.
    tensors: &'static [&'static str],
    /// The key that says something of each layer.
    by_path: Option<&'static str>,
}

const TARGETS: &str = "*.attention.self.{query,value}";

/// Everything of a growing method that says how it goes on.
const ROWS: [Row; 4] = [
    Row {
        attach: |model| adapters::attach(model, TARGETS, Mtlora::new(Structure::Dtsm, 3)),
        required: &["r", "lora_alpha", "structure", "init"],
        unknown: &[("structure", "SHIMMER"), ("init", "orthogonal"), ("bias", "all")],
        tensors: &["lora_A.weight", "lora_B.weight", "mtlora_C", "mtlora_D"],
        by_path: None,
    },
    Row {
        attach: |model| {
            let method = TriAdaptLora { variant: Variant::Single, first_rank: 3, ..TriAdaptLora::new(4, 20) };
            adapters::attach(model, TARGETS, method)
        },
        required: &[
            "lora_alpha",
            "blocks",
            "variant",
            "init",
            "scale_mode",
            "reference_rank",
            "init_rank",
            "rank_growth",
            "top_k",
            "init_warmup",
            "incre_interval",
            "total_step",
            "score_divisor",
            "safe_clamp",
            "orth_reg_weight",
        ],
        unknown: &[
            ("variant", "row"),
            ("init", "eye"),
            ("scale_mode", "rank"),
            ("rank_growth", "cubic"),
            ("score_divisor", "numel"),
        ],
        tensors: &["triadapt_A", "triadapt_B", "triadapt_L", "triadapt_U"],
        by_path: Some("blocks"),
    },
    Row {
        attach: |model| {
            adapters::attach(model, "*.layer.*", San { shift: true, ..San::new(SanMode::Both) })?
                .also_train("*LayerNorm*")
        },
        required: &["mode", "shift", "synapse_scale", "predecessors"],
        unknown: &[("mode", "all")],
        tensors: &["san_gamma", "san_beta"],
        by_path: Some("predecessors"),
    },
    Row {
        attach: |model| adapters::attach(model, TARGETS, IncreLora::new(3, 20)),
        required: &[
            "lora_alpha",
            "ranks",
            "reserve",
            "init_rank",
            "target_rank",
            "top_h",
            "init_warmup",
            "incre_interval",
            "total_step",
            "beta1",
            "beta2",
            "orth_reg_weight",
        ],
        unknown: &[("ranks", "all")],
        tensors: &["lora_A", "lora_B", "lora_E"],
        by_path: Some("ranks"),
    },
];

/// A saved adapter that can be changed and loaded.
struct Saved {
    folder: tempfile::TempDir,
    config: Map<String, Value>,
    tensors: BTreeMap<String, Tensor>,
    /// What the model says with it.
    output: Vec<f64>,
}

fn output(model: &Classifier) -> Vec<f64> {
    inference(|| model.forward(&tiny::batch(model).0)).to_f64()
}

impl Saved {
    fn of(row: &Row) -> Saved {
        let model = tiny::classifier(&tiny::config(), &Device::Cpu);
        let tuned = (row.attach)(&model).unwrap();
        for (at, (_, param)) in tuned.trainable().iter().enumerate() {
            param.set(&common::random(param.sizes(), at as u64, &Device::Cpu));
        }
        let folder = tempfile::tempdir().unwrap();
        tuned.save(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
        let tensors =
            files::read(folder.path().join("adapter_model.safetensors"), &Device::Cpu).unwrap().tensors;
        Saved { config: serde_json::from_str(&text).unwrap(), tensors, output: output(&model), folder }
    }

    /// What the model says with the adapter, or why it is refused; then the model must be as it was.
    fn load(&self) -> std::result::Result<Vec<f64>, String> {
        let path = |name: &str| -> std::path::PathBuf { Path::new(self.folder.path()).join(name) };
        std::fs::write(path("adapter_config.json"), Value::Object(self.config.clone()).to_string()).unwrap();
        files::write(path("adapter_model.safetensors"), &self.tensors, HashMap::new()).unwrap();
        let model = tiny::classifier(&tiny::config(), &Device::Cpu);
        let before = tiny::state(&model);
        match adapters::load(&model, self.folder.path()) {
            Ok(_tuned) => Ok(output(&model)),
            Err(error) => {
                assert!(tiny::state(&model) == before, "a refused file changes the model: {error}");
                Err(error.to_string())
            }
        }
    }

    /// The refusal, which must speak of `what`.
    fn refused(&self, what: &str) {
        let message = self.load().expect_err(what);
        assert!(message.contains(what), "{what} is not in: {message}");
    }
}

#[test]
fn what_is_saved_is_loaded_and_unknown_keys_are_passed_over() {
    for row in &ROWS {
        let mut saved = Saved::of(row);
        assert_eq!(saved.load().unwrap(), saved.output);
        saved.config.insert("eva_config".into(), json!({"rho": 2.0}));
        assert_eq!(saved.load().unwrap(), saved.output);
    }
}

#[test]
fn every_required_key_is_asked_for_by_name() {
    for row in &ROWS {
        let mut saved = Saved::of(row);
        for key in row.required {
            let value = saved.config.remove(*key).unwrap_or_else(|| panic!("{key} is not saved"));
            saved.refused(key);
            saved.config.insert(key.to_string(), value);
        }
    }
}

#[test]
fn unknown_values_are_refused_by_name() {
    for row in &ROWS {
        let mut saved = Saved::of(row);
        for (key, value) in row.unknown {
            let known = saved.config.insert(key.to_string(), json!(value)).unwrap();
            saved.refused(value);
            saved.config.insert(key.to_string(), known);
        }
    }
}

#[test]
fn tensors_are_those_of_the_format_and_no_others() {
    for row in &ROWS {
        let mut saved = Saved::of(row);
        for tensor in row.tensors {
            let name = saved.tensors.keys().find(|name| name.ends_with(tensor)).unwrap().clone();
            let value = saved.tensors.remove(&name).unwrap();
            saved.refused(tensor);
            let longer: Vec<usize> = value.sizes().iter().map(|size| size + 1).collect();
            saved.tensors.insert(name.clone(), Tensor::zeros(longer, &Device::Cpu));
            saved.refused(tensor);
            saved.tensors.insert(name.clone(), value.clone());
            saved.tensors.insert(format!("{name}_more"), value);
            saved.refused("_more");
            saved.tensors.remove(&format!("{name}_more"));
        }
        assert_eq!(saved.load().unwrap(), saved.output);
    }
}

#[test]
fn what_is_said_of_each_layer_is_said_of_every_adapted_layer_and_no_other() {
    for row in &ROWS {
        let Some(key) = row.by_path else { continue };
        let mut saved = Saved::of(row);
        let paths = saved.config[key].as_object_mut().unwrap();
        let last = paths.keys().next_back().unwrap().clone();
        let said = paths.remove(&last).unwrap();
        saved.refused(&last);
        let paths = saved.config[key].as_object_mut().unwrap();
        paths.extend([(last, said.clone()), ("bert.pooler.dense".into(), said)]);
        saved.refused("bert.pooler.dense");
    }
}

#[test]
fn numbers_outside_of_a_staircase_are_refused() {
    for matrix in ["triadapt_L", "triadapt_U"] {
        let mut saved = Saved::of(&ROWS[1]);
        let name = saved.tensors.keys().find(|name| name.ends_with(matrix)).unwrap().clone();
        saved.tensors.insert(name, Tensor::ones([3, 3], &Device::Cpu));
        saved.refused(matrix);
    }
}

#[test]
fn links_lead_to_an_adapted_layer_of_the_right_length() {
    let value = "bert.encoder.layer.0.attention.self.value";
    let output = "bert.encoder.layer.0.attention.output.dense";
    for (link, good) in [
        (format!("{value}[0:8]"), true),
        (format!("{value}[0:7]"), false),
        (format!("{value}[1:9]"), false),
        (format!("{value}[8:0]"), false),
        (format!("{value}[0:8"), false),
        ("bert.encoder.layer.0.attention.self.key[0:8]".to_string(), true),
        ("bert.encoder.layer.0.intermediate.dense".to_string(), false),
        ("bert.pooler.dense".to_string(), false),
    ] {
        let mut saved = Saved::of(&ROWS[2]);
        saved.config["predecessors"][output] = json!(link);
        match good {
            true => drop(saved.load().unwrap()),
            false => saved.refused(output),
        }
    }
}

/// A budget is one of all layers together, so a small one may be given more ranks than its matrix can have.
#[test]
fn a_layer_that_grew_beyond_its_own_size_is_loaded_again() {
    let methods: [Box<dyn Method>; 2] = [
        TriAdaptLora { interval: 1, increment: Some(2), target_total: Some(5), ..TriAdaptLora::new(4, 9) }
            .into(),
        IncreLora { interval: 1, increment: Some(2), ..IncreLora::new(5, 9) }.into(),
    ];
    let weight = common::random(&[2, 3], 1, &Device::Cpu);
    let x = common::random(&[4, 3], 2, &Device::Cpu);
    for method in methods {
        let model = Chain::one(&weight);
        let tuned = adapters::attach(&model, "only", method).unwrap();
        let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.01));
        for _ in 0..4 {
            trainer.step(|| model.forward(&x).square().sum(..)).unwrap();
        }
        assert_eq!(trainer.subject.ranks(), [5], "of a matrix [2, 3]");
        let folder = tempfile::tempdir().unwrap();
        trainer.subject.save(folder.path()).unwrap();
        let other = Chain::one(&weight);
        let loaded = adapters::load(&other, folder.path()).unwrap();
        assert_eq!(loaded.ranks(), [5]);
        assert_eq!(other.forward(&x).to_vec(), model.forward(&x).to_vec());
    }
}
