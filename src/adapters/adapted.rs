//! A model with adapters: one or several by name, of which one is active.
//!
//! The active adapter sits in the model's sockets; the others stand outside with all that belongs to
//! them, heads trained beside them included. So the model knows nothing of names, and an adapter that
//! is not active costs and changes nothing. Read next: `files.rs`, `combine.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::attached::{Attached, Host};
use super::targets::within;
use super::{Check, Method, Pace, Targets, Update, files};
use crate::error::{Error, Result};
use crate::nn::{Module, Param, Pattern, Summary};
use crate::tensor::Tensor;

/// The name of the adapter that [`attach`] and [`load`](super::load) make, as in PEFT.
pub(super) const DEFAULT: &str = "default";

/// A model's adapters: what was attached where, and what is trained beside it.
pub struct Adapted {
    pub(super) host: Host,
    pub(super) adapters: Vec<(String, Attached)>,
    /// The one in use, or in use again after [`Adapted::enable`].
    active: usize,
}

/// Freezes the model and puts the method's adapters into every layer that the targets choose.
///
/// ```
/// # use engrad::{adapters::{self, Lora}, nn::{Encoder, EncoderConfig}, Device, Rng};
/// # let config = EncoderConfig { vocab_size: 9, hidden_size: 8, num_hidden_layers: 1,
/// #     num_attention_heads: 2, intermediate_size: 8, ..EncoderConfig::default() };
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
    Adapted::first(model, |host| host.attach(&targets.into(), method.into()))
}

impl Adapted {
    /// A model's first adapter.
    ///
    /// **Errors** when it cannot be made; the model is then as it was.
    pub(super) fn first(model: &dyn Module, make: impl FnOnce(&Host) -> Result<Attached>) -> Result<Adapted> {
        let host = Host::of(model);
        match make(&host) {
            Ok(attached) => Ok(Adapted { adapters: vec![(DEFAULT.to_string(), attached)], active: 0, host }),
            Err(error) => {
                host.thaw();
                Err(error)
            }
        }
    }

    /// Puts one more adapter beside those that are there, and makes it the active one.
    ///
    /// **Errors** as [`attach`], and when the name is taken or cannot name a directory; everything is
    /// then as it was.
    pub fn add(
        &mut self,
        name: &str,
        targets: impl Into<Targets>,
        method: impl Into<Box<dyn Method>>,
    ) -> Result<()> {
        self.add_made(name, |host| host.attach(&targets.into(), method.into()))
    }

    /// Puts a saved adapter beside those that are there, and makes it the active one.
    ///
    /// **Errors** as [`load`](super::load), and when the name is taken or cannot name a directory;
    /// everything is then as it was.
    pub fn load(&mut self, name: &str, directory: impl AsRef<Path>) -> Result<()> {
        self.add_made(name, |host| files::load_onto(host, directory.as_ref()))
    }

    /// Makes an adapter while no other is in the sockets, and the active one of it.
    pub(super) fn add_made(
        &mut self,
        name: &str,
        make: impl FnOnce(&Host) -> Result<Attached>,
    ) -> Result<()> {
        self.check_new(name)?;
        let enabled = self.is_enabled();
        self.disable();
        match make(&self.host) {
            Ok(attached) => {
                self.adapters.push((name.to_string(), attached));
                self.active = self.adapters.len() - 1;
                Ok(())
            }
            Err(error) => {
                if enabled {
                    self.enable()?;
                }
                Err(error)
            }
        }
    }

