//! MTLoRA: low-rank adaptation with a learned matrix between the factors (Liang et al., arXiv
//! 2403.07440; not the multi-task method of the same name).
//!
//! `W' = W + s·B·T·A` with `A: [r, in]`, `B: [out, r]`, `T: [r, r]`, `s = alpha/r`. T has one of four
//! structures:
//!
//! | | T | read as |
//! |---|---|---|
//! | SHIM | `C` | a free change of basis |
//! | ICFM | `C·Cᵀ` | a metric: symmetric, never negative |
//! | CTCM | `C·D` | two stages of mixing |
//! | DTSM | `C + D` | two paths, added |
//!
//! T starts at the identity: then MTLoRA begins as LoRA and, with T frozen, stays LoRA to the bit.
//! A *fused* layer stacks g projections (query, key, value): A is `[g·r, in]`, T `[g·r, g·r]`, and
//! B's g groups of rows each take their own r rows of `T·A`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::settings::{Settings, object, plain_number};
use super::targets::ends_with_name;
use super::{Method, Patterns, Site, even, identity};
use crate::error::{Error, Result};
use crate::nn::{Adapter, Module, Param, Walker, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// What T is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// Spatial harmonic integration matrix: `T = C`.
    Shim,
    /// Intrinsic correlation feature matrix: `T = C·Cᵀ`.
    Icfm,
    /// Composite transformation coupling matrix: `T = C·D`.
    Ctcm,
    /// Dual transformation superposition matrix: `T = C + D`.
    Dtsm,
}

impl Structure {
    const NAMES: [(&str, Structure); 4] = [
        ("SHIM", Structure::Shim),
        ("ICFM", Structure::Icfm),
        ("CTCM", Structure::Ctcm),
        ("DTSM", Structure::Dtsm),
    ];

    fn name(self) -> &'static str {
        Structure::NAMES.iter().find(|(_, structure)| *structure == self).expect("all are listed").0
    }

    /// Whether T is made of two matrices.
    fn has_second(self) -> bool {
        matches!(self, Structure::Ctcm | Structure::Dtsm)
    }
}

/// Where the factors start; the update is 0 in each case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransformStart {
    /// T is the identity, A normal with deviation 0.02, B is 0.
    #[default]
    Identity,
    /// A and the parts of T evenly from `±1/√columns`, B is 0.
    Kaiming,
    /// T is 0, A and B normal with deviation 0.02. Only SHIM and DTSM can leave it.
    ZeroT,
}

impl TransformStart {
    const NAMES: [(&str, TransformStart); 3] = [
        ("identity", TransformStart::Identity),
        ("kaiming", TransformStart::Kaiming),
        ("zero_T", TransformStart::ZeroT),
    ];
}

/// MTLoRA's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Mtlora {
    /// What T is made of.
    pub structure: Structure,
    /// The rank of the update.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// The probability with which an element of the adapter's input is dropped in training.
    pub dropout: f64,
    /// Where the factors start.
    pub start: TransformStart,
    /// Ranks and alphas that differ between layers.
    pub patterns: Patterns,
    /// Layers, by the end of their path, that stack several projections of one T.
    pub fused: Vec<(String, usize)>,
    /// Draws the starting values.
    pub seed: u64,
}

impl Mtlora {
    /// A structure and a rank, alpha twice as large, T starting at the identity.
    pub fn new(structure: Structure, rank: usize) -> Mtlora {
        Mtlora {
            structure,
            rank,
            alpha: 2.0 * rank as f64,
            dropout: 0.0,
            start: TransformStart::Identity,
            patterns: Patterns::default(),
            fused: Vec::new(),
            seed: 0,
        }
    }

    /// Reads the settings of an `adapter_config.json`.
    ///
    /// **Errors** when one is missing, malformed or unknown.
    pub(super) fn from_config(config: &Settings) -> Result<Mtlora> {
        config.need(&["r", "lora_alpha", "structure", "init"])?;
        config.plain(&[("bias", json!("none"))])?;
        let mut fused = Vec::new();
        for (name, groups) in config.map("fused_modules")? {
            let refused =
                || Error::Adapter(format!("fused_modules {name} is {groups}, expected a number of parts"));
            let groups = groups.as_u64().filter(|&groups| (1..1024).contains(&groups)).ok_or_else(refused)?;
            fused.push((name.clone(), groups as usize));
        }
        Ok(Mtlora {
            structure: config.choice("structure", &Structure::NAMES)?,
            rank: config.positive("r", 8)?,
            alpha: config.number("lora_alpha", 8.0)?,
            dropout: config.probability("lora_dropout")?,
            start: config.choice("init", &TransformStart::NAMES)?,
            patterns: Patterns::from_config(config)?,
            fused,
            seed: 0,
        })
    }
}

/// What sits in one layer.
struct Transformed {
    structure: Structure,
    /// A: `[groups·rank, in]`
    down: Param,
    /// B: `[out, rank]`
    up: Param,
    /// C: `[groups·rank, groups·rank]`
    first: Param,
    /// D, where the structure has one.
    second: Option<Param>,
    groups: usize,
    scale: f64,
    dropout: f64,
}

