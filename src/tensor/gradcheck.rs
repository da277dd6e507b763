//! Is a gradient true? Compares it with what a small step really changes.
//!
//! For a random direction `u` of each input, the derivative along it is `sum(gradient · u)`; a
//! central difference `(f(x + h·u) - f(x - h·u)) / 2h` measures the same number. In f64 the two agree
//! to about 1e-7 when the gradient is right, which is why the check runs on the reference device.

use super::Tensor;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::rng::Rng;

/// How a gradient is checked.
#[derive(Clone, Debug)]
pub struct Gradcheck {
    /// The size of the step.
    pub step: f64,
    /// The largest accepted difference, relative to the larger of 1 and the derivative.
    pub tolerance: f64,
    /// Random directions per input.
    pub directions: usize,
    /// Chooses the directions.
    pub seed: u64,
}

impl Default for Gradcheck {
    fn default() -> Gradcheck {
        Gradcheck { step: 1e-5, tolerance: 1e-7, directions: 3, seed: 0 }
    }
}

/// Checks the gradient of `f` at `inputs` with default settings and gives the largest difference.
///
/// `f` may return any sizes; it is weighted by fixed random numbers to one. Values are taken to the
/// reference device.
///
/// **Errors** when gradient and measurement differ, naming the input.
pub fn gradcheck(f: impl Fn(&[Tensor]) -> Tensor, inputs: &[Tensor]) -> Result<f64> {
    Gradcheck::default().check(f, inputs)
}

impl Gradcheck {
    /// As [`gradcheck`], with these settings.
    pub fn check(&self, f: impl Fn(&[Tensor]) -> Tensor, inputs: &[Tensor]) -> Result<f64> {
        let mut rng = Rng::seeded(self.seed);
        let inputs: Vec<Tensor> = inputs.iter().map(|x| x.to(&Device::Reference)).collect::<Result<_>>()?;
        let leaves: Vec<Tensor> = inputs.iter().map(Tensor::tracked).collect();
        let output = f(&leaves);
        let weights = Tensor::normal(1.0, output.sizes(), &mut rng, &Device::Reference);
        let gradients = (output * &weights).sum(..).backward();
        let mut worst: f64 = 0.0;
        for (at, (input, leaf)) in inputs.iter().zip(&leaves).enumerate() {
            for _ in 0..self.directions {
                let direction = Tensor::normal(1.0, input.sizes(), &mut rng, &Device::Reference);
                let along = |length: f64| {
                    let mut moved = inputs.clone();
                    moved[at] = input + &direction * length;
                    (f(&moved) * &weights).sum(..).item()
                };
                let measured = (along(self.step) - along(-self.step)) / (2.0 * self.step);
                let computed = gradients.of(leaf).map_or(0.0, |g| (g * &direction).sum(..).item());
                let difference = (measured - computed).abs() / measured.abs().max(1.0);
                if difference.is_nan() || difference > self.tolerance {
                    return Err(Error::Gradient(format!(
                        "input {at} of sizes {:?}: the gradient says {computed}, a small step says {measured}",
                        input.sizes()
                    )));
                }
                worst = worst.max(difference);
            }
        }
        Ok(worst)
    }
}
