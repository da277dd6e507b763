//! Prefix tuning (Li and Liang, arXiv 2101.00190).
//!
//! `softmax(q·[P_K; K]ᵀ/√d)·[P_V; V]` in every block: trained keys and values of virtual tokens, which every
//! query may look at, as if a cache had kept them. With a projection they come out of a network while
//! they are trained, `W₂·tanh(W₁·E)` with biases, `E: [tokens, width]`. A file holds
//! `[tokens, blocks · 2 · width]`, each block's keys before its values.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::settings::Settings;
use super::table::{self, Network, Table};
use super::{Method, Site};
use crate::error::Result;
use crate::nn::{Activation, Adapter, Module, Prefix, Stack, Stored, Walker};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// Prefix tuning's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefixTuning {
    /// How many virtual tokens stand before every text.
    pub tokens: usize,
    /// The width between the layers of the projection; without it keys and values are trained
    /// themselves, as they are after loading.
    pub hidden: Option<usize>,
    /// Draws the starting values.
    pub seed: u64,
    /// The stack that they stand before, once it is attached; starts empty.
    pub stack: Stack,
}

impl PrefixTuning {
    /// As many virtual tokens, whose keys and values are trained themselves.
    pub fn new(tokens: usize) -> PrefixTuning {
        PrefixTuning { tokens, hidden: None, seed: 0, stack: Stack::default() }
    }

    /// **Errors** when a setting is malformed.
    pub(super) fn from_config(config: &Settings) -> Result<PrefixTuning> {
        Ok(PrefixTuning::new(table::tokens(config)?))
    }
}

/// What stands before the model.
struct Pairs {
    table: Table,
    stack: Stack,
}

impl Module for Pairs {
    fn walk(&self, at: &mut Walker<'_>) {
        self.table.walk(at);
    }
}

impl Adapter for Pairs {
    fn merges(&self) -> bool {
        false
    }

    fn prefix(&self) -> Option<Prefix> {
        let Stack { blocks, key_heads, head, .. } = self.stack;
        let all = self.table.value().unflatten(1, &[2 * blocks, key_heads, head]).permute(&[1, 2, 0, 3]);
        let pair = |block: usize| (all.select(0, 2 * block), all.select(0, 2 * block + 1));
        Some(Prefix::KeysValues((0..blocks).map(pair).collect()))
    }

    fn stored(&self) -> Option<Vec<Stored>> {
        self.table.stored()
    }
}

impl Method for PrefixTuning {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let stack = table::stack(site)?;
        self.stack = stack;
        let mut rng = Rng::seeded(self.seed);
        let (width, numbers) =
            (stack.key_heads * stack.head, 2 * stack.blocks * stack.key_heads * stack.head);
        let mut normal = |width: usize| Tensor::normal(1.0, [self.tokens, width], &mut rng, &site.device);
        let table = match self.hidden {
            Some(hidden) => {
                let embedding = normal(width);
                let widths = [width, hidden, numbers];
                let network = Network::new("transform", &widths, Activation::Tanh, &mut rng, site);
                Table::through(network, &embedding)
            }
            None => Table::of(&normal(numbers)),
        };
        Ok(Arc::new(Pairs { table, stack }))
    }

    fn adapts(&self) -> bool {
        false
    }

    fn precedes(&self) -> bool {
        true
    }

    fn config(&self) -> Map<String, Value> {
        let width = self.stack.key_heads * self.stack.head;
        let mut config = table::config("PREFIX_TUNING", self.tokens, width, &self.stack);
        // The file holds what comes out of the projection.
        config.insert("prefix_projection".into(), json!(false));
        config.insert("encoder_hidden_size".into(), json!(self.hidden.unwrap_or(width)));
        config
    }
}
