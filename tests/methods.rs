//! What is particular to one adapter method; the laws of all of them stand in `adapters.rs`. Numbers
//! come from an independent implementation in f64 (`golden/brain/vectors.json`).

mod common;
mod subjects;
mod tiny;

use std::path::Path;

use common::{compare, on_every_device, test_on};
use engrad::adapters::{
    self, AdaLora, Adapted, Lora, Mtlora, RankGrowth, San, SanMode, Structure, TransformStart, TriAdaptLora,
    Variant,
};
use engrad::nn::{Classifier, Linear, Param, files, named_params};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Tensor, training};
use serde_json::{Value, json};
use subjects::{SQUARE, model, named, near, output, scatter};
use tiny::Chain;

fn matrix(value: &Value, device: &Device) -> Tensor {
    let rows = value.as_array().expect("a matrix");
    let row =
        |row: &Value| row.as_array().expect("a row").iter().map(|x| x.as_f64().expect("a number")).collect();
    let values: Vec<Vec<f64>> = rows.iter().map(row).collect();
    Tensor::from_f64(&values.concat(), [values.len(), values[0].len()], device)
}

fn vector(value: &Value, device: &Device) -> Tensor {
    let values: Vec<f64> =
        value.as_array().expect("a row").iter().map(|x| x.as_f64().expect("a number")).collect();
    Tensor::from_f64(&values, [values.len()], device)
}

fn vectors(part: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/brain/vectors.json");
    let text = std::fs::read_to_string(path).expect("the file is part of the repository");
    let all: Value = serde_json::from_str(&text).expect("it is JSON");
    all[part].as_array().expect("rows").clone()
}

fn param(adapted: &Adapted, path: &str) -> Param {
    let all = adapted.trainable();
    all.iter().find(|(name, _)| name == path).unwrap_or_else(|| panic!("no {path} in {all:?}")).1.clone()
}

