//! Layer norm with its gain and shift.

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
