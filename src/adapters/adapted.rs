//! A model with adapters: attaching, merging, and what is trained.
//! Read next: `files.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{Check, Method, Pace, Site, Targets, Update, files};
use crate::error::{Error, Result};
use crate::nn::{
    Adapter, Embedding, Form, Linear, Module, Param, Part, Pattern, Summary, Walker, Weights, named_params,
};
use crate::tensor::Tensor;

/// A layer with a socket.
#[derive(Clone)]
enum Layer {
    Linear(Linear),
    Embedding(Embedding),
}

/// A layer and the adapter that belongs there.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) path: String,
    layer: Layer,
    pub(super) adapter: Arc<dyn Adapter>,
}

impl Place {
    pub(super) fn base(&self) -> Weights {
        self.layer.base()
    }

    pub(super) fn is_embedding(&self) -> bool {
        matches!(self.layer, Layer::Embedding(_))
    }

    /// Whether files hold the layer's matrix as `[in, out]`.
    pub(super) fn is_transposed(&self) -> bool {
        matches!(&self.layer, Layer::Linear(linear) if linear.weight().form() == Form::Transposed)
    }

    /// The adapter's own parameters by their full paths.
    pub(super) fn params(&self) -> Vec<(String, Param)> {
        let mut found = Vec::new();
        Walker::visit(&*self.adapter, &mut |name, part| {
            if let Part::Param(param) = part {
                found.push((format!("{}.{name}", self.path), param.clone()));
            }
        });
        found
    }
}

impl Layer {
    fn base(&self) -> Weights {
        match self {
            Layer::Linear(linear) => linear.base(),
            Layer::Embedding(embedding) => embedding.base(),
        }
    }

    fn attach(&self, adapter: Arc<dyn Adapter>) -> Result<()> {
        match self {
            Layer::Linear(linear) => linear.attach(adapter),
            Layer::Embedding(embedding) => embedding.attach(adapter),
        }
    }

    fn detach(&self) {
        match self {
            Layer::Linear(linear) => drop(linear.detach()),
            Layer::Embedding(embedding) => drop(embedding.detach()),
        }
    }

    fn merge(&self) {
        match self {
            Layer::Linear(linear) => linear.merge(),
            Layer::Embedding(embedding) => embedding.merge(),
        }
    }

    fn unmerge(&self) {
        match self {
            Layer::Linear(linear) => linear.unmerge(),
            Layer::Embedding(embedding) => embedding.unmerge(),
        }
    }

    fn site(&self, path: &str, number: usize) -> Site {
        let base = self.base();
        let [rows, columns] = [base.weight.sizes()[0], base.weight.sizes()[1]];
        let embedding = matches!(self, Layer::Embedding(_));
        let (inputs, outputs) = if embedding { (rows, columns) } else { (columns, rows) };
        let device = base.weight.device();
        Site { path: path.to_string(), inputs, outputs, embedding, base, device, number }
    }
}

/// A base parameter that is trained beside the adapters.
#[derive(Clone)]
pub(super) struct Beside {
    pub(super) path: String,
    pub(super) param: Param,
    /// Whether the method asked for it; the others form the file's `modules_to_save`.
    pub(super) by_method: bool,
    /// Its value before.
    original: Tensor,
}

/// A model's adapters: what was attached where, and what is trained beside it.
pub struct Adapted {
    pub(super) method: Box<dyn Method>,
    pub(super) places: Vec<Place>,
    /// Every parameter that the model had before.
    pub(super) base: Vec<(String, Param)>,
    /// Which of them were frozen before.
    frozen: Vec<Param>,
    pub(super) beside: Vec<Beside>,
    /// The values of `beside` while the adapters are out of their sockets.
    kept: Option<Vec<Tensor>>,
}

/// Freezes the model and puts the method's adapters into every layer that the targets choose.
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
pub fn attach(
    model: &dyn Module,
    targets: impl Into<Targets>,
    method: impl Into<Box<dyn Method>>,
) -> Result<Adapted> {
    attach_boxed(model, &targets.into(), method.into())
}

