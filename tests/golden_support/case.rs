//! Running one case of a single operation: every output, then the gradient of every input.
//! Read next: `calls/mod.rs`.

use engrad::{Device, Gradients, Tensor};
use serde_json::Value;

use super::argument::{Call, list, text};
use super::calls::{self, Output};
use super::compare::{Tolerance, difference, largest};
use super::folder::{File, Stored};

/// How far the numbers of a case may be from the expected ones, given PyTorch's own f32 loss in it.
///
/// Relative to a tensor's largest magnitude: 1e-9 in f64; where f32 is computed 1e-5, or ten times
/// what PyTorch's f32 loses. Three things no implementation can do are allowed for:
/// - `torch_float32.rel` of 1 and more says that a tensor of the case is what cancellation leaves
///   (the gradient of a norm over one element): also the stored f64 digits are then mere rounding,
///   off by 2e-6 of the exact gradient in `rms_norm.1.1e-12`. Such a case is held to the plain
///   tolerance of the largest number anywhere in it, while ten times `rel` would accept everything.
/// - Random programs hold such gradients too, and no f32 figure is stored for them; where f32 is
///   computed they are held to the largest number in the program.
/// - f32 has no numbers between 0 and 1e-38, save for subnormals of few digits.
pub fn tolerance(case: &Value, file: &File, device: &Device) -> Tolerance {
    let loss = case["torch_float32"]["rel"].as_f64().unwrap_or(0.0);
    let exact = *device == Device::Reference;
    let plain = if exact { 1e-9 } else { 1e-5 };
    let smallest = if exact { 0.0 } else { f64::from(f32::MIN_POSITIVE) };
    let is_program = case.get("steps").is_some();
    if loss >= 1.0 || (is_program && !exact) {
        return Tolerance {
            relative: plain,
            absolute: (plain * largest_of_results(case, file)).max(smallest),
        };
    }
    let relative = if exact { plain } else { plain.max(10.0 * loss) };
    Tolerance { relative, absolute: smallest }
}

/// The largest number among the expected outputs and gradients.
fn largest_of_results(case: &Value, file: &File) -> f64 {
    let named = |part: &Value| part["tensor"].as_str().or(part.as_str()).map(String::from);
    let parts = ["outputs", "values", "grads"].into_iter().flat_map(|part| list(&case[part]));
    let keys = parts.filter_map(named);
    keys.map(|key| largest(&file.tensor(&key).values)).fold(0.0, f64::max)
}

/// **Errors** with what differs, and panics where the crate does.
pub fn run(case: &Value, file: &File, device: &Device) -> Result<(), String> {
    if case.get("call").is_none() {
        return run_cast(case, file, device);
    }
    let call = Call::read(case, file, device);
    let outputs = calls::find(text(&case["call"])).ok_or("no such call in the table")?(&call);
    let tolerance = tolerance(case, file, device);
    let expected = list(&case["outputs"]);
    if outputs.0.len() != expected.len() {
        return Err(format!("{} outputs instead of {}", outputs.0.len(), expected.len()));
    }
    for (at, (output, expected)) in outputs.0.iter().zip(expected).enumerate() {
        let tolerance = if text(&expected["dtype"]) == "float64" { tolerance } else { Tolerance::EXACT };
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
    tolerance: Tolerance,
) -> Result<(), String> {
    let zeros = || vec![0.0; leaf.count()];
    let (found, sizes) = match gradients.of(leaf) {
        Some(g) => (g.to_f64(), g.sizes().to_vec()),
        None => (zeros(), leaf.sizes().to_vec()),
    };
    let sizes_expected = leaf.sizes().to_vec();
    let expected = Stored { sizes: sizes_expected, values: expected.unwrap_or_else(zeros) };
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
            if let Some(what) = difference(&rounded, &x.sizes, expected, Tolerance::EXACT) {
                return Err(format!("{name}: {what}"));
            }
        }
    }
    Ok(())
}
