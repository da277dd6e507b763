//! The feed-forward half of a transformer layer, and its activations.

use serde::{Deserialize, Serialize};

use super::linear::Linear;
use super::module::{Module, Walker};
use crate::tensor::Tensor;

/// An activation by its Hugging Face name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Exact Gaussian error linear unit.
    Gelu,
    /// Its tanh form.
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
    /// `max(x, 0)`
    Relu,
    /// `x·sigmoid(x)`
    #[serde(alias = "swish")]
    Silu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// Any sizes, the same sizes.
    pub fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Activation::Gelu => x.gelu(),
            Activation::GeluNew => x.gelu_tanh(),
            Activation::Relu => x.relu(),
            Activation::Silu => x.silu(),
            Activation::Tanh => x.tanh(),
        }
    }
}

/// Up to a wider space, an activation, and back down.
pub struct FeedForward {
    /// `width -> hidden`
    pub up: Linear,
    /// `hidden -> width`
    pub down: Linear,
    /// Between the two.
    pub activation: Activation,
    /// The module paths of `up` and `down`.
    pub names: [&'static str; 2],
}

impl FeedForward {
    /// `[.., width] -> [.., width]`, by way of `[.., hidden]`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.down.forward(&self.activation.apply(&self.up.forward(x)))
    }
}

impl Module for FeedForward {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child(self.names[0], &self.up);
        at.child(self.names[1], &self.down);
    }
}
