//! The adapter that a run begins with, written as a directory: from stored blocks, stored factors, and
//! the starts that the folders put in words.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use engrad::Tensor;
use engrad::nn::{Model, files, named_params};
use serde_json::{Value, json};

use super::run::Run;

/// Tensors by their names in the file, without the prefix.
type Tensors = BTreeMap<String, Tensor>;

/// Writes the directory.
pub fn write(run: &Run, model: &Model, directory: &Path) {
    let (mut config, mut tensors) = (run.stored.notes["config"].clone(), Tensors::new());
    if let Some(structure) = run.structure {
        config["structure"] = json!(structure);
    }
    for site in run.stored.notes["sites"].as_array().into_iter().flatten() {
        let site = site.as_str().expect("a path");
        match config["peft_type"].as_str() {
            Some("TRIADAPTLORA") => config["blocks"][site] = blocks(run, site, &config, &mut tensors),
            Some("INCRELORA") => config["ranks"][site] = triplets(run, site, &config, &mut tensors),
            _ => {}
        }
    }
    let params = named_params(model);
    let ends = run.ends();
    for name in ends.names() {
        let init = format!("init.{name}");
        tensors.entry(name.to_string()).or_insert_with(|| {
            match params.iter().find(|(path, _)| path == name) {
                _ if run.stored.has(&init) => run.stored.tensor(&init, run.device),
                Some((_, param)) => param.stored(&param.value()),
                None => fresh(run, name, &ends.sizes(name)),
            }
        });
    }
    let named = tensors.into_iter().map(|(name, tensor)| (format!("base_model.model.{name}"), tensor));
    std::fs::create_dir_all(directory).expect("the target folder can be written");
    std::fs::write(directory.join("adapter_config.json"), config.to_string()).expect("it is written");
    files::write(directory.join("adapter_model.safetensors"), &named.collect(), HashMap::new())
        .expect("it is written");
}

/// γ 1, β 0, B 0, T the identity.
fn fresh(run: &Run, name: &str, sizes: &[usize]) -> Tensor {
    let identity = match name.rsplit('.').next() {
        Some("san_gamma") => return Tensor::ones(sizes, run.device),
        Some("mtlora_C") => true,
        Some("mtlora_D") => run.structure == Some("CTCM"),
        _ => false,
    };
    let diagonal = |at: usize| f64::from(u8::from(identity && at.is_multiple_of(sizes[0] + 1)));
    let values: Vec<f64> = (0..sizes.iter().product()).map(diagonal).collect();
    Tensor::from_f64(&values, sizes, run.device)
}

/// The first blocks of a site, and their sizes.
fn blocks(run: &Run, site: &str, config: &Value, tensors: &mut Tensors) -> Value {
    let rank = whole(config, "init_rank");
    let sizes = if config["variant"] == "single" { vec![1; rank] } else { vec![rank] };
    let key = |name: &str, block: usize| format!("block.{site}.{block}.{name}");
    let [inputs, outputs] = [run.stored.sizes(&key("A", 0))[1], run.stored.sizes(&key("B", 0))[0]];
    for (name, part, shape, down) in [
        ("A", "A", [rank, inputs], true),
        ("B", "B", [outputs, rank], false),
        ("L", "row", [rank, rank], true),
        ("U", "col", [rank, rank], false),
    ] {
        let place = |block: usize| if down { [block, 0] } else { [0, block] };
        let parts = (0..sizes.len()).map(|block| (key(part, block), place(block)));
        tensors.insert(format!("{site}.triadapt_{name}"), matrix(run, shape, parts));
    }
    json!(sizes)
}

/// The first triplets of a site, its reserve among them, and how many are active.
fn triplets(run: &Run, site: &str, config: &Value, tensors: &mut Tensors) -> Value {
    let active = whole(config, "init_rank");
    let all = active + whole(config, "reserve");
    let key = |name: &str, at: usize| format!("triplet.{site}.{at}.{name}");
    let [inputs, outputs] = [run.stored.sizes(&key("Q", 0))[1], run.stored.sizes(&key("P", 0))[0]];
    let rows = matrix(run, [all, inputs], (0..all).map(|at| (key("Q", at), [at, 0])));
    let columns = matrix(run, [outputs, all], (0..all).map(|at| (key("P", at), [0, at])));
    let values: Vec<f64> = (0..all).map(|at| if at < active { 0.0 } else { 1e-5 }).collect();
    tensors.insert(format!("{site}.lora_A"), rows);
    tensors.insert(format!("{site}.lora_B"), columns);
    tensors.insert(format!("{site}.lora_E"), Tensor::from_f64(&values, [all, 1], run.device));
    json!(active)
}

fn whole(config: &Value, key: &str) -> usize {
    config[key].as_u64().expect("a whole number") as usize
}

/// A matrix of zeros with stored parts in it, each with the place of its first element.
fn matrix(run: &Run, sizes: [usize; 2], parts: impl Iterator<Item = (String, [usize; 2])>) -> Tensor {
    let mut values = vec![0.0; sizes[0] * sizes[1]];
    for (name, [row, column]) in parts {
        let width = run.stored.sizes(&name)[1];
        for (at, value) in run.stored.values(&name).into_iter().enumerate() {
            values[(row + at / width) * sizes[1] + column + at % width] = value;
        }
    }
    Tensor::from_f64(&values, sizes, run.device)
}
