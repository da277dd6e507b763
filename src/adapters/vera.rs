//! VeRA: vector-based random matrix adaptation (Kopiczko et al., arXiv 2310.11454).
//!
//! `W' = W + diag(b)·B·diag(d)·A`: A `[rank, in]` and B `[out, rank]` are random, frozen, and shared by
//! all layers (a smaller layer uses their first columns and rows); only d `[rank]`, at 0.1, and b
//! `[out]`, at 0, are trained.

use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};

use super::settings::{Settings, object};
use super::{Method, Site};
use crate::device::Device;
use crate::error::Result;
use crate::nn::{Adapter, Module, Param, Walker, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// VeRA's settings.
#[derive(Clone, Debug)]
pub struct Vera {
    /// The rank of the shared matrices.
    pub rank: usize,
    /// Where d starts.
    pub first_d: f64,
    /// The probability with which an element of the adapter's input is dropped in training.
    pub dropout: f64,
    /// Draws the shared matrices.
    pub seed: u64,
    /// The shared matrices, once it is attached; starts empty.
    pub shared: SharedPair,
}

/// A and B as all layers see them, and the sizes they need.
#[derive(Clone, Debug, Default)]
pub struct SharedPair {
    pair: Arc<OnceLock<[Param; 2]>>,
    inputs: usize,
    outputs: usize,
    device: Option<Device>,
}

impl Vera {
    /// A rank.
    pub fn new(rank: usize) -> Vera {
        Vera { rank, first_d: 0.1, dropout: 0.0, seed: 0, shared: SharedPair::default() }
    }

    /// **Errors** when a setting is malformed or a variant is not implemented.
    pub(super) fn from_config(config: &Settings) -> Result<Vera> {
        config.plain(&[("bias", json!("none")), ("save_projection", json!(true))])?;
        Ok(Vera {
            first_d: config.number("d_initial", 0.1)?,
            dropout: config.probability("vera_dropout")?,
            ..Vera::new(config.size("r", 256)?)
        })
    }
}

/// What sits in one layer.
struct Vectors {
    /// b: `[out]`
    outer: Param,
    /// d: `[rank]`
    inner: Param,
    pair: Arc<OnceLock<[Param; 2]>>,
    inputs: usize,
    dropout: f64,
}

impl Vectors {
    /// This layer's part of A and B.
    fn matrices(&self) -> [Tensor; 2] {
        let [down, up] = self.pair.get().expect("made when the last layer was attached");
        [down.value().narrow(1, 0, self.inputs), up.value().narrow(0, 0, self.outer.count())]
    }
}

impl Module for Vectors {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("vera_lambda_b", &self.outer);
        at.param("vera_lambda_d", &self.inner);
    }
}

impl Adapter for Vectors {
    fn adapt(&self, base: &Weights) -> Weights {
        let [up, down] = self.factors().expect("it has factors");
        Weights { weight: base.weight.add_matmul(&up, &down, 1.0), bias: base.bias.clone() }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let [down, up] = self.matrices();
        let low = x.dropout(self.dropout).linear(&down, None) * self.inner.value();
        base.apply(x) + low.linear(&up, None) * self.outer.value()
    }

    fn factors(&self) -> Option<[Tensor; 2]> {
        let [down, up] = self.matrices();
        Some([up * self.outer.value().unsqueeze(1), down * self.inner.value().unsqueeze(1)])
    }
}

impl Method for Vera {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let shared = &mut self.shared;
        shared.inputs = shared.inputs.max(site.inputs);
        shared.outputs = shared.outputs.max(site.outputs);
        shared.device = Some(site.device.clone());
        Ok(Arc::new(Vectors {
            outer: Param::new(&Tensor::zeros([site.outputs], &site.device)),
            inner: Param::new(&Tensor::full(self.first_d, [self.rank], &site.device)),
            pair: shared.pair.clone(),
            inputs: site.inputs,
            dropout: self.dropout,
        }))
    }

    fn attached(&mut self) {
        let shared = &self.shared;
        let Some(device) = &shared.device else { return };
        let mut rng = Rng::seeded(self.seed);
        // The bound of Kaiming for matrices whose inputs stand on the second axis.
        let mut even = |[rows, columns]: [usize; 2]| {
            let bound = (6.0 / columns as f64).sqrt();
            let matrix = Param::new(&Tensor::uniform(-bound, bound, [rows, columns], &mut rng, device));
            matrix.freeze();
            matrix
        };
        shared.pair.get_or_init(|| [even([self.rank, shared.inputs]), even([shared.outputs, self.rank])]);
    }

    fn shared(&self) -> Vec<(String, Param)> {
        let names = ["vera_A", "vera_B"].map(String::from);
        self.shared.pair.get().map_or(Vec::new(), |pair| names.into_iter().zip(pair.clone()).collect())
    }

    fn config(&self) -> Map<String, Value> {
        object(json!({
            "peft_type": "VERA",
            "r": self.rank,
            "d_initial": self.first_d,
            "vera_dropout": self.dropout,
            "projection_prng_key": 0,
            "save_projection": true,
            "init_weights": true,
            "bias": "none",
            "fan_in_fan_out": false,
        }))
    }
}
