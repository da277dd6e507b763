//! Every adapter method: the laws that all of them keep, each method a row, and what is particular to
//! one. Numbers come from an independent implementation in f64 (`golden/brain/vectors.json`).

mod common;
mod tiny;

use std::path::Path;

use common::{compare, largest, on_every_device, test_on};
use engrad::adapters::{
    self, AdaLora, Adapted, BitFit, BlockStart, Dora, Ia3, IncreLora, Lora, Mtlora, NormTuning, RankGrowth,
    San, SanMap, SanMode, ScaleMode, Ssf, Start, Structure, TransformStart, TriAdaptLora, Variant, Vera,
};
use engrad::nn::{
    Activation, Classifier, Encoder, EncoderConfig, Linear, Param, TokenBatch, files, named_params,
};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Ids, Rng, Tensor, inference};
use serde_json::{Value, json};
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
                tuned.merge();
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

// The laws that every method keeps.

/// A small encoder with a head, of which every adapter method finds its layers.
fn classifier(device: &Device) -> Classifier {
    let config = EncoderConfig {
        vocab_size: 11,
        hidden_size: 8,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 12,
        max_position_embeddings: 6,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_act: Activation::Gelu,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        initializer_range: 0.3,
        pad_token_id: 0,
    };
    let mut rng = Rng::seeded(4);
    let encoder = Encoder::new(&config, &mut rng, device).unwrap();
    Classifier::new(encoder, 3, &mut rng)
}

fn batch(model: &Classifier) -> (TokenBatch, Ids) {
    let sequences = [vec![1, 2, 3, 4], vec![5, 6, 7], vec![8, 9, 10, 1, 2], vec![3, 3]];
    (model.encoder.batch(&sequences, None).unwrap(), Ids::new(vec![0, 1, 2, 1], [4], 3).unwrap())
}

fn loss(model: &Classifier) -> Tensor {
    let (batch, labels) = batch(model);
    model.forward(&batch).cross_entropy(&labels)
}

fn logits(model: &Classifier) -> Vec<f64> {
    inference(|| model.forward(&batch(model).0).to_f64())
}

/// A method as the laws see it.
struct Row {
    name: &'static str,
    attach: fn(&Classifier) -> engrad::Result<Adapted>,
    /// Trained numbers, head included.
    count: usize,
    /// How far a fresh adapter's outputs may be from the base's.
    fresh: f64,
}

/// Everything the head has: 8·3 + 3.
const HEAD: usize = 27;

/// Query and value of two layers, 8 -> 8.
const TARGETS: &str = "*.attention.self.{query,value}";

macro_rules! row {
    ($name:literal, $count:expr, $targets:expr, $method:expr) => {
        row!($name, $count, $targets, $method, 0.0)
    };
    ($name:literal, $count:expr, $targets:expr, $method:expr, $fresh:expr) => {
        Row {
            name: $name,
            attach: |model| adapters::attach(model, $targets, $method)?.also_train("classifier.*"),
            count: $count + HEAD,
            fresh: $fresh,
        }
    };
}

fn growing() -> TriAdaptLora {
    TriAdaptLora { interval: 2, increment: Some(2), orthogonality: 0.1, ..TriAdaptLora::new(4, 12) }
}

