//! LoRA: low-rank adaptation (Hu et al., arXiv 2106.09685).
//!
//! `W' = W + s·B·A` with `A: [rank, in]` (down), `B: [out, rank]` (up) and `s = alpha/rank`
//! (`alpha/√rank` when rank-stabilised, arXiv 2312.03732). B starts at 0, so a fresh adapter changes
//! nothing. `forward` never forms the matrix: `y = W·x + s·B·(A·x)`.
//!
//! In an embedding `W: [rows, width]`, `W' = W + s·(B·A)ᵀ`, and A starts at 0 instead.
//! LoRA+ (arXiv 2402.12354) is a higher learning rate for B. PiSSA (arXiv 2404.02948) starts from the
//! largest singular values of W: `W' = W + s·(B·A - B₀·A₀)` with `s·B₀·A₀` that part of W, so the base
//! stays as it is, and the file is one of plain LoRA of twice the rank.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::settings::{Settings, object, plain_number};
use super::svd::svd;
use super::{Method, Pace, Patterns, Site, even};
use crate::Ids;
use crate::error::{Error, Result};
use crate::nn::{Adapter, Module, Param, Stored, Walker, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// LoRA's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The rank of the update.
    pub rank: usize,
    /// The update's weight: it is scaled by `alpha / rank`.
    pub alpha: f64,
    /// The probability with which an element of the adapter's input is dropped in training.
    pub dropout: f64,
    /// Scale by `alpha / √rank` instead.
    pub rank_stabilised: bool,
    /// Where A and B start.
    pub start: Start,
    /// Which biases of the base are trained too.
    pub bias: Bias,
    /// Ranks and alphas that differ between layers.
    pub patterns: Patterns,
    /// Multiplies the learning rate of B; LoRA+ recommends 16.
    pub up_rate: f64,
    /// Draws the starting values.
    pub seed: u64,
}

/// Where LoRA's A and B start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// A evenly from `±1/√in`, B at 0.
    #[default]
    Kaiming,
    /// A normally distributed with deviation `1/rank`, B at 0.
    Gaussian,
    /// Both from the singular vectors of the layer's weights with the largest singular values.
    Pissa,
}

/// Which biases of the base are trained beside an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bias {
    /// None of them.
    #[default]
    None,
    /// Those of adapted layers.
    Adapted,
    /// All of them.
    All,
}

impl Lora {
    /// A rank, and alpha twice as large.
    pub fn new(rank: usize) -> Lora {
        Lora {
            rank,
            alpha: 2.0 * rank as f64,
            dropout: 0.0,
            rank_stabilised: false,
            start: Start::default(),
            bias: Bias::default(),
            patterns: Patterns::default(),
            up_rate: 1.0,
            seed: 0,
        }
    }

    /// LoRA+: B learns 16 times as fast as A.
    pub fn plus(rank: usize) -> Lora {
        Lora { up_rate: 16.0, ..Lora::new(rank) }
    }

    /// Rank and scale at a site.
    ///
    /// **Errors** when the rank does not fit it, or patterns contradict one another.
    pub(super) fn at(&self, site: &Site) -> Result<(usize, f64)> {
        let (rank, alpha) = self.patterns.at(site, self.rank, self.alpha)?;
        let root = if self.rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, alpha / root))
    }

    /// Reads the settings of an `adapter_config.json`.
    ///
    /// **Errors** when a setting is malformed, or asks for a variant that is not implemented.
    pub(super) fn from_config(config: &Settings) -> Result<Lora> {
        config.plain(&[
            ("use_dora", json!(false)),
            ("lora_bias", json!(false)),
            ("layer_replication", Value::Null),
            ("target_parameters", Value::Null),
            ("trainable_token_indices", Value::Null),
            ("ensure_weight_tying", json!(false)),
            ("use_qalora", json!(false)),
            ("alora_invocation_tokens", Value::Null),
            ("use_bdlora", json!(false)),
            ("arrow_config", Value::Null),
            ("kasa_config", Value::Null),
            ("monteclora_config", Value::Null),
            ("velora_config", Value::Null),
        ])?;
        // Others change the base weights or what is trained, or add to the file what is not read here.
        let plain = ["gaussian", "orthogonal", "eva"].map(Value::from);
        let start = config.get("init_lora_weights");
        if let Some(start) = start.filter(|start| !start.is_boolean() && !plain.contains(start)) {
            return Err(Error::Adapter(format!(
                "init_lora_weights = {start} changes the base weights or what is trained, which is not implemented; \
                 convert the adapter to plain LoRA when saving it"
            )));
        }
        Ok(Lora {
            rank: config.positive("r", 8)?,
            alpha: config.number("lora_alpha", 8.0)?,
            dropout: config.probability("lora_dropout")?,
            rank_stabilised: config.flag("use_rslora")?,
            start: if start == Some(&json!("gaussian")) { Start::Gaussian } else { Start::Kaiming },
            bias: config
                .choice("bias", &[("none", Bias::None), ("lora_only", Bias::Adapted), ("all", Bias::All)])?,
            patterns: Patterns::from_config(config)?,
            up_rate: 1.0,
            seed: 0,
        })
    }

    /// A's first values at a site.
    pub(super) fn down(&self, site: &Site, rank: usize) -> Tensor {
        let mut rng = Rng::derived(self.seed, site.number as u64);
        let sizes = [rank, site.inputs];
        match self.start {
            Start::Gaussian => Tensor::normal(1.0 / rank as f64, sizes, &mut rng, &site.device),
            _ => even(sizes, &mut rng, &site.device),
        }
    }
}

