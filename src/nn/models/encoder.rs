//! BERT (arXiv 1810.04805) and RoBERTa (arXiv 1907.11692): the bare encoder.
//!
//! Parameter paths are the published ones: `encoder.layer.0.attention.self.query.weight` and so on,
//! with `bert.` or `roberta.` in front below a head. Norms stand after each residual sum.
//! Read next: `heads.rs`.

use std::path::Path;
use std::sync::Arc;

use super::batch::{TokenBatch, longest};
pub use super::encoder_config::{EncoderConfig, Family};
use crate::device::Device;
use crate::device::array::Ids;
use crate::error::{Error, Result, refuse};
use crate::nn::attention::{Attention, Projections};
use crate::nn::block::{Block, Order, Surroundings, first_state, states_with};
use crate::nn::cache::Cache;
use crate::nn::embedding::Embedding;
use crate::nn::feed_forward::FeedForward;
use crate::nn::fresh::Fresh;
use crate::nn::linear::Linear;
use crate::nn::loading::{Directory, save_directory};
use crate::nn::module::{Module, Walker};
use crate::nn::norm::LayerNorm;
use crate::nn::virtual_tokens::{VirtualTokens, behind, own};
use crate::ops::attention::Mask;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// Token, position and segment embeddings, added and normalised.
struct Embeddings {
    word: Embedding,
    position: Embedding,
    token_type: Embedding,
    norm: LayerNorm,
    dropout: f64,
}

