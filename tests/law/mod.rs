//! A function for each law: how far an adapter on a small layer is from keeping it; 0 where it holds
//! exactly. A law that is true or false gives 0 or infinity.

pub mod increlora;
pub mod mtlora;
pub mod san;
pub mod triadaptlora;
mod vectors;

use std::collections::{BTreeMap, HashMap};

use engrad::adapters::{Adapted, Update};
use engrad::nn::{Param, files};
use engrad::{Device, Gradients, Tensor};

use crate::common::{larger, random};
use crate::tiny::Chain;

/// How far a device is from keeping a law.
pub type Law = Box<dyn Fn(&Device) -> f64>;

/// The law of a name.
pub fn named(name: &str) -> Option<Law> {
    mtlora::named(name)
        .or_else(|| triadaptlora::named(name))
        .or_else(|| san::named(name))
        .or_else(|| increlora::named(name))
}

/// 0 if it is so.
pub fn truth(holds: bool) -> f64 {
    if holds { 0.0 } else { f64::INFINITY }
}

/// The largest magnitude.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, x| larger(largest, x.abs()))
}

/// The largest difference relative to the largest magnitude.
pub fn off(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.sizes(), expected.sizes());
    let (found, expected) = (found.to_f64(), expected.to_f64());
    let apart: Vec<f64> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
    if apart.iter().all(|x| *x == 0.0) { 0.0 } else { largest(&apart) / largest(&expected) }
}

/// The identity matrix.
pub fn identity(size: usize, device: &Device) -> Tensor {
    let one = |at: usize| f64::from(u8::from(at.is_multiple_of(size + 1)));
    Tensor::from_f64(&(0..size * size).map(one).collect::<Vec<_>>(), [size, size], device)
}

/// The trained parameter whose path ends so.
pub fn param(tuned: &Adapted, end: &str) -> Param {
    let all = tuned.trainable();
    all.iter()
        .find(|(path, _)| path.ends_with(end))
        .unwrap_or_else(|| panic!("no {end} in {all:?}"))
        .1
        .clone()
}

/// Gives every trained parameter values that are nowhere special.
pub fn scatter(tuned: &Adapted, seed: u64) {
    for (at, (_, param)) in tuned.trainable().iter().enumerate() {
        param.set(&random(param.sizes(), 100 * seed + at as u64, &param.device()));
    }
}

/// Every gradient of a loss that the adapter receives, by the parameter's path; zeros where none arrives.
pub fn gradients(tuned: &Adapted, loss: Tensor) -> BTreeMap<String, Tensor> {
    let params = tuned.trainable();
    let values: Vec<Tensor> = params.iter().map(|(_, param)| param.value()).collect();
    let gradients = loss.backward();
    let of = |value: &Tensor| gradients.of(value).cloned().unwrap_or_else(|| value.detach() * 0.0);
    params.iter().zip(&values).map(|((path, _), value)| (path.clone(), of(value))).collect()
}

/// The largest gradient of the parameters whose path contains one of the texts.
pub fn largest_gradient(gradients: &BTreeMap<String, Tensor>, texts: &[&str]) -> f64 {
    let chosen = gradients.iter().filter(|(path, _)| texts.iter().any(|text| path.contains(text)));
    chosen.fold(0.0, |worst, (_, gradient)| larger(worst, largest(&gradient.to_f64())))
}

/// A layer whose weights are 0, so that its adapter is all that it does: the update's transpose.
pub fn nothing(outputs: usize, inputs: usize, device: &Device) -> Chain {
    Chain::one(&Tensor::zeros([outputs, inputs], device))
}

/// What the adapter of [`nothing`] adds to the weights: `[out, in]`.
pub fn update(model: &Chain) -> Tensor {
    let layer = &model.layers[0].1;
    model.forward(&identity(layer.inputs(), &layer.weight().device())).t()
}

/// How far a layer with merged weights is from the same with base and adapter apart.
pub fn merging(model: &Chain, tuned: &Adapted, device: &Device) -> f64 {
    let x = random(&[4, model.layers[0].1.inputs()], 77, device);
    let apart = model.forward(&x);
    tuned.merge().expect("it is a change of weights");
    off(&model.forward(&x), &apart)
}

/// Lets a method act as after an update that nothing is known of.
pub fn after_update(tuned: &mut Adapted, number: u64) {
    tuned.after_update(&Update::new(number, &Gradients::default(), &HashMap::new())).unwrap();
}

/// The tensors of the adapter's file by the ends of their names.
pub fn file(tuned: &Adapted, device: &Device) -> BTreeMap<String, Tensor> {
    let directory = tempfile::tempdir().unwrap();
    tuned.save(directory.path()).unwrap();
    let tensors = files::read(directory.path().join("adapter_model.safetensors"), device).unwrap().tensors;
    let end = |name: &str| name.strip_prefix("base_model.model.only.").unwrap().to_string();
    tensors.into_iter().map(|(name, tensor)| (end(&name), tensor)).collect()
}
