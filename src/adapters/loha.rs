//! LoHa: low-rank Hadamard product (Hyeon-Woo et al., arXiv 2108.06098).
//!
//! `W' = W + s·(A₁·B₁)⊙(A₂·B₂)` with `Aᵢ: [out, rank]`, `Bᵢ: [rank, in]` and `s = alpha/rank`: the product
//! of each element has up to `rank²` as its rank. B₂ starts at 0, the others evenly from `±1/√columns`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::settings::{Settings, object, plain_number};
use super::{Method, Patterns, Site, even};
use crate::error::Result;
use crate::nn::{Adapter, Module, Param, Walker, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// LoHa's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct LoHa {
    /// The rank of each of the two products.
    pub rank: usize,
    /// The update's weight: it is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Ranks and alphas that differ between layers.
    pub patterns: Patterns,
    /// Draws the starting values.
    pub seed: u64,
}

impl LoHa {
    /// A rank, and alpha twice as large.
    pub fn new(rank: usize) -> LoHa {
        LoHa { rank, alpha: 2.0 * rank as f64, patterns: Patterns::default(), seed: 0 }
    }

    /// **Errors** when a setting is malformed or a variant is not implemented.
    pub(super) fn from_config(config: &Settings) -> Result<LoHa> {
        config.plain(&[("rank_dropout", json!(0.0)), ("module_dropout", json!(0.0))])?;
        Ok(LoHa {
            rank: config.positive("r", 8)?,
            alpha: config.number("alpha", 8.0)?,
            patterns: Patterns::from_config(config)?,
            seed: 0,
        })
    }
}

/// What sits in one layer.
struct Hadamard {
    /// A₁, B₁, A₂ and B₂.
    factors: [Param; 4],
    scale: f64,
}

impl Module for Hadamard {
    fn walk(&self, at: &mut Walker<'_>) {
        let names = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"];
        names.iter().zip(&self.factors).for_each(|(name, factor)| at.param(name, factor));
    }
}

impl Adapter for Hadamard {
    fn adapt(&self, base: &Weights) -> Weights {
        let [a1, b1, a2, b2] = self.factors.each_ref().map(Param::value);
        let update = a1.matmul(&b1) * a2.matmul(&b2) * self.scale;
        Weights { weight: &base.weight + update, bias: base.bias.clone() }
    }
}

impl Method for LoHa {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let (rank, alpha) = self.patterns.at(site, self.rank, self.alpha)?;
        let mut rng = Rng::derived(self.seed, site.number as u64);
        let mut even = |sizes: [usize; 2]| even(sizes, &mut rng, &site.device);
        let factors = [
            even([site.outputs, rank]),
            even([rank, site.inputs]),
            even([site.outputs, rank]),
            Tensor::zeros([rank, site.inputs], &site.device),
        ];
        Ok(Arc::new(Hadamard {
            factors: factors.map(|factor| Param::new(&factor)),
            scale: alpha / rank as f64,
        }))
    }

    fn config(&self) -> Map<String, Value> {
        let mut config = object(json!({
            "peft_type": "LOHA",
            "r": self.rank,
            "alpha": plain_number(self.alpha),
            "rank_dropout": 0.0,
            "module_dropout": 0.0,
            "init_weights": true,
        }));
        self.patterns.write(&mut config);
        config
    }
}
