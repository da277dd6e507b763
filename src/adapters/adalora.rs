//! AdaLoRA: adaptive budget allocation (Zhang et al., arXiv 2303.10512).
//!
//! `W' = W + s·P·diag(E)·Q`, `s = alpha/(r₀ + 1e-5)` with the first rank r₀. Each triplet (column of P,
//! number of E, row of Q) has a score; after a warm-up, the lowest ones over all layers have their E
//! set to 0, so that only a budget of them acts, which falls from r₀ to the target along a cubic:
//!
//! ```text
//! I = |w·∂L/∂w|     Ī ← β₁·Ī + (1-β₁)·I     U ← β₂·U + (1-β₂)·|I - Ī|     score of w: Ī·U
//! score of a triplet: that of E, plus the means over its column of P and its row of Q
//! budget(t) = b₁ + (b₀ - b₁)·(1 - (t - tᵢ)/(T - tᵢ - t_f))³
//! ```
//! A triplet may come back until the last `t_f` updates. P and Q are kept near orthonormal by a penalty.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::growth::{Check, orthogonality};
use super::settings::{Settings, object, plain_number};
use super::{Method, Site, Update};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Adapter, Module, Param, Walker, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// AdaLoRA's settings and, once attached, its sites.
#[derive(Clone)]
pub struct AdaLora {
    /// The rank at the start.
    pub first_rank: usize,
    /// The mean rank at the end.
    pub target_rank: usize,
    /// The numerator of the scale.
    pub alpha: f64,
    /// Updates before the budget falls.
    pub warm_up: u64,
    /// Updates at the end in which nothing changes.
    pub final_steps: u64,
    /// Updates between two allocations.
    pub interval: u64,
    /// Updates in all.
    pub total_steps: u64,
    /// β₁ of importance.
    pub beta1: f64,
    /// β₂ of its uncertainty.
    pub beta2: f64,
    /// The weight of the orthogonality penalty.
    pub orthogonality: f64,
    /// The probability with which an element of the adapter's input is dropped in training.
    pub dropout: f64,
    /// Draws the starting values.
    pub seed: u64,
    /// Its sites, once it is attached; starts empty.
    pub allocated: AllocatedSites,
}

/// What AdaLoRA knows once it is attached.
#[derive(Clone, Default)]
pub struct AllocatedSites {
    /// Ranks by path, from a file.
    stored: BTreeMap<String, usize>,
    sites: Vec<Allocated>,
    checks: Vec<Check>,
}

#[derive(Clone)]
struct Allocated {
    path: String,
    adapter: Arc<Triplets>,
    /// Ī and U of Q, P and E.
    running: Vec<[Tensor; 2]>,
    /// Which triplets acted after the last allocation.
    mask: Vec<f64>,
}

impl AdaLora {
    /// From a first to a target rank over a run of `total_steps`: a tenth of them before the budget
    /// falls, and a third after it has fallen.
    pub fn new(first_rank: usize, target_rank: usize, total_steps: u64) -> AdaLora {
        AdaLora {
            first_rank,
            target_rank,
            alpha: 2.0 * first_rank as f64,
            warm_up: total_steps / 10,
            final_steps: total_steps / 3,
            interval: 1,
            total_steps,
            beta1: 0.85,
            beta2: 0.85,
            orthogonality: 0.5,
            dropout: 0.0,
            seed: 0,
            allocated: AllocatedSites::default(),
        }
    }

    /// Reads the settings of an `adapter_config.json`.
    ///
    /// **Errors** when one is malformed, or asks for a variant that is not implemented.
    pub(super) fn from_config(config: &Settings) -> Result<AdaLora> {
        config.plain(&[
            ("bias", json!("none")),
            ("use_dora", json!(false)),
            ("use_rslora", json!(false)),
            ("layer_replication", Value::Null),
            ("target_parameters", Value::Null),
        ])?;
        let mut stored = BTreeMap::new();
        for (path, mask) in config.map("rank_pattern")? {
            let flags = mask.as_array().filter(|flags| flags.iter().all(Value::is_boolean));
            let refused =
                || Error::Adapter(format!("rank_pattern {path} is {mask}, expected true and false"));
            let rank = flags.ok_or_else(refused)?.iter().filter(|flag| **flag == json!(true)).count();
            let path = path.trim_end_matches(".default").trim_end_matches(".lora_E");
            stored.insert(path.to_string(), rank);
        }
        let steps = |key: &str, default: usize| config.whole(key, default).map(|steps| steps as u64);
        Ok(AdaLora {
            alpha: config.number("lora_alpha", 8.0)?,
            warm_up: steps("tinit", 0)?,
            final_steps: steps("tfinal", 0)?,
            interval: config.positive("deltaT", 1)? as u64,
            beta1: config.number("beta1", 0.85)?,
            beta2: config.number("beta2", 0.85)?,
            orthogonality: config.number("orth_reg_weight", 0.5)?,
            dropout: config.probability("lora_dropout")?,
            allocated: AllocatedSites { stored, ..AllocatedSites::default() },
            ..AdaLora::new(
                config.size("init_r", 12)?,
                config.positive("target_r", 8)?,
                steps("total_step", 0)?,
            )
        })
    }

