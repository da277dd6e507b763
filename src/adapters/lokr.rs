//! LoKr: low-rank Kronecker product (Yeh et al., arXiv 2309.14859).
//!
//! `W' = W + s·C⊗D` with `out = l·k`, `in = m·n`, `C: [l, m]`, `D: [k, n]` and `s = alpha/rank`. Each of the
//! two is a product of rank `rank` where that is smaller: D by itself, C if `decompose_both` says so.
//! C (or its left factor) starts at 0. `forward` never forms the matrix: it multiplies the axes of
//! `x: [.., m, n]` one after the other.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::settings::{Settings, object, plain_number};
use super::{Method, Patterns, Site, even};
use crate::error::{Error, Result};
use crate::nn::{Adapter, Module, Param, Walker, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// LoKr's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct LoKr {
    /// The rank of a matrix that is itself a product.
    pub rank: usize,
    /// The update's weight: it is scaled by `alpha / rank`.
    pub alpha: f64,
    /// The rows and columns of C, where the layer's sizes are multiples of it; the squarest cut without it.
    pub factor: Option<usize>,
    /// Whether C may be a product too.
    pub decompose_both: bool,
    /// Ranks and alphas that differ between layers.
    pub patterns: Patterns,
    /// Draws the starting values.
    pub seed: u64,
}

impl LoKr {
    /// A rank, and alpha twice as large.
    pub fn new(rank: usize) -> LoKr {
        let (alpha, patterns) = (2.0 * rank as f64, Patterns::default());
        LoKr { rank, alpha, factor: None, decompose_both: false, patterns, seed: 0 }
    }

    /// **Errors** when a setting is malformed or a variant is not implemented.
    pub(super) fn from_config(config: &Settings) -> Result<LoKr> {
        config.plain(&[("rank_dropout", json!(0.0)), ("module_dropout", json!(0.0))])?;
        let factor = match config.get("decompose_factor").map_or(Some(-1), Value::as_i64) {
            Some(-1) => None,
            Some(factor @ 1..) => Some(factor as usize),
            _ => return Err(Error::Adapter("decompose_factor: expected -1 or a positive number".into())),
        };
        Ok(LoKr {
            rank: config.positive("r", 8)?,
            alpha: config.number("alpha", 8.0)?,
            factor,
            decompose_both: config.flag("decompose_both")?,
            patterns: Patterns::from_config(config)?,
            seed: 0,
        })
    }

    /// A size as a product of two: the first is `factor` where it divides, else the largest divisor up to it
    /// and to the root.
    fn cut(&self, size: usize) -> [usize; 2] {
        match self.factor {
            Some(factor) if size.is_multiple_of(factor) => [factor, size / factor],
            most => {
                let fits = |&d: &usize| size.is_multiple_of(d) && d * d <= size;
                let divisor = (1..=most.unwrap_or(size).min(size)).take_while(|d| d * d <= size).filter(fits);
                let divisor = divisor.last().unwrap_or(1);
                [divisor, size / divisor]
            }
        }
    }
}

/// C or D: one matrix, or a product of two.
struct Half {
    names: [&'static str; 2],
    parts: Vec<Param>,
}

impl Half {
    fn value(&self) -> Tensor {
        match &self.parts[..] {
            [left, right] => left.value().matmul(&right.value()),
            parts => parts[0].value(),
        }
    }

    /// `[.., columns] -> [.., rows]`
    fn apply(&self, x: &Tensor) -> Tensor {
        self.parts.iter().rev().fold(x.clone(), |x, part| x.linear(&part.value(), None))
    }
}

/// What sits in one layer.
struct Kronecker {
    /// C, then D.
    halves: [Half; 2],
    /// m and n.
    inputs: [usize; 2],
    scale: f64,
}

impl Module for Kronecker {
    fn walk(&self, at: &mut Walker<'_>) {
        for (name, half) in ["lokr_w1", "lokr_w2"].iter().zip(&self.halves) {
            match &half.parts[..] {
                [whole] => at.param(name, whole),
                parts => half.names.iter().zip(parts).for_each(|(name, part)| at.param(name, part)),
            }
        }
    }
}

impl Adapter for Kronecker {
    fn adapt(&self, base: &Weights) -> Weights {
        let [c, d] = self.halves.each_ref().map(Half::value);
        let product = c.unsqueeze(1).unsqueeze(3) * d.unsqueeze(1).unsqueeze(0);
        let update = product.flatten(2, 3).flatten(0, 1) * self.scale;
        Weights { weight: &base.weight + update, bias: base.bias.clone() }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let [c, d] = &self.halves;
        let by_d = d.apply(&x.unflatten(-1, &self.inputs));
        let by_both = c.apply(&by_d.transpose(-1, -2)).transpose(-1, -2);
        base.apply(x) + by_both.flatten(-2, -1) * self.scale
    }
}

impl Method for LoKr {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let (rank, alpha) = self.patterns.at(site, self.rank, self.alpha)?;
        let ([l, k], [m, n]) = (self.cut(site.outputs), self.cut(site.inputs));
        let smaller = |rows: usize, columns: usize| 2 * rank < rows.max(columns);
        let mut rng = Rng::derived(self.seed, site.number as u64);
        let zeros = |sizes: [usize; 2]| Tensor::zeros(sizes, &site.device);
        let mut even = |sizes: [usize; 2]| even(sizes, &mut rng, &site.device);
        let c = match self.decompose_both && smaller(l, m) {
            true => vec![zeros([l, rank]), even([rank, m])],
            false => vec![zeros([l, m])],
        };
        let d = match smaller(k, n) {
            true => vec![even([k, rank]), even([rank, n])],
            false => vec![even([k, n])],
        };
        let half = |names, parts: Vec<Tensor>| Half { names, parts: parts.iter().map(Param::new).collect() };
        let halves = [half(["lokr_w1_a", "lokr_w1_b"], c), half(["lokr_w2_a", "lokr_w2_b"], d)];
        Ok(Arc::new(Kronecker { halves, inputs: [m, n], scale: alpha / rank as f64 }))
    }

    fn config(&self) -> Map<String, Value> {
        let mut config = object(json!({
            "peft_type": "LOKR",
            "r": self.rank,
            "alpha": plain_number(self.alpha),
            "decompose_both": self.decompose_both,
            "decompose_factor": self.factor.map_or(-1, |factor| factor as i64),
            "rank_dropout": 0.0,
            "module_dropout": 0.0,
            "init_weights": true,
        }));
        self.patterns.write(&mut config);
        config
    }
}
