//! The order of a training step, owned by one function.
//!
//! Forward with this step's randomness, penalty, backward, checks, clipping, update, and what the
//! method does afterwards. Nothing has changed when a step returns an error, unless the device fails while
//! the method looks at what the update did.
//! Read next: `checkpoint.rs`.

use std::collections::HashMap;

use crate::adapters::{Adapted, Update};
use crate::error::{Error, Result};
use crate::nn::{Module, Param, named_params};
use crate::optim::clip;
use crate::optim::{Optimizer, Schedule};
use crate::rng::Rng;
use crate::tensor::Tensor;
use crate::tensor::autograd::{Gradients, training};
use crate::tensor::recompute::recomputing;

/// Parameters that share a factor on the learning rate and on the weight decay.
#[derive(Clone, Debug)]
pub struct Group {
    /// Parameters by path.
    pub params: Vec<(String, Param)>,
    /// Multiplies the learning rate.
    pub rate: f64,
    /// Multiplies the weight decay.
    pub decay: f64,
    /// The step at which the group's schedule begins.
    pub since: u64,
}

impl Group {
    /// Parameters that follow schedule and optimiser as they are.
    pub fn of(params: Vec<(String, Param)>) -> Group {
        Group { params, rate: 1.0, decay: 1.0, since: 0 }
    }
}

/// What a trainer can train: a plain model, or one with adapters.
pub trait Trainable {
    /// The trainable parameters. Asked every step, because methods may grow.
    fn groups(&self) -> Vec<Group>;

    /// The adapters in it. A trainer adds their penalty to the loss, shows them each update, and saves
    /// their state; none of it can be forgotten by what wraps them, because this has no default.
    fn adapters(&self) -> Option<&Adapted>;

    /// The same, to be changed.
    fn adapters_mut(&mut self) -> Option<&mut Adapted>;
}

/// A plain model: one group of all parameters that are not frozen.
impl<M: Module> Trainable for &M {
    fn groups(&self) -> Vec<Group> {
        let params = named_params(*self).into_iter().filter(|(_, param)| param.is_trainable()).collect();
        vec![Group::of(params)]
    }

    fn adapters(&self) -> Option<&Adapted> {
        None
    }

    fn adapters_mut(&mut self) -> Option<&mut Adapted> {
        None
    }
}

impl Trainable for Adapted {
    fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (path, param) in self.trainable() {
            let pace = self.pace(&path, &param);
            let fits = |group: &&mut Group| {
                (group.rate, group.decay, group.since) == (pace.rate, pace.decay, pace.since)
            };
            match groups.iter_mut().find(fits) {
                Some(group) => group.params.push((path, param)),
                None => {
                    let (rate, decay, since) = (pace.rate, pace.decay, pace.since);
                    groups.push(Group { params: vec![(path, param)], rate, decay, since });
                }
            }
        }
        groups
    }

    fn adapters(&self) -> Option<&Adapted> {
        Some(self)
    }

    fn adapters_mut(&mut self) -> Option<&mut Adapted> {
        Some(self)
    }
}

/// The values that adapters look back at after an update, by the parameter's id. An update cannot write
/// where a value lies that is still held, so those of plain models are let go of.
fn remembered(adapted: &Adapted) -> HashMap<u64, Tensor> {
    adapted.trainable().iter().map(|(_, param)| (param.id(), param.value())).collect()
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The loss before the update, penalty included.
    pub loss: f64,
    /// The learning rate of the update.
    pub rate: f64,
    /// The length of all gradients together before clipping; only measured when clipping.
    pub norm: Option<f64>,
}

/// Trains what it was given, step by step.
pub struct Trainer<T: Trainable, O: Optimizer> {
    /// What is trained.
    pub subject: T,
    pub(super) optimizer: O,
    schedule: Schedule,
    clip: Option<f64>,
    seed: u64,
    recompute: bool,
    pub(super) step: u64,
}

impl<T: Trainable, O: Optimizer> Trainer<T, O> {
    /// A trainer at step 0, without clipping, with seed 0.
    pub fn new(subject: T, optimizer: O, schedule: Schedule) -> Trainer<T, O> {
        Trainer { subject, optimizer, schedule, clip: None, seed: 0, recompute: false, step: 0 }
    }

    /// Scales gradients down whenever their common length exceeds `limit`.
    pub fn clipped(mut self, limit: f64) -> Trainer<T, O> {
        self.clip = Some(limit);
        self
    }

