//! Adapters: small trainable parts beside frozen weights.
//!
//! A [`Method`] governs all sites of a model; at each it makes an [`Adapter`](crate::nn::Adapter),
//! which sits in a linear layer's socket. [`attach`] freezes the model and fills the sockets,
//! [`load`] does the same from a saved directory. Files have the layout of Hugging Face PEFT.
//! Read next: `lora.rs`, the simplest method.

mod files;
mod lora;

pub use files::load;
pub use lora::Lora;

use std::path::Path;
use std::sync::Arc;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Adapter, Linear, Module, Param, Pattern, Summary, Walker, linears, named_params};
use crate::tensor::Tensor;
use crate::tensor::autograd::Gradients;

/// A place where an adapter is about to sit.
pub struct Site {
    /// The module path of the linear layer.
    pub path: String,
    /// The size of the last axis of its input.
    pub inputs: usize,
    /// The size of the last axis of its output.
    pub outputs: usize,
    /// Where it lives.
    pub device: Device,
    /// Its number among all sites, in forward order.
    pub number: usize,
}

/// What governs all sites of a model.
pub trait Method: Send {
    /// Makes the adapter of one site. Called in forward order, so a method can link a site to an earlier one.
    ///
    /// **Errors** when the method does not fit the site.
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>>;

    /// Added to the loss of every step.
    fn penalty(&self) -> Option<Tensor> {
        None
    }

    /// Called once per step, after the update, with the gradients that made it.
    fn after_update(&mut self, _gradients: &Gradients, _step: u64) {}

    /// The method's entries of `adapter_config.json`, `peft_type` among them.
    fn config(&self) -> serde_json::Map<String, serde_json::Value>;
}

/// A method chosen while the program runs.
impl Method for Box<dyn Method> {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        (**self).attach(site)
    }

    fn penalty(&self) -> Option<Tensor> {
        (**self).penalty()
    }

    fn after_update(&mut self, gradients: &Gradients, step: u64) {
        (**self).after_update(gradients, step);
    }

    fn config(&self) -> serde_json::Map<String, serde_json::Value> {
        (**self).config()
    }
}

/// A model's adapters: what was attached where, and what is trained beside it.
pub struct Adapted {
    method: Box<dyn Method>,
    sites: Vec<(String, Linear)>,
    /// Every parameter that the model had before.
    base: Vec<(String, Param)>,
    /// Which of them were frozen before.
    frozen: Vec<Param>,
    /// Paths of base parameters that are trained too.
    also: Vec<String>,
}

/// Freezes the model and puts the method's adapters into every linear layer whose path fits.
///
/// ```
/// # use engrad::{adapters::{self, Lora}, nn::{Encoder, EncoderConfig, Activation}, Device, Rng};
/// # let config = EncoderConfig { vocab_size: 9, hidden_size: 8, num_hidden_layers: 1,
/// #     num_attention_heads: 2, intermediate_size: 8, max_position_embeddings: 4, type_vocab_size: 1,
/// #     layer_norm_eps: 1e-12, hidden_act: Activation::Gelu, hidden_dropout_prob: 0.0,
/// #     attention_probs_dropout_prob: 0.0, initializer_range: 0.02, pad_token_id: 0 };
/// # let model = Encoder::new(&config, &mut Rng::seeded(1), &Device::Cpu)?;
/// let tuned = adapters::attach(&model, "*.attention.self.{query,value}", Lora::new(8))?;
/// assert_eq!(tuned.trainable().len(), 4);
/// # Ok::<(), engrad::Error>(())
/// ```
///
/// **Errors** when no layer fits, one has an adapter already, or the method refuses a site; the
/// model is then as it was.
pub fn attach(model: &dyn Module, pattern: &str, method: impl Method + 'static) -> Result<Adapted> {
    let compiled = Pattern::new(pattern);
    let adapted = attach_where(model, |path| compiled.matches(path), Box::new(method))?;
    adapted.ok_or_else(|| {
        let example = linears(model).first().map_or("none".to_string(), |(path, _)| path.clone());
        Error::Adapter(format!("no linear layer fits {pattern:?}; the first one is called {example}"))
    })
}