/// As [`attach`]; a method that trains base parameters only needs no layer that fits.
pub(super) fn attach_boxed(
    model: &dyn Module,
    targets: &Targets,
    mut method: Box<dyn Method>,
) -> Result<Adapted> {
    let base = named_params(model);
    let all = layers(model);
    let chosen = all.iter().filter(|(path, layer)| {
        let embedding = matches!(layer, Layer::Embedding(_));
        method.adapts() && targets.choose(path, embedding) && (!embedding || method.embeds())
    });
    let chosen: Vec<&(String, Layer)> = chosen.collect();
    let mut places: Vec<Place> = Vec::new();
    for (number, (path, layer)) in chosen.into_iter().enumerate() {
        let attached = method
            .attach(&layer.site(path, number))
            .and_then(|adapter| layer.attach(adapter.clone()).map(|()| adapter));
        match attached {
            Ok(adapter) => places.push(Place { path: path.clone(), layer: layer.clone(), adapter }),
            Err(error) => {
                places.iter().for_each(|place| place.layer.detach());
                return Err(Error::Adapter(format!("{path}: {error}")));
            }
        }
    }
    let module = |path: &str| path.rsplit_once('.').map_or(String::new(), |(module, _)| module.to_string());
    method.attached();
    let chosen = |path: &str| match method.adapts() {
        true => places.iter().any(|place| place.path == module(path)),
        false => targets.choose(&module(path), false),
    };
    let trained: Vec<String> =
        base.iter().map(|(path, _)| path.clone()).filter(|path| method.trains(path, chosen(path))).collect();
    if places.is_empty() && trained.is_empty() {
        let linear = all.iter().find(|(_, layer)| matches!(layer, Layer::Linear(_)));
        let example = linear.map_or("none", |(path, _)| path);
        return Err(Error::Adapter(format!(
            "no linear layer fits {targets}; the first one is called {example}"
        )));
    }
    let frozen = base.iter().filter(|(_, param)| !param.is_trainable()).map(|(_, p)| p.clone()).collect();
    base.iter().for_each(|(_, param)| param.freeze());
    let mut adapted = Adapted { method, places, base, frozen, beside: Vec::new(), kept: None };
    adapted.train_beside(|path| trained.iter().any(|trained| trained == path), true);
    Ok(adapted)
}

/// Every layer with a socket, by path, in forward order.
fn layers(model: &dyn Module) -> Vec<(String, Layer)> {
    let mut found = Vec::new();
    Walker::visit(model, &mut |path, part| match part {
        Part::Linear(linear) => found.push((path.to_string(), Layer::Linear(linear.clone()))),
        Part::Embedding(table) => found.push((path.to_string(), Layer::Embedding(table.clone()))),
        Part::Param(_) => {}
    });
    found
}

impl Adapted {
    /// Trains the base parameters whose path fits too (heads, norms); their modules join the adapter's
    /// file.
    ///
    /// **Errors** when none fits; the adapters are then out again.
    pub fn also_train(mut self, pattern: &str) -> Result<Adapted> {
        let compiled = Pattern::new(pattern);
        if !self.train_beside(|path| compiled.matches(path), false) {
            let example = self.base.first().map_or("none".to_string(), |(path, _)| path.clone());
            self.detach();
            return Err(Error::Names(format!(
                "no parameter fits {pattern:?}; the first one is called {example}"
            )));
        }
        Ok(self)
    }

    /// Unfreezes the chosen base parameters, and says whether there are any.
    pub(super) fn train_beside(&mut self, chosen: impl Fn(&str) -> bool, by_method: bool) -> bool {
        let mut any = false;
        for (path, param) in self.base.iter().filter(|(path, _)| chosen(path)) {
            any = true;
            param.unfreeze();
            if !self.beside.iter().any(|beside| beside.path == *path) {
                let (param, original) = (param.clone(), param.value().detach());
                self.beside.push(Beside { path: path.clone(), param, by_method, original });
            }
        }
        any
    }

    /// Computes with merged weights from now on; exact to the bit, and the base stays untouched.
    pub fn merge(&self) {
        self.places.iter().for_each(|place| place.layer.merge());
    }

