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

/// Up to a wider space, an activation, and back down; with a gate, `down(activation(gate(x)) · up(x))`
/// (arXiv 2002.05202: SwiGLU when the activation is SiLU).
pub struct FeedForward {
    /// `width -> hidden`
    pub gate: Option<Linear>,
    /// `width -> hidden`
    pub up: Linear,
    /// `hidden -> width`
    pub down: Linear,
    /// Of the gate if there is one, else of `up`.
    pub activation: Activation,
    /// The probability with which an element between the two is dropped in training.
    pub dropout: f64,
    /// The module paths of `gate`, `up` and `down`.
    pub names: [&'static str; 3],
}

impl FeedForward {
    /// `[.., width] -> [.., width]`, by way of `[.., hidden]`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let up = self.up.forward(x);
        let hidden = match &self.gate {
            Some(gate) => self.activation.apply(&gate.forward(x)) * up,
            None => self.activation.apply(&up),
        };
        self.down.forward(&hidden.dropout(self.dropout))
    }
}

impl Module for FeedForward {
    fn walk(&self, at: &mut Walker<'_>) {
        if let Some(gate) = &self.gate {
            at.child(self.names[0], gate);
        }
        at.child(self.names[1], &self.up);
        at.child(self.names[2], &self.down);
    }
}
