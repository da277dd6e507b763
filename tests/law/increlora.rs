//! The laws of IncreLoRA: triplets, a reserve, and importance.

use std::collections::HashMap;

use engrad::adapters::{self, Adapted, IncreLora, Update};
use engrad::nn::files;
use engrad::{Device, Tensor};
use serde_json::{Value, json};

use super::{Law, after_update, nothing, off, param, scatter, update};
use crate::common::{larger, random};
use crate::tiny::Chain;

const INPUTS: usize = 6;
const OUTPUTS: usize = 5;

/// The law of a name, if it is one of IncreLoRA's.
pub fn named(name: &str) -> Option<Law> {
    let law = match name {
        "IncreLoRA without reserve = PEFT's AdaLoRA" => without_reserve_is_adalora,
        "importance does not depend on where the scale is put" => importance_is_of_the_product,
        "unfreezing a reserve lambda changes the output only by the scale factor" => growth_rescales,
        _ => return None,
    };
    Some(Box::new(law))
}

/// What a saved adapter of three triplets computes.
fn loaded(config: Value, device: &Device) -> Tensor {
    let tensors = [("A", [3, INPUTS]), ("B", [OUTPUTS, 3]), ("E", [3, 1])].map(|(name, sizes)| {
        (format!("base_model.model.only.lora_{name}"), random(&sizes, sizes[0] as u64, device))
    });
    let directory = tempfile::tempdir().unwrap();
    files::write(directory.path().join("adapter_model.safetensors"), &tensors.into(), HashMap::new())
        .unwrap();
    std::fs::write(directory.path().join("adapter_config.json"), config.to_string()).unwrap();
    let model = nothing(OUTPUTS, INPUTS, device);
    let _tuned = adapters::load(&model, directory.path()).unwrap();
    update(&model)
}

fn without_reserve_is_adalora(device: &Device) -> f64 {
    let ours = json!({
        "peft_type": "INCRELORA", "target_modules": ["only"], "lora_alpha": 6, "ranks": {"only": 3}, "reserve": 0,
        "init_rank": 1, "target_rank": 3, "incre_rank_num": 1, "top_h": 1, "init_warmup": 0, "incre_interval": 1,
        "total_step": 9, "beta1": 0.85, "beta2": 0.85, "orth_reg_weight": 0.0,
    });
    let theirs = json!({
        "peft_type": "ADALORA", "target_modules": ["only"], "lora_alpha": 6, "init_r": 3, "target_r": 2,
        "total_step": 9, "tinit": 1, "tfinal": 1, "deltaT": 1,
    });
    off(&loaded(ours, device), &loaded(theirs, device))
}

/// A layer that only the adapter fills: two active triplets and a reserve of one, all of them large.
fn scattered(interval: u64, device: &Device) -> (Chain, Adapted) {
    let model = nothing(OUTPUTS, INPUTS, device);
    let method = IncreLora { first_rank: 2, increment: Some(1), interval, ..IncreLora::new(4, 100) };
    let tuned = adapters::attach(&model, "only", method).unwrap();
    scatter(&tuned, 1);
    (model, tuned)
}

/// Against `Σ|dW ∘ ∂L/∂dW|/√n`, with the scale in dW, and with it in the gradient.
fn importance_is_of_the_product(device: &Device) -> f64 {
    let (model, mut tuned) = scattered(100, device);
    let (x, g) = (random(&[7, INPUTS], 31, device), random(&[7, OUTPUTS], 32, device));
    let change = update(&model);
    let gradients = (model.forward(&x) * &g).sum(..).backward();
    tuned.after_update(&Update::new(1, &gradients, &HashMap::new())).unwrap();
    let found = tuned.state()["only/running"].to_f64()[0] / (1.0 - 0.85);
    let of_change = g.t().matmul(&x);
    let scale = 8.0 / (2.0 + 1e-5);
    let importance = |change: &Tensor, gradient: &Tensor| {
        (change * gradient).abs().sum(..).item() / ((INPUTS * OUTPUTS) as f64).sqrt()
    };
    let expected =
        [importance(&change, &of_change), importance(&(&change * (1.0 / scale)), &(&of_change * scale))];
    expected.iter().fold(0.0, |worst, expected| larger(worst, (found - expected).abs() / expected))
}

fn growth_rescales(device: &Device) -> f64 {
    let (model, mut tuned) = scattered(1, device);
    let before = update(&model);
    after_update(&mut tuned, 1);
    assert_eq!(tuned.ranks(), [3]);
    // What the new reserve adds is another thing, of 1e-5 times its factors.
    let newest = param(&tuned, "lora_B.3");
    newest.set(&(newest.value() * 0.0));
    off(&update(&model), &(before * ((2.0 + 1e-5) / (3.0 + 1e-5))))
}