impl Transformed {
    /// T: `[groups·rank, groups·rank]`.
    fn transform(&self) -> Tensor {
        let c = self.first.value();
        match (self.structure, &self.second) {
            (Structure::Icfm, _) => c.matmul(&c.t()),
            (Structure::Ctcm, Some(d)) => c.matmul(&d.value()),
            (Structure::Dtsm, Some(d)) => c + d.value(),
            _ => c,
        }
    }

    /// B as the matrix `[out, groups·rank]` that multiplies `T·A`: each group of rows in its own columns.
    fn whole_up(&self) -> Tensor {
        let up = self.up.value();
        if self.groups == 1 {
            return up;
        }
        let rank = up.sizes()[1];
        let parts: Vec<Tensor> = up
            .chunk(self.groups, 0)
            .iter()
            .enumerate()
            .map(|(at, part)| part.pad_axis(1, at * rank, (self.groups - 1 - at) * rank, 0.0))
            .collect();
        Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0)
    }
}

impl Module for Transformed {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("lora_A.weight", &self.down);
        at.param("lora_B.weight", &self.up);
        at.param("mtlora_C", &self.first);
        if let Some(second) = &self.second {
            at.param("mtlora_D", second);
        }
    }
}

impl Adapter for Transformed {
    fn adapt(&self, base: &Weights) -> Weights {
        let mixed = self.transform().matmul(&self.down.value());
        Weights {
            weight: base.weight.add_matmul(&self.whole_up(), &mixed, self.scale),
            bias: base.bias.clone(),
        }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let low = x.dropout(self.dropout).linear(&self.down.value(), None);
        let mixed = low.linear(&self.transform(), None);
        mixed.linear_add(&self.whole_up(), self.scale, Some(&base.apply(x)))
    }

    fn factors(&self) -> Option<[Tensor; 2]> {
        Some([self.whole_up() * self.scale, self.transform().matmul(&self.down.value())])
    }
}

impl Method for Mtlora {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let structure = self.structure;
        if self.start == TransformStart::ZeroT && matches!(structure, Structure::Icfm | Structure::Ctcm) {
            return Err(Error::Adapter(format!(
                "{} cannot start at T = 0: T is a product of two factors that are both 0, so every gradient \
                 is 0 for ever; start at the identity",
                structure.name()
            )));
        }
        let fused = self.fused.iter().find(|(name, _)| ends_with_name(&site.path, name));
        let groups = fused.map_or(1, |(_, groups)| *groups);
        let (rank, alpha) = self.patterns.at(site, self.rank, self.alpha)?;
        let (inputs, outputs, device) = (site.inputs, site.outputs, &site.device);
        if !outputs.is_multiple_of(groups) {
            return Err(Error::Adapter(format!("{groups} groups do not divide {outputs} outputs")));
        }
        let width = groups * rank;
        if width > inputs.max(outputs) {
            return Err(Error::Adapter(format!(
                "{groups} groups of rank {rank} do not fit {inputs} -> {outputs}; expected at most {} in all",
                inputs.max(outputs)
            )));
        }
        let mut rng = Rng::derived(self.seed, site.number as u64);
        let mut normal = |sizes: [usize; 2]| Tensor::normal(0.02, sizes, &mut rng, device);
        let zeros = |sizes: [usize; 2]| Tensor::zeros(sizes, device);
        let (down, up, first, second) = match self.start {
            TransformStart::Identity => {
                let second = if structure == Structure::Dtsm {
                    zeros([width, width])
                } else {
                    identity(width, device)
                };
                (normal([width, inputs]), zeros([outputs, rank]), identity(width, device), second)
            }
            TransformStart::Kaiming => {
                let mut even = |sizes: [usize; 2]| even(sizes, &mut rng, device);
                (even([width, inputs]), zeros([outputs, rank]), even([width, width]), even([width, width]))
            }
            TransformStart::ZeroT => {
                let zero = zeros([width, width]);
                (normal([width, inputs]), normal([outputs, rank]), zero.clone(), zero)
            }
        };
        Ok(Arc::new(Transformed {
            structure,
            down: Param::new(&down),
            up: Param::new(&up),
            first: Param::new(&first),
            second: structure.has_second().then(|| Param::new(&second)),
            groups,
            scale: alpha / rank as f64,
            dropout: self.dropout,
        }))
    }

    fn config(&self) -> Map<String, Value> {
        let start = TransformStart::NAMES.iter().find(|(_, start)| *start == self.start);
        let mut config = object(json!({
            "peft_type": "MTLORA",
            "r": self.rank,
            "lora_alpha": plain_number(self.alpha),
            "lora_dropout": self.dropout,
            "structure": self.structure.name(),
            "init": start.expect("all are listed").0,
            "fused_modules": self.fused.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "bias": "none",
            "fan_in_fan_out": false,
        }));
        self.patterns.write(&mut config);
        config
    }
}