fn rows() -> Vec<Row> {
    vec![
        row!("LoRA", 4 * 3 * 16, TARGETS, Lora::new(3)),
        row!(
            "LoRA rank-stabilised, gaussian",
            4 * 3 * 16,
            TARGETS,
            Lora { rank_stabilised: true, start: Start::Gaussian, ..Lora::new(3) }
        ),
        row!("LoRA+", 4 * 3 * 16, TARGETS, Lora::plus(3)),
        row!("LoRA PiSSA", 4 * 3 * 16, TARGETS, Lora { start: Start::Pissa, ..Lora::new(3) }, 1e-5),
        row!(
            "LoRA with embeddings",
            4 * 3 * 16 + 3 * (11 + 8),
            adapters::Targets::from(["query", "value", "word_embeddings"]).with_embeddings(),
            Lora::new(3)
        ),
        row!("MTLoRA SHIM", 4 * (3 * 16 + 9), TARGETS, Mtlora::new(Structure::Shim, 3)),
        row!("MTLoRA ICFM", 4 * (3 * 16 + 9), TARGETS, Mtlora::new(Structure::Icfm, 3)),
        row!("MTLoRA CTCM", 4 * (3 * 16 + 18), TARGETS, Mtlora::new(Structure::Ctcm, 3)),
        row!("MTLoRA DTSM", 4 * (3 * 16 + 18), TARGETS, Mtlora::new(Structure::Dtsm, 3)),
        row!(
            "MTLoRA kaiming",
            4 * (3 * 16 + 18),
            TARGETS,
            Mtlora { start: TransformStart::Kaiming, ..Mtlora::new(Structure::Ctcm, 3) }
        ),
        row!(
            "MTLoRA zero T",
            4 * (3 * 16 + 9),
            TARGETS,
            Mtlora { start: TransformStart::ZeroT, ..Mtlora::new(Structure::Shim, 3) }
        ),
        row!(
            "MTLoRA fused",
            4 * (6 * 8 + 3 * 8 + 36),
            TARGETS,
            Mtlora {
                fused: vec![("query".into(), 2), ("value".into(), 2)],
                ..Mtlora::new(Structure::Shim, 3)
            }
        ),
        row!("TriAdaptLoRA", 4 * (16 + 2), TARGETS, growing()),
        row!(
            "TriAdaptLoRA half identity, current rank",
            4 * (2 * 16 + 8),
            TARGETS,
            TriAdaptLora {
                start: BlockStart::HalfIdentity,
                scale_mode: ScaleMode::CurrentRank,
                first_rank: 2,
                ..growing()
            }
        ),
        row!(
            "TriAdaptLoRA single",
            4 * (2 * 16 + 6),
            TARGETS,
            TriAdaptLora {
                variant: Variant::Single,
                start: BlockStart::Single,
                first_rank: 2,
                growth: RankGrowth::Nonlinear,
                ..growing()
            }
        ),
        row!("SAN both", 2 * (5 * 8 + 12), "*.layer.*", San::new(SanMode::Both)),
        row!(
            "SAN both with shift and synapse scale",
            2 * (2 * (5 * 8 + 12) + 8 + 8 + 12) + 3 * 8,
            "*.layer.*",
            San { shift: true, synapse_scale: true, ..San::new(SanMode::Both) }
        ),
        row!("SAN nt", 2 * (5 * 8 + 12), "*.layer.*", San::new(SanMode::Nt)),
        // The last layer's γ and those of query and key scale nothing.
        row!("SAN sp", 2 * (2 * 8 + 12) + 8, "*.layer.*", San::new(SanMode::Sp)),
        row!("DoRA", 4 * (3 * 16 + 8), TARGETS, Dora::new(3), 1e-6),
        row!(
            "IA3",
            2 * (8 + 8),
            "*.layer.*.{self.value,intermediate.dense}",
            Ia3::new(["intermediate.dense"])
        ),
        row!("SSF", 4 * 16, TARGETS, Ssf::default(), 1.0),
        row!("VeRA", 4 * (8 + 5), TARGETS, Vera::new(5)),
        row!("AdaLoRA", 4 * (4 * 16 + 4), TARGETS, AdaLora::new(4, 2, 12)),
        row!(
            "IncreLoRA",
            4 * 2 * 16 + 4,
            TARGETS,
            IncreLora { interval: 2, increment: Some(1), ..IncreLora::new(3, 12) },
            1e-5
        ),
        row!("BitFit", 8 + 2 * (5 * 8 + 12 + 2 * 8) + 8, "bert.*", BitFit),
        row!("norm tuning", 5 * 16, "*LayerNorm", NormTuning),
        row!(
            "SAN vit_base",
            8 + 2 * (5 * 8 + 12),
            adapters::Targets::from([
                "word_embeddings",
                "query",
                "key",
                "value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense"
            ])
            .with_embeddings(),
            San { map: SanMap::VitBase, ..San::new(SanMode::Both) }
        ),
    ]
}

fn each(check: impl Fn(&Row, &Device)) {
    for device in common::devices() {
        rows().iter().for_each(|row| check(row, &device));
    }
}

/// Gives all that is trained values that are nowhere special.
fn scatter(adapted: &Adapted) {
    let mut rng = Rng::seeded(9);
    for (_, param) in adapted.trainable() {
        let noise = Tensor::normal(0.2, param.sizes(), &mut rng, &param.device());
        param.set(&(param.value() + noise));
    }
}

fn near(found: &[f64], expected: &[f64], relative: f64, what: &str) {
    let allowed = relative * largest(expected).max(1.0);
    compare(found, expected, allowed).unwrap_or_else(|problem| panic!("{what}: {problem}"));
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    each(|row, device| {
        let model = classifier(device);
        let before = logits(&model);
        (row.attach)(&model).unwrap();
        near(&logits(&model), &before, row.fresh, row.name);
    });
}