/// What sits in one linear layer.
pub(super) struct LowRank {
    /// A: `[rank, in]`
    pub(super) down: Param,
    /// B: `[out, rank]`
    pub(super) up: Param,
    pub(super) scale: f64,
    pub(super) dropout: f64,
    /// -A₀ and B₀, which take the start away again.
    start: Option<[Param; 2]>,
}

impl LowRank {
    /// An adapter at a linear layer, B at 0 unless it starts from singular vectors.
    pub(super) fn new(settings: &Lora, site: &Site) -> Result<LowRank> {
        let (rank, scale) = settings.at(site)?;
        let (down, up, start) = match settings.start {
            Start::Pissa if !(scale > 0.0 && scale.is_finite()) => {
                let alpha = settings.alpha;
                return Err(Error::Adapter(format!(
                    "alpha {alpha} leaves PiSSA no scale for its start; expected a positive number"
                )));
            }
            Start::Pissa => {
                let [up, down] = principal(&site.base.weight, rank, scale)?;
                let start = [Param::new(&-&down), Param::new(&up)];
                start.iter().for_each(Param::freeze);
                (down, up, Some(start))
            }
            _ => (settings.down(site, rank), Tensor::zeros([site.outputs, rank], &site.device), None),
        };
        let (down, up) = (Param::new(&down), Param::new(&up));
        Ok(LowRank { down, up, scale, dropout: settings.dropout, start })
    }

    /// An adapter that adds `up·down`: `[out, rank]` and `[rank, in]`.
    pub(super) fn of(down: &Tensor, up: &Tensor) -> LowRank {
        LowRank { down: Param::new(down), up: Param::new(up), scale: 1.0, dropout: 0.0, start: None }
    }

    /// A and B, with what takes the start away beside them.
    fn pair(&self) -> [Tensor; 2] {
        let (down, up) = (self.down.value(), self.up.value());
        match &self.start {
            None => [down, up],
            Some([start_down, start_up]) => [
                Tensor::concat(&[&down, &start_down.value()], 0),
                Tensor::concat(&[&up, &start_up.value()], 1),
            ],
        }
    }
}

/// `[out, rank]` and `[rank, in]` whose product times `scale` is the best approximation of `weight`.
fn principal(weight: &Tensor, rank: usize, scale: f64) -> Result<[Tensor; 2]> {
    let [rows, columns] = [weight.sizes()[0], weight.sizes()[1]];
    let (left, values, right) = svd(&weight.read_f64()?, rows, columns);
    let size = |k: usize| values.get(k).map_or(0.0, |value| (value / scale).sqrt());
    let many = values.len();
    let pick = |vectors: &[f64], row: usize, k: usize| if k < many { vectors[row * many + k] } else { 0.0 };
    let up: Vec<f64> = (0..rows)
        .flat_map(|row| (0..rank).map(move |k| (row, k)))
        .map(|(row, k)| size(k) * pick(&left, row, k))
        .collect();
    let down: Vec<f64> = (0..rank)
        .flat_map(|k| (0..columns).map(move |column| (k, column)))
        .map(|(k, column)| size(k) * pick(&right, column, k))
        .collect();
    let device = weight.device();
    Ok([Tensor::from_f64(&up, [rows, rank], &device), Tensor::from_f64(&down, [rank, columns], &device)])
}

impl Module for LowRank {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("lora_A.weight", &self.down);
        at.param("lora_B.weight", &self.up);
    }
}

impl Adapter for LowRank {
    fn adapt(&self, base: &Weights) -> Weights {
        let [down, up] = self.pair();
        Weights { weight: base.weight.add_matmul(&up, &down, self.scale), bias: base.bias.clone() }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let [down, up] = self.pair();
        let low = x.dropout(self.dropout).linear(&down, None);
        low.linear_add(&up, self.scale, Some(&base.apply(x)))
    }

