//! Counts, ties and whole budgets of TriAdaptLoRA against an independent implementation.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::nn::Weights;
use crate::tensor::autograd::Gradients;

fn vectors(part: &str) -> Vec<Value> {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/brain/vectors.json"));
    let all: Value = serde_json::from_str(&text.unwrap()).unwrap();
    all[part].as_array().unwrap().clone()
}

fn attach(method: &mut TriAdaptLora, sites: usize) {
    let weights = Weights { weight: Tensor::zeros([8, 8], &Device::Reference), bias: None };
    for number in 0..sites {
        let (base, device) = (weights.clone(), Device::Reference);
        let path = number.to_string();
        let site = Site { path, inputs: 8, outputs: 8, embedding: false, stack: None, base, device, number };
        method.attach(&site).unwrap();
    }
}

fn whole(row: &Value, key: &str) -> usize {
    row[key].as_u64().unwrap_or_else(|| panic!("{key} in {row}")) as usize
}

#[test]
fn the_schedules_give_the_counts_of_the_independent_implementation() {
    for row in vectors("counts") {
        let mut method = TriAdaptLora {
            safe: false,
            warm_up: whole(&row, "warm") as u64,
            ..TriAdaptLora::new(8, whole(&row, "total") as u64)
        };
        attach(&mut method, whole(&row, "N"));
        for (growth, name) in [(RankGrowth::Linear, "linear"), (RankGrowth::Nonlinear, "nonlinear")] {
            method.growth = growth;
            let count = method.count(whole(&row, "left"), whole(&row, "t") as u64);
            assert_eq!(count, whole(&row, name), "{name} of {row}");
        }
    }
}

#[test]
fn whole_budgets_run_as_in_the_independent_implementation() {
    for row in vectors("budgets") {
        let checks = whole(&row, "checks") as u64;
        let growth = RankGrowth::NAMES.iter().find(|(name, _)| row["mode"] == *name).unwrap().1;
        let mut method = TriAdaptLora {
            growth,
            top_k: whole(&row, "top_k"),
            first_rank: whole(&row, "start_rank"),
            increment: Some(whole(&row, "delta")),
            safe: row["safe_clamp"] == true,
            interval: 1,
            ..TriAdaptLora::new(whole(&row, "reference_rank"), checks)
        };
        attach(&mut method, whole(&row, "N"));
        let mut rng = Rng::seeded(5);
        for number in 1..=checks {
            // Any values without ties.
            for block in method.grown.sites.iter().flat_map(|site| site.adapter.blocks()) {
                block.row.set(&Tensor::normal(1.0, block.row.sizes(), &mut rng, &Device::Reference));
            }
            method.after_update(&Update::new(number, &Gradients::default(), &HashMap::new())).unwrap();
        }
        let counts: Vec<usize> = method.grown.checks.iter().map(|check| check.count).collect();
        assert_eq!(json!(counts), row["k"], "{row}");
        assert_eq!(method.ranks().iter().sum::<usize>(), whole(&row, "final_total"), "{row}");
    }
}

#[test]
fn ties_are_admitted_or_cut_as_in_the_independent_implementation() {
    for row in vectors("choose") {
        let scores: Vec<f64> =
            row["scores"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        for (exactly, name) in [(false, "plain"), (true, "safe")] {
            let (threshold, chosen) = choose(&scores, whole(&row, "k"), exactly);
            assert_eq!((json!(threshold), json!(chosen)), (row["tau"].clone(), row[name].clone()), "{row}");
        }
    }
}