#[test]
fn counts_follow_their_formulas() {
    for row in rows() {
        let model = classifier(&Device::Cpu);
        let tuned = (row.attach)(&model).unwrap();
        assert_eq!(tuned.summary().trainable(), row.count, "{}", row.name);
    }
}

#[test]
fn all_that_is_trained_has_a_gradient_and_nothing_frozen_has() {
    each(|row, device| {
        let model = classifier(device);
        let tuned = (row.attach)(&model).unwrap();
        scatter(&tuned);
        let trained: Vec<u64> = tuned.trainable().iter().map(|(_, param)| param.id()).collect();
        let values: Vec<(String, bool, Tensor)> = named_params(&model)
            .into_iter()
            .map(|(path, param)| (path, trained.contains(&param.id()), param.value()))
            .collect();
        let gradients = loss(&model).backward();
        for (path, trained, value) in values {
            assert_eq!(gradients.of(&value).is_some(), trained, "{}: {path}", row.name);
        }
    });
}

#[test]
fn gradients_are_those_that_small_steps_measure() {
    for row in rows() {
        let model = classifier(&Device::Reference);
        let tuned = (row.attach)(&model).unwrap();
        scatter(&tuned);
        let params = tuned.trainable();
        let total = || {
            let loss = loss(&model);
            tuned.penalty().map_or(loss.clone(), |penalty| loss + penalty)
        };
        let values: Vec<Tensor> = params.iter().map(|(_, param)| param.value()).collect();
        let gradients = total().backward();
        for ((path, param), value) in params.iter().zip(&values) {
            // DoRA takes the lengths of rows for constants, so its gradients are not slopes by design.
            if row.name == "DoRA" && !path.contains("magnitude") && !path.contains("classifier") {
                continue;
            }
            let exact = gradients.of(value).unwrap().to_f64();
            let start = value.to_f64();
            for at in [0, start.len() / 2, start.len() - 1] {
                let step = 1e-5;
                let moved = |by: f64| {
                    let mut values = start.clone();
                    values[at] += by;
                    param.set(&Tensor::from_f64(&values, param.sizes(), &Device::Reference));
                    inference(|| total().item())
                };
                let measured = (moved(step) - moved(-step)) / (2.0 * step);
                moved(0.0);
                let distance = (measured - exact[at]).abs();
                assert!(distance < 1e-7, "{} {path}[{at}]: {measured:e} and {:e}", row.name, exact[at]);
            }
        }
    }
}

#[test]
fn merging_computes_the_same_and_unmerging_and_detaching_restore_every_bit() {
    each(|row, device| {
        let model = classifier(device);
        let before = logits(&model);
        let tuned = (row.attach)(&model).unwrap();
        let head: Vec<Tensor> = tuned.trainable().iter().map(|(_, param)| param.value().detach()).collect();
        scatter(&tuned);
        let adapted = logits(&model);
        assert_ne!(adapted, before, "{}", row.name);
        tuned.merge();
        near(&logits(&model), &adapted, 1e-5, row.name);
        tuned.unmerge();
        assert_eq!(logits(&model), adapted, "{}", row.name);
        // The head is the base's; it keeps what training gave it.
        tuned.trainable().iter().zip(&head).for_each(|((_, param), value)| param.set(value));
        tuned.detach();
        assert_eq!(logits(&model), before, "{}", row.name);
        assert!(named_params(&model).iter().all(|(_, param)| param.is_trainable()), "{}", row.name);
    });
}

#[test]
fn saving_and_loading_restores_every_bit() {
    each(|row, device| {
        let model = classifier(device);
        let tuned = (row.attach)(&model).unwrap();
        scatter(&tuned);
        let directory = tempfile::tempdir().unwrap();
        tuned.save(directory.path()).unwrap();
        let other = classifier(device);
        let loaded =
            adapters::load(&other, directory.path()).unwrap_or_else(|error| panic!("{}: {error}", row.name));
        assert_eq!(logits(&other), logits(&model), "{}", row.name);
        let again = tempfile::tempdir().unwrap();
        loaded.save(again.path()).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let [first, second] =
                [&directory, &again].map(|place| std::fs::read(place.path().join(file)).unwrap());
            assert!(first == second, "{}: {file} changes when it is loaded and saved", row.name);
        }
    });
}

type Run<'m> = Trainer<Adapted, AdamW>;

