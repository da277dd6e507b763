//! Stochastic gradient descent, with momentum and weight decay as PyTorch defines them.
//!
//! ```text
//! g ← g + decay·θ        b ← momentum·b + (1 - dampening)·g   (b = g at first)
//! θ ← θ - rate·b         with Nesterov: θ ← θ - rate·(g + momentum·b)
//! ```

use std::collections::HashMap;

use super::{Optimizer, fitting, stored};
use crate::error::Result;
use crate::expr::Program;
use crate::nn::Param;
use crate::ops::elementwise::run_program;
use crate::tensor::Tensor;

/// Gradient descent with one velocity per parameter.
#[derive(Clone, Debug, Default)]
pub struct Sgd {
    /// The share of the last velocity that is kept; 0 for plain descent.
    pub momentum: f64,
    /// The share of the gradient that does not enter the velocity.
    pub dampening: f64,
    /// Pulls each parameter towards 0.
    pub weight_decay: f64,
    /// Looks ahead along the velocity (Nesterov 1983).
    pub nesterov: bool,
    velocities: HashMap<u64, Tensor>,
}

impl Sgd {
    /// Descent with a momentum.
    pub fn new(momentum: f64) -> Sgd {
        Sgd { momentum, ..Sgd::default() }
    }
}

impl Optimizer for Sgd {
    fn update(&mut self, param: &Param, gradient: &Tensor, rate: f64, decay: f64) {
        let gradient = fitting("sgd", param, gradient);
        let decay = decay * self.weight_decay;
        let (momentum, entering, nesterov) = (self.momentum, 1.0 - self.dampening, self.nesterov);
        param.update(|value| {
            let mut inputs = vec![value.into_array(), gradient];
            if momentum == 0.0 {
                let program = Program::build(|[value, g]| value - rate * (g + decay * value));
                let [value] = run_program("sgd", inputs, &program);
                return Tensor::constant(value);
            }
            let program = match self.velocities.remove(&param.id()) {
                None => Program::build_many(|[value, g]| {
                    let g = g + decay * value;
                    let step = if nesterov { g + momentum * g } else { g };
                    [value - rate * step, g]
                }),
                Some(velocity) => {
                    inputs.push(velocity.into_array());
                    Program::build_many(|[value, g, velocity]| {
                        let g = g + decay * value;
                        let velocity = momentum * velocity + entering * g;
                        let step = if nesterov { g + momentum * velocity } else { velocity };
                        [value - rate * step, velocity]
                    })
                }
            };
            let [value, velocity] = run_program("sgd", inputs, &program).map(Tensor::constant);
            self.velocities.insert(param.id(), velocity);
            value
        });
    }

    fn state(&self, param: &Param) -> Vec<(&'static str, Tensor)> {
        self.velocities.get(&param.id()).map(|velocity| ("velocity", velocity.clone())).into_iter().collect()
    }

    fn restore(&mut self, param: &Param, state: &HashMap<String, Tensor>) -> Result<()> {
        if state.is_empty() {
            self.velocities.remove(&param.id());
            return Ok(());
        }
        let [velocity] = stored(param, state, ["velocity"])?;
        self.velocities.insert(param.id(), velocity);
        Ok(())
    }
}
