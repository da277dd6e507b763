//! SSF: scaling and shifting features (Lian et al., arXiv 2210.08823).
//!
//! `y = γ·(W·x + b) + β` element by element; merging: `W' = diag(γ)·W`, `b' = γ·b + β`. The authors
//! start γ near 1 and β near 0, with deviation 0.02; with deviation 0 a fresh adapter changes nothing.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::settings::{Settings, object};
use super::{Method, Site};
use crate::error::Result;
use crate::nn::{Adapter, Module, Param, Walker, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// SSF's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Ssf {
    /// The deviation of the starting values.
    pub deviation: f64,
    /// Draws the starting values.
    pub seed: u64,
}

impl Default for Ssf {
    fn default() -> Ssf {
        Ssf { deviation: 0.02, seed: 0 }
    }
}

impl Ssf {
    pub(super) fn from_config(_config: &Settings) -> Result<Ssf> {
        Ok(Ssf::default())
    }
}

/// What sits in one layer.
struct Feature {
    /// γ: `[out]`
    scale: Param,
    /// β: `[out]`
    shift: Param,
}

impl Module for Feature {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("ssf_scale", &self.scale);
        at.param("ssf_shift", &self.shift);
    }
}

impl Adapter for Feature {
    fn adapt(&self, base: &Weights) -> Weights {
        let (scale, shift) = (self.scale.value(), self.shift.value());
        let weight = &base.weight * scale.unsqueeze(1);
        let bias = match &base.bias {
            Some(bias) => bias * scale + shift,
            None => shift,
        };
        Weights { weight, bias: Some(bias) }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        base.apply(x) * self.scale.value() + self.shift.value()
    }
}

impl Method for Ssf {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let mut rng = Rng::derived(self.seed, site.number as u64);
        let mut noise = || Tensor::normal(self.deviation, [site.outputs], &mut rng, &site.device);
        let (scale, shift) = (Param::new(&(noise() + 1.0)), Param::new(&noise()));
        Ok(Arc::new(Feature { scale, shift }))
    }

    fn config(&self) -> Map<String, Value> {
        object(json!({ "peft_type": "SSF", "bias": "none", "fan_in_fan_out": false }))
    }
}
