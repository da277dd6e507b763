//! The linear layer, with a socket in which an adapter may sit.
//! Read next: `socket.rs`, then `attention.rs`.

use super::module::{Module, Walker};
use super::param::{Form, Param};
use super::socket::{Slot, Socket, Weights};
use crate::device::Device;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// `y = x·Wᵀ + b`, with room for an adapter. Cloning shares the layer.
#[derive(Clone)]
pub struct Linear(Socket);

impl Linear {
    /// A layer `[.., inputs] -> [.., outputs]` with a bias, its weights normally distributed with
    /// `deviation`, its bias 0.
    pub fn new(inputs: usize, outputs: usize, deviation: f64, rng: &mut Rng, device: &Device) -> Linear {
        let weight = Tensor::normal(deviation, [outputs, inputs], rng, device);
        Linear::from_weights(&weight, Some(&Tensor::zeros([outputs], device)))
    }

    /// A layer of given weights: `[out, in]` and `[out]`.
    pub fn from_weights(weight: &Tensor, bias: Option<&Tensor>) -> Linear {
        Linear(Socket::linear(Param::new(weight), bias.map(Param::new)))
    }

    /// A layer without a bias on a given parameter `[out, in]`, which it shares.
    pub fn from_param(weight: Param) -> Linear {
        Linear(Socket::linear(weight, None))
    }

    /// A layer of the same weights whose files hold the matrix as `[in, out]`; here it stays `[out, in]`.
    pub fn stored_transposed(self) -> Linear {
        let weight = Param::with_form(&self.weight().value(), Form::Transposed);
        Linear(Socket::linear(weight, self.bias().cloned()))
    }

    /// `[.., in] -> [.., out]`, through the adapter if there is one.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match self.0.now() {
            Slot::Plain => self.base().apply(x),
            Slot::Adapted(adapter) => adapter.forward(x, &self.base()),
            Slot::Merged(_, weights) => weights.apply(x),
        }
    }

    /// Where an adapter may sit.
    pub fn socket(&self) -> &Socket {
        &self.0
    }

    /// The layer's own weights, without any adapter.
    pub fn base(&self) -> Weights {
        self.0.base()
    }

    /// The parameter `[out, in]`.
    pub fn weight(&self) -> &Param {
        self.0.weight()
    }

    /// The parameter `[out]`, if the layer has one.
    pub fn bias(&self) -> Option<&Param> {
        self.0.bias()
    }

    /// The size of the last axis of the input.
    pub fn inputs(&self) -> usize {
        self.0.inputs()
    }

    /// The size of the last axis of the output.
    pub fn outputs(&self) -> usize {
        self.0.outputs()
    }
}

impl Module for Linear {
    fn walk(&self, at: &mut Walker<'_>) {
        self.0.walk(at);
    }

    fn socket(&self) -> Option<&Socket> {
        Some(&self.0)
    }
}
