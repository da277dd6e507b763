//! P-tuning (Liu et al., arXiv 2103.10385).
//!
//! Prompt tuning whose vectors come out of a network while they are trained: `P = W₃·relu(W₂·relu(W₁·E))`
//! with biases, `E: [tokens, width]`. A file holds P.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::prompt_tuning::Prompt;
use super::settings::Settings;
use super::table::{self, Network, Table};
use super::{Method, Site};
use crate::error::Result;
use crate::nn::{Activation, Adapter, Stack};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// P-tuning's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct PTuning {
    /// How many virtual tokens stand before every text.
    pub tokens: usize,
    /// The width between the network's layers; without it the vectors are trained themselves, as they are
    /// after loading.
    pub hidden: Option<usize>,
    /// Draws the starting values.
    pub seed: u64,
    /// The stack that they stand before, once it is attached; starts empty.
    pub stack: Stack,
}

impl PTuning {
    /// As many virtual tokens, and the width between the network's layers.
    pub fn new(tokens: usize, hidden: usize) -> PTuning {
        PTuning { tokens, hidden: Some(hidden), seed: 0, stack: Stack::default() }
    }

    /// **Errors** when a setting is malformed.
    pub(super) fn from_config(config: &Settings) -> Result<PTuning> {
        Ok(PTuning { hidden: None, ..PTuning::new(table::tokens(config)?, 0) })
    }
}

impl Method for PTuning {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        self.stack = table::stack(site)?;
        let mut rng = Rng::seeded(self.seed);
        let width = site.outputs;
        let embedding = Tensor::normal(1.0, [self.tokens, width], &mut rng, &site.device);
        let table = match self.hidden {
            Some(hidden) => {
                let widths = [width, hidden, hidden, width];
                let network = Network::new("mlp_head", &widths, Activation::Relu, &mut rng, site);
                Table::through(network, &embedding)
            }
            None => Table::of(&embedding),
        };
        Ok(Arc::new(Prompt(table)))
    }

    fn adapts(&self) -> bool {
        false
    }

    fn precedes(&self) -> bool {
        true
    }

    fn config(&self) -> Map<String, Value> {
        let mut config = table::config("P_TUNING", self.tokens, self.stack.width, &self.stack);
        config.insert("encoder_reparameterization_type".into(), json!("MLP"));
        config.insert("encoder_hidden_size".into(), json!(self.hidden.unwrap_or(self.stack.width)));
        config
    }
}