    /// Draws dropout masks from this seed (and the step's number).
    pub fn seeded(mut self, seed: u64) -> Trainer<T, O> {
        self.seed = seed;
        self
    }

    /// Keeps only the input of each block and computes the rest again in the backward pass (gradient
    /// checkpointing, see [`recomputing`]): less memory for more time, and the same results.
    pub fn recomputing(mut self, recompute: bool) -> Trainer<T, O> {
        self.recompute = recompute;
        self
    }

    /// How many steps were done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// One step on one loss.
    ///
    /// **Errors** when the loss is not finite, nothing is trainable, or a trainable parameter received
    /// no gradient; with clipping also when the gradients are not finite. Nothing has changed then. When a device
    /// fails after the update, while a method chooses ranks, the update has been done: go on from a checkpoint.
    pub fn step(&mut self, loss: impl FnOnce() -> Tensor) -> Result<Step> {
        let mut loss = Some(loss);
        self.step_over(1, |_| (loss.take().expect("one part asks for one loss"))())
    }

    /// One step on the mean of several losses, each computed and differentiated in turn, so that
    /// only one history exists at a time (gradient accumulation).
    ///
    /// **Errors** as [`Trainer::step`].
    pub fn step_over(&mut self, parts: usize, mut loss: impl FnMut(usize) -> Tensor) -> Result<Step> {
        if parts == 0 {
            return Err(Error::Data("a step over no parts has no loss".into()));
        }
        let mut rng = Rng::derived(self.seed, self.step);
        let mut total = 0.0;
        let mut gradients = Gradients::default();
        for part in 0..parts {
            let mut value = training(rng.next_seed(), || match self.recompute {
                true => recomputing(|| loss(part)),
                false => loss(part),
            });
            if let Some(penalty) = self.subject.adapters().and_then(Adapted::penalty) {
                value = value + penalty;
            }
            let number = value.read_item()?;
            if !number.is_finite() {
                let step = self.step;
                return Err(Error::NotFinite(format!(
                    "the loss of step {step} is {number}; lower the learning rate or look at the data"
                )));
            }
            total += number / parts as f64;
            gradients.add(if parts > 1 {
                (value * (1.0 / parts as f64)).backward()
            } else {
                value.backward()
            });
        }
        let groups = self.subject.groups();
        check_all_reached(&groups, &gradients)?;
        let norm = self.clip_gradients(&groups, &mut gradients)?;
        let before = self.subject.adapters().map(remembered).unwrap_or_default();
        for group in &groups {
            let rate = self.schedule.since(group.since).rate(self.step.saturating_sub(group.since));
            for (_, param) in &group.params {
                // The value is let go of before the update, which may then write in its place.
                let gradient = gradients.of(&param.value()).cloned();
                if let Some(gradient) = gradient {
                    self.optimizer.update(param, &gradient, rate * group.rate, group.decay);
                }
            }
        }
        let rate = self.schedule.rate(self.step);
        self.step += 1;
        if let Some(adapted) = self.subject.adapters_mut() {
            adapted.after_update(&Update::new(self.step, &gradients, &before))?;
        }
        Ok(Step { loss: total, rate, norm })
    }

    fn clip_gradients(&self, groups: &[Group], gradients: &mut Gradients) -> Result<Option<f64>> {
        let Some(limit) = self.clip else { return Ok(None) };
        let params: Vec<Param> =
            groups.iter().flat_map(|group| &group.params).map(|(_, p)| p.clone()).collect();
        let norm = clip::global_norm(gradients, &params)?;
        if !norm.is_finite() {
            return Err(Error::NotFinite(format!("the gradients of step {} have length {norm}", self.step)));
        }
        let factor = clip::factor(norm, limit);
        if factor < 1.0 {
            gradients.scale(factor);
        }
        Ok(Some(norm))
    }
}

/// Silent loss of gradients is the worst mistake a framework can make.
fn check_all_reached(groups: &[Group], gradients: &Gradients) -> Result<()> {
    if groups.iter().all(|group| group.params.is_empty()) {
        return Err(Error::Config("no parameter is trainable; unfreeze some, or attach adapters".into()));
    }
    let all = groups.iter().flat_map(|group| &group.params);
    let missing: Vec<String> = all
        .filter(|(_, param)| gradients.of(&param.value()).is_none())
        .map(|(path, _)| path.clone())
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::MissingGradient(missing)) }
}
