//! TriAdaptLoRA: low-rank adaptation whose rank grows where it is needed (Liang et al., arXiv
//! 2501.08008).
//!
//! `W' = W + s·B·(L + U)·A`, L lower and U upper (block) triangular. The factors are lists of blocks:
//! growing by d ranks from R to R' appends d rows to A and L, d columns to B and U, as parameters of
//! their own. What was trained stays untouched, with the optimiser's memory of it:
//!
//! ```text
//!         R    d                             row: [d, R'], col: [R', d]
//!     ┌──────┬────┐
//!     │ old  │    │ col
//!     ├──────┼────┤      importance of a matrix: the growth of ‖L + U‖/R since the last check
//!     │ row  │ both
//!     └──────┴────┘      k matrices grow at a check: those with the k largest importances
//! ```
//!
//! With new rows and columns of T at 0 (start `C0`) and a constant scale, growing changes no output
//! bit; L and U learn first.
//! Read next: `block.rs`, what sits in a layer.

mod block;
#[cfg(test)]
mod growth_tests;
mod options;

pub use options::{BlockStart, RankGrowth, ScaleMode, Variant};

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use serde_json::{Map, Value, json};

use block::Triangular;
use options::name_of;

use super::growth::{Check, choose, most_ranks, orthogonality};
use super::settings::{Settings, object, plain_number};
use super::{Method, Site, Update};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Adapter, Param};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// TriAdaptLoRA's settings and, once attached, its sites.
#[derive(Clone)]
pub struct TriAdaptLora {
    /// How rank is added.
    pub variant: Variant,
    /// Where a new block starts.
    pub start: BlockStart,
    /// What scales the update.
    pub scale_mode: ScaleMode,
    /// The numerator of the scale.
    pub alpha: f64,
    /// The mean rank to reach.
    pub reference_rank: usize,
    /// The rank at the start.
    pub first_rank: usize,
    /// Ranks that a growing matrix gains; half the reference rank if not given.
    pub increment: Option<usize>,
    /// All ranks together at which growth ends; reference rank times sites if not given.
    pub target_total: Option<usize>,
    /// How many matrices grow at a check.
    pub growth: RankGrowth,
    /// Matrices that grow at a check under [`RankGrowth::Fixed`].
    pub top_k: usize,
    /// Updates before the first check.
    pub warm_up: u64,
    /// Updates between checks.
    pub interval: u64,
    /// Updates in all.
    pub total_steps: u64,
    /// Divide importance by the number of blocks instead of the rank.
    pub score_by_blocks: bool,
    /// Never grow more matrices than ranks are missing, and let the earlier of equal ones grow.
    pub safe: bool,
    /// The weight of the orthogonality penalty on A and B.
    pub orthogonality: f64,
    /// The probability with which an element of the adapter's input is dropped in training.
    pub dropout: f64,
    /// Let new blocks warm up again, on a schedule of their own.
    pub fresh_schedule: bool,
    /// Draws the starting values.
    pub seed: u64,
    /// Its sites, once it is attached; starts empty.
    pub grown: GrownSites,
}

/// What TriAdaptLoRA knows once it is attached.
#[derive(Clone, Default)]
pub struct GrownSites {
    /// Block sizes by path, from a file.
    stored: BTreeMap<String, Vec<usize>>,
    sites: Vec<Grown>,
    checks: Vec<Check>,
}

/// A site as its method sees it.
#[derive(Clone)]
struct Grown {
    path: String,
    number: usize,
    adapter: Arc<Triangular>,
    /// The importance measured last.
    previous: f64,
}

impl TriAdaptLora {
    /// The keys of a file without which the update, or how it grows on, is not known.
    #[rustfmt::skip]
    const REQUIRED: [&str; 15] = [
        "lora_alpha", "blocks", "variant", "init", "scale_mode", "reference_rank", "init_rank", "rank_growth",
        "top_k", "init_warmup", "incre_interval", "total_step", "score_divisor", "safe_clamp", "orth_reg_weight",
    ];

