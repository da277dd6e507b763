//! Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2).
//!
//! ```text
//! m ← β₁·m + (1 - β₁)·g          v ← β₂·v + (1 - β₂)·g²
//! θ ← θ - rate·decay·θ - rate · (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)
//! ```

use std::collections::HashMap;

use super::{Optimizer, fitting, stored};
use crate::error::{Error, Result};
use crate::expr::Program;
use crate::nn::Param;
use crate::ops::elementwise::run_program;
use crate::tensor::Tensor;

/// AdamW with one state per parameter.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// β₁: how slowly the mean of the gradients moves.
    pub beta1: f64,
    /// β₂: how slowly the mean of their squares moves.
    pub beta2: f64,
    /// ε: keeps the division away from 0.
    pub eps: f64,
    /// The share of each parameter that a step at rate 1 takes away.
    pub weight_decay: f64,
    moments: HashMap<u64, Moments>,
}

#[derive(Clone, Debug)]
struct Moments {
    mean: Tensor,
    square: Tensor,
    steps: u32,
}

impl Default for AdamW {
    fn default() -> AdamW {
        AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, moments: HashMap::new() }
    }
}

impl AdamW {
    /// The usual β₁ = 0.9, β₂ = 0.999, ε = 1e-8 with a given weight decay.
    pub fn new(weight_decay: f64) -> AdamW {
        AdamW { weight_decay, ..AdamW::default() }
    }
}

impl Optimizer for AdamW {
    fn update(&mut self, param: &Param, gradient: &Tensor, rate: f64, decay: f64) {
        let gradient = fitting("adamw", param, gradient);
        let Moments { mean, square, steps } = self.moments.remove(&param.id()).unwrap_or_else(|| {
            let zeros = Tensor::zeros(param.sizes(), &param.device());
            Moments { mean: zeros.clone(), square: zeros, steps: 0 }
        });
        let steps = steps + 1;
        let (beta1, beta2, eps) = (self.beta1, self.beta2, self.eps);
        let keep = 1.0 - rate * decay * self.weight_decay;
        let rate = rate / (1.0 - beta1.powi(steps as i32));
        let root = 1.0 / (1.0 - beta2.powi(steps as i32)).sqrt();
        let program = Program::build_many(|[value, g, mean, square]| {
            let mean = beta1 * mean + (1.0 - beta1) * g;
            let square = beta2 * square + (1.0 - beta2) * (g * g);
            [value * keep - rate * mean / (square.sqrt() * root + eps), mean, square]
        });
        param.update(|value| {
            let inputs = vec![value.into_array(), gradient, mean.into_array(), square.into_array()];
            let [value, mean, square] = run_program("adamw", inputs, &program).map(Tensor::constant);
            self.moments.insert(param.id(), Moments { mean, square, steps });
            value
        });
    }

    fn state(&self, param: &Param) -> Vec<(&'static str, Tensor)> {
        let Some(moments) = self.moments.get(&param.id()) else { return Vec::new() };
        let steps = Tensor::full(f64::from(moments.steps), [], &param.device());
        vec![("mean", moments.mean.clone()), ("square", moments.square.clone()), ("steps", steps)]
    }

    fn restore(&mut self, param: &Param, state: &HashMap<String, Tensor>) -> Result<()> {
        if state.is_empty() {
            self.moments.remove(&param.id());
            return Ok(());
        }
        let [mean, square, steps] = stored(param, state, ["mean", "square", "steps"])?;
        let steps = steps.read_item()?;
        // The file holds the count as f32, which is exact up to here.
        if !(0.0..=f64::from(1 << 24)).contains(&steps) || steps.fract() != 0.0 {
            return Err(Error::Names(format!("optimiser state steps is {steps}, expected a count")));
        }
        self.moments.insert(param.id(), Moments { mean, square, steps: steps as u32 });
        Ok(())
    }
}
