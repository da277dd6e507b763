//! Heads on an encoder: classes (or a number) for a text, classes for each token, and hidden words.

use serde_json::Value;

use super::batch::TokenBatch;
use super::config::check_sizes;
use super::encoder::{Encoder, Family};
use crate::error::Result;
use crate::nn::embedding::Embedding;
use crate::nn::feed_forward::Activation;
use crate::nn::fresh::Fresh;
use crate::nn::linear::Linear;
use crate::nn::module::{Module, Walker};
use crate::nn::norm::LayerNorm;
use crate::nn::param::Param;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// An encoder with a linear head over its pooled first token: class scores, or one number to regress.
pub struct Classifier {
    /// Its parameters are called `bert.*` or `roberta.*`.
    pub encoder: Encoder,
    /// RoBERTa's own pooler, called `classifier.dense`.
    pub dense: Option<Linear>,
    /// `width -> labels`, called `classifier`, or `classifier.out_proj` behind a `dense`.
    pub head: Linear,
}

impl Classifier {
    /// A fresh head for `labels` classes on an encoder; a BERT without a pooler gets a fresh one, a RoBERTa
    /// loses its own, because its head brings one.
    pub fn new(encoder: Encoder, labels: usize, rng: &mut Rng) -> Classifier {
        let device = encoder.device();
        Classifier::with(encoder, labels, &mut Fresh::random(rng, &device))
    }

    pub(super) fn with(encoder: Encoder, labels: usize, fresh: &mut Fresh) -> Classifier {
        let width = encoder.config().hidden_size;
        fresh.deviate(encoder.config().initializer_range);
        match encoder.family() {
            Family::Bert => {
                let head = fresh.linear(width, labels);
                Classifier { head, dense: None, encoder: encoder.with_pooler(fresh) }
            }
            Family::Roberta => {
                let dense = Some(fresh.linear(width, width));
                Classifier { dense, head: fresh.linear(width, labels), encoder: encoder.without_pooler() }
            }
        }
    }

    /// The score of each class: `[batch, labels]`.
    #[track_caller]
    pub fn forward(&self, batch: &TokenBatch) -> Tensor {
        let dropout = self.encoder.config().head_dropout();
        let pooled = match &self.dense {
            None => self.encoder.pooled(batch),
            Some(dense) => dense.forward(&self.encoder.first(batch).dropout(dropout)).tanh(),
        };
        self.head.forward(&pooled.dropout(dropout))
    }
}

impl Module for Classifier {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child(self.encoder.family().prefix(), &self.encoder);
        match &self.dense {
            None => at.child("classifier", &self.head),
            Some(dense) => {
                at.child("classifier.dense", dense);
                at.child("classifier.out_proj", &self.head);
            }
        }
    }
}

/// An encoder with a linear head over each token.
pub struct TokenClassifier {
    /// Its parameters are called `bert.*` or `roberta.*`; it has no pooler.
    pub encoder: Encoder,
    /// `width -> labels`, called `classifier`.
    pub head: Linear,
}

impl TokenClassifier {
    /// A fresh head for `labels` classes on an encoder, which loses its pooler.
    pub fn new(encoder: Encoder, labels: usize, rng: &mut Rng) -> TokenClassifier {
        let device = encoder.device();
        TokenClassifier::with(encoder, labels, &mut Fresh::random(rng, &device))
    }

    pub(super) fn with(encoder: Encoder, labels: usize, fresh: &mut Fresh) -> TokenClassifier {
        let width = encoder.config().hidden_size;
        let head = fresh.deviate(encoder.config().initializer_range).linear(width, labels);
        TokenClassifier { encoder: encoder.without_pooler(), head }
    }

    /// The score of each class for each token: `[batch, time, labels]`.
    #[track_caller]
    pub fn forward(&self, batch: &TokenBatch) -> Tensor {
        let dropout = self.encoder.config().head_dropout();
        self.head.forward(&self.encoder.forward(batch).dropout(dropout))
    }
}

