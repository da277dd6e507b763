//! The Llama family (arXiv 2302.13971; grouped keys arXiv 2307.09288): rotary positions, pre-norm blocks
//! with root-mean-square norms, a gated feed-forward part, and fewer key heads than query heads.
//!
//! Mistral and Qwen2 are the same picture: the first without its sliding window, the second with biases
//! on queries, keys and values.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::{
    check_divides, check_eps, check_plain, check_probabilities, check_sizes, check_total, entries,
};
use super::decoder::{CausalLm, Decoder, DecoderNames, Positions};
use crate::error::{Error, Result};
use crate::nn::attention::{Attention, Projections};
use crate::nn::block::{Block, Order};
use crate::nn::feed_forward::{Activation, FeedForward};
use crate::nn::fresh::Fresh;
use crate::nn::rotary::{Rotary, Stretch};
use crate::nn::virtual_tokens::VirtualTokens;

/// The numbers of a `config.json` that shape a Llama, under their published names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LlamaConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// As many as attention heads without it.
    pub num_key_value_heads: Option<usize>,
    /// `hidden_size / num_attention_heads` without it.
    pub head_dim: Option<usize>,
    #[serde(default = "silu")]
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    /// 10000 without it and without `rope_parameters`.
    pub rope_theta: Option<f64>,
    pub rope_scaling: Option<Stretch>,
    pub rope_parameters: Option<Stretch>,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    #[serde(default)]
    pub attention_dropout: f64,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default = "deviation")]
    pub initializer_range: f64,
    #[serde(default = "llama")]
    pub model_type: String,
}

fn silu() -> Activation {
    Activation::Silu
}

fn deviation() -> f64 {
    0.02
}

fn llama() -> String {
    "llama".into()
}

/// What transformers takes where a Mistral's file says nothing; null means none.
const MISTRAL_WINDOW: u64 = 4096;

const NAMES: DecoderNames =
    DecoderNames { prefix: "model", tokens: "embed_tokens", positions: "", blocks: "layers", norm: "norm" };

impl LlamaConfig {
    /// Reads a `config.json`.
    ///
    /// **Errors** when it contradicts itself or asks for a variant that is not implemented.
    pub fn parse(json: &serde_json::Value) -> Result<LlamaConfig> {
        check_plain(json, &[("pretraining_tp", json!(1)), ("use_sliding_window", json!(false))])?;
        let config: LlamaConfig = entries(json)?;
        let window = json.get("sliding_window").map_or(Some(MISTRAL_WINDOW), serde_json::Value::as_u64);
        let positions = config.max_position_embeddings;
        let short = window.filter(|&window| config.model_type == "mistral" && window < positions as u64);
        if let Some(window) = short {
            return Err(Error::Config(format!(
                "a sliding_window of {window} tokens is not implemented; up to {window} tokens the model is the \
                 same with a max_position_embeddings of {window} instead of {positions}"
            )));
        }
        config.check()?;
        Ok(config)
    }

    fn key_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// **Errors** when the numbers contradict one another.
    pub fn check(&self) -> Result<()> {
        check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.key_heads()),
            ("head_dim", self.head()),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        if self.head_dim.is_none() {
            check_divides(
                ("hidden_size", self.hidden_size),
                ("num_attention_heads", self.num_attention_heads),
            )?;
        }
        check_divides(
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.key_heads()),
        )?;
        check_divides(("head_dim", self.head()), ("pairs of", 2))?;
        check_total(
            ("num_hidden_layers", self.num_hidden_layers),
            [2 * self.vocab_size, self.hidden_size],
            &[
                (self.hidden_size, 2 * (self.num_attention_heads + self.key_heads()) * self.head()),
                (self.hidden_size, 3 * self.intermediate_size),
            ],
        )?;
        check_probabilities(&[("attention_dropout", self.attention_dropout)])?;
        check_eps("rms_norm_eps", self.rms_norm_eps)?;
        self.rotary().map(drop)
    }

    fn rotary(&self) -> Result<Rotary> {
        let stretch = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let base = stretch.and_then(|stretch| stretch.rope_theta).or(self.rope_theta).unwrap_or(10_000.0);
        if !(base > 0.0 && base.is_finite()) {
            return Err(Error::Config(format!("rope_theta is {base}, expected a positive number")));
        }
        Rotary::new(self.head(), base).stretched(stretch.unwrap_or(&Stretch::default()))
    }

    /// The body with fresh weights.
    ///
    /// **Errors** when the configuration contradicts itself.
    pub fn body(&self, fresh: &mut Fresh) -> Result<Decoder> {
        self.check()?;
        fresh.deviate(self.initializer_range);
        let tokens = fresh.table(self.vocab_size, self.hidden_size);
        let blocks: Vec<Arc<Block>> =
            (0..self.num_hidden_layers).map(|_| Arc::new(self.block(fresh))).collect();
        Ok(Decoder {
            virtual_tokens: VirtualTokens::new(&tokens, &blocks),
            tokens,
            positions: Positions::Rotary(self.rotary()?),
            limit: self.max_position_embeddings,
            dropout: 0.0,
            blocks,
            norm: fresh.rms_norm(self.hidden_size, self.rms_norm_eps).into(),
            names: NAMES,
        })
    }

    /// The language model with fresh weights.
    ///
    /// **Errors** when the configuration contradicts itself.
    pub fn causal_lm(&self, fresh: &mut Fresh) -> Result<CausalLm> {
        let body = self.body(fresh)?;
        let untied = !self.tie_word_embeddings;
        let output = untied.then(|| fresh.linear_with(self.hidden_size, self.vocab_size, false));
        Ok(CausalLm::new(body, output))
    }

    fn block(&self, fresh: &mut Fresh) -> Block {
        let (width, hidden, head) = (self.hidden_size, self.intermediate_size, self.head());
        let (queries, keys) = (self.num_attention_heads * head, self.key_heads() * head);
        let biased = self.attention_bias || self.model_type == "qwen2";
        let [attention_norm, norm] = [(); 2].map(|()| fresh.rms_norm(width, self.rms_norm_eps).into());
        Block {
            order: Order::PreNorm,
            attention: Attention {
                inputs: Projections::Separate {
                    query: fresh.linear_with(width, queries, biased),
                    key: fresh.linear_with(width, keys, biased),
                    value: fresh.linear_with(width, keys, biased),
                },
                output: fresh.linear_with(queries, width, self.attention_bias),
                heads: self.num_attention_heads,
                key_heads: self.key_heads(),
                scale: 1.0 / (head as f64).sqrt(),
                dropout: self.attention_dropout,
                names: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"],
            },
            attention_norm,
            across: None,
            feed_forward: FeedForward {
                gate: Some(fresh.linear_with(width, hidden, self.mlp_bias)),
                up: fresh.linear_with(width, hidden, self.mlp_bias),
                down: fresh.linear_with(hidden, width, self.mlp_bias),
                activation: self.hidden_act,
                dropout: 0.0,
                names: ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
            },
            norm,
            dropout: 0.0,
            names: ["input_layernorm", "", "post_attention_layernorm"],
        }
    }
}