on_every_device! {
    fn the_four_structures_give_the_independent_products_and_gradients(device) {
        for row in vectors("mtlora") {
            for (name, structure) in [("SHIM", Structure::Shim), ("ICFM", Structure::Icfm), ("CTCM", Structure::Ctcm), ("DTSM", Structure::Dtsm)] {
                let expected = &row["structures"][name];
                let (down, up) = (matrix(&row["A"], device), matrix(&row["B"], device));
                let (rank, inputs, outputs) = (down.sizes()[0], down.sizes()[1], up.sizes()[0]);
                let model = Chain::one(&Tensor::zeros([outputs, inputs], device));
                let alpha = row["s"].as_f64().unwrap() * rank as f64;
                let tuned = adapters::attach(&model, "only", Mtlora { alpha, ..Mtlora::new(structure, rank) }).unwrap();
                for (name, key) in [("lora_A.weight", "A"), ("lora_B.weight", "B"), ("mtlora_C", "C"), ("mtlora_D", "D")] {
                    if let Some((_, param)) = tuned.trainable().iter().find(|(path, _)| path.ends_with(name)) {
                        param.set(&matrix(&row[key], device));
                    }
                }
                // The gradient of sum(G ∘ y) with y = dW is that of dW = s·B·T·A.
                let identity = matrix(&json!((0..inputs).map(|i| (0..inputs).map(|j| u8::from(i == j)).collect()).collect::<Vec<Vec<u8>>>()), device);
                let update = model.forward(&identity).t();
                assert_eq!(update.to_f64(), matrix(&expected["dW"], device).to_f64(), "{name} {row}");
                let x = vector(&row["x"], device);
                assert_eq!(model.forward(&x).to_f64(), vector(&expected["dWx"], device).to_f64(), "{name} {row}");
                let params: Vec<(String, Tensor)> = tuned.trainable().into_iter().map(|(path, param)| (path, param.value())).collect();
                let gradients = (update * matrix(&row["G"], device)).sum(..).backward();
                for (path, value) in params {
                    let key = match path.as_str() {
                        "only.lora_A.weight" => "gA",
                        "only.lora_B.weight" => "gB",
                        "only.mtlora_C" => "gC",
                        _ => "gD",
                    };
                    let found = gradients.of(&value).unwrap().to_f64();
                    assert_eq!(found, matrix(&expected[key], device).to_f64(), "{name} {key} {row}");
                }
            }
        }
    }

    fn blocks_are_assembled_as_in_the_independent_implementation(device) {
        for row in vectors("triadaptlora") {
            let sizes: Vec<usize> = serde_json::from_value(row["sizes"].clone()).unwrap();
            let rank: usize = sizes.iter().sum();
            let model = Chain::one(&Tensor::zeros([rank, rank], device));
            let identity = matrix(&json!((0..rank).map(|i| (0..rank).map(|j| u8::from(i == j)).collect()).collect::<Vec<Vec<u8>>>()), device);
            let directory = tempfile::tempdir().unwrap();
            let config = triangular("block", json!(sizes));
            write(directory.path(), &config, &[("A", &identity), ("B", &identity), ("L", &matrix(&row["L"], device)), ("U", &matrix(&row["U"], device))]);
            let tuned = adapters::load(&model, directory.path()).unwrap();
            assert_eq!(model.forward(&identity).t().to_f64(), matrix(&row["T"], device).to_f64());
            for (number, _) in sizes.iter().enumerate() {
                for (name, key) in [("L", "row"), ("U", "col")] {
                    let found = param(&tuned, &format!("only.triadapt_{name}.{number}")).value().to_f64();
                    assert_eq!(found, matrix(&row[key][number], device).to_f64(), "{key} {number}");
                }
            }
        }
    }

    fn neurons_and_synapses_give_the_independent_outputs_and_gradients(device) {
        for row in vectors("san") {
            for (name, mode) in [("both", SanMode::Both), ("nt", SanMode::Nt), ("sp", SanMode::Sp)] {
                let layer = |number: usize| {
                    let [weight, bias] = [format!("W{number}"), format!("b{number}")];
                    Linear::from_weights(&matrix(&row[&weight], device), Some(&vector(&row[&bias], device)))
                };
                let model = Chain { layers: vec![("h.0.mlp.c_fc".into(), layer(1)), ("h.0.mlp.c_proj".into(), layer(2))], between: Tensor::relu };
                let tuned = adapters::attach(&model, "*", San::new(mode)).unwrap();
                let gammas: Vec<(&str, Param)> = named_params(&model).into_iter().filter_map(|(path, param)| {
                    path.ends_with("san_gamma").then(|| (if path.contains("c_fc") { "gamma1" } else { "gamma2" }, param))
                }).collect();
                gammas.iter().for_each(|(name, gamma)| gamma.set(&vector(&row[*name], device)));
                let (x, expected) = (vector(&row["x"], device), &row[name]);
                let y = model.forward(&x);
                let close = |found: &Tensor, key: &str| {
                    compare(&found.to_f64(), &vector(&expected[key], device).to_f64(), 1e-5).unwrap_or_else(|what| panic!("{name} {key}: {what}"));
                };
                close(&y, "y");
                let values: Vec<Tensor> = gammas.iter().map(|(_, gamma)| gamma.value()).collect();
                let gradients = y.sum(..).backward();
                for ((gamma, _), value) in gammas.iter().zip(&values) {
                    match gradients.of(value) {
                        Some(gradient) => close(gradient, &format!("sum_y_d{gamma}")),
                        None => assert!(mode == SanMode::Sp && *gamma == "gamma2"),
                    }
                }
                tuned.merge().unwrap();
                close(&model.forward(&x), "y");
            }
        }
    }
}

/// The configuration of a TriAdaptLoRA on one layer.
fn triangular(variant: &str, blocks: Value) -> Value {
    json!({"peft_type": "TRIADAPTLORA", "target_modules": ["only"], "variant": variant, "blocks": {"only": blocks},
        "lora_alpha": 8, "init": "c0", "scale_mode": "constant", "reference_rank": 8, "init_rank": 1,
        "rank_growth": "linear", "top_k": 1, "init_warmup": 0, "incre_interval": 1, "total_step": 9,
        "score_divisor": "rank", "safe_clamp": true, "orth_reg_weight": 0.0})
}

