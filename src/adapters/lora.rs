//! LoRA: low-rank adaptation (Hu et al., arXiv 2106.09685).
//!
//! `W' = W + s·B·A` with `A: [rank, in]` (down), `B: [out, rank]` (up) and `s = alpha/rank`
//! (`alpha/√rank` when rank-stabilised, arXiv 2312.03732). B starts at 0, so a fresh adapter changes
//! nothing. `forward` never forms the matrix: `y = W·x + s·B·(A·x)`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Method, Site};
use crate::error::{Error, Result};
use crate::nn::{Adapter, Module, Param, Walker, Weights};
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
    /// Draws the starting values of A.
    pub seed: u64,
}

impl Lora {
    /// A rank, and alpha twice as large.
    pub fn new(rank: usize) -> Lora {
        Lora { rank, alpha: 2.0 * rank as f64, dropout: 0.0, rank_stabilised: false, seed: 0 }
    }

    fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// Reads the settings of an `adapter_config.json`.
    ///
    /// **Errors** when a setting is malformed, or asks for a variant that is not implemented.
    pub(super) fn from_config(config: &Map<String, Value>) -> Result<Lora> {
        let number = |key: &str, default: f64| match config.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                value.as_f64().ok_or_else(|| Error::Adapter(format!("{key} is {value}, expected a number")))
            }
        };
        for (key, plain) in [
            ("use_dora", json!(false)),
            ("lora_bias", json!(false)),
            ("bias", json!("none")),
            ("rank_pattern", json!({})),
            ("alpha_pattern", json!({})),
            ("layers_to_transform", Value::Null),
            ("layer_replication", Value::Null),
            ("target_parameters", Value::Null),
            ("trainable_token_indices", Value::Null),
            ("use_qalora", json!(false)),
            ("alora_invocation_tokens", Value::Null),
            ("fan_in_fan_out", json!(false)),
            ("use_bdlora", Value::Null),
            ("arrow_config", Value::Null),
            ("kasa_config", Value::Null),
            ("monteclora_config", Value::Null),
        ] {
            if let Some(value) = config.get(key).filter(|value| **value != plain && !value.is_null()) {
                return Err(Error::Adapter(format!(
                    "{key} = {value} is a variant of LoRA that is not implemented"
                )));
            }
        }
        // Others change the base weights, or add to the file what is not read here.
        let plain = [
            json!(true),
            json!(false),
            json!("gaussian"),
            json!("orthogonal"),
            json!("eva"),
            json!("mica"),
            Value::Null,
        ];
        if let Some(start) = config.get("init_lora_weights").filter(|start| !plain.contains(start)) {
            return Err(Error::Adapter(format!(
                "init_lora_weights = {start} changes the base weights, which is not implemented; \
                 convert the adapter to plain LoRA when saving it"
            )));
        }
        let rank = number("r", 8.0)?;
        if rank < 1.0 || rank.fract() != 0.0 || rank > 65536.0 {
            return Err(Error::Adapter(format!("r is {rank}, expected a positive whole number")));
        }
        let dropout = number("lora_dropout", 0.0)?;
        if !(0.0..1.0).contains(&dropout) {
            return Err(Error::Adapter(format!("lora_dropout is {dropout}, expected a probability below 1")));
        }
        let rank_stabilised = config.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        Ok(Lora { rank: rank as usize, alpha: number("lora_alpha", 8.0)?, dropout, rank_stabilised, seed: 0 })
    }
}

/// What sits in one linear layer.
struct LowRank {
    /// A: `[rank, in]`
    down: Param,
    /// B: `[out, rank]`
    up: Param,
    scale: f64,
    dropout: f64,
}

impl Module for LowRank {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("lora_A.weight", &self.down);
        at.param("lora_B.weight", &self.up);
    }
}

impl Adapter for LowRank {
    fn adapt(&self, base: &Weights) -> Weights {
        let weight = base.weight.add_matmul(&self.up.value(), &self.down.value(), self.scale);
        Weights { weight, bias: base.bias.clone() }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let low = x.dropout(self.dropout).linear(&self.down.value(), None);
        low.linear_add(&self.up.value(), self.scale, Some(&base.apply(x)))
    }
}

impl Method for Lora {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let largest = site.inputs.max(site.outputs);
        if self.rank == 0 || self.rank > largest {
            let Site { inputs, outputs, .. } = site;
            return Err(Error::Adapter(format!(
                "rank {} does not fit {inputs} -> {outputs}; expected 1 to {largest}",
                self.rank
            )));
        }
        let bound = 1.0 / (site.inputs as f64).sqrt();
        let mut rng = Rng::derived(self.seed, site.number as u64);
        let down = Tensor::uniform(-bound, bound, [self.rank, site.inputs], &mut rng, &site.device);
        let up = Tensor::zeros([site.outputs, self.rank], &site.device);
        Ok(Arc::new(LowRank {
            down: Param::new(&down),
            up: Param::new(&up),
            scale: self.scale(),
            dropout: self.dropout,
        }))
    }

    fn config(&self) -> Map<String, Value> {
        let entries = json!({
            "peft_type": "LORA",
            "r": self.rank,
            // PEFT writes whole numbers without a point, and some readers insist on it.
            "lora_alpha": if self.alpha.fract() == 0.0 { json!(self.alpha as i64) } else { json!(self.alpha) },
            "lora_dropout": self.dropout,
            "use_rslora": self.rank_stabilised,
            "use_dora": false,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
        });
        entries.as_object().expect("written as an object").clone()
    }
}
