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

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use serde_json::{Map, Value, json};

use super::growth::{Check, choose, orthogonality};
use super::settings::{Settings, object, plain_number};
use super::{Method, Site, Update};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Adapter, Module, Param, Stored, Walker, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// How rank is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// Several ranks at once: L and U are block triangular.
    #[default]
    Block,
    /// Rank by rank: L and U are triangular, each with the diagonal.
    Single,
}

/// Where a new block starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockStart {
    /// A and B normal with deviation 0.02, L and U at 0: no output changes.
    #[default]
    C0,
    /// A normal, B at 0, half the identity in both L and U: no output changes.
    HalfIdentity,
    /// All normal, except that B of the first rows is 0: outputs jump a little when ranks are added.
    Single,
}

/// How many matrices grow at a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RankGrowth {
    /// The missing ranks times the share of training that is done.
    #[default]
    Linear,
    /// The missing ranks to the power of that share.
    Nonlinear,
    /// Always `top_k`.
    Fixed,
}

/// What scales the update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScaleMode {
    /// `alpha / reference_rank`
    #[default]
    Constant,
    /// `alpha / (rank + 1e-5)`: growing scales the existing update down.
    CurrentRank,
}

impl Variant {
    const NAMES: [(&str, Variant); 2] = [("block", Variant::Block), ("single", Variant::Single)];
}

impl BlockStart {
    const NAMES: [(&str, BlockStart); 3] =
        [("c0", BlockStart::C0), ("half_identity", BlockStart::HalfIdentity), ("single", BlockStart::Single)];
}

impl RankGrowth {
    const NAMES: [(&str, RankGrowth); 3] =
        [("linear", RankGrowth::Linear), ("nonlinear", RankGrowth::Nonlinear), ("fixed", RankGrowth::Fixed)];
}

impl ScaleMode {
    const NAMES: [(&str, ScaleMode); 2] =
        [("constant", ScaleMode::Constant), ("current_rank", ScaleMode::CurrentRank)];
}