fn write(directory: &Path, config: &Value, tensors: &[(&str, &Tensor)]) {
    let named = tensors
        .iter()
        .map(|(name, tensor)| (format!("base_model.model.only.triadapt_{name}"), (*tensor).clone()));
    files::write(directory.join("adapter_model.safetensors"), &named.collect(), Default::default()).unwrap();
    std::fs::write(directory.join("adapter_config.json"), config.to_string()).unwrap();
}

#[test]
fn values_outside_of_the_blocks_are_refused() {
    let device = &Device::Cpu;
    let model = Chain::one(&Tensor::zeros([2, 2], device));
    let directory = tempfile::tempdir().unwrap();
    let config = triangular("single", json!([1, 1]));
    let full = Tensor::ones([2, 2], device);
    write(directory.path(), &config, &[("A", &full), ("B", &full), ("L", &full), ("U", &full)]);
    let message = adapters::load(&model, directory.path()).err().unwrap().to_string();
    assert!(
        message.contains("triadapt_L") && message.contains("triadapt_U") && !message.contains("triadapt_A"),
        "{message}"
    );
    assert!(model.layers[0].1.socket().adapter().is_none());
}

on_every_device! {
    fn with_t_frozen_at_the_identity_mtlora_is_lora_for_a_whole_run(device) {
        let run = |tuned: Adapted, model: &Classifier| -> Vec<f64> {
            let mut trainer = Trainer::new(tuned, AdamW::new(0.01), Schedule::constant(0.02));
            (0..20).map(|_| trainer.step(|| tiny::loss(model)).unwrap().loss).collect()
        };
        let model = model(device);
        let tuned = adapters::attach(&model, SQUARE, Lora::new(3)).unwrap();
        let starts: Vec<Tensor> = tuned.trainable().iter().map(|(_, param)| param.value().detach()).collect();
        let expected = run(tuned, &model);
        for structure in [Structure::Shim, Structure::Icfm, Structure::Ctcm, Structure::Dtsm] {
            let model = self::model(device);
            let tuned = adapters::attach(&model, SQUARE, Mtlora::new(structure, 3)).unwrap();
            tuned.trainable().iter().filter(|(path, _)| path.contains("mtlora_")).for_each(|(_, param)| param.freeze());
            tuned.trainable().iter().zip(&starts).for_each(|((_, param), start)| param.set(start));
            assert_eq!(run(tuned, &model), expected, "{structure:?}");
        }
    }

    fn growing_changes_no_output_bit_and_leaves_old_blocks_alone(device) {
        for variant in [Variant::Block, Variant::Single] {
            let model = model(device);
            let method = TriAdaptLora { variant, interval: 1, increment: Some(3), growth: RankGrowth::Fixed, top_k: 4, safe: false, ..TriAdaptLora::new(7, 9) };
            let mut tuned = adapters::attach(&model, SQUARE, method).unwrap();
            scatter(&tuned, 9);
            let nothing = (engrad::Gradients::default(), std::collections::HashMap::new());
            for number in 1..=2 {
                let before = output(&model);
                let old: Vec<(String, u64, Vec<f64>)> = tuned.trainable().iter().map(|(path, param)| (path.clone(), param.id(), param.value().to_f64())).collect();
                tuned.after_update(&adapters::Update::new(number, &nothing.0, &nothing.1));
                assert_eq!(tuned.ranks(), [1 + 3 * number as usize; 4]);
                assert_eq!(output(&model), before, "{variant:?}");
                let now = tuned.trainable();
                for (path, id, values) in &old {
                    let (_, param) = now.iter().find(|(other, _)| other == path).unwrap();
                    assert!(param.id() == *id && param.value().to_f64() == *values, "{path}");
                }
                // New rows and columns of T learn first; the new A and B have gradients of exactly 0.
                let values: Vec<(String, Tensor)> = now.iter().filter(|(path, _)| old.iter().all(|(other, ..)| other != path)).map(|(path, param)| (path.clone(), param.value())).collect();
                assert!(!values.is_empty());
                let gradients = tiny::loss(&model).backward();
                for (path, value) in values {
                    let zero = gradients.of(&value).unwrap().to_f64().iter().all(|x| *x == 0.0);
                    assert_eq!(zero, path.contains("triadapt_A") || path.contains("triadapt_B"), "{path}");
                }
            }
        }
    }
}

