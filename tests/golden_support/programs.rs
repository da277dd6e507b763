//! Random expression graphs: views, broadcasting, fan-out and `detach` in one backward pass.

use std::collections::HashMap;

use engrad::{Device, Tensor};
use serde_json::Value;

use super::argument::{list, text};
use super::case::{check_gradient, tolerance};
use super::compare::difference;
use super::folder::File;

/// **Errors** with what differs, and panics where the crate does.
pub fn run(case: &Value, file: &File, device: &Device) -> Result<(), String> {
    let mut named: HashMap<&str, Tensor> = HashMap::new();
    let mut leaves = Vec::new();
    for leaf in list(&case["leaves"]) {
        let stored = file.tensor(text(&leaf["tensor"]));
        let tensor = Tensor::from_f64(&stored.values, &stored.sizes, device).tracked();
        named.insert(text(&leaf["name"]), tensor.clone());
        leaves.push((text(&leaf["name"]), tensor));
    }
    for step in list(&case["steps"]) {
        let inputs: Vec<&Tensor> = list(&step[2]).iter().map(|name| &named[text(name)]).collect();
        let output = apply(text(&step[1]), &inputs, &step[3]);
        named.insert(text(&step[0]), output);
    }
    let tolerance = tolerance(case, file, device);
    for value in list(&case["values"]) {
        let (name, found) = (text(&value["name"]), &named[text(&value["name"])]);
        let expected = file.tensor(text(&value["tensor"]));
        if let Some(what) = difference(&found.to_f64(), found.sizes(), expected, tolerance) {
            return Err(format!("{name}: {what}"));
        }
    }
    let sinks = list(&case["sinks"]).iter().map(|name| {
        let sink = &named[text(name)];
        sink.square().sum(..) * 0.5 + sink.sum(..) * 0.25
    });
    let loss = sinks.reduce(|a, b| a + b).ok_or("no sinks")?;
    if let Some(what) = difference(&loss.to_f64(), &[], file.tensor(text(&case["loss"])), tolerance) {
        return Err(format!("loss: {what}"));
    }
    let gradients = loss.backward();
    for ((name, leaf), key) in leaves.iter().zip(list(&case["grads"])) {
        let expected = key.as_str().map(|key| file.tensor(key).values.clone());
        check_gradient(name, leaf, &gradients, expected, tolerance)?;
    }
    Ok(())
}

fn apply(op: &str, inputs: &[&Tensor], attributes: &Value) -> Tensor {
    let x = inputs[0];
    let axis = |name: &str| attributes[name].as_i64().expect("an axis") as isize;
    let count = |name: &str| attributes[name].as_u64().expect("a count") as usize;
    let sizes = || -> Vec<usize> {
        list(&attributes["shape"]).iter().map(|size| size.as_u64().expect("a size") as usize).collect()
    };
    let keep = attributes["keepdim"].as_bool() == Some(true);
    match (op, keep) {
        ("add", _) => x + inputs[1],
        ("sub", _) => x - inputs[1],
        ("mul", _) => x * inputs[1],
        ("div", _) => x / (inputs[1] * inputs[1] + 1.0),
        ("matmul", _) => x.matmul(inputs[1]),
        ("transpose", _) => x.transpose(axis("d0"), axis("d1")),
        ("reshape", _) => x.reshape(sizes()),
        ("expand", _) => x.expand(sizes()),
        ("slice", _) => x.slice(axis("dim"), count("start")..count("stop"), count("step")),
        ("cat", _) => Tensor::concat(inputs, axis("dim")),
        ("sum", false) => x.sum(axis("dim")),
        ("sum", true) => x.sum_keep(axis("dim")),
        ("mean", false) => x.mean(axis("dim")),
        ("mean", true) => x.mean_keep(axis("dim")),
        ("amax", false) => x.max(axis("dim")),
        ("amax", true) => x.max_keep(axis("dim")),
        ("exp_tanh", _) => x.tanh().exp(),
        ("tanh", _) => x.tanh(),
        ("sigmoid", _) => x.sigmoid(),
        ("relu", _) => x.relu(),
        ("gelu", _) => x.gelu(),
        ("silu", _) => x.silu(),
        ("softmax", _) => x.softmax(axis("dim")),
        ("layer_norm", _) => x.layer_norm(None, None, 1e-5),
        ("detach", _) => x.detach(),
        ("sumsq", _) => x.square().sum(..),
        _ => panic!("harness: no such step as {op:?}"),
    }
}
