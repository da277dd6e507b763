//! What shapes a BERT or RoBERTa, and what tells the two apart.
//!
//! Read next: `encoder.rs`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::{
    check_divides, check_eps, check_plain, check_probabilities, check_sizes, check_token, check_total,
    entries,
};
use crate::device::array::Ids;
use crate::error::{Error, Result, refuse};
use crate::nn::feed_forward::Activation;
use crate::nn::loading::read_json;

/// The numbers of a `config.json` that shape a BERT-style encoder, under their published names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct EncoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    #[serde(default = "small_eps")]
    pub layer_norm_eps: f64,
    pub hidden_act: Activation,
    #[serde(default)]
    pub hidden_dropout_prob: f64,
    #[serde(default)]
    pub attention_probs_dropout_prob: f64,
    /// The dropout before a classifying head, where it is not `hidden_dropout_prob`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier_dropout: Option<f64>,
    /// The standard deviation of fresh weights.
    #[serde(default = "initial_deviation")]
    pub initializer_range: f64,
    #[serde(default)]
    pub pad_token_id: u32,
}

fn two() -> usize {
    2
}

fn small_eps() -> f64 {
    1e-12
}

fn initial_deviation() -> f64 {
    0.02
}

/// BERT base (arXiv 1810.04805) without dropout.
impl Default for EncoderConfig {
    fn default() -> EncoderConfig {
        EncoderConfig {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            type_vocab_size: two(),
            layer_norm_eps: small_eps(),
            hidden_act: Activation::Gelu,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            classifier_dropout: None,
            initializer_range: initial_deviation(),
            pad_token_id: 0,
        }
    }
}

impl EncoderConfig {
    /// Reads `config.json` of a BERT's directory.
    ///
    /// **Errors** when the file is missing or malformed, describes another kind of model, or
    /// contradicts itself.
    pub fn read(directory: impl AsRef<Path>) -> Result<EncoderConfig> {
        let path = directory.as_ref().join("config.json");
        match EncoderConfig::parse(&read_json(&path)?) {
            Ok((Family::Bert, config)) => Ok(config),
            // Its positions are counted otherwise, of which these numbers say nothing.
            Ok(_) => {
                Err(Error::format(path, "expected a BERT; Encoder::from_directory reads a RoBERTa, too"))
            }
            Err(error) => Err(Error::format(&path, error.to_string())),
        }
    }

    /// Which family a `config.json` describes, and its numbers.
    pub(super) fn parse(json: &serde_json::Value) -> Result<(Family, EncoderConfig)> {
        let family = match json.get("model_type").and_then(serde_json::Value::as_str) {
            None | Some("bert") => Family::Bert,
            Some("roberta") => Family::Roberta,
            Some(other) => {
                let what =
                    format!("model_type {other:?} is not implemented; expected \"bert\" or \"roberta\"");
                return Err(Error::Config(what));
            }
        };
        check_plain(
            json,
            &[
                ("position_embedding_type", json!("absolute")),
                ("is_decoder", json!(false)),
                ("add_cross_attention", json!(false)),
            ],
        )?;
        let mut config: EncoderConfig = entries(json)?;
        if json.get("pad_token_id").is_none() {
            config.pad_token_id = family.padding();
        }
        config.check()?;
        Ok((family, config))
    }

    /// The probability with which a classifying head drops an element of its input.
    pub fn head_dropout(&self) -> f64 {
        self.classifier_dropout.unwrap_or(self.hidden_dropout_prob)
    }

    /// **Errors** when the numbers contradict one another.
    pub fn check(&self) -> Result<()> {
        check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ])?;
        let (width, hidden) = (self.hidden_size, self.intermediate_size);
        check_total(
            ("num_hidden_layers", self.num_hidden_layers),
            [self.vocab_size + self.max_position_embeddings + self.type_vocab_size, width],
            &[(4 * width, width), (2 * width, hidden)],
        )?;
        check_divides(("hidden_size", self.hidden_size), ("num_attention_heads", self.num_attention_heads))?;
        check_probabilities(&[
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.head_dropout()),
        ])?;
        check_eps("layer_norm_eps", self.layer_norm_eps)?;
        check_token(("pad_token_id", self.pad_token_id), self.vocab_size)
    }
}

/// What tells the two apart: names, and how positions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Positions from 0.
    Bert,
    /// Positions of tokens from the padding id's successor; padding has the padding id's.
    Roberta,
}

impl Family {
    /// What stands in front of the body's names below a head.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Family::Bert => "bert",
            Family::Roberta => "roberta",
        }
    }

    /// The padding id where a configuration names none.
    fn padding(self) -> u32 {
        match self {
            Family::Bert => 0,
            Family::Roberta => 1,
        }
    }

    /// The position of each id; `past` tokens came before.
    ///
    /// **Panics** when one is not below `limit`; batches are checked when they are made.
    #[track_caller]
    pub(super) fn positions(self, ids: &Ids, past: usize, padding: u32, limit: usize) -> Ids {
        let time = ids.sizes()[1];
        let mut counted = 0;
        let position = |(at, &id): (usize, &u32)| {
            counted = if at.is_multiple_of(time) { 0 } else { counted };
            match self {
                Family::Bert => (past + at % time) as u32,
                Family::Roberta if id == padding => padding,
                Family::Roberta => {
                    counted += 1;
                    padding + past as u32 + counted
                }
            }
        };
        let positions: Vec<u32> = ids.values().iter().enumerate().map(position).collect();
        Ids::new(positions, ids.sizes(), limit).unwrap_or_else(|error| refuse("positions", error))
    }
}
