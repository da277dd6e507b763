//! BART (arXiv 1910.13461) and Marian (arXiv 1804.00344): the original Transformer's post-norm blocks
//! over one table of token vectors, which also gives the output.
//!
//! BART learns its positions (the first two rows of the table are not used) and normalises the first
//! hidden state; Marian computes its positions from sines and does not.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::batch::Sequences;
use super::config::{
    check_divides, check_plain, check_probabilities, check_sizes, check_token, check_total, entries,
};
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
use crate::nn::module::{Module, Walker};
use crate::nn::norm::LayerNorm;
use crate::nn::param::{Form, Param};
use crate::nn::position::sinusoids;
use crate::tensor::Tensor;

/// The numbers of a `config.json` that shape a BART or Marian, under their published names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BartConfig {
    pub model_type: Kind,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub d_model: usize,
    pub encoder_layers: usize,
    pub encoder_ffn_dim: usize,
    pub encoder_attention_heads: usize,
    pub decoder_layers: usize,
    pub decoder_ffn_dim: usize,
    pub decoder_attention_heads: usize,
    pub activation_function: Activation,
    #[serde(default)]
    pub dropout: f64,
    #[serde(default)]
    pub attention_dropout: f64,
    #[serde(default)]
    pub activation_dropout: f64,
    #[serde(default = "deviation")]
    pub init_std: f64,
    #[serde(default)]
    pub scale_embedding: bool,
    pub decoder_start_token_id: u32,
}

fn deviation() -> f64 {
    0.02
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Learned positions, first hidden state normalised.
    Bart,
    /// Sines for positions.
    Marian,
}

impl BartConfig {
    /// Reads a `config.json`.
    ///
    /// **Errors** when it contradicts itself or asks for a variant that is not implemented.
    pub fn parse(json: &serde_json::Value) -> Result<BartConfig> {
        check_plain(
            json,
            &[
                ("tie_word_embeddings", json!(true)),
                ("share_encoder_decoder_embeddings", json!(true)),
                ("normalize_before", json!(false)),
                ("add_final_layer_norm", json!(false)),
            ],
        )?;
        let config: BartConfig = entries(json)?;
        if json.get("decoder_vocab_size").is_some_and(|size| !size.is_null() && *size != config.vocab_size) {
            return Err(Error::Config("decoder_vocab_size differs from vocab_size; not implemented".into()));
        }
        config.check()?;
        Ok(config)
    }

    /// **Errors** when the numbers contradict one another.
    pub fn check(&self) -> Result<()> {
        check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("d_model", self.d_model),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
        ])?;
        let width = self.d_model;
        check_divides(("d_model", width), ("encoder_attention_heads", self.encoder_attention_heads))?;
        check_divides(("d_model", width), ("decoder_attention_heads", self.decoder_attention_heads))?;
        check_divides(("d_model", width), ("pairs of", 2))?;
        for (name, layers, hidden) in [
            ("encoder_layers", self.encoder_layers, self.encoder_ffn_dim),
            ("decoder_layers", self.decoder_layers, self.decoder_ffn_dim),
        ] {
            let tables = [self.vocab_size + self.max_position_embeddings, width];
            check_total((name, layers), tables, &[(8 * width, width), (2 * width, hidden)])?;
        }
        let positions = self.max_position_embeddings;
        if self.model_type == Kind::Marian && positions * width > MOST_SINES {
            return Err(Error::Config(format!(
                "max_position_embeddings {positions} of d_model {width} are {} sines, which is more than {MOST_SINES}",
                positions * width
            )));
        }
        check_token(("decoder_start_token_id", self.decoder_start_token_id), self.vocab_size)?;
        check_probabilities(&[
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("activation_dropout", self.activation_dropout),
        ])
    }

    /// Rows in front of position 0 in the table of positions.
    fn unused(&self) -> usize {
        match self.model_type {
            Kind::Bart => 2,
            Kind::Marian => 0,
        }
    }

    fn half(&self, layers: usize, heads: usize, hidden: usize, across: bool, fresh: &mut Fresh) -> Half {
        let (width, rows) = (self.d_model, self.max_position_embeddings + self.unused());
        Half {
            positions: match self.model_type {
                Kind::Bart => fresh.table(rows, width),
                Kind::Marian => Embedding::from_param(Param::with_form(
                    &sinusoids(rows, width, fresh.device()),
                    Form::Buffer,
                )),
            },
            unused: self.unused(),
            norm: (self.model_type == Kind::Bart).then(|| fresh.layer_norm(width, EPS)),
            dropout: self.dropout,
            blocks: (0..layers).map(|_| Arc::new(self.block(heads, hidden, across, fresh))).collect(),
        }
    }

    fn block(&self, heads: usize, hidden: usize, across: bool, fresh: &mut Fresh) -> Block {
        let width = self.d_model;
        let attention = |names, fresh: &mut Fresh| Attention {
            inputs: Projections::Separate {
                query: fresh.linear(width, width),
                key: fresh.linear(width, width),
                value: fresh.linear(width, width),
            },
            output: fresh.linear(width, width),
            heads,
            key_heads: heads,
            scale: 1.0 / ((width / heads) as f64).sqrt(),
            dropout: self.attention_dropout,
            names,
        };
        Block {
            order: Order::PostNorm,
            attention: attention(OWN, fresh),
            attention_norm: fresh.layer_norm(width, EPS).into(),
            across: across.then(|| (attention(ACROSS, fresh), fresh.layer_norm(width, EPS).into())),
            feed_forward: FeedForward {
                gate: None,
                up: fresh.linear(width, hidden),
                down: fresh.linear(hidden, width),
                activation: self.activation_function,
                dropout: self.activation_dropout,
                names: ["", "fc1", "fc2"],
            },
            norm: fresh.layer_norm(width, EPS).into(),
            dropout: self.dropout,
            names: ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"],
        }
    }
}

