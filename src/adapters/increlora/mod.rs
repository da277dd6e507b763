//! IncreLoRA: incremental parameter allocation (Zhang et al., arXiv 2308.12043).
//!
//! `W' = W + s·P·diag(E)·Q` as a list of triplets, `s = alpha/(R + 1e-5)` with R active ones. A matrix's
//! importance is `I = Σ|dW ∘ ∂L/∂W|/√n`, smoothed as in AdaLoRA; at a check the most important ones
//! grow. Each keeps a *reserve*: triplets whose E stays at 1e-5 while P and Q already learn. Growing
//! sets the E of the reserve free and appends a new reserve, which follows a schedule of its own.
//!
//! `∂L/∂W` needs no dense product in the forward pass: the frozen weight is a leaf of the history whose
//! gradient is looked at and never applied.
//! Read next: `triplets.rs`, what sits in a layer.

mod triplets;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use serde_json::{Map, Value, json};

use triplets::Triplets;

use super::growth::{Check, choose, most_ranks, orthogonality};
use super::settings::{Settings, object, plain_number};
use super::{Method, Pace, Site, Update};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Adapter, Param};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// The E of a reserve.
const RESERVED: f64 = 1e-5;

/// IncreLoRA's settings and, once attached, its sites.
#[derive(Clone)]
pub struct IncreLora {
    /// The rank at the start.
    pub first_rank: usize,
    /// The mean rank to reach.
    pub target_rank: usize,
    /// Ranks that a growing matrix gains; half the target if not given.
    pub increment: Option<usize>,
    /// Matrices that grow at a check.
    pub top: usize,
    /// The numerator of the scale.
    pub alpha: f64,
    /// Updates before the first check.
    pub warm_up: u64,
    /// Updates between checks.
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
    pub reserved: ReservedSites,
}

/// What IncreLoRA knows once it is attached.
#[derive(Clone, Default)]
pub struct ReservedSites {
    /// Active and reserved triplets by path, from a file.
    stored: BTreeMap<String, [usize; 2]>,
    sites: Vec<Reserved>,
    checks: Vec<Check>,
}

#[derive(Clone)]
struct Reserved {
    path: String,
    number: usize,
    adapter: Arc<Triplets>,
    /// Ī and U.
    running: [f64; 2],
}

impl IncreLora {
    /// The keys of a file without which the update, or how it grows on, is not known.
    #[rustfmt::skip]
    const REQUIRED: [&str; 12] = [
        "lora_alpha", "ranks", "reserve", "init_rank", "target_rank", "top_h", "init_warmup", "incre_interval",
        "total_step", "beta1", "beta2", "orth_reg_weight",
    ];

    /// Grows from rank 1 to a mean of `target_rank` over a run of `total_steps`, one matrix at a time.
    pub fn new(target_rank: usize, total_steps: u64) -> IncreLora {
        IncreLora {
            first_rank: 1,
            target_rank,
            increment: None,
            top: 1,
            alpha: 2.0 * target_rank as f64,
            warm_up: 0,
            interval: (total_steps / 20).max(1),
            total_steps,
            beta1: 0.85,
            beta2: 0.85,
            orthogonality: 0.1,
            dropout: 0.0,
            seed: 0,
            reserved: ReservedSites::default(),
        }
    }

    fn increment(&self) -> usize {
        self.increment.unwrap_or(self.target_rank / 2).max(1)
    }

    fn target(&self) -> usize {
        self.target_rank * self.reserved.sites.len()
    }

    /// Reads the settings of an `adapter_config.json`.
    ///
    /// **Errors** when one is missing or malformed.
    pub(super) fn from_config(config: &Settings) -> Result<IncreLora> {
        config.need(&Self::REQUIRED)?;
        config.plain(&[("bias", json!("none"))])?;
        let reserve = config.whole("reserve", 0)?;
        let mut stored = BTreeMap::new();
        for (path, value) in config.map("ranks")? {
            let refused = || Error::Adapter(format!("ranks {path} is {value}, expected a positive rank"));
            let rank = value.as_u64().filter(|rank| (1..=65536).contains(rank)).ok_or_else(refused)?;
            stored.insert(path.clone(), [rank as usize, reserve]);
        }
        Ok(IncreLora {
            first_rank: config.positive("init_rank", 1)?,
            increment: config.get("incre_rank_num").map(|_| config.size("incre_rank_num", 1)).transpose()?,
            top: config.positive("top_h", 1)?,
            alpha: config.number("lora_alpha", 8.0)?,
            warm_up: config.whole("init_warmup", 0)? as u64,
            interval: config.positive("incre_interval", 1)? as u64,
            beta1: config.number("beta1", 0.85)?,
            beta2: config.number("beta2", 0.85)?,
            orthogonality: config.number("orth_reg_weight", 0.1)?,
            dropout: config.probability("lora_dropout")?,
            reserved: ReservedSites { stored, ..ReservedSites::default() },
            ..IncreLora::new(config.size("target_rank", 8)?, config.whole("total_step", 0)? as u64)
        })
    }