    /// How many triplets may act after an update.
    pub fn budget(&self, step: u64, sites: usize) -> usize {
        let [first, last] = [self.first_rank, self.target_rank].map(|rank| (rank * sites) as f64);
        let end = self.total_steps.saturating_sub(self.final_steps);
        if step <= self.warm_up {
            return first as usize;
        }
        if step >= end {
            return last as usize;
        }
        let left = 1.0 - (step - self.warm_up) as f64 / (end - self.warm_up) as f64;
        (last + (first - last) * left.powi(3)) as usize
    }

    /// Scores every triplet and switches off those beyond the budget.
    fn allocate(&mut self, step: u64) -> Result<()> {
        let scores: Vec<Vec<f64>> =
            self.allocated.sites.iter().map(Allocated::scores).collect::<Result<_>>()?;
        let mut all: Vec<f64> = scores.concat();
        let budget = self.budget(step, self.allocated.sites.len());
        let off = all.len().saturating_sub(budget);
        let mut threshold = f64::NEG_INFINITY;
        if off > 0 {
            let (_, found, _) = all.select_nth_unstable_by(off - 1, f64::total_cmp);
            threshold = *found;
        }
        for (site, scores) in self.allocated.sites.iter_mut().zip(&scores) {
            site.mask = scores.iter().map(|score| f64::from(u8::from(*score > threshold))).collect();
            site.apply_mask();
        }
        let ranks = self.ranks();
        let scores = scores.concat();
        let check =
            Check { step, values: Vec::new(), scores, count: budget, threshold, chosen: Vec::new(), ranks };
        self.allocated.checks.push(check);
        Ok(())
    }
}

impl Allocated {
    /// `[Ī, U]` after one more value of I.
    fn observe(&mut self, update: &Update, beta1: f64, beta2: f64) {
        for (param, running) in self.adapter.params().into_iter().zip(&mut self.running) {
            let Some(gradient) = update.gradient(param) else { continue };
            let now = (param.value().detach() * gradient).abs();
            let mean = &running[0] * beta1 + &now * (1.0 - beta1);
            let spread = &running[1] * beta2 + (&now - &mean).abs() * (1.0 - beta2);
            *running = [mean, spread];
        }
    }

    /// The score of each triplet.
    fn scores(&self) -> Result<Vec<f64>> {
        let [down, up, values] = [0, 1, 2].map(|part| &self.running[part][0] * &self.running[part][1]);
        let total = values.reshape([self.mask.len()]) + down.mean(1) + up.mean(0);
        total.read_f64()
    }

    fn apply_mask(&self) {
        let values = &self.adapter.values;
        let mask = Tensor::from_f64(&self.mask, values.sizes(), &values.device());
        values.set(&(values.value() * mask));
    }
}

/// What sits in one layer.
struct Triplets {
    /// Q: `[rank, in]`
    down: Param,
    /// P: `[out, rank]`
    up: Param,
    /// E: `[rank, 1]`
    values: Param,
    scale: f64,
    dropout: f64,
}

impl Triplets {
    fn params(&self) -> [&Param; 3] {
        [&self.down, &self.up, &self.values]
    }
}

impl Module for Triplets {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("lora_A", &self.down);
        at.param("lora_B", &self.up);
        at.param("lora_E", &self.values);
    }
}

impl Adapter for Triplets {
    fn adapt(&self, base: &Weights) -> Weights {
        let down = self.down.value() * self.values.value();
        Weights {
            weight: base.weight.add_matmul(&self.up.value(), &down, self.scale),
            bias: base.bias.clone(),
        }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let down = self.down.value() * self.values.value();
        let low = x.dropout(self.dropout).linear(&down, None);
        low.linear_add(&self.up.value(), self.scale, Some(&base.apply(x)))
    }

    fn factors(&self) -> Option<[Tensor; 2]> {
        Some([self.up.value() * self.scale, self.down.value() * self.values.value()])
    }
}