    /// Grows from rank 1 to a mean of `reference_rank` over a run of `total_steps`, checking twenty
    /// times; alpha is twice the reference rank.
    pub fn new(reference_rank: usize, total_steps: u64) -> TriAdaptLora {
        TriAdaptLora {
            variant: Variant::Block,
            start: BlockStart::C0,
            scale_mode: ScaleMode::Constant,
            alpha: 2.0 * reference_rank as f64,
            reference_rank,
            first_rank: 1,
            increment: None,
            target_total: None,
            growth: RankGrowth::Linear,
            top_k: 1,
            warm_up: 0,
            interval: (total_steps / 20).max(1),
            total_steps,
            score_by_blocks: false,
            safe: true,
            orthogonality: 0.0,
            dropout: 0.0,
            fresh_schedule: false,
            seed: 0,
            grown: GrownSites::default(),
        }
    }

    /// Ranks that a growing matrix gains.
    fn increment(&self) -> usize {
        self.increment.unwrap_or(self.reference_rank / 2).max(1)
    }

    fn target(&self) -> usize {
        self.target_total.unwrap_or(self.reference_rank * self.grown.sites.len())
    }

    /// How many matrices should grow at update `step`, with `missing` ranks left to add.
    fn count(&self, missing: usize, step: u64) -> usize {
        let sites = self.grown.sites.len();
        let (done, span) =
            (step.saturating_sub(self.warm_up), self.total_steps.saturating_sub(self.warm_up).max(1));
        let wanted = match self.growth {
            // In whole numbers, because 100 · 0.29 is less than 29 in floating point.
            RankGrowth::Linear => (missing as u128 * u128::from(done) / u128::from(span)) as usize,
            // A little more, so that exact powers are not cut.
            RankGrowth::Nonlinear => ((missing as f64).powf(done as f64 / span as f64) + 1e-9) as usize,
            RankGrowth::Fixed => self.top_k,
        };
        let count = wanted.clamp(1, sites);
        if self.safe { count.min(missing.div_ceil(self.increment())) } else { count }
    }

    /// Reads the settings of an `adapter_config.json`.
    ///
    /// **Errors** when one is missing, malformed or unknown.
    pub(super) fn from_config(config: &Settings) -> Result<TriAdaptLora> {
        config.need(&Self::REQUIRED)?;
        config.plain(&[("bias", json!("none"))])?;
        let mut stored = BTreeMap::new();
        for (path, value) in config.map("blocks")? {
            let refused = || Error::Adapter(format!("blocks {path} is {value}, expected a list of sizes"));
            let sizes: Option<Vec<usize>> = value.as_array().and_then(|sizes| {
                let size = |size: &Value| size.as_u64().filter(|size| (1..=65536).contains(size));
                sizes.iter().map(|value| size(value).map(|size| size as usize)).collect()
            });
            stored.insert(path.clone(), sizes.filter(|sizes| !sizes.is_empty()).ok_or_else(refused)?);
        }
        let reference_rank = config.size("reference_rank", 8)?;
        let given = |key: &'static str| config.get(key).map(|_| key);
        let increment = given("incre_rank_num").map(|key| config.size(key, 1)).transpose()?;
        let target_total = given("target_total").map(|key| config.positive(key, 1)).transpose()?;
        Ok(TriAdaptLora {
            variant: config.choice("variant", &Variant::NAMES)?,
            start: config.choice("init", &BlockStart::NAMES)?,
            scale_mode: config.choice("scale_mode", &ScaleMode::NAMES)?,
            alpha: config.number("lora_alpha", 8.0)?,
            first_rank: config.positive("init_rank", 1)?,
            increment,
            target_total,
            growth: config.choice("rank_growth", &RankGrowth::NAMES)?,
            top_k: config.positive("top_k", 1)?,
            warm_up: config.whole("init_warmup", 0)? as u64,
            interval: config.positive("incre_interval", 1)? as u64,
            score_by_blocks: config.choice("score_divisor", &[("rank", false), ("blocks", true)])?,
            safe: config.flag("safe_clamp")?,
            orthogonality: config.number("orth_reg_weight", 0.0)?,
            dropout: config.probability("lora_dropout")?,
            grown: GrownSites { stored, ..GrownSites::default() },
            ..TriAdaptLora::new(reference_rank, config.whole("total_step", 0)? as u64)
        })
    }