const EPS: f64 = 1e-5;
/// Positions of Marian are computed before its file is looked at, so their number has a limit of its own.
const MOST_SINES: usize = 1 << 28;
const OWN: [&str; 4] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"];
const ACROSS: [&str; 4] =
    ["encoder_attn.q_proj", "encoder_attn.k_proj", "encoder_attn.v_proj", "encoder_attn.out_proj"];

/// An encoder or a decoder, without the token vectors.
struct Half {
    positions: Embedding,
    unused: usize,
    norm: Option<LayerNorm>,
    dropout: f64,
    blocks: Vec<Arc<Block>>,
}

impl Half {
    /// Token vectors with their positions: `[batch, time, width]`, the same sizes.
    fn placed(&self, x: &Tensor, cache: &Cache) -> Tensor {
        let (rows, time) = (self.positions.weight().sizes()[0], x.size(1));
        let ids = cache.position_ids(time, rows - self.unused);
        let ids = ids.map(rows, ids.sizes().to_vec(), |_, position| self.unused as u32 + position);
        let x = x + self.positions.forward(&ids);
        self.norm.as_ref().map_or(x.clone(), |norm| norm.forward(&x)).dropout(self.dropout)
    }
}

impl Module for Half {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("embed_positions", &self.positions);
        if let Some(norm) = &self.norm {
            at.child("layernorm_embedding", norm);
        }
        at.children("layers", &self.blocks);
    }
}

/// A BART or Marian with its output.
pub struct Bart {
    config: BartConfig,
    tokens: Embedding,
    encoder: Half,
    decoder: Half,
    /// Added to the scores; files hold it as `[1, vocabulary]`.
    bias: Param,
}

impl Bart {
    /// A model with fresh weights.
    ///
    /// **Errors** when the configuration contradicts itself.
    pub fn new(config: &BartConfig, fresh: &mut Fresh) -> Result<Bart> {
        config.check()?;
        fresh.deviate(config.init_std);
        let c = config;
        Ok(Bart {
            tokens: fresh.table(c.vocab_size, c.d_model),
            encoder: c.half(c.encoder_layers, c.encoder_attention_heads, c.encoder_ffn_dim, false, fresh),
            decoder: c.half(c.decoder_layers, c.decoder_attention_heads, c.decoder_ffn_dim, true, fresh),
            bias: Param::with_form(&Tensor::zeros([1, c.vocab_size], fresh.device()), Form::Buffer),
            config: config.clone(),
        })
    }

    fn embed(&self, ids: &Ids) -> Tensor {
        let x = self.tokens.forward(ids);
        if self.config.scale_embedding { x * (self.config.d_model as f64).sqrt() } else { x }
    }
}

impl LanguageModel for Bart {
    fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    fn positions(&self) -> Option<usize> {
        Some(self.config.max_position_embeddings)
    }

    fn device(&self) -> Device {
        self.tokens.weight().device()
    }

    fn hidden(&self, ids: &Ids, cache: &mut Cache) -> Tensor {
        let x = self.decoder.placed(&self.embed(ids), cache);
        states_after(cache, &self.decoder.blocks, x, None, None).pop().expect("at least the input")
    }

    fn head(&self, hidden: &Tensor) -> Tensor {
        hidden.linear(&self.tokens.weight().value(), Some(&self.bias.value().squeeze(0)))
    }
}

impl Seq2Seq for Bart {
    fn encode(&self, source: &Sequences) -> Tensor {
        let x = self.encoder.placed(&self.embed(&source.ids), &Cache::none(source.starts()));
        let mask = source_mask(source, &x.device());
        states(&self.encoder.blocks, x, &Surroundings::of(mask)).pop().expect("at least the input")
    }

    fn start(&self) -> u32 {
        self.config.decoder_start_token_id
    }
}

impl Module for Bart {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("model.shared", &self.tokens);
        for copy in
            ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"]
        {
            at.param(copy, self.tokens.weight());
        }
        at.child("model.encoder", &self.encoder);
        at.child("model.decoder", &self.decoder);
        at.param("final_logits_bias", &self.bias);
    }
}