impl Module for TokenClassifier {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child(self.encoder.family().prefix(), &self.encoder);
        at.child("classifier", &self.head);
    }
}

/// An encoder that guesses hidden words: a dense layer, an activation, a norm, and the table of word
/// vectors once more, with a bias of its own.
pub struct MaskedLm {
    /// Its parameters are called `bert.*` or `roberta.*`; it has no pooler.
    pub encoder: Encoder,
    dense: Linear,
    activation: Activation,
    norm: LayerNorm,
    bias: Param,
    /// The same table as the encoder's unless the configuration unties them.
    words: Embedding,
}

impl MaskedLm {
    /// A fresh head on an encoder, which loses its pooler; with `tied`, words are compared with the
    /// encoder's own word vectors.
    pub fn new(encoder: Encoder, tied: bool, rng: &mut Rng) -> MaskedLm {
        let device = encoder.device();
        MaskedLm::with(encoder, tied, &mut Fresh::random(rng, &device))
    }

    pub(super) fn with(encoder: Encoder, tied: bool, fresh: &mut Fresh) -> MaskedLm {
        let config = encoder.config().clone();
        let width = config.hidden_size;
        fresh.deviate(config.initializer_range);
        let words = match tied {
            true => encoder.words().clone(),
            false => fresh.table(config.vocab_size, width),
        };
        // RoBERTa's head knows one activation; BERT's takes the encoder's.
        let activation = match encoder.family() {
            Family::Bert => config.hidden_act,
            Family::Roberta => Activation::Gelu,
        };
        MaskedLm {
            dense: fresh.linear(width, width),
            activation,
            norm: fresh.layer_norm(width, config.layer_norm_eps),
            bias: Param::new(&Tensor::zeros([config.vocab_size], fresh.device())),
            words,
            encoder: encoder.without_pooler(),
        }
    }

    /// The score of each word at each place: `[batch, time, vocabulary]`.
    #[track_caller]
    pub fn forward(&self, batch: &TokenBatch) -> Tensor {
        let hidden = self.activation.apply(&self.dense.forward(&self.encoder.forward(batch)));
        self.norm.forward(&hidden).linear(&self.words.weight().value(), Some(&self.bias.value()))
    }
}

impl Module for MaskedLm {
    fn walk(&self, at: &mut Walker<'_>) {
        let family = self.encoder.family();
        at.child(family.prefix(), &self.encoder);
        let [dense, norm, decoder] = match family {
            Family::Bert => [
                "cls.predictions.transform.dense",
                "cls.predictions.transform.LayerNorm",
                "cls.predictions.decoder",
            ],
            Family::Roberta => ["lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"],
        };
        let bias = match family {
            Family::Bert => "cls.predictions.bias",
            Family::Roberta => "lm_head.bias",
        };
        at.child(dense, &self.dense);
        at.child(norm, &self.norm);
        at.param(bias, &self.bias);
        at.param(&format!("{decoder}.weight"), self.words.weight());
        // Files of some versions hold the bias a second time.
        at.param(&format!("{decoder}.bias"), &self.bias);
    }
}

/// What files of a headed encoder may hold besides: a pooler that the head does not use, and the head of
/// another task that was trained along.
pub(super) const SURPLUS: &str = "{cls.seq_relationship.*,*pooler.dense.*}";

/// How many labels a configuration asks for: those it names, else `num_labels`, else 2.
///
/// **Errors** when there are none, or absurdly many.
pub(super) fn labels(config: &Value) -> Result<usize> {
    let named = config.get("id2label").and_then(Value::as_object).map(serde_json::Map::len);
    let counted = || config.get("num_labels").and_then(Value::as_u64).map(|count| count as usize);
    let labels = named.or_else(counted).unwrap_or(2);
    check_sizes(&[("the number of labels", labels)]).map(|()| labels)
}
