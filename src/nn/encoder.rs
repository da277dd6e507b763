//! The BERT-style encoder (arXiv 1810.04805) and its classification head.
//!
//! Parameter paths are the published ones: `encoder.layer.0.attention.self.query.weight` and so on
//! for the bare encoder, with `bert.` in front below a [`Classifier`]. Norms stand after each
//! residual sum (post-norm).
//! Read next: `attention.rs`, `feed_forward.rs`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::attention::SelfAttention;
use super::embedding::Embedding;
use super::feed_forward::{Activation, FeedForward};
use super::files;
use super::linear::Linear;
use super::module::{Module, Walker};
use super::norm::LayerNorm;
use crate::device::Device;
use crate::device::array::Ids;
use crate::error::{Error, Result};
use crate::ops::attention::Mask;
use crate::rng::Rng;
use crate::tensor::Tensor;

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

impl EncoderConfig {
    /// Reads `config.json` of a model directory.
    ///
    /// **Errors** when the file is missing or malformed, describes another kind of model, or
    /// contradicts itself.
    pub fn read(directory: impl AsRef<Path>) -> Result<EncoderConfig> {
        let path = directory.as_ref().join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| Error::format(&path, error.to_string()))?;
        let implemented = [
            ("model_type", json!("bert")),
            ("position_embedding_type", json!("absolute")),
            ("is_decoder", json!(false)),
            ("add_cross_attention", json!(false)),
        ];
        for (key, expected) in implemented {
            if let Some(found) = value.get(key).filter(|found| **found != expected && !found.is_null()) {
                let what = format!("{key} {found} is not implemented; expected {expected}");
                return Err(Error::format(&path, what));
            }
        }
        let config: EncoderConfig =
            serde_json::from_value(value).map_err(|error| Error::format(&path, error.to_string()))?;
        config.check().map_err(|error| Error::format(&path, error.to_string()))?;
        Ok(config)
    }

    /// **Errors** when the numbers contradict one another.
    pub fn check(&self) -> Result<()> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        for (name, value) in positive {
            if value == 0 || value > LARGEST_SIZE {
                return Err(Error::Config(format!("{name} is {value}, expected 1 to {LARGEST_SIZE}")));
            }
        }
        if self.num_hidden_layers > MOST_LAYERS {
            let layers = self.num_hidden_layers;
            return Err(Error::Config(format!(
                "num_hidden_layers is {layers}, expected at most {MOST_LAYERS}"
            )));
        }
        if self.parameters() > MOST_PARAMETERS {
            return Err(Error::Config(format!(
                "these sizes make {} parameters, which is more than {MOST_PARAMETERS}",
                self.parameters()
            )));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
            return Err(Error::Config(format!(
                "num_attention_heads {heads} does not divide hidden_size {hidden}"
            )));
        }
        for (name, value) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::Config(format!("{name} is {value}, not in 0..1")));
            }
        }
        if !(self.layer_norm_eps >= 0.0 && self.layer_norm_eps.is_finite()) {
            return Err(Error::Config(format!("layer_norm_eps is {}", self.layer_norm_eps)));
        }
        if self.pad_token_id as usize >= self.vocab_size {
            return Err(Error::Config(format!(
                "pad_token_id {} is outside the vocabulary",
                self.pad_token_id
            )));
        }
        Ok(())
    }

    /// How many numbers an encoder of these sizes has; the sizes are within their limits.
    fn parameters(&self) -> u128 {
        let [rows, width, hidden, layers] = [
            self.vocab_size + self.max_position_embeddings + self.type_vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
        ]
        .map(|size| size as u128);
        let linear = |inputs: u128, outputs: u128| (inputs + 1) * outputs;
        let norm = 2 * width;
        let layer = 4 * linear(width, width) + linear(width, hidden) + linear(hidden, width) + 2 * norm;
        rows * width + norm + layers * layer + linear(width, width)
    }
}

/// Limits far beyond every published encoder, so that a wrong number in a file ends in an error
/// and not in an attempt to allocate terabytes.
const LARGEST_SIZE: usize = 1 << 24;
const MOST_LAYERS: usize = 1 << 12;
const MOST_PARAMETERS: u128 = 1 << 34;

/// Sequences of token ids, padded to the longest, that were checked against a model.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// `[batch, time]`
    pub ids: Ids,
    /// Segment of each token: `[batch, time]`.
    pub types: Ids,
    /// Tokens of each sequence before its padding.
    pub lengths: Vec<usize>,
}

impl TokenBatch {
    /// How many sequences.
    pub fn batch(&self) -> usize {
        self.ids.sizes()[0]
    }

    /// The length that all are padded to.
    pub fn time(&self) -> usize {
        self.ids.sizes()[1]
    }
}

/// Token, position and segment embeddings, added and normalised.
struct Embeddings {
    word: Embedding,
    position: Embedding,
    token_type: Embedding,
    norm: LayerNorm,
    dropout: f64,
}