    /// The importance of each site after another update.
    fn observe(&mut self, update: &Update) -> Result<Vec<f64>> {
        let (beta1, beta2) = (self.beta1, self.beta2);
        let scores = self.reserved.sites.iter_mut().map(|site| {
            if let Some(now) = site.adapter.importance(update)? {
                let mean = beta1 * site.running[0] + (1.0 - beta1) * now;
                site.running = [mean, beta2 * site.running[1] + (1.0 - beta2) * (now - mean).abs()];
            }
            Ok(site.running[0] * site.running[1])
        });
        scores.collect()
    }
}

impl Reserved {
    /// Appends triplets whose values follow from seed, site and how many there are.
    fn append(&self, count: usize, value: f64, reserve: bool, seed: u64, since: u64) {
        let stream = Rng::derived(seed, self.number as u64).next_seed();
        let mut rng = Rng::derived(stream, self.adapter.list().1.len() as u64);
        self.adapter.append(count, value, reserve, &mut rng, since);
    }
}

impl Method for IncreLora {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let stored = self.reserved.stored.get(&site.path).copied();
        if stored.is_none() && !self.reserved.stored.is_empty() {
            return Err(Error::Adapter("ranks does not name this layer".into()));
        }
        let ([rank, reserve], most) = match stored {
            Some(sizes) => (sizes, most_ranks(site.inputs, site.outputs)),
            None => ([self.first_rank, self.increment()], site.inputs.max(site.outputs)),
        };
        if rank == 0 || rank > most || reserve > most {
            return Err(Error::Adapter(format!(
                "rank {rank} with {reserve} in reserve does not fit; expected 1 to {most}"
            )));
        }
        let adapter = Arc::new(Triplets {
            inputs: site.inputs,
            outputs: site.outputs,
            device: site.device.clone(),
            list: RwLock::default(),
            leaf: RwLock::default(),
            alpha: self.alpha,
            dropout: self.dropout,
        });
        let (path, number) = (site.path.clone(), site.number);
        let reserved = Reserved { path, number, adapter: adapter.clone(), running: [0.0; 2] };
        reserved.append(rank, 0.0, false, self.seed, 0);
        reserved.append(reserve, RESERVED, true, self.seed, 0);
        self.reserved.sites.push(reserved);
        Ok(adapter)
    }

    fn pace(&self, path: &str, param: &Param) -> Pace {
        for site in self.reserved.sites.iter().filter(|site| path.starts_with(&site.path)) {
            for triplet in site.adapter.list().1 {
                if triplet.value.id() == param.id() {
                    return Pace { since: triplet.since[1], ..Pace::default() };
                }
                if [&triplet.down, &triplet.up].iter().any(|other| other.id() == param.id()) {
                    return Pace { since: triplet.since[0], ..Pace::default() };
                }
            }
        }
        Pace::default()
    }

    fn penalty(&self) -> Option<Tensor> {
        if self.orthogonality == 0.0 {
            return None;
        }
        let triplets = self.reserved.sites.iter().flat_map(|site| site.adapter.list().1);
        let factors: Vec<Tensor> =
            triplets.flat_map(|triplet| [triplet.down.value(), triplet.up.value().t()]).collect();
        Some(orthogonality(&factors)? * self.orthogonality)
    }

    fn after_update(&mut self, update: &Update) -> Result<()> {
        let scores = self.observe(update)?;
        let step = update.number;
        let (now, target) = (self.ranks().iter().sum::<usize>(), self.target());
        if now >= target || step <= self.warm_up || !step.is_multiple_of(self.interval) {
            return Ok(());
        }
        let count = self.top.min(target - now).clamp(1, scores.len());
        let (threshold, chosen) = choose(&scores, count, false);
        let increment = self.increment();
        for &site in &chosen {
            self.reserved.sites[site].adapter.activate(increment, step);
            self.reserved.sites[site].append(increment, RESERVED, true, self.seed, step);
        }
        let ranks = self.ranks();
        if ranks.iter().sum::<usize>() >= target {
            self.reserved.sites.iter().for_each(|site| site.adapter.silence_reserve());
        }
        self.reserved.checks.push(Check {
            step,
            values: Vec::new(),
            scores,
            count,
            threshold,
            chosen,
            ranks,
        });
        Ok(())
    }

    fn ranks(&self) -> Vec<usize> {
        self.reserved.sites.iter().map(|site| site.adapter.list().0).collect()
    }

    fn checks(&self) -> &[Check] {
        &self.reserved.checks
    }

    fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        for site in &self.reserved.sites {
            let (active, list) = site.adapter.list();
            let exact = |values: &[f64]| Tensor::from_f64(values, [values.len()], &Device::Reference);
            let since =
                |part: usize| list.iter().map(|triplet| triplet.since[part] as f64).collect::<Vec<_>>();
            // Left on their device: whoever writes them waits for it.
            let values: Vec<Tensor> = list.iter().map(|triplet| triplet.value.value()).collect();
            let values = Tensor::concat(&values.iter().collect::<Vec<_>>(), 0).flatten(0, -1).detach();
            let entries = [
                ("running", exact(&site.running)),
                ("active", exact(&[active as f64])),
                ("since_factors", exact(&since(0))),
                ("since_value", exact(&since(1))),
                ("values", values),
            ];
            state.extend(entries.map(|(name, tensor)| (format!("{}/{name}", site.path), tensor)));
        }
        state
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        if state.len() != 5 * self.reserved.sites.len() {
            return Err(Error::Names(format!("{} entries of state are not of this adapter", state.len())));
        }
        for site in &mut self.reserved.sites {
            let entry = |name: &str| {
                let name = format!("{}/{name}", site.path);
                state.get(&name).ok_or_else(|| Error::Names(format!("{name} is missing")))?.read_f64()
            };
            let (running, active) = (entry("running")?, entry("active")?);
            let since = [entry("since_factors")?, entry("since_value")?];
            let values = entry("values")?;
            let (present, list) = site.adapter.list();
            // Those in use, and those in reserve.
            let most = 2 * most_ranks(site.adapter.inputs, site.adapter.outputs);
            let fits = since.iter().all(|since| since.len() == values.len()) && running.len() == 2;
            let count = active.first().map_or(0, |active| *active as usize);
            if !fits
                || values.len() < list.len()
                || values.len() > most
                || !(present..=values.len()).contains(&count)
            {
                return Err(Error::Names(format!("{}: these triplets do not go on from here", site.path)));
            }
            site.append(values.len() - list.len(), RESERVED, true, self.seed, 0);
            site.adapter.activate(count - present, 0);
            let mut list = site.adapter.list.write().expect("no code panics while it holds the triplets");
            for (at, triplet) in list.1.iter_mut().enumerate() {
                triplet.since = [since[0][at] as u64, since[1][at] as u64];
                triplet.value.set(&Tensor::full(values[at], [1, 1], &site.adapter.device));
            }
            site.running = [running[0], running[1]];
        }
        Ok(())
    }

    fn config(&self) -> Map<String, Value> {
        let sites = &self.reserved.sites;
        let ranks: BTreeMap<&String, usize> =
            sites.iter().map(|site| (&site.path, site.adapter.list().0)).collect();
        let reserve = sites.first().map_or(0, |site| site.adapter.list().1.len() - site.adapter.list().0);
        object(json!({
            "peft_type": "INCRELORA",
            "lora_alpha": plain_number(self.alpha),
            "lora_dropout": self.dropout,
            "ranks": ranks,
            "reserve": reserve,
            "init_rank": self.first_rank,
            "target_rank": self.target_rank,
            "incre_rank_num": self.increment,
            "top_h": self.top,
            "init_warmup": self.warm_up,
            "incre_interval": self.interval,
            "total_step": self.total_steps,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "orth_reg_weight": self.orthogonality,
            "bias": "none",
            "fan_in_fan_out": false,
        }))
    }
}
