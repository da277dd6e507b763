//! An adapter as it was saved: what it computes, its gradients, what it merges to, and saving it again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use engrad::adapters::{self, San, SanMap, Targets, Update};
use engrad::nn::{Adapter, Model, Part, Socket, Walker, named_params};
use engrad::{Device, Gradients, Tensor, inference};
use serde_json::Value;

use super::{Checks, EXACT, base, meaningful, outputs, saved, scratch};
use crate::stored::{Stored, summarised};

/// How far a device that computes in f32 may be off.
const ALLOWED: f64 = 2e-5;

pub fn check(root: &Path, folder: &Path, device: &Device, checks: &mut Checks) {
    let stored = Stored::read(folder.join("reference"));
    let model = base(root, &stored.notes, device);
    let same = |checks: &mut Checks, kind, key: &str, found: &Tensor| {
        checks.values(kind, key, [&found.to_f64(), &stored.values(key)], 0.0, ALLOWED);
    };
    let logits_same = |checks: &mut Checks, kind, key: &str, found: &Tensor| {
        let [found, expected] = [found.to_f64(), stored.values(key)].map(|x| meaningful(&model, &stored, &x));
        checks.values(kind, key, [&found, &expected], 0.0, ALLOWED);
    };
    let [logits, loss] = inference(|| outputs(&model, &stored));
    logits_same(checks, "outputs", "base_logits", &logits);
    same(checks, "outputs", "base_loss", &loss);

    let mut tuned = adapters::load(&model, folder).expect("the golden folder loads");
    checks.that(tuned.sites() == texts(&stored.notes["sites"]), || {
        format!("the adapted layers are {:?}", tuned.sites())
    });
    let [logits, loss] = outputs(&model, &stored);
    logits_same(checks, "outputs", "logits", &logits);
    let total = tuned.penalty().map_or(loss.clone(), |penalty| &loss + penalty);
    same(checks, "outputs", "loss", &total);
    if stored.has("task_loss") {
        same(checks, "outputs", "task_loss", &loss);
    }
    let gradients = total.backward();
    // ICFM's T = C·Cᵀ squares what is small in C; there PyTorch's own f32 gradients are off by 9e-5.
    let config = saved(folder, device).0;
    let allowed = if config["structure"] == "ICFM" { 1e-4 } else { ALLOWED };
    compare_gradients(&model, &gradients, &stored, allowed, checks);

    compare_merged(&model, &stored, checks);
    tuned.merge().expect("it is a change of weights");
    let [logits, loss] = inference(|| outputs(&model, &stored));
    logits_same(checks, "merged", "merged_logits", &logits);
    same(checks, "merged", "merged_loss", &loss);
    tuned.unmerge();

    let again = scratch(folder, "saved");
    tuned.save(&again).expect("the target folder can be written");
    compare_files(folder, &again, device, checks);
    if config["peft_type"] == "SAN" {
        compare_map(root, folder, &stored, &config, checks);
    }

    // Last, because the adapter may grow from it.
    tuned.after_update(&Update::new(1, &gradients, &HashMap::new())).unwrap();
    if stored.has("importance") {
        // After one update the running mean is the share of β₁ that is new.
        let share = 1.0 - config["beta1"].as_f64().expect("a number");
        let state = tuned.state();
        let of = |site: &str| state[&format!("{site}/running")].to_f64()[0] / share;
        let found: Vec<f64> = texts(&stored.notes["sites"]).iter().map(|site| of(site)).collect();
        checks.values("importance", "", [&found, &stored.values("importance")], 0.0, ALLOWED);
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

/// Each layer that is adapted, with its path.
fn adapted(model: &Model, mut visit: impl FnMut(&str, &dyn Adapter, &Socket)) {
    Walker::visit(model, &mut |path, part| {
        if let Part::Socket(socket) = part
            && let Some(adapter) = socket.adapter()
        {
            visit(path, &*adapter, socket);
        }
    });
}

/// Gradients as the file holds what they belong to: a matrix made of parts has one gradient.
fn gathered(model: &Model, gradients: &Gradients) -> BTreeMap<String, Vec<f64>> {
    let mut found = BTreeMap::new();
    for (path, param) in named_params(model) {
        if let Some(gradient) = gradients.of(&param.value()) {
            found.insert(path, param.stored(gradient).to_f64());
        }
    }
    adapted(model, |path, adapter, _| {
        for matrix in adapter.stored().into_iter().flatten() {
            let [rows, columns] = matrix.sizes;
            let mut values = vec![0.0; rows * columns];
            for (param, [row, column]) in &matrix.parts {
                let Some(gradient) = gradients.of(&param.value()) else { continue };
                for (at, value) in gradient.to_f64().into_iter().enumerate() {
                    let width = param.sizes()[1];
                    values[(row + at / width) * columns + column + at % width] = value;
                }
            }
            found.retain(|name, _| !name.starts_with(&format!("{path}.{}.", matrix.name)));
            found.insert(format!("{path}.{}", matrix.name), values);
        }
    });
    found
}

fn compare_gradients(
    model: &Model,
    gradients: &Gradients,
    stored: &Stored,
    allowed: f64,
    checks: &mut Checks,
) {
    let found = gathered(model, gradients);
    let unused = texts(&stored.notes["no_gradient"]);
    let expected: BTreeSet<&str> = stored
        .names()
        .filter_map(|name| name.strip_prefix("grad."))
        .filter(|name| !unused.contains(name))
        .collect();
    checks.that(found.keys().map(String::as_str).collect::<BTreeSet<&str>>() == expected, || {
        format!("gradients reach {:?}, and should reach {expected:?}", found.keys())
    });
    for (name, found) in &found {
        // Softmax does not see what all keys share: the gradient of a key's shift is rounding alone, and
        // measured against that of its scale.
        let gamma = name.strip_suffix("key.san_beta").map(|start| format!("grad.{start}key.san_gamma"));
        let scale = gamma.map_or(0.0, |gamma| stored.values(&gamma).iter().fold(0.0, |m, x| x.abs().max(m)));
        let key = format!("grad.{name}");
        if stored.has(&key) {
            checks.values("gradients", name, [found, &stored.values(&key)], scale, allowed);
        }
    }
}

fn compare_merged(model: &Model, stored: &Stored, checks: &mut Checks) {
    let mut compared = BTreeSet::new();
    adapted(model, |path, adapter, socket| {
        let base = socket.base();
        let merged = inference(|| adapter.adapt(&base));
        let bias = merged.bias.map(|bias| (format!("{path}.bias"), bias.to_f64(), 1));
        let weight = socket.weight().stored(&merged.weight);
        let weight = (format!("{path}.weight"), weight.to_f64(), weight.sizes()[1]);
        for (name, found, width) in std::iter::once(weight).chain(bias) {
            let [whole, sums] = ["merged", "mergedsum"].map(|start| format!("{start}.{name}"));
            if stored.has(&whole) {
                checks.values("merged", &name, [&found, &stored.values(&whole)], 0.0, ALLOWED);
            } else if stored.has(&format!("{sums}.stats")) {
                let allowed = if checks.exact { EXACT } else { ALLOWED };
                checks.off("merged", &name, summarised(stored, &sums, &found, width), allowed);
            } else {
                // What does not change is not stored: a bias, where the method leaves it alone.
                let same = base.bias.as_ref().is_some_and(|bias| bias.to_f64() == found);
                checks.that(same && name.ends_with("bias"), || format!("{name} changes"));
                continue;
            }
            compared.insert(name);
        }
    });
    let whole = stored.names().filter_map(|name| name.strip_prefix("merged."));
    let sums = stored.names().filter_map(|name| name.strip_prefix("mergedsum.")?.strip_suffix(".stats"));
    let missed: Vec<&str> = whole.chain(sums).filter(|&name| !compared.contains(name)).collect();
    checks.that(missed.is_empty(), || format!("nothing merges to {missed:?}"));
}

/// The same names and numbers, and a configuration that says the same.
fn compare_files(theirs: &Path, ours: &Path, device: &Device, checks: &mut Checks) {
    let [theirs, ours] = [theirs, ours].map(|directory| saved(directory, device));
    let bits = |tensors: &BTreeMap<String, Tensor>| -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
        tensors.iter().map(|(name, x)| (name.clone(), (x.sizes().to_vec(), x.to_f64()))).collect()
    };
    checks.that(bits(&theirs.1) == bits(&ours.1), || "the saved tensors are others".into());
    let [theirs, ours] = [&theirs.0, &ours.0].map(|config| config.as_object().expect("an object"));
    // Layers and modules may be named by their ends or by whole paths, and where the model came from and
    // what it is for is not known to an adapter.
    let free =
        ["target_modules", "exclude_modules", "modules_to_save", "base_model_name_or_path", "task_type"];
    for key in theirs.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
        let [theirs, ours] = [theirs, ours].map(|config| config.get(key));
        let same = match (theirs, ours) {
            (Some(theirs), Some(ours)) => free.contains(&key.as_str()) || equal(theirs, ours),
            _ => false,
        };
        checks.that(same, || format!("{key} is saved as {ours:?} instead of {theirs:?}"));
    }
}

/// Our own rules for what follows what give the stored predecessors.
fn compare_map(root: &Path, folder: &Path, stored: &Stored, config: &Value, checks: &mut Checks) {
    let map = match folder.to_string_lossy() {
        name if name.ends_with("vit_map") => SanMap::VitBase,
        name if name.ends_with("vslice") => SanMap::FlowWithValueSlice,
        _ => SanMap::Flow,
    };
    let names: Vec<String> = texts(&config["target_modules"]).into_iter().map(String::from).collect();
    let targets = Targets::from(names).with_embeddings();
    let model = base(root, &stored.notes, &Device::Cpu);
    let tuned =
        adapters::attach(&model, targets, San { map, ..San::default() }).expect("the layers are there");
    let directory = scratch(folder, "map");
    tuned.save(&directory).expect("the target folder can be written");
    let found = &saved(&directory, &Device::Cpu).0["predecessors"];
    checks.that(*found == config["predecessors"], || format!("the predecessors are {found}"));
}

/// Whether two values are the same; 8 is 8.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
