//! Bottleneck adapters (Houlsby et al., arXiv 1902.00751).
//!
//! `y + up(act(down(y)))` behind a layer's output y, with `down: [hidden, out]` and `up: [out, hidden]`, each
//! with a bias: behind the last layer of attention and of the feed-forward part, before the residual sum.
//! `up` starts at 0, so a fresh adapter changes nothing. The activation stands between y and the sum, so
//! this is no change of weights: it cannot be merged.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::settings::{Settings, object};
use super::{Method, Site};
use crate::error::{Error, Result};
use crate::nn::{Activation, Adapter, Module, Param, Walker, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// The settings of bottleneck adapters.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    /// The width of the bottleneck.
    pub hidden: usize,
    /// Between down and up.
    pub activation: Activation,
    /// Draws the starting values.
    pub seed: u64,
}

impl Bottleneck {
    /// A width, with GELU.
    pub fn new(hidden: usize) -> Bottleneck {
        Bottleneck { hidden, activation: Activation::Gelu, seed: 0 }
    }

    /// **Errors** when a setting is malformed.
    pub(super) fn from_config(config: &Settings) -> Result<Bottleneck> {
        let named = config.get("activation").cloned().unwrap_or(json!("gelu"));
        let activation =
            serde_json::from_value(named).map_err(|error| Error::Adapter(format!("activation: {error}")))?;
        Ok(Bottleneck { hidden: config.size("hidden_size", 64)?, activation, seed: 0 })
    }
}

/// What sits in one layer.
struct Inserted {
    down: [Param; 2],
    up: [Param; 2],
    activation: Activation,
}

impl Module for Inserted {
    fn walk(&self, at: &mut Walker<'_>) {
        for (name, [weight, bias]) in [("bottleneck_down", &self.down), ("bottleneck_up", &self.up)] {
            at.param(&format!("{name}.weight"), weight);
            at.param(&format!("{name}.bias"), bias);
        }
    }
}

impl Adapter for Inserted {
    fn merges(&self) -> bool {
        false
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let y = base.apply(x);
        let [down, down_bias] = self.down.each_ref().map(Param::value);
        let [up, up_bias] = self.up.each_ref().map(Param::value);
        let inside = self.activation.apply(&y.linear(&down, Some(&down_bias)));
        inside.linear_add(&up, 1.0, Some(&(y + up_bias)))
    }
}

impl Method for Bottleneck {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let (width, hidden, device) = (site.outputs, self.hidden, &site.device);
        let mut rng = Rng::derived(self.seed, site.number as u64);
        let zeros = |sizes: &[usize]| Param::new(&Tensor::zeros(sizes, device));
        let down = Param::new(&Tensor::normal(0.02, [hidden, width], &mut rng, device));
        Ok(Arc::new(Inserted {
            down: [down, zeros(&[hidden])],
            up: [zeros(&[width, hidden]), zeros(&[width])],
            activation: self.activation,
        }))
    }

    fn config(&self) -> Map<String, Value> {
        object(json!({
            "peft_type": "BOTTLENECK",
            "hidden_size": self.hidden,
            "activation": self.activation,
        }))
    }
}