    /// A name becomes a directory's.
    fn check_new(&self, name: &str) -> Result<()> {
        let fits = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(fits) {
            return Err(Error::Adapter(format!(
                "{name:?} cannot name an adapter; expected letters, digits, - and _"
            )));
        }
        match self.names().contains(&name) {
            true => Err(Error::Adapter(format!("there is an adapter called {name:?} already"))),
            false => Ok(()),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<usize> {
        let found = self.adapters.iter().position(|(other, _)| other == name);
        found.ok_or_else(|| {
            Error::Adapter(format!("there is no adapter called {name:?}, only {:?}", self.names()))
        })
    }

    /// Makes another adapter the active one, unmerged: the model computes with it alone, and only it is
    /// trained. Heads that several adapters train are exchanged with them, so give each its own trainer.
    ///
    /// **Errors** when there is none of this name, or a stranger sits in one of its sockets; the model
    /// is then as it was, or has none in use.
    pub fn activate(&mut self, name: &str) -> Result<()> {
        let chosen = self.number(name)?;
        if chosen != self.active {
            self.disable();
            self.active = chosen;
        }
        self.enable()
    }

    /// Forgets an adapter; the others stay as they are.
    ///
    /// **Errors** when there is none of this name, or it is the active one.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let chosen = self.number(name)?;
        if chosen == self.active {
            return Err(Error::Adapter(format!(
                "{name:?} is active; activate another adapter first, or detach all of them"
            )));
        }
        self.adapters.remove(chosen);
        self.active -= usize::from(self.active > chosen);
        Ok(())
    }

    /// The name of each adapter, in the order in which they came.
    pub fn names(&self) -> Vec<&str> {
        self.adapters.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The name of the active adapter; [`attach`] calls it `"default"`.
    pub fn active(&self) -> &str {
        &self.adapters[self.active].0
    }

    /// Whether the active adapter takes part: it does not between `disable` and `enable`.
    pub fn is_enabled(&self) -> bool {
        self.current().inside
    }

    pub(super) fn current(&self) -> &Attached {
        &self.adapters[self.active].1
    }

    fn current_mut(&mut self) -> &mut Attached {
        &mut self.adapters[self.active].1
    }

    /// Trains the base parameters whose path fits beside the active adapter (heads, norms); their
    /// modules join its file.
    ///
    /// **Errors** when none fits, or one stands in no module, or in an adapted layer, of which files say one or
    /// the other; all adapters are then out again.
    pub fn also_train(mut self, pattern: &str) -> Result<Adapted> {
        let compiled = Pattern::new(pattern);
        let attached = &mut self.adapters[self.active].1;
        if !attached.train_beside(&self.host, |path| compiled.matches(path), false) {
            let example = self.host.params.first().map_or("none".to_string(), |(path, _)| path.clone());
            self.detach();
            return Err(Error::Names(format!(
                "no parameter fits {pattern:?}; the first one is called {example}"
            )));
        }
        let refused = |path: &str| match path.rsplit_once('.') {
            None => Some("which stands in no module that a file could name; leave it out"),
            Some((module, _)) => {
                let adapted = self.sites().iter().any(|site| within(site, &[module]));
                adapted.then_some("whose layer has an adapter; leave one of them out")
            }
        };
        let beside = self.current().beside.iter().filter(|beside| !beside.by_method);
        let found = beside.map(|beside| &beside.path).find_map(|path| Some((path.clone(), refused(path)?)));
        match found {
            None => Ok(self),
            Some((path, why)) => {
                self.detach();
                Err(Error::Names(format!("{pattern:?} trains {path}, {why}")))
            }
        }
    }

    /// Computes with merged weights from now on; exact to the bit, and the base stays untouched.
    ///
    /// **Errors** when the active adapter is no change of weights (virtual tokens, bottlenecks); nothing
    /// is then merged.
    pub fn merge(&self) -> Result<()> {
        if self.is_enabled() {
            for place in &self.current().places {
                place.socket.merge().map_err(|error| Error::Adapter(format!("{}: {error}", place.path)))?;
            }
        }
        Ok(())
    }

    /// Goes back to computing with base and adapter apart.
    pub fn unmerge(&self) {
        if self.is_enabled() {
            self.current().places.iter().for_each(|place| place.socket.unmerge());
        }
    }

    /// Takes every adapter out; what was trainable before is trainable again. Base parameters that
    /// were trained beside the active adapter keep their values.
    pub fn detach(self) {
        if self.is_enabled() {
            self.current().empty_sockets();
        }
        self.host.thaw();
    }

    /// Takes the active adapter out of its sockets until [`Adapted::enable`]; the model computes as
    /// before it was attached, heads and norms that were trained beside it included.
    pub fn disable(&mut self) {
        self.current_mut().take_out();
    }

    /// Puts the active adapter back, unmerged.
    ///
    /// **Errors** when another adapter sits in one of the sockets; none is then put back.
    pub fn enable(&mut self) -> Result<()> {
        self.current_mut().put_in()
    }

    /// Parameters of the active adapter and those trained beside it, by path; none while it is disabled.
    /// Asked every step, because methods may grow.
    pub fn trainable(&self) -> Vec<(String, Param)> {
        if !self.is_enabled() {
            return Vec::new();
        }
        let current = self.current();
        let mut all = current.adapter_params();
        all.extend(current.beside.iter().map(|beside| (beside.path.clone(), beside.param.clone())));
        all.retain(|(_, param)| param.is_trainable());
        all
    }

    /// How a parameter of [`Adapted::trainable`] is trained.
    pub fn pace(&self, path: &str, param: &Param) -> Pace {
        match self.current().beside.iter().any(|beside| beside.param.id() == param.id()) {
            true => Pace::default(),
            false => self.current().method.pace(path, param),
        }
    }

    /// Base and adapter parameters in a table; those of adapters that are not active stand last, with
    /// the adapter's name. The totals count all of them, as PEFT does.
    pub fn summary(&self) -> Summary {
        let row = |(path, param): (String, Param)| (path, param.sizes().to_vec(), param.is_trainable());
        let mut rows: Vec<_> = self.host.params.iter().cloned().map(row).collect();
        rows.extend(self.current().adapter_params().into_iter().map(row));
        let others = self.adapters.iter().enumerate().filter(|(number, _)| *number != self.active);
        for (_, (name, attached)) in others {
            let waiting = attached.adapter_params().into_iter().map(row);
            rows.extend(waiting.map(|(path, sizes, _)| (format!("{path} ({name})"), sizes, false)));
        }
        Summary { rows }
    }

    /// The module paths of the layers that the active adapter adapts, in forward order.
    pub fn sites(&self) -> Vec<&str> {
        self.current().places.iter().map(|place| place.path.as_str()).collect()
    }

    /// The present rank of each site, for methods whose ranks change; empty for others.
    pub fn ranks(&self) -> Vec<usize> {
        self.current().method.ranks()
    }

    /// Every decision about ranks so far.
    pub fn checks(&self) -> &[Check] {
        self.current().method.checks()
    }

    /// What the method adds to the loss.
    pub fn penalty(&self) -> Option<Tensor> {
        self.current().method.penalty()
    }

    /// Lets the method act after an update.
    ///
    /// **Errors** when the device has failed.
    pub fn after_update(&mut self, update: &Update) -> Result<()> {
        self.current_mut().method.after_update(update)
    }

    /// What the next update depends on beside parameters.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        self.current().method.state()
    }

    /// Goes back to a state; parameters receive their values afterwards.
    ///
    /// **Errors** when it belongs to another method, other sites or other settings.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.current_mut().method.restore(state)
    }

