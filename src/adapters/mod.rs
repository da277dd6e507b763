//! Adapters: small trainable parts beside frozen weights.
//!
//! A [`Method`] governs all sites of a model; at each it makes an [`Adapter`],
//! which sits in a layer's socket. [`attach`] freezes the model and fills the sockets, [`load`] does
//! the same from a saved directory; [`Adapted`] can hold several by name. Files have the layout of
//! Hugging Face PEFT.
//! Read next: `lora.rs`, the simplest method, then `triadaptlora/mod.rs`, one that grows.

mod adalora;
mod adapted;
mod attached;
mod bottleneck;
mod combine;
mod dora;
mod files;
mod growth;
mod ia3;
mod increlora;
mod list;
mod loha;
mod lokr;
mod lora;
mod mtlora;
mod p_tuning;
mod patterns;
mod prefix_tuning;
mod prompt_tuning;
mod regex;
mod san;
mod selected;
mod settings;
mod ssf;
mod svd;
mod table;
mod targets;
mod triadaptlora;
mod vera;

pub use adalora::{AdaLora, AllocatedSites};
pub use adapted::{Adapted, attach};
pub use bottleneck::Bottleneck;
pub use dora::Dora;
pub use files::load;
pub use growth::Check;
pub use ia3::Ia3;
pub use increlora::{IncreLora, ReservedSites};
pub use list::{Listed, METHODS, Usual};
pub use loha::LoHa;
pub use lokr::LoKr;
pub use lora::{Bias, Lora, Start};
pub use mtlora::{Mtlora, Structure, TransformStart};
pub use p_tuning::PTuning;
pub use patterns::Patterns;
pub use prefix_tuning::PrefixTuning;
pub use prompt_tuning::{PromptStart, PromptTuning};
pub use san::{LinkedSites, San, SanMap, SanMode};
pub use selected::{BitFit, NormTuning};
pub use ssf::Ssf;
pub use targets::Targets;
pub use triadaptlora::{BlockStart, GrownSites, RankGrowth, ScaleMode, TriAdaptLora, Variant};
pub use vera::{SharedPair, Vera};

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Adapter, Param, Stack, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;
use crate::tensor::autograd::Gradients;

/// A place where an adapter is about to sit.
pub struct Site {
    /// The module path of the layer.
    pub path: String,
    /// The size of the last axis of its input; an embedding's number of rows.
    pub inputs: usize,
    /// The size of the last axis of its output.
    pub outputs: usize,
    /// Whether the layer is an embedding.
    pub embedding: bool,
    /// The stack of blocks behind it, if it is no layer but the place for virtual tokens. Inputs, outputs
    /// and base are then those of the table of token vectors.
    pub stack: Option<Stack>,
    /// The layer's own weights.
    pub base: Weights,
    /// Where it lives.
    pub device: Device,
    /// Its number among all sites, in forward order.
    pub number: usize,
}

/// How a parameter is trained, as seen from the run's schedule and the optimiser's weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Multiplies the learning rate.
    pub rate: f64,
    /// Multiplies the weight decay.
    pub decay: f64,
    /// The step at which its own schedule begins, warm-up included.
    pub since: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { rate: 1.0, decay: 1.0, since: 0 }
    }
}

/// What an update was made of, for methods that look back at it.
pub struct Update<'a> {
    /// How many updates were done, this one included.
    pub number: u64,
    gradients: &'a Gradients,
    before: &'a HashMap<u64, Tensor>,
}

impl<'a> Update<'a> {
    /// The gradients of an update, and the values that trained parameters had before it, by id.
    pub fn new(number: u64, gradients: &'a Gradients, before: &'a HashMap<u64, Tensor>) -> Update<'a> {
        Update { number, gradients, before }
    }

    /// The gradient that moved a parameter.
    pub fn gradient(&self, param: &Param) -> Option<&Tensor> {
        self.gradients.of(self.before.get(&param.id())?)
    }

    /// The gradient of a leaf that is no parameter.
    pub fn gradient_of(&self, leaf: &Tensor) -> Option<&Tensor> {
        self.gradients.of(leaf)
    }

    /// The value a parameter had before the update.
    pub fn before(&self, param: &Param) -> Tensor {
        self.before.get(&param.id()).map_or_else(|| param.value(), Tensor::clone).detach()
    }
}

