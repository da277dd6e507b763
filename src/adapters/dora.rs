//! DoRA: weight-decomposed low-rank adaptation (Liu et al., arXiv 2402.09353).
//!
//! `W' = m · V/‖V‖` row by row, with LoRA's `V = W + s·B·A` and a trained magnitude `m: [out]`, which
//! starts as the lengths of W's rows, so that a fresh adapter changes nothing. The lengths `‖V‖` count
//! as constants in the backward pass; the bias is not rescaled.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::lora::LowRank;
use super::settings::Settings;
use super::{Lora, Method, Site};
use crate::error::{Error, Result};
use crate::nn::{Adapter, Module, Param, Walker, Weights};
use crate::tensor::Tensor;

/// DoRA's settings, which are LoRA's.
#[derive(Clone, Debug, PartialEq)]
pub struct Dora(pub Lora);

impl Dora {
    /// A rank, and alpha twice as large.
    pub fn new(rank: usize) -> Dora {
        Dora(Lora::new(rank))
    }

    /// **Errors** as LoRA's settings.
    pub(super) fn from_config(config: &Settings) -> Result<Dora> {
        let mut plain = config.0.clone();
        plain.remove("use_dora");
        Ok(Dora(Lora::from_config(&Settings(&plain))?))
    }
}

/// What sits in one layer.
struct Decomposed {
    low: LowRank,
    /// m: `[out]`
    magnitude: Param,
}

impl Decomposed {
    /// V, and what its rows are multiplied by: `[out]`.
    fn direction(&self, base: &Weights) -> [Tensor; 2] {
        let direction = self.low.adapt(base).weight;
        let factor = self.magnitude.value() / lengths(&direction);
        [direction, factor]
    }
}

/// The lengths of a matrix's rows, `[out]`, without history. A row of zeros, which pruning leaves, counts as
/// one of the smallest length, so that it stays 0 and does not become 0/0.
fn lengths(direction: &Tensor) -> Tensor {
    direction.detach().norm(1).clamp(f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX))
}

impl Module for Decomposed {
    fn walk(&self, at: &mut Walker<'_>) {
        self.low.walk(at);
        at.param("lora_magnitude_vector", &self.magnitude);
    }
}

impl Adapter for Decomposed {
    fn adapt(&self, base: &Weights) -> Weights {
        let [direction, factor] = self.direction(base);
        Weights { weight: direction * factor.unsqueeze(1), bias: base.bias.clone() }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let factor = self.magnitude.value() / crate::inference(|| lengths(&self.low.adapt(base).weight));
        let plain = Weights { weight: base.weight.clone(), bias: None };
        let scaled = self.low.forward(x, &plain) * factor;
        match &base.bias {
            Some(bias) => scaled + bias,
            None => scaled,
        }
    }
}

impl Method for Dora {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        if self.0.start == super::Start::Pissa {
            return Err(Error::Adapter("DoRA does not start from singular vectors".into()));
        }
        let magnitude = Param::new(&site.base.weight.detach().norm(1));
        Ok(Arc::new(Decomposed { low: LowRank::new(&self.0, site)?, magnitude }))
    }

    fn trains(&self, path: &str, adapted: bool) -> bool {
        self.0.trains(path, adapted)
    }

    fn file_name(&self, module: &str, name: &str, adapted: bool) -> String {
        self.0.file_name(module, name, adapted)
    }

    fn pace(&self, path: &str, param: &Param) -> super::Pace {
        self.0.pace(path, param)
    }

    fn config(&self) -> Map<String, Value> {
        let mut config = self.0.config();
        config.insert("use_dora".into(), Value::Bool(true));
        config
    }
}
