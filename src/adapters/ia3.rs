//! IA³: infused adapter by inhibiting and amplifying inner activations (Liu et al., arXiv 2205.05638).
//!
//! One trained vector l, at 1 to begin with. `y = l·(W·x + b)` in most layers (keys and values), and
//! `y = W·(l·x) + b` in feed-forward ones. Merging: `W' = diag(l)·W, b' = l·b`, or `W' = W·diag(l)`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::settings::{Settings, object};
use super::targets::ends_with_name;
use super::{Method, Site};
use crate::error::{Error, Result};
use crate::nn::{Adapter, Module, Param, Walker, Weights};
use crate::tensor::Tensor;

/// IA³'s settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ia3 {
    /// Layers whose input is scaled, by path or the end of it.
    pub feed_forward: Vec<String>,
}

impl Ia3 {
    /// Scales the inputs of these layers, and the outputs of all others.
    pub fn new<S: Into<String>>(feed_forward: impl IntoIterator<Item = S>) -> Ia3 {
        Ia3 { feed_forward: feed_forward.into_iter().map(Into::into).collect() }
    }

    /// **Errors** when a setting is malformed, or a regular expression, as which PEFT takes one text.
    pub(super) fn from_config(config: &Settings) -> Result<Ia3> {
        if let Some(text @ Value::String(_)) = config.get("feedforward_modules") {
            return Err(Error::Adapter(format!(
                "feedforward_modules = {text} is a regular expression, which is not implemented; list the layers"
            )));
        }
        Ok(Ia3 { feed_forward: config.names("feedforward_modules")? })
    }
}

/// What sits in one layer.
struct Scale {
    /// l: `[out, 1]`, or `[1, in]` where it scales the input.
    vector: Param,
    of_input: bool,
}

impl Scale {
    /// l along the last axis of what it scales: `[out]` or `[in]`.
    fn along(&self) -> Tensor {
        self.vector.value().flatten(0, 1)
    }
}

impl Module for Scale {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("ia3_l", &self.vector);
    }
}

impl Adapter for Scale {
    fn adapt(&self, base: &Weights) -> Weights {
        let bias = match &base.bias {
            Some(bias) if !self.of_input => Some(bias * self.along()),
            other => other.clone(),
        };
        Weights { weight: &base.weight * self.vector.value(), bias }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        if self.of_input { base.apply(&(x * self.along())) } else { base.apply(x) * self.along() }
    }
}

impl Method for Ia3 {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let of_input = self.feed_forward.iter().any(|name| ends_with_name(&site.path, name));
        let sizes = if of_input { [1, site.inputs] } else { [site.outputs, 1] };
        Ok(Arc::new(Scale { vector: Param::new(&Tensor::ones(sizes, &site.device)), of_input }))
    }

    fn config(&self) -> Map<String, Value> {
        object(json!({
            "peft_type": "IA3",
            "feedforward_modules": self.feed_forward,
            "fan_in_fan_out": false,
            "init_ia3_weights": true,
        }))
    }
}