impl Embeddings {
    /// `[batch, time] -> [batch, time, width]`
    fn forward(&self, batch: &TokenBatch) -> Tensor {
        let positions = self.position.weight().value().narrow(0, 0, batch.time());
        let x = self.word.forward(&batch.ids) + self.token_type.forward(&batch.types) + positions;
        self.norm.forward(&x).dropout(self.dropout)
    }
}

impl Module for Embeddings {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("word_embeddings", &self.word);
        at.child("position_embeddings", &self.position);
        at.child("token_type_embeddings", &self.token_type);
        at.child("LayerNorm", &self.norm);
    }
}

/// Gives a weight of some sizes its first values.
type Fill<'f> = dyn FnMut([usize; 2]) -> Tensor + 'f;

fn linear(inputs: usize, outputs: usize, weight: &mut Fill, device: &Device) -> Linear {
    Linear::from_weights(&weight([outputs, inputs]), Some(&Tensor::zeros([outputs], device)))
}

/// One layer: attention and feed-forward, each added to its input and normalised.
struct Layer {
    attention: SelfAttention,
    projection: Linear,
    attention_norm: LayerNorm,
    feed_forward: FeedForward,
    norm: LayerNorm,
    dropout: f64,
}

impl Layer {
    fn new(config: &EncoderConfig, weight: &mut Fill, device: &Device) -> Layer {
        let (width, hidden) = (config.hidden_size, config.intermediate_size);
        let mut linear = |inputs, outputs| linear(inputs, outputs, weight, device);
        let attention = SelfAttention {
            query: linear(width, width),
            key: linear(width, width),
            value: linear(width, width),
            heads: config.num_attention_heads,
            dropout: config.attention_probs_dropout_prob,
        };
        let projection = linear(width, width);
        let feed_forward = FeedForward {
            up: linear(width, hidden),
            down: linear(hidden, width),
            activation: config.hidden_act,
            names: ["intermediate.dense", "output.dense"],
        };
        let [attention_norm, norm] = [(); 2].map(|()| LayerNorm::new(width, config.layer_norm_eps, device));
        Layer {
            attention,
            projection,
            attention_norm,
            feed_forward,
            norm,
            dropout: config.hidden_dropout_prob,
        }
    }

    /// `[batch, time, width] -> [batch, time, width]`
    fn forward(&self, x: &Tensor, mask: &Mask) -> Tensor {
        let attended = self.projection.forward(&self.attention.forward(x, mask)).dropout(self.dropout);
        let x = self.attention_norm.forward(&(x + attended));
        let transformed = self.feed_forward.forward(&x).dropout(self.dropout);
        self.norm.forward(&(x + transformed))
    }
}

impl Module for Layer {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("attention.self", &self.attention);
        at.child("attention.output.dense", &self.projection);
        at.child("attention.output.LayerNorm", &self.attention_norm);
        at.child("", &self.feed_forward);
        at.child("output.LayerNorm", &self.norm);
    }
}

/// A BERT-style encoder with its pooler.
pub struct Encoder {
    config: EncoderConfig,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    pooler: Linear,
}

impl Encoder {
    /// An encoder with fresh weights.
    ///
    /// **Errors** when the configuration contradicts itself.
    pub fn new(config: &EncoderConfig, rng: &mut Rng, device: &Device) -> Result<Encoder> {
        let deviation = config.initializer_range;
        Encoder::filled(config, &mut |sizes| Tensor::normal(deviation, sizes, rng, device), device)
    }

    fn filled(config: &EncoderConfig, weight: &mut Fill, device: &Device) -> Result<Encoder> {
        config.check()?;
        let width = config.hidden_size;
        let mut table = |rows| Embedding::from_weights(&weight([rows, width]));
        let embeddings = Embeddings {
            word: table(config.vocab_size),
            position: table(config.max_position_embeddings),
            token_type: table(config.type_vocab_size),
            norm: LayerNorm::new(width, config.layer_norm_eps, device),
            dropout: config.hidden_dropout_prob,
        };
        let layers = (0..config.num_hidden_layers).map(|_| Layer::new(config, weight, device)).collect();
        let pooler = linear(width, width, weight, device);
        Ok(Encoder { config: config.clone(), embeddings, layers, pooler })
    }

    /// The encoder of a directory with `config.json` and `model.safetensors`.
    ///
    /// **Errors** when a file is missing or malformed, or when names or shapes disagree.
    pub fn from_directory(directory: impl AsRef<Path>, device: &Device) -> Result<Encoder> {
        let config = EncoderConfig::read(&directory)?;
        // Zeros take no room, so a model that the file does not hold is refused before it costs any.
        let encoder = Encoder::filled(&config, &mut |sizes| Tensor::zeros(sizes, device), device)?;
        files::load(directory.as_ref().join("model.safetensors"), &encoder)?;
        Ok(encoder)
    }

    /// Writes a directory that [`Encoder::from_directory`] reads: `config.json` and `model.safetensors`.
    ///
    /// **Errors** when the directory cannot be written.
    pub fn save_directory(&self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        std::fs::create_dir_all(directory).map_err(|error| Error::io(directory, error))?;
        let mut config = serde_json::to_value(&self.config).expect("text keys and finite numbers");
        config["model_type"] = "bert".into();
        files::save(directory.join("model.safetensors"), self)?;
        files::write_whole(directory.join("config.json"), format!("{config:#}").as_bytes())
    }

