//! Methods that add nothing and train a part of the base: BitFit (Ben Zaken et al., arXiv 2106.10199)
//! its biases, norm tuning its norms.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::settings::object;
use super::{Method, Site};
use crate::error::{Error, Result};
use crate::nn::Adapter;

/// Trains the biases of the modules that the targets choose (`"*"` for all).
#[derive(Clone, Copy, Debug, Default)]
pub struct BitFit;

/// Trains all parameters of the modules that the targets choose (`"*LayerNorm"`).
#[derive(Clone, Copy, Debug, Default)]
pub struct NormTuning;

impl Method for BitFit {
    fn attach(&mut self, _site: &Site) -> Result<Arc<dyn Adapter>> {
        Err(Error::Adapter("BitFit puts nothing into layers".into()))
    }

    fn adapts(&self) -> bool {
        false
    }

    fn trains(&self, path: &str, chosen: bool) -> bool {
        chosen && path.ends_with(".bias")
    }

    fn config(&self) -> Map<String, Value> {
        object(json!({ "peft_type": "BITFIT" }))
    }
}

impl Method for NormTuning {
    fn attach(&mut self, _site: &Site) -> Result<Arc<dyn Adapter>> {
        Err(Error::Adapter("norm tuning puts nothing into layers".into()))
    }

    fn adapts(&self) -> bool {
        false
    }

    fn trains(&self, _path: &str, chosen: bool) -> bool {
        chosen
    }

    fn file_name(&self, module: &str, name: &str, _adapted: bool) -> String {
        format!("{module}.ln_tuning_layers.{name}")
    }

    fn config(&self) -> Map<String, Value> {
        object(json!({ "peft_type": "LN_TUNING" }))
    }
}