/// The name of a choice in the file.
fn name_of<T: PartialEq + Copy>(names: &[(&'static str, T)], choice: T) -> &'static str {
    names.iter().find(|(_, other)| *other == choice).expect("all are listed").0
}

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
        config.need(&["lora_alpha", "blocks", "variant", "scale_mode", "reference_rank"])?;
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
        let reference_rank = config.positive("reference_rank", 8)?;
        let optional = |key: &str| match config.get(key) {
            None => Ok(None),
            Some(_) => config.positive(key, 1).map(Some),
        };
        Ok(TriAdaptLora {
            variant: config.choice("variant", &Variant::NAMES)?,
            start: config.choice("init", &BlockStart::NAMES)?,
            scale_mode: config.choice("scale_mode", &ScaleMode::NAMES)?,
            alpha: config.number("lora_alpha", 8.0)?,
            first_rank: config.positive("init_rank", 1)?,
            increment: optional("incre_rank_num")?,
            target_total: optional("target_total")?,
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

    /// The importance of a site before it is compared with the last one.
    fn value(&self, adapter: &Triangular) -> f64 {
        let divisor = if self.score_by_blocks { adapter.sizes().len() } else { adapter.rank() };
        adapter.transform_norm() / divisor as f64
    }

    /// The sizes of the blocks that one growth adds.
    fn added(&self, ranks: usize) -> Vec<usize> {
        match self.variant {
            Variant::Block => vec![ranks],
            Variant::Single => vec![1; ranks],
        }
    }
}

/// The parameters that one growth adds.
#[derive(Clone)]
struct Block {
    /// `[d, in]`
    down: Param,
    /// `[out, d]`
    up: Param,
    /// Rows of L: `[d, R']`
    row: Param,
    /// Columns of U: `[R', d]`
    col: Param,
    /// The update after which it was added.
    since: u64,
}

impl Block {
    fn params(&self) -> [(&'static str, &Param); 4] {
        [("A", &self.down), ("B", &self.up), ("L", &self.row), ("U", &self.col)]
    }
}

/// What sits in one layer.
struct Triangular {
    inputs: usize,
    outputs: usize,
    device: Device,
    blocks: RwLock<Vec<Block>>,
    scale_mode: ScaleMode,
    alpha: f64,
    reference_rank: usize,
    dropout: f64,
}

impl Triangular {
    fn blocks(&self) -> Vec<Block> {
        self.blocks.read().expect("no code panics while it holds the blocks").clone()
    }

    fn sizes(&self) -> Vec<usize> {
        self.blocks().iter().map(|block| block.down.sizes()[0]).collect()
    }

    fn rank(&self) -> usize {
        self.sizes().iter().sum()
    }

    fn scale(&self) -> f64 {
        match self.scale_mode {
            ScaleMode::Constant => self.alpha / self.reference_rank as f64,
            ScaleMode::CurrentRank => self.alpha / (self.rank() as f64 + 1e-5),
        }
    }

    /// Appends a block of `size` ranks; `first` ones belong to the start of the adapter.
    fn grow(&self, size: usize, start: BlockStart, first: bool, rng: &mut Rng, since: u64) {
        let (before, device) = (self.rank(), &self.device);
        let rank = before + size;
        let mut normal = |sizes: [usize; 2]| Tensor::normal(0.02, sizes, rng, device);
        let zeros = |sizes: [usize; 2]| Tensor::zeros(sizes, device);
        let down = normal([size, self.inputs]);
        let half = |rows: usize, columns: usize, at: [usize; 2]| {
            let mut values = vec![0.0f32; rows * columns];
            (0..size).for_each(|i| values[(at[0] + i) * columns + at[1] + i] = 0.5);
            Tensor::new(&values, [rows, columns], device)
        };
        let (up, row, col) = match start {
            BlockStart::C0 => (normal([self.outputs, size]), zeros([size, rank]), zeros([rank, size])),
            BlockStart::HalfIdentity => {
                (zeros([self.outputs, size]), half(size, rank, [0, before]), half(rank, size, [before, 0]))
            }
            BlockStart::Single => {
                let up = if first { zeros([self.outputs, size]) } else { normal([self.outputs, size]) };
                (up, normal([size, rank]), normal([rank, size]))
            }
        };
        let [down, up, row, col] = [down, up, row, col].map(|value| Param::new(&value));
        let block = Block { down, up, row, col, since };
        self.blocks.write().expect("no code panics while it holds the blocks").push(block);
    }

    /// A `[R, in]`, B `[out, R]` and T `[R, R]`.
    fn assembled(&self) -> [Tensor; 3] {
        let blocks = self.blocks();
        let rank = self.rank();
        let join = |parts: Vec<Tensor>, axis: isize| match &parts[..] {
            [one] => one.clone(),
            several => Tensor::concat(&several.iter().collect::<Vec<_>>(), axis),
        };
        let filled = |part: Tensor, axis: isize| {
            let missing = rank - part.size(axis);
            if missing == 0 { part } else { part.pad_axis(axis, 0, missing, 0.0) }
        };
        let down = join(blocks.iter().map(|block| block.down.value()).collect(), 0);
        let up = join(blocks.iter().map(|block| block.up.value()).collect(), 1);
        let lower = join(blocks.iter().map(|block| filled(block.row.value(), 1)).collect(), 0);
        let upper = join(blocks.iter().map(|block| filled(block.col.value(), 0)).collect(), 1);
        [down, up, lower + upper]
    }

    /// `‖L + U‖`, summed in f64 on every device.
    fn transform_norm(&self) -> f64 {
        let [_, _, transform] = crate::inference(|| self.assembled());
        transform.to_f64().iter().map(|x| x * x).sum::<f64>().sqrt()
    }
}

impl Module for Triangular {
    fn walk(&self, at: &mut Walker<'_>) {
        for (number, block) in self.blocks().iter().enumerate() {
            for (name, param) in block.params() {
                at.param(&format!("triadapt_{name}.{number}"), param);
            }
        }
    }
}

impl Adapter for Triangular {
    fn adapt(&self, base: &Weights) -> Weights {
        let [down, up, transform] = self.assembled();
        let weight = base.weight.add_matmul(&up, &transform.matmul(&down), self.scale());
        Weights { weight, bias: base.bias.clone() }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let [down, up, transform] = self.assembled();
        let low = x.dropout(self.dropout).linear(&down, None).linear(&transform, None);
        low.linear_add(&up, self.scale(), Some(&base.apply(x)))
    }

    fn factors(&self) -> Option<[Tensor; 2]> {
        let [down, up, transform] = self.assembled();
        Some([up * self.scale(), transform.matmul(&down)])
    }

    fn stored(&self) -> Option<Vec<Stored>> {
        let rank = self.rank();
        let mut stored = [
            Stored { name: "triadapt_A", sizes: [rank, self.inputs], parts: Vec::new() },
            Stored { name: "triadapt_B", sizes: [self.outputs, rank], parts: Vec::new() },
            Stored { name: "triadapt_L", sizes: [rank, rank], parts: Vec::new() },
            Stored { name: "triadapt_U", sizes: [rank, rank], parts: Vec::new() },
        ];
        let mut before = 0;
        for block in self.blocks() {
            let at = [[before, 0], [0, before], [before, 0], [0, before]];
            for ((stored, (_, param)), at) in stored.iter_mut().zip(block.params()).zip(at) {
                stored.parts.push((param.clone(), at));
            }
            before += block.down.sizes()[0];
        }
        Some(stored.into())
    }
}

impl Method for TriAdaptLora {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let (inputs, outputs) = (site.inputs, site.outputs);
        let largest = inputs.max(outputs);
        let sizes = match self.grown.stored.get(&site.path) {
            Some(sizes) => sizes.clone(),
            None if self.grown.stored.is_empty() => self.added(self.first_rank),
            None => return Err(Error::Adapter("blocks names no sizes for this layer".into())),
        };
        let rank: usize = sizes.iter().sum();
        if rank == 0
            || rank > largest
            || (self.variant == Variant::Single && sizes.iter().any(|&size| size != 1))
        {
            return Err(Error::Adapter(format!(
                "blocks of {sizes:?} ranks do not fit {inputs} -> {outputs}; expected 1 to {largest} in all, \
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
        grown.previous = self.value(&adapter);
        self.grown.sites.push(grown);
        Ok(adapter)
    }

    fn loaded(&mut self) {
        let values: Vec<f64> = self.grown.sites.iter().map(|site| self.value(&site.adapter)).collect();
        self.grown.sites.iter_mut().zip(values).for_each(|(site, value)| site.previous = value);
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

    fn pace(&self, _path: &str, param: &Param) -> super::Pace {
        let blocks =
            self.grown.sites.iter().filter(|_| self.fresh_schedule).flat_map(|site| site.adapter.blocks());
        let mut own = blocks.filter(|block| block.params().iter().any(|(_, other)| other.id() == param.id()));
        super::Pace { since: own.next().map_or(0, |block| block.since), ..super::Pace::default() }
    }

    fn after_update(&mut self, update: &Update) {
        let step = update.number;
        let now: usize = self.ranks().iter().sum();
        let target = self.target();
        if now >= target || step <= self.warm_up || !step.is_multiple_of(self.interval) {
            return;
        }
        let values: Vec<f64> = self.grown.sites.iter().map(|site| self.value(&site.adapter)).collect();
        let scores: Vec<f64> =
            self.grown.sites.iter().zip(&values).map(|(site, value)| value - site.previous).collect();
        let count = self.count(target - now, step);
        let (threshold, chosen) = choose(&scores, count, self.safe);
        let sizes = self.added(self.increment());
        for &site in &chosen {
            sizes
                .iter()
                .for_each(|&size| self.grown.sites[site].grow(size, self.start, false, self.seed, step));
        }
        self.grown.sites.iter_mut().zip(&values).for_each(|(site, value)| site.previous = *value);
        self.grown.checks.push(Check { step, values, scores, count, threshold, chosen, ranks: self.ranks() });
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
                state.get(&name).map(Tensor::to_f64).ok_or_else(|| Error::Names(format!("{name} is missing")))
            };
            let (sizes, since, previous) = (entry("sizes")?, entry("since")?, entry("previous")?);
            let sizes: Vec<usize> = sizes.into_iter().map(|size| size as usize).collect();
            let present = site.adapter.sizes();
            let largest = site.adapter.inputs.max(site.adapter.outputs);
            if !sizes.starts_with(&present)
                || since.len() != sizes.len()
                || previous.len() != 1
                || sizes.iter().any(|&size| size == 0 || size > largest)
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::tensor::autograd::Gradients;

    fn vectors(part: &str) -> Vec<Value> {
        let text =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/brain/vectors.json"));
        let all: Value = serde_json::from_str(&text.unwrap()).unwrap();
        all[part].as_array().unwrap().clone()
    }

    fn attach(method: &mut TriAdaptLora, sites: usize) {
        let weights = Weights { weight: Tensor::zeros([8, 8], &Device::Reference), bias: None };
        for number in 0..sites {
            let (base, device) = (weights.clone(), Device::Reference);
            let path = number.to_string();
            let site = Site { path, inputs: 8, outputs: 8, embedding: false, base, device, number };
            method.attach(&site).unwrap();
        }
    }

    fn whole(row: &Value, key: &str) -> usize {
        row[key].as_u64().unwrap_or_else(|| panic!("{key} in {row}")) as usize
    }

    #[test]
    fn the_schedules_give_the_counts_of_the_independent_implementation() {
        for row in vectors("counts") {
            let mut method = TriAdaptLora {
                safe: false,
                warm_up: whole(&row, "warm") as u64,
                ..TriAdaptLora::new(8, whole(&row, "total") as u64)
            };
            attach(&mut method, whole(&row, "N"));
            for (growth, name) in [(RankGrowth::Linear, "linear"), (RankGrowth::Nonlinear, "nonlinear")] {
                method.growth = growth;
                let count = method.count(whole(&row, "left"), whole(&row, "t") as u64);
                assert_eq!(count, whole(&row, name), "{name} of {row}");
            }
        }
    }

    #[test]
    fn whole_budgets_run_as_in_the_independent_implementation() {
        for row in vectors("budgets") {
            let checks = whole(&row, "checks") as u64;
            let growth = RankGrowth::NAMES.iter().find(|(name, _)| row["mode"] == *name).unwrap().1;
            let mut method = TriAdaptLora {
                growth,
                top_k: whole(&row, "top_k"),
                first_rank: whole(&row, "start_rank"),
                increment: Some(whole(&row, "delta")),
                safe: row["safe_clamp"] == true,
                interval: 1,
                ..TriAdaptLora::new(whole(&row, "reference_rank"), checks)
            };
            attach(&mut method, whole(&row, "N"));
            let mut rng = Rng::seeded(5);
            for number in 1..=checks {
                // Any values without ties.
                for block in method.grown.sites.iter().flat_map(|site| site.adapter.blocks()) {
                    block.row.set(&Tensor::normal(1.0, block.row.sizes(), &mut rng, &Device::Reference));
                }
                method.after_update(&Update::new(number, &Gradients::default(), &HashMap::new()));
            }
            let counts: Vec<usize> = method.grown.checks.iter().map(|check| check.count).collect();
            assert_eq!(json!(counts), row["k"], "{row}");
            assert_eq!(method.ranks().iter().sum::<usize>(), whole(&row, "final_total"), "{row}");
        }
    }

    #[test]
    fn ties_are_admitted_or_cut_as_in_the_independent_implementation() {
        for row in vectors("choose") {
            let scores: Vec<f64> =
                row["scores"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            for (exactly, name) in [(false, "plain"), (true, "safe")] {
                let (threshold, chosen) = choose(&scores, whole(&row, "k"), exactly);
                assert_eq!(
                    (json!(threshold), json!(chosen)),
                    (row["tau"].clone(), row[name].clone()),
                    "{row}"
                );
            }
        }
    }
}