/// As [`attach`] with any choice of paths; `None` when none is chosen.
fn attach_where(
    model: &dyn Module,
    chosen: impl Fn(&str) -> bool,
    mut method: Box<dyn Method>,
) -> Result<Option<Adapted>> {
    let base = named_params(model);
    let sites: Vec<(String, Linear)> = linears(model).into_iter().filter(|(path, _)| chosen(path)).collect();
    if sites.is_empty() {
        return Ok(None);
    }
    for (number, (path, linear)) in sites.iter().enumerate() {
        let (inputs, outputs, device) = (linear.inputs(), linear.outputs(), linear.weight().device());
        let site = Site { path: path.clone(), inputs, outputs, device, number };
        let attached = method.attach(&site).and_then(|adapter| linear.attach(adapter));
        if let Err(error) = attached {
            sites[..number].iter().for_each(|(_, linear)| drop(linear.detach()));
            return Err(Error::Adapter(format!("{path}: {error}")));
        }
    }
    let frozen = base.iter().filter(|(_, param)| !param.is_trainable()).map(|(_, p)| p.clone()).collect();
    base.iter().for_each(|(_, param)| param.freeze());
    Ok(Some(Adapted { method, sites, base, frozen, also: Vec::new() }))
}

impl Adapted {
    /// Trains the base parameters whose path fits too (heads, norms); their modules join the adapter's
    /// file.
    ///
    /// **Errors** when none fits; the adapters are then out again.
    pub fn also_train(mut self, pattern: &str) -> Result<Adapted> {
        let compiled = Pattern::new(pattern);
        if !self.train_also(|path| compiled.matches(path)) {
            let example = self.base.first().map_or("none".to_string(), |(path, _)| path.clone());
            self.detach();
            return Err(Error::Names(format!(
                "no parameter fits {pattern:?}; the first one is called {example}"
            )));
        }
        Ok(self)
    }

    /// Unfreezes the chosen base parameters, and says whether there are any.
    fn train_also(&mut self, chosen: impl Fn(&str) -> bool) -> bool {
        let mut any = false;
        for (path, param) in self.base.iter().filter(|(path, _)| chosen(path)) {
            any = true;
            param.unfreeze();
            if !self.also.contains(path) {
                self.also.push(path.clone());
            }
        }
        any
    }

    /// Computes with merged weights from now on; exact to the bit, and the base stays untouched.
    pub fn merge(&self) {
        self.sites.iter().for_each(|(_, linear)| linear.merge());
    }

    /// Goes back to computing with base and adapter apart.
    pub fn unmerge(&self) {
        self.sites.iter().for_each(|(_, linear)| linear.unmerge());
    }

    /// Takes every adapter out; what was trainable before is trainable again. Base parameters that
    /// were trained beside the adapters keep their values.
    pub fn detach(self) {
        self.sites.iter().for_each(|(_, linear)| drop(linear.detach()));
        self.base.iter().for_each(|(_, param)| param.unfreeze());
        self.frozen.iter().for_each(Param::freeze);
    }

    /// Adapter parameters and those trained beside them, by path. Asked every step, because
    /// methods may grow.
    pub fn trainable(&self) -> Vec<(String, Param)> {
        let mut all = self.adapter_params();
        all.extend(self.base.iter().filter(|(path, _)| self.also.contains(path)).cloned());
        all.retain(|(_, param)| param.is_trainable());
        all
    }

    /// Every parameter that sits in a socket, by path.
    fn adapter_params(&self) -> Vec<(String, Param)> {
        let mut found = Vec::new();
        for (site, linear) in &self.sites {
            let Some(adapter) = linear.adapter() else { continue };
            Walker::visit(&*adapter, &mut |name, part| {
                if let crate::nn::Part::Param(param) = part {
                    found.push((format!("{site}.{name}"), param.clone()));
                }
            });
        }
        found
    }

    /// Base and adapter parameters in a table.
    pub fn summary(&self) -> Summary {
        let row = |(path, param): (String, Param)| (path, param.sizes().to_vec(), param.is_trainable());
        Summary { rows: self.base.iter().cloned().chain(self.adapter_params()).map(row).collect() }
    }

    /// What the method adds to the loss.
    pub fn penalty(&self) -> Option<Tensor> {
        self.method.penalty()
    }

    /// Lets the method act after an update.
    pub fn after_update(&mut self, gradients: &Gradients, step: u64) {
        self.method.after_update(gradients, step);
    }

    /// Saves the adapter as a directory in PEFT's layout: `adapter_config.json` and
    /// `adapter_model.safetensors`.
    ///
    /// **Errors** when the directory cannot be written.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        files::save(self, directory.as_ref())
    }
}