fn trainer(row: &Row, model: &Classifier) -> Run<'static> {
    let tuned = (row.attach)(model).unwrap();
    Trainer::new(tuned, AdamW::new(0.01), Schedule::linear(0.01, 2, 12))
}

#[test]
fn training_makes_the_loss_fall() {
    each(|row, device| {
        let model = classifier(device);
        let mut trainer = trainer(row, &model);
        let losses: Vec<f64> = (0..12)
            .map(|_| {
                trainer.step(|| loss(&model)).unwrap_or_else(|error| panic!("{}: {error}", row.name)).loss
            })
            .collect();
        assert!(losses[11] < losses[0] - 0.01, "{}: {losses:?}", row.name);
    });
}

#[test]
fn both_devices_train_alike() {
    for row in rows() {
        let run = |device: &Device| {
            let model = classifier(device);
            let mut trainer = trainer(&row, &model);
            let losses: Vec<f64> = (0..6).map(|_| trainer.step(|| loss(&model)).unwrap().loss).collect();
            (losses, trainer.subject.ranks())
        };
        let [(expected, ranks), (found, same)] = [run(&Device::Reference), run(&Device::Cpu)];
        near(&found, &expected, 1e-4, row.name);
        assert_eq!(ranks, same, "{}", row.name);
    }
}

#[test]
fn a_resumed_run_goes_on_bit_for_bit() {
    each(|row, device| {
        let bits = |run: &Run| -> Vec<(String, Vec<u64>)> {
            let bits = |param: &Param| param.value().to_f64().iter().map(|x| x.to_bits()).collect();
            run.subject.trainable().iter().map(|(path, param)| (path.clone(), bits(param))).collect()
        };
        let model = classifier(device);
        let mut whole = trainer(row, &model);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("run.safetensors");
        for step in 0..10 {
            if step == 5 {
                whole.save(&file).unwrap();
            }
            whole.step(|| loss(&model)).unwrap();
        }
        let model = classifier(device);
        let mut resumed = trainer(row, &model);
        resumed.resume(&file).unwrap_or_else(|error| panic!("{}: {error}", row.name));
        for _ in 5..10 {
            resumed.step(|| loss(&model)).unwrap();
        }
        assert!(bits(&whole) == bits(&resumed), "{}", row.name);
    });
}

// What is particular to one method.