#[test]
fn right_after_growing_a_matrix_is_the_least_important() {
    let model = model(&Device::Cpu);
    let method = TriAdaptLora {
        interval: 1,
        increment: Some(2),
        growth: RankGrowth::Fixed,
        top_k: 1,
        safe: true,
        ..TriAdaptLora::new(7, 9)
    };
    let mut tuned = adapters::attach(&model, SQUARE, method).unwrap();
    scatter(&tuned, 9);
    let nothing = (engrad::Gradients::default(), std::collections::HashMap::new());
    for number in 1..=2 {
        tuned.after_update(&adapters::Update::new(number, &nothing.0, &nothing.1));
    }
    let [first, second] = tuned.checks() else { panic!("two checks") };
    for (site, score) in second.scores.iter().enumerate() {
        assert_eq!(*score < 0.0, first.chosen.contains(&site));
        assert!(first.chosen.contains(&site) || *score == 0.0);
    }
}

#[test]
fn growth_stops_at_its_budget() {
    let model = model(&Device::Cpu);
    let tuned = adapters::attach(
        &model,
        SQUARE,
        TriAdaptLora { interval: 1, increment: Some(1), ..TriAdaptLora::new(3, 12) },
    )
    .unwrap();
    let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.02));
    let mut before = vec![1; 4];
    for _ in 0..20 {
        trainer.step(|| tiny::loss(&model)).unwrap();
        let ranks = trainer.subject.ranks();
        assert!(ranks.iter().zip(&before).all(|(now, before)| now >= before));
        before = ranks;
    }
    assert_eq!(before.iter().sum::<usize>(), 12);
    assert_eq!(trainer.subject.checks().last().unwrap().ranks, before);
}

#[test]
fn starts_that_can_never_learn_are_refused() {
    for structure in [Structure::Icfm, Structure::Ctcm] {
        let method = Mtlora { start: TransformStart::ZeroT, ..Mtlora::new(structure, 2) };
        let message = adapters::attach(&model(&Device::Cpu), SQUARE, method).err().unwrap().to_string();
        assert!(message.contains("every gradient"), "{message}");
    }
}

#[test]
fn the_two_parts_of_dtsm_keep_their_distance() {
    let model = model(&Device::Reference);
    let tuned = adapters::attach(&model, SQUARE, Mtlora::new(Structure::Dtsm, 3)).unwrap();
    let path = "bert.encoder.layer.0.attention.self.query.mtlora_";
    let [c, d] = ["C", "D"].map(|name| param(&tuned, &format!("{path}{name}")));
    let distance = || (c.value() - d.value()).to_f64();
    let before = distance();
    let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.02));
    for _ in 0..10 {
        trainer.step(|| tiny::loss(&model)).unwrap();
    }
    assert!(c.value().to_f64()[1] != 0.0);
    near(&distance(), &before, 1e-14, "C - D");
}

#[test]
fn the_budget_falls_along_its_cubic_and_as_many_triplets_act() {
    let model = model(&Device::Cpu);
    let method = AdaLora { warm_up: 3, final_steps: 5, interval: 2, ..AdaLora::new(4, 2, 20) };
    let budgets: Vec<usize> = (0..=20).map(|step| method.budget(step, 4)).collect();
    assert_eq!((budgets[3], budgets[15], budgets[20]), (16, 8, 8));
    // 8 + 8·(1 - 3/12)³ = 11.375
    assert_eq!(budgets[6], 11);
    let tuned = adapters::attach(&model, SQUARE, method).unwrap();
    let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.02));
    for _ in 0..20 {
        trainer.step(|| tiny::loss(&model)).unwrap();
    }
    let checks = trainer.subject.checks();
    assert_eq!(checks.iter().map(|check| check.step).collect::<Vec<_>>(), [4, 6, 8, 10, 12, 14, 15]);
    for check in checks {
        assert_eq!(check.count, budgets[check.step as usize]);
        assert_eq!(check.ranks.iter().sum::<usize>(), check.count);
    }
    let acting = |(path, param): &(String, Param)| {
        let numbers = param.value().to_f64();
        path.ends_with("lora_E").then(|| numbers.iter().filter(|x| **x != 0.0).count())
    };
    assert_eq!(trainer.subject.trainable().iter().filter_map(acting).sum::<usize>(), 8);
}