    fn factors(&self) -> Option<[Tensor; 2]> {
        let [down, up] = self.pair();
        Some([up * self.scale, down])
    }

    fn stored(&self) -> Option<Vec<Stored>> {
        let [start_down, start_up] = self.start.as_ref()?;
        let [rank, inputs] = [self.down.sizes()[0], self.down.sizes()[1]];
        let outputs = self.up.sizes()[0];
        let down = vec![(self.down.clone(), [0, 0]), (start_down.clone(), [rank, 0])];
        let up = vec![(self.up.clone(), [0, 0]), (start_up.clone(), [0, rank])];
        Some(vec![
            Stored { name: "lora_A.weight", sizes: [2 * rank, inputs], parts: down },
            Stored { name: "lora_B.weight", sizes: [outputs, 2 * rank], parts: up },
        ])
    }
}

/// What sits in one embedding.
pub(super) struct LowRankTable {
    /// A: `[rank, rows]`
    down: Param,
    /// B: `[width, rank]`
    up: Param,
    scale: f64,
}

impl LowRankTable {
    /// An adapter that adds `(up·down)ᵀ`: `[width, rank]` and `[rank, rows]`.
    pub(super) fn of(down: &Tensor, up: &Tensor) -> LowRankTable {
        LowRankTable { down: Param::new(down), up: Param::new(up), scale: 1.0 }
    }
}

impl Module for LowRankTable {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("lora_embedding_A", &self.down);
        at.param("lora_embedding_B", &self.up);
    }
}

impl Adapter for LowRankTable {
    fn adapt(&self, base: &Weights) -> Weights {
        let weight = base.weight.add_matmul(&self.down.value().t(), &self.up.value().t(), self.scale);
        Weights { weight, bias: None }
    }

    fn lookup(&self, ids: &Ids, base: &Weights) -> Tensor {
        let low = self.down.value().t().embedding(ids);
        low.linear_add(&self.up.value(), self.scale, Some(&base.weight.embedding(ids)))
    }

    fn factors(&self) -> Option<[Tensor; 2]> {
        Some([self.up.value() * self.scale, self.down.value()])
    }
}

impl Method for Lora {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        if !site.embedding {
            return Ok(Arc::new(LowRank::new(self, site)?));
        }
        if self.start == Start::Pissa {
            return Err(Error::Adapter(
                "an embedding does not start from singular vectors; leave it out".into(),
            ));
        }
        let (rank, scale) = self.at(site)?;
        let mut rng = Rng::derived(self.seed, site.number as u64);
        let down = Param::new(&Tensor::zeros([rank, site.inputs], &site.device));
        let up = Param::new(&Tensor::normal(1.0, [site.outputs, rank], &mut rng, &site.device));
        Ok(Arc::new(LowRankTable { down, up, scale }))
    }

    fn embeds(&self) -> bool {
        true
    }

    fn trains(&self, path: &str, adapted: bool) -> bool {
        path.ends_with(".bias")
            && match self.bias {
                Bias::None => false,
                Bias::Adapted => adapted,
                Bias::All => true,
            }
    }

    fn file_name(&self, module: &str, name: &str, adapted: bool) -> String {
        if adapted { format!("{module}.base_layer.{name}") } else { format!("{module}.{name}") }
    }

    fn pace(&self, path: &str, _param: &Param) -> Pace {
        let up = path.ends_with("lora_B.weight") || path.ends_with("lora_embedding_B");
        Pace { rate: if up { self.up_rate } else { 1.0 }, ..Pace::default() }
    }

    fn config(&self) -> Map<String, Value> {
        // The file of a start from singular vectors holds that start too, with its sign turned.
        let factor = if self.start == Start::Pissa { 2 } else { 1 };
        let growth = if self.rank_stabilised { (factor as f64).sqrt() } else { factor as f64 };
        let mut patterns = self.patterns.clone();
        patterns.rank.iter_mut().for_each(|(_, rank)| *rank *= factor);
        patterns.alpha.iter_mut().for_each(|(_, alpha)| *alpha *= growth);
        let mut config = object(json!({
            "peft_type": "LORA",
            "r": self.rank * factor,
            "lora_alpha": plain_number(self.alpha * growth),
            "lora_dropout": self.dropout,
            "use_rslora": self.rank_stabilised,
            "use_dora": false,
            "bias": match self.bias {
                Bias::None => "none",
                Bias::Adapted => "lora_only",
                Bias::All => "all",
            },
            "fan_in_fan_out": false,
            "init_lora_weights": if self.start == Start::Gaussian { json!("gaussian") } else { json!(true) },
        }));
        patterns.write(&mut config);
        config
    }
}