impl<M: Method + 'static> From<M> for Box<dyn Method> {
    fn from(method: M) -> Box<dyn Method> {
        Box::new(method)
    }
}

/// What governs all sites of a model. Only `attach` and `config` have to be written.
pub trait Method: Send {
    /// Makes the adapter of one site. Called in forward order, so a method can link a site to an earlier one.
    ///
    /// **Errors** when the method does not fit the site.
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>>;

    /// The method's entries of `adapter_config.json`, `peft_type` among them; asked after attaching.
    fn config(&self) -> Map<String, Value>;

    /// Whether its adapters can sit in an embedding.
    fn embeds(&self) -> bool {
        false
    }

    /// Whether it puts adapters into layers at all, or only trains what the targets choose.
    fn adapts(&self) -> bool {
        true
    }

    /// Whether it puts virtual tokens before the model, whatever the targets.
    fn precedes(&self) -> bool {
        false
    }

    /// Called once every site is attached.
    fn attached(&mut self) {}

    /// Whether it trains a base parameter beside its adapters, such as a bias: by the parameter's
    /// path, and whether the targets chose its module.
    fn trains(&self, _path: &str, _chosen: bool) -> bool {
        false
    }

    /// What its files call the parameter `name` of `module` that it trains beside its adapters.
    fn file_name(&self, module: &str, name: &str, _adapted: bool) -> String {
        format!("{module}.{name}")
    }

    /// Parameters that all sites share, by the name that stands in the file behind `base_model.`.
    fn shared(&self) -> Vec<(String, Param)> {
        Vec::new()
    }

    /// How an adapter parameter is trained.
    fn pace(&self, _path: &str, _param: &Param) -> Pace {
        Pace::default()
    }

    /// Called when parameters have received their values from a file.
    ///
    /// **Errors** when the device has failed.
    fn loaded(&mut self) -> Result<()> {
        Ok(())
    }

    /// Added to the loss of every step.
    fn penalty(&self) -> Option<Tensor> {
        None
    }

    /// Called once per step, after the update that it describes.
    ///
    /// **Errors** when the device has failed.
    fn after_update(&mut self, _update: &Update) -> Result<()> {
        Ok(())
    }

    /// The present rank of each site in forward order; empty where ranks never change.
    fn ranks(&self) -> Vec<usize> {
        Vec::new()
    }

    /// Every decision about ranks so far.
    fn checks(&self) -> &[Check] {
        &[]
    }

    /// What the next update depends on beside parameters, for training checkpoints. Tensors on the
    /// reference device keep all their digits.
    fn state(&self) -> BTreeMap<String, Tensor> {
        BTreeMap::new()
    }

    /// Goes back to a state, which may have grown; parameters receive their values afterwards.
    ///
    /// **Errors** when it belongs to other sites or settings.
    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        match state.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::Names(format!("{name} is a state of another method"))),
        }
    }
}

/// A matrix of numbers drawn evenly from `±1/√columns`: `[rows, columns]`.
fn even([rows, columns]: [usize; 2], rng: &mut Rng, device: &Device) -> Tensor {
    let bound = 1.0 / (columns as f64).sqrt();
    Tensor::uniform(-bound, bound, [rows, columns], rng, device)
}

/// The identity matrix: `[size, size]`.
fn identity(size: usize, device: &Device) -> Tensor {
    let values: Vec<f32> = (0..size * size).map(|at| if at % (size + 1) == 0 { 1.0 } else { 0.0 }).collect();
    Tensor::new(&values, [size, size], device)
}