impl Embeddings {
    /// With the word vectors already looked up: `[batch, time, width] -> [batch, time, width]`.
    fn forward(&self, words: Tensor, types: &Ids, positions: &Ids) -> Tensor {
        let x = words + self.token_type.forward(types) + self.position.forward(positions);
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

fn block(config: &EncoderConfig, fresh: &mut Fresh) -> Block {
    let (width, hidden) = (config.hidden_size, config.intermediate_size);
    let [attention_norm, norm] = [(); 2].map(|()| fresh.layer_norm(width, config.layer_norm_eps).into());
    let mut linear = |inputs, outputs| fresh.linear(inputs, outputs);
    Block {
        order: Order::PostNorm,
        attention: Attention {
            inputs: Projections::Separate {
                query: linear(width, width),
                key: linear(width, width),
                value: linear(width, width),
            },
            output: linear(width, width),
            heads: config.num_attention_heads,
            key_heads: config.num_attention_heads,
            scale: 1.0 / ((width / config.num_attention_heads) as f64).sqrt(),
            dropout: config.attention_probs_dropout_prob,
            names: [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
            ],
        },
        attention_norm,
        across: None,
        feed_forward: FeedForward {
            gate: None,
            up: linear(width, hidden),
            down: linear(hidden, width),
            activation: config.hidden_act,
            dropout: 0.0,
            names: ["", "intermediate.dense", "output.dense"],
        },
        norm,
        dropout: config.hidden_dropout_prob,
        names: ["attention.output.LayerNorm", "", "output.LayerNorm"],
    }
}

/// A BERT or RoBERTa encoder, and the pooler that some of them have.
pub struct Encoder {
    family: Family,
    config: EncoderConfig,
    virtual_tokens: VirtualTokens,
    embeddings: Embeddings,
    layers: Vec<Arc<Block>>,
    pooler: Option<Linear>,
}

impl Encoder {
    /// A BERT encoder with fresh weights.
    ///
    /// **Errors** when the configuration contradicts itself.
    pub fn new(config: &EncoderConfig, rng: &mut Rng, device: &Device) -> Result<Encoder> {
        Encoder::of_family(Family::Bert, config, &mut Fresh::random(rng, device))
    }

    /// A fresh encoder with a pooler.
    ///
    /// **Errors** when the configuration contradicts itself, or leaves no positions.
    pub fn of_family(family: Family, config: &EncoderConfig, fresh: &mut Fresh) -> Result<Encoder> {
        config.check()?;
        if family == Family::Roberta && config.max_position_embeddings < config.pad_token_id as usize + 2 {
            let (table, padding) = (config.max_position_embeddings, config.pad_token_id);
            return Err(Error::Config(format!(
                "max_position_embeddings {table} leaves none behind pad_token_id {padding}"
            )));
        }
        let width = config.hidden_size;
        fresh.deviate(config.initializer_range);
        let embeddings = Embeddings {
            word: fresh.table(config.vocab_size, width),
            position: fresh.table(config.max_position_embeddings, width),
            token_type: fresh.table(config.type_vocab_size, width),
            norm: fresh.layer_norm(width, config.layer_norm_eps),
            dropout: config.hidden_dropout_prob,
        };
        let layers: Vec<Arc<Block>> =
            (0..config.num_hidden_layers).map(|_| Arc::new(block(config, fresh))).collect();
        let pooler = Some(fresh.linear(width, width));
        let virtual_tokens = VirtualTokens::new(&embeddings.word, &layers);
        Ok(Encoder { family, config: config.clone(), virtual_tokens, embeddings, layers, pooler })
    }

    /// The encoder of a published directory, with a pooler if the file has one; a head is left aside.
    ///
    /// **Errors** when a file is missing or malformed, or when names or shapes disagree.
    pub fn from_directory(directory: impl AsRef<Path>, device: &Device) -> Result<Encoder> {
        let path = directory.as_ref().join("config.json");
        let directory = Directory::open(directory, device)?;
        let (family, config) = EncoderConfig::parse(&directory.config)
            .map_err(|error| Error::format(path, error.to_string()))?;
        let mut encoder = Encoder::of_family(family, &config, &mut Fresh::zeros(device))?;
        if !directory.has("*pooler.dense.weight") {
            encoder = encoder.without_pooler();
        }
        directory.fill(&encoder, "")?;
        Ok(encoder)
    }

    /// Writes a directory that [`Encoder::from_directory`] reads: `config.json` and `model.safetensors`.
    ///
    /// **Errors** when adapters sit in the model, or the directory cannot be written.
    pub fn save_directory(&self, directory: impl AsRef<Path>) -> Result<()> {
        let mut config = serde_json::to_value(&self.config).expect("text keys and finite numbers");
        config["model_type"] = self.family.prefix().into();
        save_directory(directory.as_ref(), &config, self)
    }

    /// The same encoder without its pooler, which heads on every token do not use.
    pub fn without_pooler(self) -> Encoder {
        Encoder { pooler: None, ..self }
    }

    /// The same encoder with a pooler, a fresh one if it has none: files of models that guess words hold none.
    pub(super) fn with_pooler(self, fresh: &mut Fresh) -> Encoder {
        let width = self.config.hidden_size;
        Encoder { pooler: Some(self.pooler.unwrap_or_else(|| fresh.linear(width, width))), ..self }
    }

    /// BERT or RoBERTa.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.embeddings.word.weight().device()
    }

    /// The table of word vectors, to which some heads are tied.
    pub(super) fn words(&self) -> &Embedding {
        &self.embeddings.word
    }

    /// The longest sequence it takes.
    pub fn positions(&self) -> usize {
        let positions = match self.family {
            Family::Bert => self.config.max_position_embeddings,
            Family::Roberta => self.config.max_position_embeddings - self.config.pad_token_id as usize - 1,
        };
        positions.saturating_sub(self.virtual_tokens.count())
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
        let time = longest(sequences, Some(self.positions()))?;
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
    /// **Panics** when the batch was made by another, larger model, or before virtual tokens took positions.
    #[track_caller]
    pub fn forward(&self, batch: &TokenBatch) -> Tensor {
        self.hidden_states(batch).pop().expect("at least the embeddings")
    }

    /// The embeddings' output and that of each layer: each `[batch, time, width]`.
    ///
    /// **Panics** when the batch was made by another, larger model, or before virtual tokens took positions.
    #[track_caller]
    pub fn hidden_states(&self, batch: &TokenBatch) -> Vec<Tensor> {
        own(self.all_states(batch), batch.time())
    }

    /// As [`Encoder::hidden_states`], those of virtual tokens before the text's.
    #[track_caller]
    fn all_states(&self, batch: &TokenBatch) -> Vec<Tensor> {
        let (mut cache, first, around) = self.begin(batch);
        states_with(&mut cache, &self.layers, first, &around)
    }

    /// What the blocks stand on, what they read, and what they see: the embeddings of virtual tokens and the text's.
    #[track_caller]
    fn begin(&self, batch: &TokenBatch) -> (Cache, Tensor, Surroundings) {
        let mut cache = Cache::none(vec![0; batch.batch()]);
        let words = self.virtual_tokens.begin(self.embeddings.word.forward(&batch.ids), &mut cache);
        let (front, padding) = (words.size(1) - batch.time(), self.config.pad_token_id);
        let (ids, types) = (behind(front, Ids::IGNORED, &batch.ids), behind(front, 0, &batch.types));
        let limit = self.config.max_position_embeddings;
        let positions = self.family.positions(&ids, cache.past(), padding, limit);
        let x = self.embeddings.forward(words, &types, &positions);
        let virtual_tokens = cache.virtual_tokens();
        let lengths: Vec<usize> = batch.lengths.iter().map(|length| virtual_tokens + length).collect();
        let mask = Mask::lengths(&lengths, virtual_tokens + batch.time(), &x.device())
            .expect("a batch has valid lengths");
        (cache, x, Surroundings::of(mask))
    }

    /// The last layer's state of the first token, which may be a virtual one: `[batch, width]`. The last layer
    /// computes no other, so this takes less time than [`Encoder::forward`].
    #[track_caller]
    pub(super) fn first(&self, batch: &TokenBatch) -> Tensor {
        let (mut cache, x, around) = self.begin(batch);
        first_state(&mut cache, &self.layers, x, &around)
    }

    /// The first token of the last layer through a linear layer and tanh: `[batch, width]`.
    ///
    /// **Panics** when there is no pooler.
    #[track_caller]
    pub fn pooled(&self, batch: &TokenBatch) -> Tensor {
        self.pool(&self.first(batch))
    }

    /// The pooler alone, on a first token's state: `[batch, width] -> [batch, width]`.
    ///
    /// **Panics** when there is no pooler.
    #[track_caller]
    pub fn pool(&self, first: &Tensor) -> Tensor {
        let Some(pooler) = &self.pooler else { refuse("pooled", "this encoder has no pooler") };
        pooler.forward(first).tanh()
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
        at.child("virtual_tokens", &self.virtual_tokens);
        at.child("embeddings", &self.embeddings);
        at.children("encoder.layer", &self.layers);
        if let Some(pooler) = &self.pooler {
            at.child("pooler.dense", pooler);
        }
    }
}
