//! Small vectors that an independent implementation computed exactly (`golden/brain/vectors.json`): the
//! four structures, the assembly of blocks and their importance, and pairs of layers under SAN. Tables of
//! counts and whole budgets are in `src/adapters/triadaptlora/growth_tests.rs`.

use std::collections::HashMap;

use engrad::adapters::{self, Adapted, Lora, Mtlora, San, SanMode, Structure};
use engrad::nn::{Linear, Param, files, named_params};
use engrad::{Device, Tensor};
use serde_json::{Value, json};

use super::{after_update, gradients, identity, nothing, param, update};
use crate::common::{compare, on_every_device, test_on};
use crate::tiny::Chain;

fn rows(part: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/brain/vectors.json");
    let text = std::fs::read_to_string(path).expect("the file is part of the repository");
    let all: Value = serde_json::from_str(&text).expect("it is JSON");
    all[part].as_array().expect("rows").clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a row").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn vector(value: &Value, device: &Device) -> Tensor {
    let values = numbers(value);
    Tensor::from_f64(&values, [values.len()], device)
}

fn matrix(value: &Value, device: &Device) -> Tensor {
    let rows: Vec<Vec<f64>> = value.as_array().expect("a matrix").iter().map(numbers).collect();
    Tensor::from_f64(&rows.concat(), [rows.len(), rows[0].len()], device)
}

/// A layer with only LoRA, or MTLoRA of a structure, filled in.
fn structured(row: &Value, structure: Option<Structure>, device: &Device) -> (Chain, Adapted) {
    let (down, up) = (matrix(&row["A"], device), matrix(&row["B"], device));
    let rank = down.sizes()[0];
    let model = nothing(up.sizes()[0], down.sizes()[1], device);
    let alpha = row["s"].as_f64().expect("a number") * rank as f64;
    let tuned = match structure {
        None => adapters::attach(&model, "only", Lora { alpha, ..Lora::new(rank) }),
        Some(structure) => adapters::attach(&model, "only", Mtlora { alpha, ..Mtlora::new(structure, rank) }),
    };
    let tuned = tuned.expect("it fits");
    for (path, param) in tuned.trainable() {
        let key = path.trim_end_matches(".weight").rsplit('_').next().expect("a letter");
        param.set(&matrix(&row[key], device));
    }
    (model, tuned)
}

/// The file of a TriAdaptLoRA of these blocks, loaded onto an empty layer; A and B are the identity.
fn assembled(sizes: &[usize], lower: &Tensor, upper: &Tensor, divisor: &str) -> (Chain, Adapted) {
    let (rank, device) = (sizes.iter().sum(), lower.device());
    let config = json!({
        "peft_type": "TRIADAPTLORA", "target_modules": ["only"], "variant": "block", "blocks": {"only": sizes},
        "lora_alpha": 100, "init": "c0", "scale_mode": "constant", "reference_rank": 100, "init_rank": 1,
        "rank_growth": "linear", "top_k": 1, "init_warmup": 0, "incre_interval": 1, "total_step": 9,
        "score_divisor": divisor, "safe_clamp": true, "orth_reg_weight": 0.0,
    });
    let one = identity(rank, &device);
    let tensors = [("A", &one), ("B", &one), ("L", lower), ("U", upper)]
        .map(|(name, tensor)| (format!("base_model.model.only.triadapt_{name}"), tensor.clone()));
    let directory = tempfile::tempdir().unwrap();
    files::write(directory.path().join("adapter_model.safetensors"), &tensors.into(), HashMap::new())
        .unwrap();
    std::fs::write(directory.path().join("adapter_config.json"), config.to_string()).unwrap();
    let model = nothing(rank, rank, &device);
    let tuned = adapters::load(&model, directory.path()).unwrap();
    (model, tuned)
}