#[test]
fn an_update_that_factors_is_exported_exactly_and_others_with_their_error() {
    let rows = [
        ("mtlora, fused", true),
        ("triadaptlora, growing", true),
        ("adalora", true),
        ("vera", true),
        ("pissa", true),
        ("lora with embeddings", true),
        ("dora", false),
    ];
    for (subject, exact) in rows.map(|(name, exact)| (named(name), exact)) {
        let model = model(&Device::Reference);
        let tuned = subject.moved(&model);
        let folder = tempfile::tempdir().unwrap();
        for rank in [2, 8] {
            let error = tuned.export_as_lora(folder.path(), rank).unwrap();
            assert_eq!(error == 0.0, exact || rank == 8, "{}: {error:e}", subject.name);
        }
        let other = self::model(&Device::Reference);
        adapters::load(&other, folder.path()).unwrap();
        near(&output(&other), &output(&model), 1e-12, subject.name);
    }
}

#[test]
fn a_dropped_input_matters_in_training_only() {
    let model = model(&Device::Cpu);
    named("lora with dropout").moved(&model);
    let plain = tiny::loss(&model).item();
    let [first, again, other] = [1, 1, 2].map(|seed| training(seed, || tiny::loss(&model)).item());
    assert_eq!(first, again, "the same seed drops the same");
    assert_ne!(first, other);
    assert_ne!(first, plain);
}

#[test]
fn a_rank_that_no_layer_can_use_is_refused() {
    let model = model(&Device::Cpu);
    let state = tiny::state(&model);
    for rank in [0, 9, usize::MAX] {
        let error = adapters::attach(&model, "*.query", Lora::new(rank)).err().unwrap().to_string();
        assert!(error.contains(&format!("rank {rank} does not fit 8 -> 8")), "{error}");
    }
    assert_eq!(tiny::state(&model), state);
}

#[test]
fn variants_that_are_not_implemented_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&Device::Cpu);
    named("lora").moved(&model).save(folder.path()).unwrap();
    let path = folder.path().join("adapter_config.json");
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let rows = [
        ("lora_bias", "true"),
        ("bias", "\"some\""),
        ("rank_pattern", "{\"query\": 0}"),
        ("alpha_pattern", "{\"query\": \"x\"}"),
        ("layers_to_transform", "[9]"),
        ("target_modules", "\"(query\""),
        ("init_lora_weights", "\"pissa\""),
        ("arrow_config", "{}"),
        ("peft_type", "\"HRA\""),
        ("r", "0"),
        ("r", "1.5"),
        ("r", "1e300"),
        ("lora_alpha", "\"large\""),
        ("lora_dropout", "1"),
        ("modules_to_save", "[3]"),
    ];
    for (key, value) in rows {
        let mut config = config.clone();
        config[key] = serde_json::from_str(value).unwrap();
        std::fs::write(&path, config.to_string()).unwrap();
        let other = self::model(&Device::Cpu);
        let state = tiny::state(&other);
        let error = adapters::load(&other, folder.path()).err().expect(key).to_string();
        assert!(error.contains(key) || error.contains(value.trim_matches('"')), "{key}: {error}");
        assert_eq!(tiny::state(&other), state, "{key}");
    }
}

#[test]
fn names_as_they_stand_in_a_live_peft_model_load_too() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (model(&Device::Cpu), model(&Device::Cpu));
    named("lora").moved(&one).save(folder.path()).unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let saved = engrad::nn::files::read(&path, &Device::Cpu).unwrap();
    let live = saved.tensors.iter().map(|(name, tensor)| {
        let name = name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.");
        (name.replace("classifier.", "classifier.modules_to_save.default."), tensor.clone())
    });
    let mut live: std::collections::BTreeMap<_, _> = live.collect();
    engrad::nn::files::write(&path, &live, Default::default()).unwrap();
    adapters::load(&other, folder.path()).unwrap().detach();
    let (name, tensor) = saved.tensors.into_iter().next().unwrap();
    live.insert(name, tensor);
    engrad::nn::files::write(&path, &live, Default::default()).unwrap();
    let error = adapters::load(&other, folder.path()).err().unwrap().to_string();
    assert!(error.contains("twice"), "{error}");
}
