//! The laws of TriAdaptLoRA: blocks of rank, what a growth changes, and starts that can never learn.

use std::collections::BTreeSet;

use engrad::adapters::{
    self, Adapted, BlockStart, Mtlora, RankGrowth, ScaleMode, Structure, TriAdaptLora, Variant,
};
use engrad::nn::{LanguageModel, Model, Pretrained, Side};
use engrad::{Device, Tensor, inference};

use super::{
    Law, after_update, file, gradients, identity, largest, largest_gradient, merging, nothing, off, param,
    scatter, truth, update,
};
use crate::common::random;
use crate::tiny::Chain;

const INPUTS: usize = 6;
const OUTPUTS: usize = 5;
/// What scales the update, with the method below.
const SCALE: f64 = 2.0;

/// The law of a name, if it is one of TriAdaptLoRA's.
pub fn named(name: &str) -> Option<Law> {
    for (start, variant) in [("block: ", Variant::Block), ("single: ", Variant::Single)] {
        if let Some(law) = name.strip_prefix(start).and_then(of_each) {
            return Some(Box::new(move |device| law(variant, device)));
        }
    }
    let law = match name {
        "half_identity growth: output unchanged" => half_identity_growth,
        "half_identity: T = I at the start" => half_identity_start,
        "alpha/R scale: growth multiplies the adapter output by (R + 1e-5) / (R + delta + 1e-5)" => {
            current_rank_scale
        }
        "c0 start: gradients of A, B exactly zero, of L, U not" => triangles_move_first,
        "cb0 (and abc0) start: all gradients exactly zero" => starts_of_zeros_never_learn,
        "abc0 at growth: the new block's gradients are exactly zero" => growth_of_zeros_never_learns,
        "cb0 at growth of a trained adapter: only the new col block (upper) has a gradient" => {
            upper_alone_learns
        }
        "`eye` growth adds s B_old[:, :delta] A_new at once" => identity_at_old_places,
        "growth of every site of gpt2_tiny with c0: logits unchanged" => growth_in_a_model,
        _ => return None,
    };
    Some(Box::new(law))
}

fn of_each(law: &str) -> Option<fn(Variant, &Device) -> f64> {
    Some(match law {
        "growth with c0, constant scale: output unchanged" => growth_changes_no_output,
        "growth leaves the old blocks' values and identities" => growth_leaves_old_blocks,
        "after c0 growth: new A, B have exactly zero gradients" => new_factors_wait,
        "score right after growth is negative" => grown_is_least_important,
        "L and U are staircases" => staircases,
        "parameter count R(in+out) + R^2 + sum delta_i^2" => count,
        "equals MTLoRA SHIM with C = L + U" => is_shim,
        "merged = unmerged" => merging_is_exact,
        _ => return None,
    })
}

/// Starts with 3 ranks and grows by 2 at every update.
fn method(variant: Variant) -> TriAdaptLora {
    TriAdaptLora {
        variant,
        first_rank: 3,
        interval: 1,
        increment: Some(2),
        growth: RankGrowth::Fixed,
        ..TriAdaptLora::new(7, 9)
    }
}

/// A layer that only the adapter fills, with values that are nowhere special.
fn scattered(method: TriAdaptLora, device: &Device) -> (Chain, Adapted) {
    let model = nothing(OUTPUTS, INPUTS, device);
    let tuned = adapters::attach(&model, "only", method).unwrap();
    scatter(&tuned, 1);
    (model, tuned)
}

/// The same once it has grown, and the paths of what is new.
fn grown(method: TriAdaptLora, device: &Device) -> (Chain, Adapted, BTreeSet<String>) {
    let (model, mut tuned) = scattered(method, device);
    let paths =
        |tuned: &Adapted| tuned.trainable().into_iter().map(|(path, _)| path).collect::<BTreeSet<_>>();
    let old = paths(&tuned);
    after_update(&mut tuned, 1);
    assert_eq!(tuned.ranks(), [5]);
    let new = paths(&tuned).difference(&old).cloned().collect();
    (model, tuned, new)
}

fn loss(model: &Chain, device: &Device) -> Tensor {
    (update(model) * random(&[OUTPUTS, INPUTS], 55, device)).sum(..)
}

fn growth_changes_no_output(variant: Variant, device: &Device) -> f64 {
    let (model, mut tuned) = scattered(method(variant), device);
    let before = update(&model).to_f64();
    after_update(&mut tuned, 1);
    truth(update(&model).to_f64() == before && tuned.ranks() == [5])
}

