//! Prompt tuning (Lester et al., arXiv 2104.08691).
//!
//! `[P; x]` instead of the token vectors x, with trained `P: [tokens, width]` in front of every text. The
//! model's results are still those of the text's own tokens; positions shift by the virtual ones.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::settings::Settings;
use super::table::{self, Table};
use super::{Method, Site};
use crate::Ids;
use crate::error::Result;
use crate::nn::{Adapter, Module, Prefix, Stack, Stored, Walker};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// Prompt tuning's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptTuning {
    /// How many virtual tokens stand before every text.
    pub tokens: usize,
    /// Where their vectors start.
    pub start: PromptStart,
    /// Draws the starting values.
    pub seed: u64,
    /// The stack that they stand before, once it is attached; starts empty.
    pub stack: Stack,
}

/// Where the vectors of virtual tokens start.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PromptStart {
    /// At those of tokens drawn from the vocabulary.
    #[default]
    Vocabulary,
    /// At those of these tokens, again from the first when there are too few.
    Tokens(Vec<u32>),
    /// Normally distributed with deviation 1.
    Random,
}

impl PromptTuning {
    /// As many virtual tokens, which start at vectors of the vocabulary.
    pub fn new(tokens: usize) -> PromptTuning {
        PromptTuning { tokens, start: PromptStart::default(), seed: 0, stack: Stack::default() }
    }

    /// **Errors** when a setting is malformed.
    pub(super) fn from_config(config: &Settings) -> Result<PromptTuning> {
        Ok(PromptTuning::new(table::tokens(config)?))
    }

    fn vectors(&self, site: &Site) -> Result<Tensor> {
        let mut rng = Rng::seeded(self.seed);
        let (count, rows) = (self.tokens, site.inputs);
        let ids: Vec<u32> = match &self.start {
            PromptStart::Random => {
                return Ok(Tensor::normal(1.0, [count, site.outputs], &mut rng, &site.device));
            }
            PromptStart::Vocabulary => (0..count).map(|_| rng.below(rows) as u32).collect(),
            PromptStart::Tokens(ids) => ids.iter().copied().cycle().take(count).collect(),
        };
        Ok(site.base.weight.detach().embedding(&Ids::new(ids, [count], rows)?))
    }
}

/// What stands before the model.
pub(super) struct Prompt(pub(super) Table);

impl Module for Prompt {
    fn walk(&self, at: &mut Walker<'_>) {
        self.0.walk(at);
    }
}

impl Adapter for Prompt {
    fn merges(&self) -> bool {
        false
    }

    fn prefix(&self) -> Option<Prefix> {
        Some(Prefix::Vectors(self.0.value()))
    }

    fn stored(&self) -> Option<Vec<Stored>> {
        self.0.stored()
    }
}

impl Method for PromptTuning {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        self.stack = table::stack(site)?;
        Ok(Arc::new(Prompt(Table::of(&self.vectors(site)?))))
    }

    fn adapts(&self) -> bool {
        false
    }

    fn precedes(&self) -> bool {
        true
    }

    fn config(&self) -> Map<String, Value> {
        let mut config = table::config("PROMPT_TUNING", self.tokens, self.stack.width, &self.stack);
        config.insert("prompt_tuning_init".into(), json!("RANDOM"));
        config
    }
}
