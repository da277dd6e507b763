//! Running one case of a single operation: every output, then the gradient of every input.
//! Read next: `calls/mod.rs`.

use engrad::{Device, Gradients, Tensor};
use serde_json::Value;

use super::argument::{Call, list, text};
use super::calls::{self, Output};
use super::compare::difference;
use super::folder::File;

/// How far numbers may differ, relative to the largest magnitude.
///
/// Where f32 is computed, ten times what PyTorch's own f32 loses in this case is allowed too.
pub fn tolerance(device: &Device, torch_float32: &Value) -> f64 {
    match device {
        Device::Reference => 1e-9,
        _ => (10.0 * torch_float32["rel"].as_f64().unwrap_or(0.0)).max(1e-5),
    }
}

/// **Errors** with what differs, and panics where the crate does.
pub fn run(case: &Value, file: &File, device: &Device) -> Result<(), String> {
    if case.get("call").is_none() {
        return run_cast(case, file, device);
    }
    let call = Call::read(case, file, device);
    let outputs = calls::find(text(&case["call"])).ok_or("no such call in the table")?(&call);
    let tolerance = tolerance(device, &case["torch_float32"]);
    let expected = list(&case["outputs"]);
    if outputs.0.len() != expected.len() {
        return Err(format!("{} outputs instead of {}", outputs.0.len(), expected.len()));
    }
    for (at, (output, expected)) in outputs.0.iter().zip(expected).enumerate() {
        // Indices, truths and counts are right or wrong.
        let tolerance = if text(&expected["dtype"]) == "float64" { tolerance } else { 0.0 };
        let (values, sizes) = output.read();
        let stored = file.tensor(text(&expected["tensor"]));
        if let Some(what) = difference(&values, &sizes, stored, tolerance) {
            return Err(format!("output {at}: {what}"));
        }
    }
    let gradients = pull_back(&outputs.0, list(&case["grad_outputs"]), file, device);
    for gradient in list(&case["grads"]) {
        let path = text(&gradient["of"]);
        let leaf = call.leaves.get(path).ok_or(format!("no leaf {path}"))?;
        let expected = gradient["tensor"].as_str().map(|key| file.tensor(key).values.clone());
        check_gradient(path, leaf, &gradients, expected, tolerance)?;
    }
    Ok(())
}

/// The vector-Jacobian product, summed over the outputs that have a gradient.
fn pull_back(outputs: &[Output], keys: &[Value], file: &File, device: &Device) -> Gradients {
    let mut gradients = Gradients::default();
    for (output, key) in outputs.iter().zip(keys) {
        let (Output::Tensor(output), Some(key)) = (output, key.as_str()) else { continue };
        let stored = file.tensor(key);
        let g = Tensor::from_f64(&stored.values, &stored.sizes, device);
        gradients.add(output.clone().backward_with(g));
    }
    gradients
}

/// A gradient that does not exist counts as zeros, on either side.
pub fn check_gradient(
    name: &str,
    leaf: &Tensor,
    gradients: &Gradients,
    expected: Option<Vec<f64>>,
    tolerance: f64,
) -> Result<(), String> {
    let zeros = || vec![0.0; leaf.count()];
    let (found, sizes) = match gradients.of(leaf) {
        Some(g) => (g.to_f64(), g.sizes().to_vec()),
        None => (zeros(), leaf.sizes().to_vec()),
    };
    let sizes_expected = leaf.sizes().to_vec();
    let expected = super::folder::Stored { sizes: sizes_expected, values: expected.unwrap_or_else(zeros) };
    match difference(&found, &sizes, &expected, tolerance) {
        Some(what) => Err(format!("gradient of {name}: {what}")),
        None => Ok(()),
    }
}

/// Half-precision files are read and written by way of f32: round to nearest even, and back exactly.
fn run_cast(case: &Value, file: &File, device: &Device) -> Result<(), String> {
    let x = file.tensor(text(&case["input"]));
    let values = Tensor::from_f64(&x.values, &x.sizes, device).to_vec();
    let halves = values.iter().map(|&x| half::f16::from_f32(x).to_f64());
    let brains = values.iter().map(|&x| half::bf16::from_f32(x).to_f64());
    for (name, rounded) in [("float16", halves.collect::<Vec<f64>>()), ("bfloat16", brains.collect())] {
        for name in [name.to_string(), format!("{name}_back")] {
            let expected = file.tensor(text(&case[&name]));
            if let Some(what) = difference(&rounded, &x.sizes, expected, 0.0) {
                return Err(format!("{name}: {what}"));
            }
        }
    }
    Ok(())
}