    /// Goes back to computing with base and adapter apart.
    pub fn unmerge(&self) {
        self.places.iter().for_each(|place| place.layer.unmerge());
    }

    /// Takes every adapter out; what was trainable before is trainable again. Base parameters that
    /// were trained beside the adapters keep their values.
    pub fn detach(self) {
        self.places.iter().for_each(|place| place.layer.detach());
        self.base.iter().for_each(|(_, param)| param.unfreeze());
        self.frozen.iter().for_each(Param::freeze);
    }

    /// Takes the adapters out of their sockets until [`Adapted::enable`]; the model computes as before
    /// they were attached, heads and norms that were trained beside them included.
    pub fn disable(&mut self) {
        if self.kept.is_none() {
            self.places.iter().for_each(|place| place.layer.detach());
            self.kept = Some(self.beside.iter().map(|beside| beside.param.value().detach()).collect());
            for beside in &self.beside {
                beside.param.set(&beside.original);
                beside.param.freeze();
            }
        }
    }

    /// Puts the adapters back, unmerged.
    ///
    /// **Errors** when another adapter sits in one of the sockets; none is then put back.
    pub fn enable(&mut self) -> Result<()> {
        let Some(kept) = self.kept.take() else { return Ok(()) };
        for (at, place) in self.places.iter().enumerate() {
            if let Err(error) = place.layer.attach(place.adapter.clone()) {
                self.places[..at].iter().for_each(|place| place.layer.detach());
                self.kept = Some(kept);
                return Err(error);
            }
        }
        for (beside, value) in self.beside.iter().zip(&kept) {
            beside.param.set(value);
            beside.param.unfreeze();
        }
        Ok(())
    }

    /// Adapter parameters and those trained beside them, by path. Asked every step, because
    /// methods may grow.
    pub fn trainable(&self) -> Vec<(String, Param)> {
        let mut all = self.adapter_params();
        all.extend(self.beside.iter().map(|beside| (beside.path.clone(), beside.param.clone())));
        all.retain(|(_, param)| param.is_trainable());
        all
    }

    /// How a parameter of [`Adapted::trainable`] is trained.
    pub fn pace(&self, path: &str, param: &Param) -> Pace {
        match self.beside.iter().any(|beside| beside.param.id() == param.id()) {
            true => Pace::default(),
            false => self.method.pace(path, param),
        }
    }

    /// Every parameter of the adapters, by path.
    pub(super) fn adapter_params(&self) -> Vec<(String, Param)> {
        self.places.iter().flat_map(Place::params).collect()
    }

    /// Base and adapter parameters in a table.
    pub fn summary(&self) -> Summary {
        let row = |(path, param): (String, Param)| (path, param.sizes().to_vec(), param.is_trainable());
        Summary { rows: self.base.iter().cloned().chain(self.adapter_params()).map(row).collect() }
    }

    /// The module paths of the adapted layers, in forward order.
    pub fn sites(&self) -> Vec<&str> {
        self.places.iter().map(|place| place.path.as_str()).collect()
    }

    /// The present rank of each site, for methods whose ranks change; empty for others.
    pub fn ranks(&self) -> Vec<usize> {
        self.method.ranks()
    }

    /// Every decision about ranks so far.
    pub fn checks(&self) -> &[Check] {
        self.method.checks()
    }

    /// What the method adds to the loss.
    pub fn penalty(&self) -> Option<Tensor> {
        self.method.penalty()
    }

    /// Lets the method act after an update.
    pub fn after_update(&mut self, update: &Update) {
        self.method.after_update(update);
    }

    /// What the next update depends on beside parameters.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        self.method.state()
    }

    /// Goes back to a state; parameters receive their values afterwards.
    ///
    /// **Errors** when it belongs to another method, other sites or other settings.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.method.restore(state)
    }

    /// Saves the adapter as a directory in PEFT's layout: `adapter_config.json` and
    /// `adapter_model.safetensors`.
    ///
    /// **Errors** when the directory cannot be written.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        files::save(self, directory.as_ref())
    }
}