    /// What shaped it.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Pads sequences of token ids to the longest; `types` gives each token's segment, 0 without it.
    ///
    /// **Errors** when there is no sequence, one is empty or longer than the positions, an id is
    /// outside of the vocabulary, or types do not fit.
    pub fn batch(&self, sequences: &[Vec<u32>], types: Option<&[Vec<u32>]>) -> Result<TokenBatch> {
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let Some(&time) = lengths.iter().max() else {
            return Err(Error::Ids("a batch needs at least one sequence".into()));
        };
        if let Some(at) = lengths.iter().position(|&length| length == 0) {
            return Err(Error::Ids(format!("sequence {at} of the batch is empty")));
        }
        if time > self.config.max_position_embeddings {
            let limit = self.config.max_position_embeddings;
            return Err(Error::Ids(format!(
                "a sequence of {time} tokens, but the model has {limit} positions; cut it"
            )));
        }
        let sizes = [sequences.len(), time];
        let padded = |rows: &[Vec<u32>], fill: u32| -> Vec<u32> {
            rows.iter()
                .flat_map(|row| row.iter().copied().chain(std::iter::repeat(fill)).take(time))
                .collect()
        };
        let ids = Ids::new(padded(sequences, self.config.pad_token_id), sizes, self.config.vocab_size)?;
        if types.is_some_and(|types| types.iter().map(Vec::len).ne(lengths.iter().copied())) {
            return Err(Error::Ids("token types do not have the lengths of their sequences".into()));
        }
        let types = types.map_or(vec![0; sizes[0] * time], |types| padded(types, 0));
        let types = Ids::new(types, sizes, self.config.type_vocab_size)?;
        if [&ids, &types].iter().any(|ids| ids.values().contains(&Ids::IGNORED)) {
            return Err(Error::Ids(format!(
                "a token or segment is {}, which marks none at all",
                Ids::IGNORED
            )));
        }
        Ok(TokenBatch { ids, types, lengths })
    }

    /// The last layer's hidden states: `[batch, time, width]`.
    ///
    /// **Panics** when the batch was made by another, larger model.
    #[track_caller]
    pub fn forward(&self, batch: &TokenBatch) -> Tensor {
        self.hidden_states(batch).pop().expect("at least the embeddings")
    }

    /// The embeddings' output and that of each layer: each `[batch, time, width]`.
    ///
    /// **Panics** when the batch was made by another, larger model.
    #[track_caller]
    pub fn hidden_states(&self, batch: &TokenBatch) -> Vec<Tensor> {
        let first = self.embeddings.forward(batch);
        let mask =
            Mask::lengths(&batch.lengths, batch.time(), &first.device()).expect("a batch has valid lengths");
        let mut states = vec![first];
        for layer in &self.layers {
            states.push(layer.forward(&states[states.len() - 1], &mask));
        }
        states
    }

    /// The first token of the last layer through a linear layer and tanh: `[batch, width]`.
    #[track_caller]
    pub fn pooled(&self, batch: &TokenBatch) -> Tensor {
        self.pooler.forward(&self.forward(batch).select(1, 0)).tanh()
    }

    /// A vector of length 1 per sentence: the mean over its tokens, normalised: `[batch, width]`.
    #[track_caller]
    pub fn embed(&self, batch: &TokenBatch) -> Tensor {
        let hidden = self.forward(batch);
        let shares: Vec<f32> = batch
            .lengths
            .iter()
            .flat_map(|&length| {
                (0..batch.time()).map(move |at| if at < length { 1.0 / length as f32 } else { 0.0 })
            })
            .collect();
        let shares = Tensor::new(&shares, [batch.batch(), 1, batch.time()], &hidden.device());
        shares.matmul(&hidden).squeeze(1).normalize(-1, 1e-12)
    }
}

impl Module for Encoder {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("embeddings", &self.embeddings);
        at.children("encoder.layer", &self.layers);
        at.child("pooler.dense", &self.pooler);
    }
}

/// An encoder with a linear head over its pooled first token.
pub struct Classifier {
    /// Its parameters are called `bert.*`.
    pub encoder: Encoder,
    /// `width -> labels`, called `classifier`.
    pub head: Linear,
}

impl Classifier {
    /// A fresh head for `labels` classes on an encoder.
    pub fn new(encoder: Encoder, labels: usize, rng: &mut Rng) -> Classifier {
        let device = encoder.pooler.weight().device();
        let config = encoder.config();
        let head = Linear::new(config.hidden_size, labels, config.initializer_range, rng, &device);
        Classifier { encoder, head }
    }

    /// The score of each class: `[batch, labels]`.
    #[track_caller]
    pub fn forward(&self, batch: &TokenBatch) -> Tensor {
        self.head.forward(&self.encoder.pooled(batch).dropout(self.encoder.config.hidden_dropout_prob))
    }
}

impl Module for Classifier {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("bert", &self.encoder);
        at.child("classifier", &self.head);
    }
}
