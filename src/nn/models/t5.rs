//! T5 (arXiv 1910.10683): pre-norm blocks with root-mean-square norms and no biases; positions are a
//! learned bias on the scores, shared by all blocks; scores are not scaled.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batch::Sequences;
use super::config::{check_eps, check_probabilities, check_sizes, check_token, check_total, entries};
use super::decoder::LanguageModel;
use super::seq2seq::{Seq2Seq, source_mask};
use crate::device::Device;
use crate::device::array::Ids;
use crate::error::{Error, Result};
use crate::nn::attention::{Attention, Projections};
use crate::nn::block::{Block, Order, Surroundings, states, states_after};
use crate::nn::cache::Cache;
use crate::nn::embedding::Embedding;
use crate::nn::feed_forward::{Activation, FeedForward};
use crate::nn::fresh::Fresh;
use crate::nn::linear::Linear;
use crate::nn::module::{Module, Walker};
use crate::nn::norm::RmsNorm;
use crate::nn::position::RelativeBias;
use crate::tensor::Tensor;

/// The numbers of a `config.json` that shape a T5, under their published names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct T5Config {
    pub vocab_size: usize,
    pub d_model: usize,
    pub d_kv: usize,
    pub d_ff: usize,
    pub num_layers: usize,
    /// As many as `num_layers` without it.
    pub num_decoder_layers: Option<usize>,
    pub num_heads: usize,
    #[serde(default = "classes")]
    pub relative_attention_num_buckets: usize,
    #[serde(default = "furthest")]
    pub relative_attention_max_distance: usize,
    #[serde(default)]
    pub dropout_rate: f64,
    #[serde(default = "eps")]
    pub layer_norm_epsilon: f64,
    #[serde(default = "relu")]
    pub feed_forward_proj: String,
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    /// As `tie_word_embeddings` without it.
    pub scale_decoder_outputs: Option<bool>,
    #[serde(default)]
    pub decoder_start_token_id: u32,
}

fn classes() -> usize {
    32
}

fn furthest() -> usize {
    128
}

fn eps() -> f64 {
    1e-6
}

fn relu() -> String {
    "relu".into()
}

fn yes() -> bool {
    true
}

impl T5Config {
    /// Reads a `config.json`.
    ///
    /// **Errors** when it contradicts itself or asks for a variant that is not implemented.
    pub fn parse(json: &serde_json::Value) -> Result<T5Config> {
        let config: T5Config = entries(json)?;
        config.check()?;
        Ok(config)
    }

    /// **Errors** when the numbers contradict one another.
    pub fn check(&self) -> Result<()> {
        check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_heads", self.num_heads),
        ])?;
        let (classes, furthest) = (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        if !(4..1 << 24).contains(&classes) || furthest <= classes / 2 {
            return Err(Error::Config(format!(
                "relative_attention_num_buckets {classes} do not fit relative_attention_max_distance {furthest}"
            )));
        }
        let inner = self.num_heads * self.d_kv;
        for (name, layers) in [("num_layers", self.num_layers), ("num_decoder_layers", self.decoder_layers())]
        {
            let matrices = [(self.d_model, 8 * inner), (self.d_model, 3 * self.d_ff)];
            check_total((name, layers), [2 * self.vocab_size, self.d_model], &matrices)?;
        }
        check_total(("num_layers", 0), [classes, self.num_heads], &[])?;
        check_token(("decoder_start_token_id", self.decoder_start_token_id), self.vocab_size)?;
        check_probabilities(&[("dropout_rate", self.dropout_rate)])?;
        check_eps("layer_norm_epsilon", self.layer_norm_epsilon)?;
        self.activation().map(drop)
    }

    fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// The activation, and whether it is that of a gate.
    fn activation(&self) -> Result<(Activation, bool)> {
        Ok(match self.feed_forward_proj.as_str() {
            "relu" => (Activation::Relu, false),
            // The published gated models were trained with the tanh form.
            "gated-gelu" => (Activation::GeluNew, true),
            "gated-silu" => (Activation::Silu, true),
            other => {
                return Err(Error::Config(format!(
                    "feed_forward_proj {other:?} is not implemented; there are relu, gated-gelu and gated-silu"
                )));
            }
        })
    }

    fn stack(&self, layers: usize, decoder: bool, fresh: &mut Fresh) -> Result<Stack> {
        let activation = self.activation()?;
        let blocks = (0..layers).map(|_| Arc::new(self.block(activation, decoder, fresh))).collect();
        fresh.deviate((self.d_model as f64).powf(-0.5));
        Ok(Stack {
            bias: RelativeBias {
                table: fresh.table(self.relative_attention_num_buckets, self.num_heads),
                furthest: self.relative_attention_max_distance,
                both_sides: !decoder,
            },
            blocks,
            norm: fresh.rms_norm(self.d_model, self.layer_norm_epsilon),
            dropout: self.dropout_rate,
        })
    }

    fn block(&self, (activation, gated): (Activation, bool), decoder: bool, fresh: &mut Fresh) -> Block {
        let (width, inner) = (self.d_model, self.num_heads * self.d_kv);
        // Without a scale on the scores, the queries start smaller instead.
        let mut linear = |inputs: usize, outputs: usize, spread: usize| {
            fresh.deviate((spread as f64).powf(-0.5)).linear_with(inputs, outputs, false)
        };
        let mut attention = |names| Attention {
            inputs: Projections::Separate {
                query: linear(width, inner, width * self.d_kv),
                key: linear(width, inner, width),
                value: linear(width, inner, width),
            },
            output: linear(inner, width, inner),
            heads: self.num_heads,
            key_heads: self.num_heads,
            scale: 1.0,
            dropout: self.dropout_rate,
            names,
        };
        let (own, across) = (attention(OWN), decoder.then(|| attention(ACROSS)));
        let feed_forward = FeedForward {
            gate: gated.then(|| linear(width, self.d_ff, width)),
            up: linear(width, self.d_ff, width),
            down: linear(self.d_ff, width, self.d_ff),
            activation,
            dropout: self.dropout_rate,
            names: match (decoder, gated) {
                (false, false) => ["", "layer.1.DenseReluDense.wi", "layer.1.DenseReluDense.wo"],
                (true, false) => ["", "layer.2.DenseReluDense.wi", "layer.2.DenseReluDense.wo"],
                (false, true) => [
                    "layer.1.DenseReluDense.wi_0",
                    "layer.1.DenseReluDense.wi_1",
                    "layer.1.DenseReluDense.wo",
                ],
                (true, true) => [
                    "layer.2.DenseReluDense.wi_0",
                    "layer.2.DenseReluDense.wi_1",
                    "layer.2.DenseReluDense.wo",
                ],
            },
        };
        let norm = || fresh.rms_norm(width, self.layer_norm_epsilon).into();
        Block {
            order: Order::PreNorm,
            attention: own,
            attention_norm: norm(),
            across: across.map(|across| (across, norm())),
            feed_forward,
            norm: norm(),
            dropout: self.dropout_rate,
            names: match decoder {
                false => ["layer.0.layer_norm", "", "layer.1.layer_norm"],
                true => ["layer.0.layer_norm", "layer.1.layer_norm", "layer.2.layer_norm"],
            },
        }
    }
}

