//! The first values of a model's parts: random for training from scratch, or zeros that take no room
//! where a file is about to fill them.

use super::embedding::Embedding;
use super::linear::Linear;
use super::norm::{LayerNorm, RmsNorm};
use crate::device::Device;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// Makes the parts of a fresh model.
pub struct Fresh<'r> {
    rng: Option<&'r mut Rng>,
    deviation: f64,
    device: Device,
}

impl<'r> Fresh<'r> {
    /// Normally distributed weights.
    pub fn random(rng: &'r mut Rng, device: &Device) -> Fresh<'r> {
        Fresh { rng: Some(rng), deviation: 0.02, device: device.clone() }
    }

    /// Zeros: a model that its file does not hold is refused before it costs any memory.
    pub fn zeros(device: &Device) -> Fresh<'static> {
        Fresh { rng: None, deviation: 0.0, device: device.clone() }
    }

    /// Another standard deviation from now on.
    pub fn deviate(&mut self, deviation: f64) -> &mut Fresh<'r> {
        self.deviation = deviation;
        self
    }

    /// Where the parts live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A matrix.
    pub fn matrix(&mut self, rows: usize, columns: usize) -> Tensor {
        match &mut self.rng {
            Some(rng) => Tensor::normal(self.deviation, [rows, columns], rng, &self.device),
            None => Tensor::zeros([rows, columns], &self.device),
        }
    }

    /// A linear layer `inputs -> outputs` with a bias of 0.
    pub fn linear(&mut self, inputs: usize, outputs: usize) -> Linear {
        let bias = Tensor::zeros([outputs], &self.device);
        Linear::from_weights(&self.matrix(outputs, inputs), Some(&bias))
    }

    /// A linear layer `inputs -> outputs`, with a bias or without.
    pub fn linear_with(&mut self, inputs: usize, outputs: usize, bias: bool) -> Linear {
        match bias {
            true => self.linear(inputs, outputs),
            false => Linear::from_weights(&self.matrix(outputs, inputs), None),
        }
    }

    /// A table of `rows` vectors.
    pub fn table(&mut self, rows: usize, width: usize) -> Embedding {
        Embedding::from_weights(&self.matrix(rows, width))
    }

    /// A layer norm of weight 1 and bias 0.
    pub fn layer_norm(&self, width: usize, eps: f64) -> LayerNorm {
        LayerNorm::new(width, eps, &self.device)
    }

    /// A root-mean-square norm of weight 1.
    pub fn rms_norm(&self, width: usize, eps: f64) -> RmsNorm {
        RmsNorm::new(width, eps, &self.device)
    }
}