fn growth_leaves_old_blocks(variant: Variant, device: &Device) -> f64 {
    let (_, mut tuned) = scattered(method(variant), device);
    let state = |tuned: &Adapted| -> Vec<(u64, Vec<f64>)> {
        tuned.trainable().iter().map(|(_, param)| (param.id(), param.value().to_f64())).collect()
    };
    let before = state(&tuned);
    after_update(&mut tuned, 1);
    let after = state(&tuned);
    truth(before.iter().all(|old| after.contains(old)) && after.len() > before.len())
}

fn new_factors_wait(variant: Variant, device: &Device) -> f64 {
    let (model, tuned, new) = grown(method(variant), device);
    let mut found = gradients(&tuned, loss(&model, device));
    found.retain(|path, _| new.contains(path));
    assert!(
        largest_gradient(&found, &["triadapt_L"]) > 0.0 && largest_gradient(&found, &["triadapt_U"]) > 0.0
    );
    largest_gradient(&found, &["triadapt_A", "triadapt_B"])
}

fn grown_is_least_important(variant: Variant, device: &Device) -> f64 {
    let (_, mut tuned, _) = grown(method(variant), device);
    after_update(&mut tuned, 2);
    let [first, second] = tuned.checks() else { panic!("two checks") };
    truth(first.scores[0] > 0.0 && second.scores[0] < 0.0)
}

/// The end of the block in which each rank stands.
fn ends(variant: Variant) -> Vec<usize> {
    match variant {
        Variant::Block => vec![3, 3, 3, 5, 5],
        Variant::Single => vec![1, 2, 3, 4, 5],
    }
}

fn staircases(variant: Variant, device: &Device) -> f64 {
    let (_, tuned, _) = grown(method(variant), device);
    scatter(&tuned, 2);
    let file = file(&tuned, device);
    let (lower, upper) = (file["triadapt_L"].to_f64(), file["triadapt_U"].to_f64());
    let (ends, mut good) = (ends(variant), true);
    for i in 0..5 {
        for j in 0..5 {
            good &= (lower[i * 5 + j] != 0.0) == (j < ends[i]);
            good &= (upper[i * 5 + j] != 0.0) == (i < ends[j]);
        }
    }
    truth(good)
}

fn count(variant: Variant, device: &Device) -> f64 {
    let (_, tuned, _) = grown(method(variant), device);
    let squares: usize = match variant {
        Variant::Block => 9 + 4,
        Variant::Single => 5,
    };
    let found: usize = tuned.trainable().iter().map(|(_, param)| param.count()).sum();
    truth(found == 5 * (INPUTS + OUTPUTS) + 25 + squares)
}

fn is_shim(variant: Variant, device: &Device) -> f64 {
    let (model, tuned, _) = grown(method(variant), device);
    scatter(&tuned, 2);
    let file = file(&tuned, device);
    let other = nothing(OUTPUTS, INPUTS, device);
    let shim = adapters::attach(&other, "only", Mtlora::new(Structure::Shim, 5)).unwrap();
    param(&shim, "lora_A.weight").set(&file["triadapt_A"]);
    param(&shim, "lora_B.weight").set(&file["triadapt_B"]);
    param(&shim, "mtlora_C").set(&(&file["triadapt_L"] + &file["triadapt_U"]));
    off(&update(&model), &update(&other))
}

fn merging_is_exact(variant: Variant, device: &Device) -> f64 {
    let model = Chain::one(&random(&[OUTPUTS, INPUTS], 3, device));
    let mut tuned = adapters::attach(&model, "only", method(variant)).unwrap();
    after_update(&mut tuned, 1);
    scatter(&tuned, 1);
    merging(&model, &tuned, device)
}

fn half_identity() -> TriAdaptLora {
    TriAdaptLora { start: BlockStart::HalfIdentity, ..method(Variant::Block) }
}

fn half_identity_growth(device: &Device) -> f64 {
    let (model, mut tuned) = scattered(half_identity(), device);
    let before = update(&model);
    after_update(&mut tuned, 1);
    off(&update(&model), &before)
}

fn half_identity_start(device: &Device) -> f64 {
    let tuned = adapters::attach(&nothing(OUTPUTS, INPUTS, device), "only", half_identity()).unwrap();
    let file = file(&tuned, device);
    off(&(&file["triadapt_L"] + &file["triadapt_U"]), &identity(3, device))
}