on_every_device! {
    fn with_t_frozen_at_the_identity_mtlora_is_lora_for_a_whole_run(device) {
        let run = |tuned: Adapted, model: &Classifier| -> Vec<f64> {
            let mut trainer = Trainer::new(tuned, AdamW::new(0.01), Schedule::constant(0.02));
            (0..20).map(|_| trainer.step(|| loss(model)).unwrap().loss).collect()
        };
        let model = classifier(device);
        let tuned = adapters::attach(&model, TARGETS, Lora::new(3)).unwrap();
        let starts: Vec<Tensor> = tuned.trainable().iter().map(|(_, param)| param.value().detach()).collect();
        let expected = run(tuned, &model);
        for structure in [Structure::Shim, Structure::Icfm, Structure::Ctcm, Structure::Dtsm] {
            let model = classifier(device);
            let tuned = adapters::attach(&model, TARGETS, Mtlora::new(structure, 3)).unwrap();
            tuned.trainable().iter().filter(|(path, _)| path.contains("mtlora_")).for_each(|(_, param)| param.freeze());
            tuned.trainable().iter().zip(&starts).for_each(|((_, param), start)| param.set(start));
            assert_eq!(run(tuned, &model), expected, "{structure:?}");
        }
    }

    fn growing_changes_no_output_bit_and_leaves_old_blocks_alone(device) {
        for variant in [Variant::Block, Variant::Single] {
            let model = classifier(device);
            let method = TriAdaptLora { variant, interval: 1, increment: Some(3), growth: RankGrowth::Fixed, top_k: 4, safe: false, ..TriAdaptLora::new(7, 9) };
            let mut tuned = adapters::attach(&model, TARGETS, method).unwrap();
            scatter(&tuned);
            let nothing = (engrad::Gradients::default(), std::collections::HashMap::new());
            for number in 1..=2 {
                let before = logits(&model);
                let old: Vec<(String, u64, Vec<f64>)> = tuned.trainable().iter().map(|(path, param)| (path.clone(), param.id(), param.value().to_f64())).collect();
                tuned.after_update(&adapters::Update::new(number, &nothing.0, &nothing.1));
                assert_eq!(tuned.ranks(), [1 + 3 * number as usize; 4]);
                assert_eq!(logits(&model), before, "{variant:?}");
                let now = tuned.trainable();
                for (path, id, values) in &old {
                    let (_, param) = now.iter().find(|(other, _)| other == path).unwrap();
                    assert!(param.id() == *id && param.value().to_f64() == *values, "{path}");
                }
                // New rows and columns of T learn first; the new A and B have gradients of exactly 0.
                let values: Vec<(String, Tensor)> = now.iter().filter(|(path, _)| old.iter().all(|(other, ..)| other != path)).map(|(path, param)| (path.clone(), param.value())).collect();
                assert!(!values.is_empty());
                let gradients = loss(&model).backward();
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
    let model = classifier(&Device::Cpu);
    let method = TriAdaptLora {
        interval: 1,
        increment: Some(2),
        growth: RankGrowth::Fixed,
        top_k: 1,
        safe: true,
        ..TriAdaptLora::new(7, 9)
    };
    let mut tuned = adapters::attach(&model, TARGETS, method).unwrap();
    scatter(&tuned);
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
    let model = classifier(&Device::Cpu);
    let tuned = adapters::attach(
        &model,
        TARGETS,
        TriAdaptLora { interval: 1, increment: Some(1), ..TriAdaptLora::new(3, 12) },
    )
    .unwrap();
    let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.02));
    let mut before = vec![1; 4];
    for _ in 0..20 {
        trainer.step(|| loss(&model)).unwrap();
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
        let message = adapters::attach(&classifier(&Device::Cpu), TARGETS, method).err().unwrap().to_string();
        assert!(message.contains("every gradient"), "{message}");
    }
}

#[test]
fn the_two_parts_of_dtsm_keep_their_distance() {
    let model = classifier(&Device::Reference);
    let tuned = adapters::attach(&model, TARGETS, Mtlora::new(Structure::Dtsm, 3)).unwrap();
    let path = "bert.encoder.layer.0.attention.self.query.mtlora_";
    let [c, d] = ["C", "D"].map(|name| param(&tuned, &format!("{path}{name}")));
    let distance = || (c.value() - d.value()).to_f64();
    let before = distance();
    let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.02));
    for _ in 0..10 {
        trainer.step(|| loss(&model)).unwrap();
    }
    assert!(c.value().to_f64()[1] != 0.0);
    near(&distance(), &before, 1e-14, "C - D");
}

#[test]
fn a_disabled_adapter_leaves_the_base_alone_until_it_is_enabled() {
    let model = classifier(&Device::Cpu);
    let before = logits(&model);
    let mut tuned =
        adapters::attach(&model, TARGETS, Lora::new(2)).unwrap().also_train("classifier.*").unwrap();
    scatter(&tuned);
    let adapted = logits(&model);
    tuned.disable();
    assert_eq!(logits(&model), before);
    tuned.enable().unwrap();
    assert_eq!(logits(&model), adapted);
}

#[test]
fn the_budget_falls_along_its_cubic_and_as_many_triplets_act() {
    let model = classifier(&Device::Cpu);
    let method = AdaLora { warm_up: 3, final_steps: 5, interval: 2, ..AdaLora::new(4, 2, 20) };
    let budgets: Vec<usize> = (0..=20).map(|step| method.budget(step, 4)).collect();
    assert_eq!((budgets[3], budgets[15], budgets[20]), (16, 8, 8));
    // 8 + 8·(1 - 3/12)³ = 11.375
    assert_eq!(budgets[6], 11);
    let tuned = adapters::attach(&model, TARGETS, method).unwrap();
    let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.02));
    for _ in 0..20 {
        trainer.step(|| loss(&model)).unwrap();
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
    for (row, exact) in rows().iter().filter_map(|row| match row.name {
        "MTLoRA fused" | "TriAdaptLoRA" | "AdaLoRA" | "VeRA" | "LoRA PiSSA" => Some((row, true)),
        "DoRA" => Some((row, false)),
        _ => None,
    }) {
        let model = classifier(&Device::Reference);
        let tuned = (row.attach)(&model).unwrap();
        scatter(&tuned);
        let folder = tempfile::tempdir().unwrap();
        for rank in [2, 8] {
            let error = tuned.export_as_lora(folder.path(), rank).unwrap();
            assert_eq!(error == 0.0, exact || rank == 8, "{}: {error:e}", row.name);
        }
        let other = classifier(&Device::Reference);
        adapters::load(&other, folder.path()).unwrap();
        near(&logits(&other), &logits(&model), 1e-12, row.name);
    }
}
