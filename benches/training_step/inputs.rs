//! Weights and tokens from a small integer hash, which every framework can compute.

use engrad::nn::{Module, named_params};
use engrad::{Device, Tensor};
use rayon::prelude::*;

/// The integer hash that makes weights and tokens.
fn hash(seed: u32, position: u32) -> u32 {
    let mut x = position.wrapping_mul(0x9E37_79B1);
    x = x.wrapping_add(seed.wrapping_mul(0x85EB_CA77).wrapping_add(0xC2B2_AE3D));
    x ^= x >> 15;
    x = x.wrapping_mul(0x2C1B_3C6D);
    x ^= x >> 12;
    x = x.wrapping_mul(0x297A_2D39);
    x ^ (x >> 15)
}

/// Uniform weights of standard deviation 0.02.
const WEIGHTS: f32 = 0.034_641_016;

/// Numbers evenly from `-scale..scale`.
pub fn uniform(seed: u32, sizes: &[usize], scale: f32, device: &Device) -> Tensor {
    let count: usize = sizes.iter().product();
    let value = |i| (hash(seed, i) >> 8) as f32 * (scale / 8_388_608.0) - scale;
    let values: Vec<f32> = (0..count as u32).into_par_iter().map(value).collect();
    Tensor::new(&values, sizes, device)
}

/// Token ids.
pub fn tokens(seed: u32, count: usize, vocabulary: u32) -> Vec<u32> {
    (0..count as u32).map(|i| hash(seed, i) % vocabulary).collect()
}

/// Which hash seed makes the parameter of a path; `None` for biases and norms, which keep 0 and 1.
fn weight_seed(path: &str) -> Option<u32> {
    let parts = [
        ("word_embeddings.weight", 0),
        ("position_embeddings.weight", 1),
        ("token_type_embeddings.weight", 2),
        ("pooler.dense.weight", 900),
        ("classifier.weight", 901),
        ("wte.weight", 0),
        ("wpe.weight", 1),
    ];
    if let Some((_, seed)) = parts.iter().find(|(end, _)| path.ends_with(end)) {
        return Some(*seed);
    }
    let numbered = path.split_once("layer.").or(path.split_once("transformer.h."));
    let (layer, part) = numbered?.1.split_once('.')?;
    let parts = [
        ("attention.self.query.weight", 0),
        ("attention.self.key.weight", 1),
        ("attention.self.value.weight", 2),
        ("attention.output.dense.weight", 3),
        ("intermediate.dense.weight", 4),
        ("output.dense.weight", 5),
        ("attention.self.query.lora_A.weight", 10),
        ("attention.self.query.lora_B.weight", 11),
        ("attention.self.value.lora_A.weight", 12),
        ("attention.self.value.lora_B.weight", 13),
        ("attn.c_attn.weight", 0),
        ("attn.c_proj.weight", 1),
        ("mlp.c_fc.weight", 2),
        ("mlp.c_proj.weight", 3),
        ("attn.c_attn.lora_A.weight", 10),
        ("attn.c_attn.lora_B.weight", 11),
    ];
    let (_, number) = parts.iter().find(|(end, _)| *end == part)?;
    Some(100 * (layer.parse::<u32>().ok()? + 1) + number)
}

/// Gives every parameter that has a seed its numbers.
pub fn set_weights(model: &dyn Module) {
    for (path, param) in named_params(model) {
        if let Some(seed) = weight_seed(&path) {
            param.set(&uniform(seed, param.sizes(), WEIGHTS, &param.value().device()));
        }
    }
}