impl Method for AdaLora {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let rank = self.allocated.stored.get(&site.path).copied().unwrap_or(self.first_rank);
        let largest = site.inputs.max(site.outputs);
        if rank > largest || self.first_rank == 0 {
            return Err(Error::Adapter(format!("rank {rank} does not fit; expected 1 to {largest}")));
        }
        let mut rng = Rng::derived(self.seed, site.number as u64);
        let mut normal = |sizes: [usize; 2]| Param::new(&Tensor::normal(0.02, sizes, &mut rng, &site.device));
        let adapter = Arc::new(Triplets {
            down: normal([rank, site.inputs]),
            up: normal([site.outputs, rank]),
            values: Param::new(&Tensor::zeros([rank, 1], &site.device)),
            scale: self.alpha / (self.first_rank as f64 + 1e-5),
            dropout: self.dropout,
        });
        let zeros = |param: &Param| Tensor::zeros(param.sizes(), &site.device);
        let running = adapter.params().map(|param| [zeros(param), zeros(param)]).to_vec();
        let mask = vec![1.0; rank];
        self.allocated.sites.push(Allocated {
            path: site.path.clone(),
            adapter: adapter.clone(),
            running,
            mask,
        });
        Ok(adapter)
    }

    fn penalty(&self) -> Option<Tensor> {
        if self.orthogonality == 0.0 {
            return None;
        }
        let sites = self.allocated.sites.iter();
        let factors: Vec<Tensor> =
            sites.flat_map(|site| [site.adapter.down.value(), site.adapter.up.value().t()]).collect();
        Some(orthogonality(&factors)? * self.orthogonality)
    }

    fn after_update(&mut self, update: &Update) -> Result<()> {
        let (step, end) = (update.number, self.total_steps.saturating_sub(self.final_steps));
        if step < end {
            let (beta1, beta2) = (self.beta1, self.beta2);
            self.allocated.sites.iter_mut().for_each(|site| site.observe(update, beta1, beta2));
        }
        if step > end && end > 0 {
            self.allocated.sites.iter().for_each(Allocated::apply_mask);
        } else if step == end || (step > self.warm_up && step < end && step.is_multiple_of(self.interval)) {
            self.allocate(step)?;
        }
        Ok(())
    }

    fn ranks(&self) -> Vec<usize> {
        let active = |site: &Allocated| site.mask.iter().filter(|on| **on > 0.0).count();
        self.allocated.sites.iter().map(active).collect()
    }

    fn checks(&self) -> &[Check] {
        &self.allocated.checks
    }

    fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        for site in &self.allocated.sites {
            let mask = Tensor::from_f64(&site.mask, [site.mask.len()], &Device::Reference);
            state.insert(format!("{}/mask", site.path), mask);
            for (part, [mean, spread]) in ["Q", "P", "E"].iter().zip(&site.running) {
                state.insert(format!("{}/mean_{part}", site.path), mean.clone());
                state.insert(format!("{}/spread_{part}", site.path), spread.clone());
            }
        }
        state
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        if state.len() != 7 * self.allocated.sites.len() {
            return Err(Error::Names(format!("{} entries of state are not of this adapter", state.len())));
        }
        for site in &mut self.allocated.sites {
            let entry = |name: String, sizes: &[usize]| {
                let name = format!("{}/{name}", site.path);
                let found = state.get(&name).filter(|tensor| tensor.sizes() == sizes);
                found.ok_or_else(|| Error::Names(format!("{name} {sizes:?} is missing")))
            };
            let mask = entry("mask".into(), &[site.mask.len()])?.read_f64()?;
            let mut running = Vec::new();
            for (part, param) in ["Q", "P", "E"].iter().zip(site.adapter.params()) {
                let mean = entry(format!("mean_{part}"), param.sizes())?.to(&param.device())?;
                running.push([mean, entry(format!("spread_{part}"), param.sizes())?.to(&param.device())?]);
            }
            (site.mask, site.running) = (mask, running);
        }
        Ok(())
    }

    fn config(&self) -> Map<String, Value> {
        // Ranks that differ from the first one came trimmed from a file, and are written so again.
        let sites = self.allocated.sites.iter();
        let trimmed: Map<String, Value> = sites
            .filter(|site| site.mask.len() != self.first_rank)
            .map(|site| {
                let flags: Vec<bool> = (0..self.first_rank).map(|at| at < site.mask.len()).collect();
                (format!("{}.lora_E", site.path), json!(flags))
            })
            .collect();
        object(json!({
            "peft_type": "ADALORA",
            "r": self.first_rank,
            "init_r": self.first_rank,
            "target_r": self.target_rank,
            "lora_alpha": plain_number(self.alpha),
            "lora_dropout": self.dropout,
            "tinit": self.warm_up,
            "tfinal": self.final_steps,
            "deltaT": self.interval,
            "total_step": self.total_steps,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "orth_reg_weight": self.orthogonality,
            "rank_pattern": if trimmed.is_empty() { Value::Null } else { Value::Object(trimmed) },
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
        }))
    }
}
