//! Keeping gradients from growing without bound (arXiv 1211.5063).

use crate::error::Result;
use crate::nn::Param;
use crate::tensor::Tensor;
use crate::tensor::autograd::Gradients;

/// The Euclidean length of all gradients of `params` together. Waits for the device.
///
/// **Errors** when the device has failed.
pub fn global_norm(gradients: &Gradients, params: &[Param]) -> Result<f64> {
    let squares: Vec<Tensor> = params
        .iter()
        .filter_map(|param| gradients.of(&param.value()))
        .map(|gradient| gradient.square().sum(..))
        .collect();
    if squares.is_empty() {
        return Ok(0.0);
    }
    let squares = Tensor::stack(&squares.iter().collect::<Vec<_>>(), 0).read_f64()?;
    Ok(squares.iter().sum::<f64>().sqrt())
}

/// The factor that brings a norm down to `limit`; 1 if it is not above.
pub fn factor(norm: f64, limit: f64) -> f64 {
    // The small number keeps a norm of 0 harmless and matches PyTorch's clip_grad_norm_.
    (limit / (norm + 1e-6)).min(1.0)
}
