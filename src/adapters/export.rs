//! An adapter of any method as plain LoRA, for tools that know nothing else.
//!
//! Where the update is a product of two factors the export is exact; elsewhere it is the best one of a
//! given rank, by singular values, and the error is reported.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, json};

use super::settings::object;
use super::svd::svd;
use super::targets::within;
use super::{Adapted, files};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

impl Adapted {
    /// Saves what the adapters do as LoRA, and gives the largest relative error of an update: 0 where all
    /// of them factor. Others are cut to at most `rank`.
    ///
    /// **Errors** when an adapter changes a bias, which LoRA does not, sits in an embedding, or the
    /// directory cannot be written.
    pub fn export_as_lora(&self, directory: impl AsRef<Path>, rank: usize) -> Result<f64> {
        let (mut tensors, mut ranks, mut worst) = (BTreeMap::new(), Map::new(), 0.0f64);
        for place in &self.places {
            let [up, down] = match place.adapter.factors() {
                Some(factors) => factors,
                None => {
                    let base = place.base();
                    let adapted = crate::inference(|| place.adapter.adapt(&base));
                    let bits = |bias: &Option<Tensor>| bias.as_ref().map(Tensor::to_f64);
                    if place.is_embedding() || bits(&adapted.bias) != bits(&base.bias) {
                        return Err(Error::Adapter(format!(
                            "{}: LoRA cannot say what this does",
                            place.path
                        )));
                    }
                    let (factors, error) = cut(&(adapted.weight - &base.weight).detach(), rank);
                    worst = worst.max(error);
                    factors
                }
            };
            ranks.insert(place.path.clone(), json!(down.sizes()[0]));
            let name = |end: &str| format!("base_model.model.{}.{end}.weight", place.path);
            tensors.insert(name("lora_A"), down.detach());
            tensors.insert(name("lora_B"), up.detach());
        }
        let alphas = ranks.clone();
        let mut config = object(json!({
            "peft_type": "LORA", "r": rank.max(1), "lora_alpha": rank.max(1), "lora_dropout": 0.0,
            "use_rslora": false, "use_dora": false, "bias": "none", "fan_in_fan_out": false,
            "init_lora_weights": true, "target_modules": self.sites(), "modules_to_save": null,
        }));
        config.insert("rank_pattern".into(), ranks.into());
        config.insert("alpha_pattern".into(), alphas.into());
        let modules = files::saved_modules(self);
        for (path, param) in self.base.iter().filter(|(path, _)| within(path, &modules)) {
            tensors.insert(format!("base_model.model.{path}"), param.value().detach());
        }
        if !modules.is_empty() {
            config.insert("modules_to_save".into(), json!(modules));
        }
        files::write(directory.as_ref(), config, &tensors)?;
        Ok(worst)
    }
}

/// The best factors of at most `rank`, and the relative error.
fn cut(update: &Tensor, rank: usize) -> ([Tensor; 2], f64) {
    let [rows, columns] = [update.sizes()[0], update.sizes()[1]];
    let (left, values, right) = svd(&update.to_f64(), rows, columns);
    let many = values.len();
    let kept = rank.clamp(1, many);
    let square = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>();
    let error = (square(&values[kept..]) / square(&values).max(f64::MIN_POSITIVE)).sqrt();
    let mut up = Vec::with_capacity(rows * kept);
    (0..rows).for_each(|row| up.extend((0..kept).map(|k| left[row * many + k] * values[k])));
    let mut down = Vec::with_capacity(kept * columns);
    (0..kept).for_each(|k| down.extend((0..columns).map(|column| right[column * many + k])));
    let device = update.device();
    let factors =
        [Tensor::from_f64(&up, [rows, kept], &device), Tensor::from_f64(&down, [kept, columns], &device)];
    (factors, error)
}
