//! SAN: synapses and neurons (Dai et al., arXiv 2409.06706, ICML 2025).
//!
//! `y = γ·(W·(γ'·x) + b) + β` element by element: γ `[out]` scales what a layer releases ("neuron"), and
//! γ' `[in]` is the γ of the layer before it, the very same parameter, which thus also scales the
//! columns of W ("synapse"). γ starts at 1, the optional shift β at 0. An optional λ `[in]`, at 1,
//! multiplies γ'. Merging is exact: `W' = diag(γ)·W·diag(γ'·λ)`, `b' = γ·b + β`.
//!
//! Which layer comes before another is a tie by role, not by algebra: norms, activations and residual
//! sums between them are passed over. Train norms and head beside it (`also_train`).

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::settings::{Settings, object};
use super::targets::ends_with_name;
use super::{Method, Site};
use crate::Ids;
use crate::error::{Error, Result};
use crate::nn::{Adapter, Module, Param, Walker, Weights};
use crate::tensor::Tensor;

/// Which of the two scalings act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SanMode {
    /// Outputs and the next layer's columns.
    #[default]
    Both,
    /// Outputs only ("neuron").
    Nt,
    /// The next layer's columns only ("synapse").
    Sp,
}

impl SanMode {
    const NAMES: [(&str, SanMode); 3] = [("both", SanMode::Both), ("nt", SanMode::Nt), ("sp", SanMode::Sp)];
}

/// Which layer comes before another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SanMap {
    /// The next weight matrix in the flow of data, for encoders and decoders.
    #[default]
    Flow,
    /// As `Flow`, where the output projection of a fused attention follows the value part.
    FlowWithValueSlice,
    /// As the authors' vision code: query, key and value follow the embedding in all blocks, and the
    /// output projection nothing.
    VitBase,
    /// Given by path: nothing, a path, or `path[start:stop]`.
    Given(BTreeMap<String, Option<String>>),
}

/// SAN's settings and, once attached, its sites.
#[derive(Clone, Debug, Default)]
pub struct San {
    /// Which of the two scalings act.
    pub mode: SanMode,
    /// With a trained shift β. A key projection's shift has no effect, because softmax ignores it.
    pub shift: bool,
    /// With a trained λ on the propagated scale.
    pub synapse_scale: bool,
    /// Which layer comes before another.
    pub map: SanMap,
    /// Its sites, once it is attached; starts empty.
    pub linked: LinkedSites,
}

/// What SAN knows once it is attached: each site's γ, and where its predecessor stands.
#[derive(Clone, Debug, Default)]
pub struct LinkedSites {
    gammas: HashMap<String, Param>,
    links: BTreeMap<String, Option<String>>,
}

