//! Keeping gradients from growing without bound (arXiv 1211.5063).

use crate::nn::Param;
use crate::tensor::Tensor;
use crate::tensor::autograd::Gradients;

/// The Euclidean length of all gradients of `params` together. Waits for the device.
pub fn global_norm(gradients: &Gradients, params: &[Param]) -> f64 {
    let squares: Vec<Tensor> = params
        .iter()
        .filter_map(|param| gradients.of(&param.value()))
        .map(|gradient| gradient.square().sum(..))
        .collect();
    match squares.is_empty() {
        true => 0.0,
        false => Tensor::stack(&squares.iter().collect::<Vec<_>>(), 0).to_f64().iter().sum::<f64>().sqrt(),
    }
}

/// The factor that brings a norm down to `limit`; 1 if it is not above.
pub fn factor(norm: f64, limit: f64) -> f64 {
    // The small number keeps a norm of 0 harmless and matches PyTorch's clip_grad_norm_.
    (limit / (norm + 1e-6)).min(1.0)
}
