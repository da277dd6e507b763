//! Layer norm and root-mean-square norm with their gains and shifts.

use super::module::{Module, Walker};
use super::param::Param;
use crate::device::Device;
use crate::tensor::Tensor;

/// Rows of mean 0 and variance 1, times a weight, plus a bias (arXiv 1607.06450).
pub struct LayerNorm {
    weight: Param,
    bias: Param,
    eps: f64,
}

impl LayerNorm {
    /// Weight 1 and bias 0 for rows of `width`.
    pub fn new(width: usize, eps: f64, device: &Device) -> LayerNorm {
        let (weight, bias) = (Tensor::ones([width], device), Tensor::zeros([width], device));
        LayerNorm { weight: Param::new(&weight), bias: Param::new(&bias), eps }
    }

    /// `[.., width] -> [.., width]`
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(Some(&self.weight.value()), Some(&self.bias.value()), self.eps)
    }
}

impl Module for LayerNorm {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("weight", &self.weight);
        at.param("bias", &self.bias);
    }
}

/// Rows of root mean square 1, times a weight (arXiv 1910.07467).
pub struct RmsNorm {
    weight: Param,
    eps: f64,
}

impl RmsNorm {
    /// Weight 1 for rows of `width`.
    pub fn new(width: usize, eps: f64, device: &Device) -> RmsNorm {
        RmsNorm { weight: Param::new(&Tensor::ones([width], device)), eps }
    }

    /// `[.., width] -> [.., width]`
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.rms_norm(Some(&self.weight.value()), self.eps)
    }
}

impl Module for RmsNorm {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("weight", &self.weight);
    }
}

/// The norm of a block: one of the two.
pub enum Norm {
    /// Mean and variance.
    Layer(LayerNorm),
    /// Root mean square.
    RootMeanSquare(RmsNorm),
}

impl Norm {
    /// `[.., width] -> [.., width]`
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Norm::Layer(norm) => norm.forward(x),
            Norm::RootMeanSquare(norm) => norm.forward(x),
        }
    }
}

impl From<LayerNorm> for Norm {
    fn from(norm: LayerNorm) -> Norm {
        Norm::Layer(norm)
    }
}

impl From<RmsNorm> for Norm {
    fn from(norm: RmsNorm) -> Norm {
        Norm::RootMeanSquare(norm)
    }
}

impl Module for Norm {
    fn walk(&self, at: &mut Walker<'_>) {
        match self {
            Norm::Layer(norm) => norm.walk(at),
            Norm::RootMeanSquare(norm) => norm.walk(at),
        }
    }
}