fn current_rank_scale(device: &Device) -> f64 {
    let method = TriAdaptLora { scale_mode: ScaleMode::CurrentRank, ..method(Variant::Block) };
    let (model, mut tuned) = scattered(method, device);
    let before = update(&model);
    after_update(&mut tuned, 1);
    off(&update(&model), &(before * ((3.0 + 1e-5) / (5.0 + 1e-5))))
}

fn triangles_move_first(device: &Device) -> f64 {
    let model = nothing(OUTPUTS, INPUTS, device);
    let tuned = adapters::attach(&model, "only", method(Variant::Block)).unwrap();
    let found = gradients(&tuned, loss(&model, device));
    assert!(
        largest_gradient(&found, &["triadapt_L"]) > 0.0 && largest_gradient(&found, &["triadapt_U"]) > 0.0
    );
    largest_gradient(&found, &["triadapt_A", "triadapt_B"])
}

/// Gives the parameters zeros whose path contains one of the texts.
fn zero(tuned: &Adapted, new: &BTreeSet<String>, texts: &[&str]) {
    for (path, param) in tuned.trainable() {
        if new.contains(&path) && texts.iter().any(|text| path.contains(text)) {
            param.set(&(param.value() * 0.0));
        }
    }
}

fn starts_of_zeros_never_learn(device: &Device) -> f64 {
    let (model, tuned) = scattered(method(Variant::Block), device);
    let all = tuned.trainable().into_iter().map(|(path, _)| path).collect();
    zero(&tuned, &all, &["triadapt_B", "triadapt_L", "triadapt_U"]);
    largest_gradient(&gradients(&tuned, loss(&model, device)), &["only"])
}

fn growth_of_zeros_never_learns(device: &Device) -> f64 {
    let (model, tuned, new) = grown(method(Variant::Block), device);
    zero(&tuned, &new, &["only"]);
    let mut found = gradients(&tuned, loss(&model, device));
    found.retain(|path, _| new.contains(path));
    largest_gradient(&found, &["only"])
}

fn upper_alone_learns(device: &Device) -> f64 {
    let (model, tuned, new) = grown(method(Variant::Block), device);
    zero(&tuned, &new, &["triadapt_B", "triadapt_L", "triadapt_U"]);
    let mut found = gradients(&tuned, loss(&model, device));
    found.retain(|path, _| new.contains(path));
    assert!(largest_gradient(&found, &["triadapt_U"]) > 0.0);
    largest_gradient(&found, &["triadapt_A", "triadapt_B", "triadapt_L"])
}

/// The start that other code calls `eye` puts ones at old places and so jumps; it is not offered.
fn identity_at_old_places(device: &Device) -> f64 {
    let (model, tuned, new) = grown(method(Variant::Block), device);
    zero(&tuned, &new, &["triadapt_B", "triadapt_L", "triadapt_U"]);
    let before = update(&model);
    let eye = identity(2, device);
    param(&tuned, "triadapt_L.1").set(&eye.pad_axis(1, 0, 3, 0.0));
    param(&tuned, "triadapt_U.1").set(&eye.pad_axis(0, 0, 3, 0.0));
    let old = param(&tuned, "triadapt_B.0").value().narrow(1, 0, 2);
    let added = old.matmul(&param(&tuned, "triadapt_A.1").value()) * SCALE;
    off(&update(&model), &(before + added))
}

fn growth_in_a_model(device: &Device) -> f64 {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/gpt2_tiny");
    let Model::CausalLm(model) = Pretrained::from_directory(path, device).unwrap().model else {
        panic!("gpt2_tiny is a language model")
    };
    let method = TriAdaptLora { top_k: 8, ..method(Variant::Block) };
    let mut tuned = adapters::attach(&model, "*.{c_attn,c_proj,c_fc}", method).unwrap();
    for (at, (_, param)) in tuned.trainable().iter().enumerate() {
        param.set(&(random(param.sizes(), at as u64, device) * 0.1));
    }
    let batch = model.batch(&[vec![5, 9, 200, 31], vec![7, 8]], Side::Right).unwrap();
    let logits = || inference(|| model.forward(&batch));
    let before = logits();
    after_update(&mut tuned, 1);
    assert_eq!(tuned.ranks(), [5; 8]);
    assert!(largest(&before.to_f64()) > 0.0);
    off(&logits(), &before)
}