    /// Saves every adapter in PEFT's layout: the one called `default` as the directory's own
    /// `adapter_config.json` and `adapter_model.safetensors`, any other in a directory of its name below.
    ///
    /// **Errors** when a directory cannot be written.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        for name in self.names() {
            let below = if name == DEFAULT { "" } else { name };
            self.save_one(name, directory.as_ref().join(below))?;
        }
        Ok(())
    }

    /// Saves one adapter as a directory of its own, active or not.
    ///
    /// **Errors** when there is none of this name, or the directory cannot be written.
    pub fn save_one(&self, name: &str, directory: impl AsRef<Path>) -> Result<()> {
        let (_, attached) = &self.adapters[self.number(name)?];
        files::save(self, attached, directory.as_ref())
    }

    /// The model's own value of a base parameter, whatever the adapters made of it.
    pub(super) fn original(&self, param: &Param) -> Tensor {
        self.current().original(param)
    }
}

/// A line for each adapter, a star before the active one, and the totals.
impl fmt::Display for Adapted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.adapters.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, attached) in &self.adapters {
            let mark = if attached.inside { '*' } else { ' ' };
            let config = attached.method.config();
            let kind = config.get("peft_type").and_then(|kind| kind.as_str()).unwrap_or("?");
            let (layers, numbers) = (attached.places.len(), attached.trained_numbers());
            writeln!(f, "{mark} {name:width$}  {kind:13} {layers:>4} layers {numbers:>12} numbers")?;
        }
        write!(f, "{}", self.summary().totals())
    }
}