const OWN: [&str; 4] = [
    "layer.0.SelfAttention.q",
    "layer.0.SelfAttention.k",
    "layer.0.SelfAttention.v",
    "layer.0.SelfAttention.o",
];
const ACROSS: [&str; 4] = [
    "layer.1.EncDecAttention.q",
    "layer.1.EncDecAttention.k",
    "layer.1.EncDecAttention.v",
    "layer.1.EncDecAttention.o",
];

/// An encoder or a decoder, without the token vectors.
struct Stack {
    bias: RelativeBias,
    blocks: Vec<Arc<Block>>,
    norm: RmsNorm,
    dropout: f64,
}

impl Stack {
    fn finished(&self, mut states: Vec<Tensor>) -> Tensor {
        self.norm.forward(&states.pop().expect("at least the input")).dropout(self.dropout)
    }
}

impl Module for Stack {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("block.0.layer.0.SelfAttention.relative_attention_bias", &self.bias.table);
        at.children("block", &self.blocks);
        at.child("final_layer_norm", &self.norm);
    }
}

/// A T5 with its output.
pub struct T5 {
    config: T5Config,
    tokens: Embedding,
    encoder: Stack,
    decoder: Stack,
    output: Option<Linear>,
}

impl T5 {
    /// A model with fresh weights.
    ///
    /// **Errors** when the configuration contradicts itself.
    pub fn new(config: &T5Config, fresh: &mut Fresh) -> Result<T5> {
        config.check()?;
        Ok(T5 {
            tokens: fresh.deviate(1.0).table(config.vocab_size, config.d_model),
            encoder: config.stack(config.num_layers, false, fresh)?,
            decoder: config.stack(config.decoder_layers(), true, fresh)?,
            output: (!config.tie_word_embeddings)
                .then(|| fresh.deviate(1.0).linear_with(config.d_model, config.vocab_size, false)),
            config: config.clone(),
        })
    }
}

impl LanguageModel for T5 {
    fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    fn positions(&self) -> Option<usize> {
        None
    }

    fn device(&self) -> Device {
        self.tokens.weight().device()
    }

    fn hidden(&self, ids: &Ids, cache: &mut Cache) -> Tensor {
        let (x, past, time) = (self.tokens.forward(ids), cache.past(), ids.sizes()[1]);
        let bias = self.decoder.bias.forward(past, time, past + time);
        let x = x.dropout(self.decoder.dropout);
        self.decoder.finished(states_after(cache, &self.decoder.blocks, x, None, Some(&bias)))
    }

    fn head(&self, hidden: &Tensor) -> Tensor {
        let scaled = self.config.scale_decoder_outputs.unwrap_or(self.config.tie_word_embeddings);
        let scale = if scaled { (self.config.d_model as f64).powf(-0.5) } else { 1.0 };
        match &self.output {
            Some(output) => output.forward(&(hidden * scale)),
            None => hidden.linear_add(&self.tokens.weight().value(), scale, None),
        }
    }
}

impl Seq2Seq for T5 {
    fn encode(&self, source: &Sequences) -> Tensor {
        let (x, time) = (self.tokens.forward(&source.ids), source.time());
        let mask = source_mask(source, &x.device()).with_bias(&self.encoder.bias.forward(0, time, time));
        let x = x.dropout(self.encoder.dropout);
        self.encoder.finished(states(&self.encoder.blocks, x, &Surroundings::of(mask)))
    }

    fn start(&self) -> u32 {
        self.config.decoder_start_token_id
    }
}

impl Module for T5 {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("shared", &self.tokens);
        for copy in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"] {
            at.param(copy, self.tokens.weight());
        }
        at.child("encoder", &self.encoder);
        at.child("decoder", &self.decoder);
        match &self.output {
            Some(output) => at.child("lm_head", output),
            None => at.param("lm_head.weight", self.tokens.weight()),
        }
    }
}
