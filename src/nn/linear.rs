//! The linear layer, and the socket in it where an adapter may sit.
//!
//! An adapter is defined by the weights it makes of the frozen ones ([`Adapter::adapt`]). Merging
//! keeps those weights beside the base, and unmerging drops them, so both are exact to the bit
//! whatever the method does. No model code knows adapters.
//! Read next: `encoder.rs`, or `adapters/mod.rs`.

use std::sync::{Arc, RwLock};

use super::module::{Module, Walker};
use super::param::Param;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// The weights of a linear layer as a computation sees them.
#[derive(Clone, Debug)]
pub struct Weights {
    /// `[out, in]`
    pub weight: Tensor,
    /// `[out]`
    pub bias: Option<Tensor>,
}

impl Weights {
    /// `x·Wᵀ + b`: `[.., in] -> [.., out]`.
    #[track_caller]
    pub fn apply(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// What sits in one linear layer.
pub trait Adapter: Module + Send + Sync {
    /// The definition: the weights this adapter makes of the base's.
    fn adapt(&self, base: &Weights) -> Weights;

    /// The same result on `x: [.., in] -> [.., out]`, where it is cheaper not to form the matrix.
    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        self.adapt(base).apply(x)
    }
}

/// `y = x·Wᵀ + b`, with room for an adapter. Cloning shares the layer.
#[derive(Clone)]
pub struct Linear(Arc<Inner>);

struct Inner {
    weight: Param,
    bias: Option<Param>,
    slot: RwLock<Slot>,
}

enum Slot {
    Plain,
    Adapted(Arc<dyn Adapter>),
    Merged(Arc<dyn Adapter>, Weights),
}

impl Linear {
    /// A layer `[.., inputs] -> [.., outputs]` with a bias, its weights normally distributed with
    /// `deviation`, its bias 0.
    pub fn new(inputs: usize, outputs: usize, deviation: f64, rng: &mut Rng, device: &Device) -> Linear {
        let weight = Tensor::normal(deviation, [outputs, inputs], rng, device);
        Linear::from_weights(&weight, Some(&Tensor::zeros([outputs], device)))
    }

    /// A layer of given weights: `[out, in]` and `[out]`.
    pub fn from_weights(weight: &Tensor, bias: Option<&Tensor>) -> Linear {
        let (weight, bias) = (Param::new(weight), bias.map(Param::new));
        Linear(Arc::new(Inner { weight, bias, slot: RwLock::new(Slot::Plain) }))
    }

    /// `[.., in] -> [.., out]`, through the adapter if there is one.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match &*self.slot() {
            Slot::Plain => self.base().apply(x),
            Slot::Adapted(adapter) => adapter.forward(x, &self.base()),
            Slot::Merged(_, weights) => weights.apply(x),
        }
    }

    /// The layer's own weights, without any adapter.
    pub fn base(&self) -> Weights {
        Weights { weight: self.0.weight.value(), bias: self.0.bias.as_ref().map(Param::value) }
    }

    /// The parameter `[out, in]`.
    pub fn weight(&self) -> &Param {
        &self.0.weight
    }

    /// The parameter `[out]`, if the layer has one.
    pub fn bias(&self) -> Option<&Param> {
        self.0.bias.as_ref()
    }

    /// The size of the last axis of the input.
    pub fn inputs(&self) -> usize {
        self.0.weight.sizes()[1]
    }

    /// The size of the last axis of the output.
    pub fn outputs(&self) -> usize {
        self.0.weight.sizes()[0]
    }

    /// Puts an adapter into the socket.
    ///
    /// **Errors** when one sits there already.
    pub fn attach(&self, adapter: Arc<dyn Adapter>) -> Result<()> {
        let mut slot = self.0.slot.write().expect("no code panics while it holds the socket");
        match *slot {
            Slot::Plain => *slot = Slot::Adapted(adapter),
            _ => return Err(Error::Adapter("this layer has an adapter already; detach it first".into())),
        }
        Ok(())
    }

    /// The adapter in the socket, if there is one.
    pub fn adapter(&self) -> Option<Arc<dyn Adapter>> {
        match &*self.slot() {
            Slot::Plain => None,
            Slot::Adapted(adapter) | Slot::Merged(adapter, _) => Some(adapter.clone()),
        }
    }

    /// Takes the adapter out of the socket and gives it back.
    pub fn detach(&self) -> Option<Arc<dyn Adapter>> {
        self.change(|slot| match slot {
            Slot::Plain => (Slot::Plain, None),
            Slot::Adapted(adapter) | Slot::Merged(adapter, _) => (Slot::Plain, Some(adapter)),
        })
    }

    /// Computes the adapted weights once and uses them from now on; the base stays untouched.
    pub fn merge(&self) {
        let base = self.base();
        self.change(|slot| match slot {
            Slot::Adapted(adapter) => {
                let merged = crate::inference(|| adapter.adapt(&base));
                let merged =
                    Weights { weight: merged.weight.detach(), bias: merged.bias.map(|b| b.detach()) };
                (Slot::Merged(adapter, merged), ())
            }
            other => (other, ()),
        });
    }

    /// Goes back to computing with base and adapter apart.
    pub fn unmerge(&self) {
        self.change(|slot| match slot {
            Slot::Merged(adapter, _) => (Slot::Adapted(adapter), ()),
            other => (other, ()),
        });
    }

    fn slot(&self) -> std::sync::RwLockReadGuard<'_, Slot> {
        self.0.slot.read().expect("no code panics while it holds the socket")
    }

    fn change<R>(&self, change: impl FnOnce(Slot) -> (Slot, R)) -> R {
        let mut slot = self.0.slot.write().expect("no code panics while it holds the socket");
        let (after, result) = change(std::mem::replace(&mut *slot, Slot::Plain));
        *slot = after;
        result
    }
}

impl Module for Linear {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("weight", &self.0.weight);
        if let Some(bias) = &self.0.bias {
            at.param("bias", bias);
        }
        if let Slot::Adapted(adapter) | Slot::Merged(adapter, _) = &*self.slot() {
            adapter.walk(at);
        }
    }

    fn as_linear(&self) -> Option<&Linear> {
        Some(self)
    }
}