on_every_device! {
    fn structures_give_the_independent_products_and_gradients(device) {
        let structures = [
            ("LORA", None),
            ("SHIM", Some(Structure::Shim)),
            ("ICFM", Some(Structure::Icfm)),
            ("CTCM", Some(Structure::Ctcm)),
            ("DTSM", Some(Structure::Dtsm)),
        ];
        for row in rows("mtlora") {
            for (name, structure) in structures {
                let (model, tuned) = structured(&row, structure, device);
                let expected = &row["structures"][name];
                let change = update(&model);
                assert_eq!(change.to_f64(), matrix(&expected["dW"], device).to_f64(), "{name} {row}");
                let y = model.forward(&vector(&row["x"], device));
                assert_eq!(y.to_f64(), numbers(&expected["dWx"]), "{name} {row}");
                let found = gradients(&tuned, (change * matrix(&row["G"], device)).sum(..));
                for (path, found) in &found {
                    let key = path.trim_end_matches(".weight").rsplit('_').next().unwrap();
                    let expected = matrix(&expected[&format!("g{key}")], device).to_f64();
                    assert_eq!(found.to_f64(), expected, "{name} {path} {row}");
                }
            }
        }
    }

    fn blocks_are_assembled_and_as_important_as_in_the_independent_implementation(device) {
        for row in rows("triadaptlora") {
            let sizes: Vec<usize> = serde_json::from_value(row["sizes"].clone()).unwrap();
            let (lower, upper) = (matrix(&row["L"], device), matrix(&row["U"], device));
            let (model, tuned) = assembled(&sizes, &lower, &upper, "rank");
            assert_eq!(update(&model).to_f64(), matrix(&row["T"], device).to_f64());
            for number in 0..sizes.len() {
                for (name, key) in [("L", "row"), ("U", "col")] {
                    let found = param(&tuned, &format!("triadapt_{name}.{number}")).value().to_f64();
                    assert_eq!(found, matrix(&row[key][number], device).to_f64(), "{key} {number}");
                }
            }
            for value in row["values"].as_array().unwrap() {
                let count = value["blocks"].as_u64().unwrap() as usize;
                let rank = sizes[..count].iter().sum();
                let cut = |whole: &Tensor| whole.narrow(0, 0, rank).narrow(1, 0, rank);
                for (divisor, key) in [("rank", "v_by_rank"), ("blocks", "v_by_blocks")] {
                    let (_, mut tuned) = assembled(&sizes[..count], &cut(&lower), &cut(&upper), divisor);
                    after_update(&mut tuned, 1);
                    let check = &tuned.checks()[0];
                    compare(&check.values, &[value[key].as_f64().unwrap()], 1e-13).unwrap();
                    assert_eq!(check.scores, [0.0], "nothing changed since the file was loaded");
                }
            }
        }
    }

    fn neurons_and_synapses_give_the_independent_outputs_and_gradients(device) {
        for row in rows("san") {
            for (name, mode) in [("both", SanMode::Both), ("nt", SanMode::Nt), ("sp", SanMode::Sp)] {
                pair(&row, name, mode, device);
            }
        }
    }
}

fn pair(row: &Value, name: &str, mode: SanMode, device: &Device) {
    let layer = |number: usize| {
        let [weight, bias] = [format!("W{number}"), format!("b{number}")];
        Linear::from_weights(&matrix(&row[&weight], device), Some(&vector(&row[&bias], device)))
    };
    let layers = vec![("h.0.mlp.c_fc".into(), layer(1)), ("h.0.mlp.c_proj".into(), layer(2))];
    let model = Chain { layers, between: Tensor::relu };
    let (x, expected) = (vector(&row["x"], device), &row[name]);
    let close = |found: &Tensor, expected: &Value| {
        compare(&found.to_f64(), &numbers(expected), 1e-5).unwrap_or_else(|what| panic!("{name}: {what}"));
    };
    close(&model.layers[0].1.forward(&x), &row["h"]);
    let tuned = adapters::attach(&model, "*", San::new(mode)).unwrap();
    // In mode sp the last γ is not trained, because nothing follows it.
    let gammas: Vec<Param> = named_params(&model)
        .into_iter()
        .filter_map(|(path, param)| path.ends_with("san_gamma").then_some(param))
        .collect();
    let values = ["gamma1", "gamma2"].map(|key| vector(&row[key], device));
    gammas.iter().zip(&values).for_each(|(gamma, value)| gamma.set(value));
    close(&model.layers[0].1.forward(&x), &expected["layer1"]);
    let y = model.forward(&x);
    close(&y, &expected["y"]);
    let z = if mode == SanMode::Sp { y.clone() } else { &y / &values[1] };
    close(&z, &expected["z"]);
    let leaves: Vec<Tensor> = gammas.iter().map(Param::value).collect();
    let gradients = y.sum(..).backward();
    for (leaf, key) in leaves.iter().zip(["sum_y_dgamma1", "sum_y_dgamma2"]) {
        match gradients.of(leaf) {
            Some(gradient) => close(gradient, &expected[key]),
            None => assert!(mode == SanMode::Sp && key == "sum_y_dgamma2"),
        }
    }
    tuned.merge().unwrap();
    close(&model.forward(&x), &expected["y"]);
}