    /// The sizes of the blocks that one growth adds.
    fn added(&self, ranks: usize) -> Vec<usize> {
        match self.variant {
            Variant::Block => vec![ranks],
            Variant::Single => vec![1; ranks],
        }
    }
}

impl Method for TriAdaptLora {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let (inputs, outputs) = (site.inputs, site.outputs);
        let (sizes, most) = match self.grown.stored.get(&site.path) {
            Some(sizes) => (sizes.clone(), most_ranks(inputs, outputs)),
            None if self.grown.stored.is_empty() => (self.added(self.first_rank), inputs.max(outputs)),
            None => return Err(Error::Adapter("blocks names no sizes for this layer".into())),
        };
        let rank: usize = sizes.iter().sum();
        if rank == 0
            || rank > most
            || (self.variant == Variant::Single && sizes.iter().any(|&size| size != 1))
        {
            return Err(Error::Adapter(format!(
                "blocks of {sizes:?} ranks do not fit {inputs} -> {outputs}; expected 1 to {most} in all, \
                 and blocks of 1 in the single variant"
            )));
        }
        let adapter = Arc::new(Triangular {
            inputs,
            outputs,
            device: site.device.clone(),
            blocks: RwLock::default(),
            scale_mode: self.scale_mode,
            alpha: self.alpha,
            reference_rank: self.reference_rank,
            dropout: self.dropout,
        });
        let mut grown =
            Grown { path: site.path.clone(), number: site.number, adapter: adapter.clone(), previous: 0.0 };
        sizes.iter().for_each(|&size| grown.grow(size, self.start, true, self.seed, 0));
        grown.previous = adapter.importance(self.score_by_blocks)?;
        self.grown.sites.push(grown);
        Ok(adapter)
    }

    fn loaded(&mut self) -> Result<()> {
        for site in &mut self.grown.sites {
            site.previous = site.adapter.importance(self.score_by_blocks)?;
        }
        Ok(())
    }

    fn penalty(&self) -> Option<Tensor> {
        if self.orthogonality == 0.0 {
            return None;
        }
        let factors: Vec<Tensor> = self
            .grown
            .sites
            .iter()
            .flat_map(|site| {
                let [down, up, _] = site.adapter.assembled();
                [down, up.t()]
            })
            .collect();
        Some(orthogonality(&factors)? * self.orthogonality)
    }

    fn pace(&self, path: &str, param: &Param) -> super::Pace {
        let asked = |site: &&Grown| self.fresh_schedule && path.starts_with(&site.path);
        let blocks = self.grown.sites.iter().filter(asked).flat_map(|site| site.adapter.blocks());
        let mut own = blocks.filter(|block| block.params().iter().any(|(_, other)| other.id() == param.id()));
        super::Pace { since: own.next().map_or(0, |block| block.since), ..super::Pace::default() }
    }

    fn after_update(&mut self, update: &Update) -> Result<()> {
        let step = update.number;
        let (now, target): (usize, usize) = (self.ranks().iter().sum(), self.target());
        if now >= target || step <= self.warm_up || !step.is_multiple_of(self.interval) {
            return Ok(());
        }
        let count = self.count(target - now, step);
        let sites = &self.grown.sites;
        let of_site = |site: &Grown| site.adapter.importance(self.score_by_blocks);
        let values: Vec<f64> = sites.iter().map(of_site).collect::<Result<_>>()?;
        let scores: Vec<f64> = sites.iter().zip(&values).map(|(site, value)| value - site.previous).collect();
        let (threshold, chosen) = choose(&scores, count, self.safe);
        let sizes = self.added(self.increment());
        for &site in &chosen {
            let site = &mut self.grown.sites[site];
            sizes.iter().for_each(|&size| site.grow(size, self.start, false, self.seed, step));
        }
        self.grown.sites.iter_mut().zip(&values).for_each(|(site, value)| site.previous = *value);
        self.grown.checks.push(Check { step, values, scores, count, threshold, chosen, ranks: self.ranks() });
        Ok(())
    }

    fn ranks(&self) -> Vec<usize> {
        self.grown.sites.iter().map(|site| site.adapter.rank()).collect()
    }

    fn checks(&self) -> &[Check] {
        &self.grown.checks
    }

    fn state(&self) -> BTreeMap<String, Tensor> {
        let exact = |values: Vec<f64>| Tensor::from_f64(&values, [values.len()], &Device::Reference);
        let mut state = BTreeMap::new();
        for site in &self.grown.sites {
            let sizes = site.adapter.sizes().into_iter().map(|size| size as f64).collect();
            let since = site.adapter.blocks().iter().map(|block| block.since as f64).collect();
            state.insert(format!("{}/sizes", site.path), exact(sizes));
            state.insert(format!("{}/since", site.path), exact(since));
            state.insert(format!("{}/previous", site.path), exact(vec![site.previous]));
        }
        state
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        if state.len() != 3 * self.grown.sites.len() {
            return Err(Error::Names(format!(
                "{} entries of state for {} sites",
                state.len(),
                self.grown.sites.len()
            )));
        }
        for site in &mut self.grown.sites {
            let entry = |name: &str| {
                let name = format!("{}/{name}", site.path);
                state.get(&name).ok_or_else(|| Error::Names(format!("{name} is missing")))?.read_f64()
            };
            let (sizes, since, previous) = (entry("sizes")?, entry("since")?, entry("previous")?);
            let sizes: Vec<usize> = sizes.into_iter().map(|size| size as usize).collect();
            let present = site.adapter.sizes();
            let most = most_ranks(site.adapter.inputs, site.adapter.outputs);
            if !sizes.starts_with(&present)
                || since.len() != sizes.len()
                || previous.len() != 1
                || sizes.iter().any(|&size| size == 0 || size > most)
                || sizes.iter().sum::<usize>() > most
            {
                return Err(Error::Names(format!(
                    "{}: blocks {sizes:?} do not go on from {present:?}",
                    site.path
                )));
            }
            for (&size, &since) in sizes.iter().zip(&since).skip(present.len()) {
                site.grow(size, self.start, false, self.seed, since as u64);
            }
            site.previous = previous[0];
        }
        Ok(())
    }

    fn config(&self) -> Map<String, Value> {
        let blocks: BTreeMap<&String, Vec<usize>> =
            self.grown.sites.iter().map(|site| (&site.path, site.adapter.sizes())).collect();
        object(json!({
            "peft_type": "TRIADAPTLORA",
            "lora_alpha": plain_number(self.alpha),
            "lora_dropout": self.dropout,
            "blocks": blocks,
            "variant": name_of(&Variant::NAMES, self.variant),
            "init": name_of(&BlockStart::NAMES, self.start),
            "scale_mode": name_of(&ScaleMode::NAMES, self.scale_mode),
            "reference_rank": self.reference_rank,
            "init_rank": self.first_rank,
            "incre_rank_num": self.increment,
            "target_total": self.target_total,
            "rank_growth": name_of(&RankGrowth::NAMES, self.growth),
            "top_k": self.top_k,
            "init_warmup": self.warm_up,
            "incre_interval": self.interval,
            "total_step": self.total_steps,
            "score_divisor": if self.score_by_blocks { "blocks" } else { "rank" },
            "safe_clamp": self.safe,
            "orth_reg_weight": self.orthogonality,
            "bias": "none",
            "fan_in_fan_out": false,
        }))
    }
}

impl Grown {
    /// Appends a block whose values follow from seed, site and block number alone.
    fn grow(&self, size: usize, start: BlockStart, first: bool, seed: u64, since: u64) {
        let stream = Rng::derived(seed, self.number as u64).next_seed();
        let mut rng = Rng::derived(stream, self.adapter.sizes().len() as u64);
        self.adapter.grow(size, start, first, &mut rng, since);
    }
}
