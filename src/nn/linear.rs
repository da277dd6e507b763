//! The linear layer, with a socket in which an adapter may sit.
//! Read next: `socket.rs`, then `attention.rs`.

use std::sync::Arc;

use super::module::{Module, Walker};
use super::param::{Form, Param};
use super::socket::{Adapter, Slot, Socket, Weights};
use crate::device::Device;
use crate::error::Result;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// `y = x·Wᵀ + b`, with room for an adapter. Cloning shares the layer.
#[derive(Clone)]
pub struct Linear(Arc<Inner>);

struct Inner {
    weight: Param,
    bias: Option<Param>,
    socket: Socket,
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
        Linear::from_params(Param::new(weight), bias.map(Param::new))
    }

    /// A layer without a bias on a given parameter `[out, in]`, which it shares.
    pub fn from_param(weight: Param) -> Linear {
        Linear::from_params(weight, None)
    }

    fn from_params(weight: Param, bias: Option<Param>) -> Linear {
        Linear(Arc::new(Inner { weight, bias, socket: Socket::default() }))
    }

    /// A layer of the same weights whose files hold the matrix as `[in, out]`; here it stays `[out, in]`.
    pub fn stored_transposed(self) -> Linear {
        let weight = Param::with_form(&self.0.weight.value(), Form::Transposed);
        Linear::from_params(weight, self.0.bias.clone())
    }

    /// `[.., in] -> [.., out]`, through the adapter if there is one.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match self.0.socket.now() {
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
        self.0.socket.attach(adapter)
    }

    /// The adapter in the socket, if there is one.
    pub fn adapter(&self) -> Option<Arc<dyn Adapter>> {
        self.0.socket.adapter()
    }

    /// Takes the adapter out of the socket and gives it back.
    pub fn detach(&self) -> Option<Arc<dyn Adapter>> {
        self.0.socket.detach()
    }

    /// Computes the adapted weights once and uses them from now on; the base stays untouched.
    pub fn merge(&self) {
        self.0.socket.merge(&self.base());
    }

    /// Goes back to computing with base and adapter apart.
    pub fn unmerge(&self) {
        self.0.socket.unmerge();
    }
}

impl Module for Linear {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("weight", &self.0.weight);
        if let Some(bias) = &self.0.bias {
            at.param("bias", bias);
        }
        if let Some(adapter) = self.adapter() {
            adapter.walk(at);
        }
    }

    fn as_linear(&self) -> Option<&Linear> {
        Some(self)
    }
}