/// Where a layer's predecessor stands.
enum Before {
    /// In the same block.
    Here(&'static str),
    /// In the block before.
    Earlier(&'static str),
    /// In the same block, the last third of it.
    LastThird(&'static str),
}

/// What follows what, by the ends of paths; the first row that fits counts.
const FLOW: [(&str, Before); 17] = [
    ("attention.self.query", Before::Earlier("output.dense")),
    ("attention.self.key", Before::Earlier("output.dense")),
    ("attention.self.value", Before::Earlier("output.dense")),
    ("attention.output.dense", Before::Here("attention.self.value")),
    ("intermediate.dense", Before::Here("attention.output.dense")),
    ("output.dense", Before::Here("intermediate.dense")),
    ("attn.c_attn", Before::Earlier("mlp.c_proj")),
    ("attn.c_proj", Before::LastThird("attn.c_attn")),
    ("mlp.c_fc", Before::Here("attn.c_proj")),
    ("mlp.c_proj", Before::Here("mlp.c_fc")),
    ("self_attn.q_proj", Before::Earlier("mlp.down_proj")),
    ("self_attn.k_proj", Before::Earlier("mlp.down_proj")),
    ("self_attn.v_proj", Before::Earlier("mlp.down_proj")),
    ("self_attn.o_proj", Before::Here("self_attn.v_proj")),
    ("mlp.gate_proj", Before::Here("self_attn.o_proj")),
    ("mlp.up_proj", Before::Here("self_attn.o_proj")),
    ("mlp.down_proj", Before::Here("mlp.up_proj")),
];

/// Tables of token vectors, which the first layers may follow.
const EMBEDDINGS: [&str; 3] = ["word_embeddings", "wte", "embed_tokens"];

impl San {
    /// A mode, without shift and λ.
    pub fn new(mode: SanMode) -> San {
        San { mode, ..San::default() }
    }

    /// Reads the settings of an `adapter_config.json`.
    ///
    /// **Errors** when one is missing, malformed or unknown.
    pub(super) fn from_config(config: &Settings) -> Result<San> {
        config.need(&["mode", "shift", "synapse_scale", "predecessors"])?;
        config.plain(&[("bias", json!("none"))])?;
        let mut given = BTreeMap::new();
        for (path, link) in config.map("predecessors")? {
            let refused =
                || Error::Adapter(format!("predecessors {path} is {link}, expected a path or null"));
            let link =
                if link.is_null() { None } else { Some(link.as_str().ok_or_else(refused)?.to_string()) };
            given.insert(path.clone(), link);
        }
        Ok(San {
            shift: config.flag("shift")?,
            synapse_scale: config.flag("synapse_scale")?,
            map: SanMap::Given(given),
            ..San::new(config.choice("mode", &SanMode::NAMES)?)
        })
    }

    /// The link of a site, if its predecessor is adapted and of fitting length.
    fn link(&self, site: &Site) -> Result<Option<String>> {
        if let SanMap::Given(given) = &self.map {
            let link = given.get(&site.path);
            return link
                .cloned()
                .ok_or_else(|| Error::Adapter("predecessors does not name this layer".into()));
        }
        let Some((end, before)) = FLOW.iter().find(|(end, _)| ends_with_name(&site.path, end)) else {
            return Ok(None);
        };
        let block = &site.path[..site.path.len() - end.len()];
        let link = match (before, &self.map) {
            (Before::Earlier(_), SanMap::VitBase) => self.embedding(),
            (
                Before::Here("attention.self.value" | "self_attn.v_proj") | Before::LastThird(_),
                SanMap::VitBase,
            ) => None,
            (Before::Earlier(end), _) => earlier_block(block).map(|block| format!("{block}{end}")),
            (Before::Here(end), _) => Some(format!("{block}{end}")),
            (Before::LastThird(end), SanMap::FlowWithValueSlice) => {
                let path = format!("{block}{end}");
                let length = self.linked.gammas.get(&path).map_or(0, Param::count);
                Some(format!("{path}[{}:{length}]", length / 3 * 2))
            }
            (Before::LastThird(_), _) => None,
        };
        let fits = |link: &String| {
            let (path, range) = parse_link(link).ok()?;
            let length = self.linked.gammas.get(path)?.count();
            (range.map_or(length, |range| range.len()) == site.inputs).then_some(())
        };
        Ok(link.filter(|link| fits(link).is_some()))
    }

    /// The adapted table of token vectors.
    fn embedding(&self) -> Option<String> {
        self.linked
            .gammas
            .keys()
            .find(|path| EMBEDDINGS.iter().any(|name| ends_with_name(path, name)))
            .cloned()
    }

    /// The γ of a link and the part of it.
    fn predecessor(&self, link: &str, site: &Site) -> Result<Predecessor> {
        let (path, range) = parse_link(link)?;
        let Some(gamma) = self.linked.gammas.get(path) else {
            return Err(Error::Adapter(format!("its predecessor {path} is not adapted before it")));
        };
        let range = range.unwrap_or(0..gamma.count());
        if range.end > gamma.count() || range.len() != site.inputs {
            let (length, inputs) = (gamma.count(), site.inputs);
            return Err(Error::Adapter(format!("{link} of {length} numbers does not give {inputs}")));
        }
        Ok(Predecessor { gamma: gamma.clone(), range })
    }
}

/// `path` or `path[start:stop]`.
fn parse_link(link: &str) -> Result<(&str, Option<Range<usize>>)> {
    let Some((path, range)) = link.strip_suffix(']').and_then(|link| link.split_once('[')) else {
        return Ok((link, None));
    };
    let ends =
        range.split_once(':').and_then(|(start, stop)| Some((start.parse().ok()?, stop.parse().ok()?)));
    let range = ends.filter(|(start, stop)| start < stop).map(|(start, stop)| start..stop);
    let refused = || Error::Adapter(format!("{link} is no path[start:stop]"));
    Ok((path, Some(range.ok_or_else(refused)?)))
}

/// `..layer.3.` becomes `..layer.2.`; the first block has none before it.
fn earlier_block(block: &str) -> Option<String> {
    let (stack, number) = block.strip_suffix('.')?.rsplit_once('.')?;
    Some(format!("{stack}.{}.", number.parse::<usize>().ok()?.checked_sub(1)?))
}

/// A layer's γ, or a part of it, as it scales another layer's columns.
struct Predecessor {
    gamma: Param,
    range: Range<usize>,
}

impl Predecessor {
    fn scale(&self) -> Tensor {
        let gamma = self.gamma.value();
        if self.range == (0..gamma.count()) {
            gamma
        } else {
            gamma.narrow(0, self.range.start, self.range.len())
        }
    }
}

/// What sits in one layer.
struct Neurons {
    mode: SanMode,
    /// γ: `[out]`
    gamma: Param,
    /// β: `[out]`
    beta: Option<Param>,
    /// λ: `[in]`
    lambda: Option<Param>,
    before: Option<Predecessor>,
}

impl Neurons {
    /// What scales the columns: `[in]`.
    fn columns(&self) -> Option<Tensor> {
        let scale = self.before.as_ref().filter(|_| self.mode != SanMode::Nt)?.scale();
        Some(match &self.lambda {
            Some(lambda) => scale * lambda.value(),
            None => scale,
        })
    }

    /// γ·z + β, on the last axis.
    fn release(&self, z: Tensor) -> Tensor {
        let scaled = if self.mode == SanMode::Sp { z } else { z * self.gamma.value() };
        match &self.beta {
            Some(beta) => scaled + beta.value(),
            None => scaled,
        }
    }
}

impl Module for Neurons {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("san_gamma", &self.gamma);
        if let Some(beta) = &self.beta {
            at.param("san_beta", beta);
        }
        if let Some(lambda) = &self.lambda {
            at.param("san_lambda", lambda);
        }
    }
}

impl Adapter for Neurons {
    fn adapt(&self, base: &Weights) -> Weights {
        let mut weight = base.weight.clone();
        if let Some(columns) = self.columns() {
            weight = weight * columns;
        }
        if self.mode != SanMode::Sp {
            weight = weight * self.gamma.value().unsqueeze(1);
        }
        let bias = match (&base.bias, &self.beta) {
            (Some(bias), _) => Some(self.release(bias.clone())),
            (None, Some(beta)) => Some(beta.value()),
            (None, None) => None,
        };
        Weights { weight, bias }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        self.release(match self.columns() {
            Some(columns) => base.apply(&(x * columns)),
            None => base.apply(x),
        })
    }
}

/// What sits in one embedding: its vectors are scaled as a layer's outputs are.
struct NeuronTable(Neurons);

impl Module for NeuronTable {
    fn walk(&self, at: &mut Walker<'_>) {
        self.0.walk(at);
    }
}

impl Adapter for NeuronTable {
    fn adapt(&self, base: &Weights) -> Weights {
        Weights { weight: self.0.release(base.weight.clone()), bias: None }
    }

    fn lookup(&self, ids: &Ids, base: &Weights) -> Tensor {
        self.0.release(base.weight.embedding(ids))
    }
}

impl Method for San {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        if self.shift && self.mode == SanMode::Sp {
            return Err(Error::Adapter(
                "a shift belongs to the scaling of outputs, which mode sp has not".into(),
            ));
        }
        if self.synapse_scale && self.mode == SanMode::Nt {
            return Err(Error::Adapter("λ scales the next layer's columns, which mode nt does not".into()));
        }
        let link = if site.embedding { None } else { self.link(site)? };
        let before = link.as_ref().map(|link| self.predecessor(link, site)).transpose()?;
        let filled = |value: f64, size: usize| Param::new(&Tensor::full(value, [size], &site.device));
        let gamma = filled(1.0, site.outputs);
        if self.mode == SanMode::Sp {
            // Nothing uses it until a layer follows.
            gamma.freeze();
            before.iter().for_each(|before| before.gamma.unfreeze());
        }
        let lambda = before.as_ref().filter(|_| self.synapse_scale).map(|_| filled(1.0, site.inputs));
        let beta = self.shift.then(|| filled(0.0, site.outputs));
        self.linked.gammas.insert(site.path.clone(), gamma.clone());
        self.linked.links.insert(site.path.clone(), link);
        let neurons = Neurons { mode: self.mode, gamma, beta, lambda, before };
        Ok(if site.embedding { Arc::new(NeuronTable(neurons)) } else { Arc::new(neurons) })
    }

    fn embeds(&self) -> bool {
        true
    }

    fn config(&self) -> Map<String, Value> {
        let mode = SanMode::NAMES.iter().find(|(_, mode)| *mode == self.mode).expect("all are listed");
        object(json!({
            "peft_type": "SAN",
            "mode": mode.0,
            "shift": self.shift,
            "synapse_scale": self.synapse_scale,
            "predecessors": self.linked.links,
            "bias": "none",
            "fan_in_fan_out": false,
        }))
    }
}
