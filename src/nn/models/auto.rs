//! A published directory becomes the model it says it is: `config.json` names the family, the tensors
//! (or, for a fresh model, `architectures`) name the head.

use std::path::Path;

use serde_json::Value;

use super::bart::{Bart, BartConfig};
use super::decoder::{CausalLm, DecoderClassifier, LanguageModel};
use super::encoder::{Encoder, EncoderConfig};
use super::gpt2::Gpt2Config;
use super::heads::{Classifier, MaskedLm, TokenClassifier, labels};
use super::llama::LlamaConfig;
use super::seq2seq::Seq2Seq;
use super::t5::{T5, T5Config};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::files;
use crate::nn::fresh::Fresh;
use crate::nn::loading::{Directory, save};
use crate::nn::module::{Module, Walker};
use crate::rng::Rng;

/// What a directory can hold.
#[allow(missing_docs)]
pub enum Model {
    Encoder(Encoder),
    Classifier(Classifier),
    TokenClassifier(TokenClassifier),
    MaskedLm(MaskedLm),
    CausalLm(CausalLm),
    DecoderClassifier(DecoderClassifier),
    Bart(Bart),
    T5(T5),
}

/// What stands on the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    None,
    Classes,
    TokenClasses,
    Words,
}

impl Model {
    /// The language model, if it is one.
    pub fn language_model(&self) -> Option<&dyn LanguageModel> {
        match self {
            Model::CausalLm(model) => Some(model),
            Model::Bart(model) => Some(model),
            Model::T5(model) => Some(model),
            _ => None,
        }
    }

    /// The encoder-decoder, if it is one.
    pub fn seq2seq(&self) -> Option<&dyn Seq2Seq> {
        match self {
            Model::Bart(model) => Some(model),
            Model::T5(model) => Some(model),
            _ => None,
        }
    }

    /// The model of a configuration; `pooler` and `head` say what stands on the body.
    fn build(config: &Value, head: Head, pooler: bool, mut fresh: Fresh) -> Result<Model> {
        let labels = labels(config);
        let family = config.get("model_type").and_then(Value::as_str);
        Ok(match family {
            Some("bert" | "roberta") => {
                let (family, numbers) = EncoderConfig::parse(config)?;
                let encoder = Encoder::of_family(family, &numbers, &mut fresh)?;
                let tied = config.get("tie_word_embeddings") != Some(&Value::Bool(false));
                match head {
                    Head::None if pooler => Model::Encoder(encoder),
                    Head::None => Model::Encoder(encoder.without_pooler()),
                    Head::Classes => Model::Classifier(Classifier::with(encoder, labels, &mut fresh)),
                    Head::TokenClasses => {
                        Model::TokenClassifier(TokenClassifier::with(encoder, labels, &mut fresh))
                    }
                    Head::Words => Model::MaskedLm(MaskedLm::with(encoder, tied, &mut fresh)),
                }
            }
            Some("gpt2" | "llama" | "mistral" | "qwen2") => {
                let gpt2 = (family == Some("gpt2")).then(|| Gpt2Config::parse(config)).transpose()?;
                match (gpt2, head) {
                    (Some(gpt2), Head::Classes) => {
                        let body = gpt2.body(&mut fresh)?;
                        Model::DecoderClassifier(DecoderClassifier::new(body, labels, &mut fresh))
                    }
                    (Some(gpt2), _) => Model::CausalLm(gpt2.causal_lm(&mut fresh)?),
                    (None, Head::Classes) => {
                        let body = LlamaConfig::parse(config)?.body(&mut fresh)?;
                        Model::DecoderClassifier(DecoderClassifier::new(body, labels, &mut fresh))
                    }
                    (None, _) => Model::CausalLm(LlamaConfig::parse(config)?.causal_lm(&mut fresh)?),
                }
            }
            Some("bart" | "marian") => Model::Bart(Bart::new(&BartConfig::parse(config)?, &mut fresh)?),
            Some("t5") => Model::T5(T5::new(&T5Config::parse(config)?, &mut fresh)?),
            Some(other) => {
                return Err(Error::Config(format!(
                    "model_type {other:?} is not implemented; there are bert, roberta, gpt2, llama, mistral, \
                     qwen2, bart, marian and t5"
                )));
            }
            None => return Err(Error::Config("model_type is missing: it says what the model is".into())),
        })
    }
}

impl Module for Model {
    fn walk(&self, at: &mut Walker<'_>) {
        match self {
            Model::Encoder(model) => model.walk(at),
            Model::Classifier(model) => model.walk(at),
            Model::TokenClassifier(model) => model.walk(at),
            Model::MaskedLm(model) => model.walk(at),
            Model::CausalLm(model) => model.walk(at),
            Model::DecoderClassifier(model) => model.walk(at),
            Model::Bart(model) => model.walk(at),
            Model::T5(model) => model.walk(at),
        }
    }
}

/// A model with the configuration that it came from, so that saving gives back what was loaded.
pub struct Pretrained {
    /// The whole of `config.json`.
    pub config: Value,
    /// What it describes.
    pub model: Model,
}

impl Pretrained {
    /// Loads a directory of `config.json` and `model.safetensors`, which may be cut into shards.
    ///
    /// **Errors** when a file is missing or malformed, the family or a variant is not implemented, or
    /// the tensors are not those of the configuration: all of them are listed.
    pub fn from_directory(directory: impl AsRef<Path>, device: &Device) -> Result<Pretrained> {
        let path = directory.as_ref().join("config.json");
        let directory = Directory::open(directory, device)?;
        let config = directory.config.clone();
        let pooler = directory.has("*pooler.dense.weight");
        let head = if directory.has("{cls.predictions.*,lm_head.dense.weight}") {
            Head::Words
        } else if directory.has("{score.weight,classifier.out_proj.weight}") {
            Head::Classes
        } else if directory.has("classifier.weight") {
            if pooler { Head::Classes } else { Head::TokenClasses }
        } else {
            Head::None
        };
        let model = Model::build(&config, head, pooler, Fresh::zeros(device))
            .map_err(|error| Error::format(path, error.to_string()))?;
        directory.fill(&model, if head == Head::Words { MaskedLm::SURPLUS } else { "" })?;
        Ok(Pretrained { config, model })
    }

    /// A model with fresh weights; the first of `architectures` says which head it has.
    ///
    /// **Errors** when the configuration contradicts itself or is not implemented.
    pub fn from_config(config: Value, rng: &mut Rng, device: &Device) -> Result<Pretrained> {
        let name = config.pointer("/architectures/0").and_then(Value::as_str).unwrap_or_default();
        let head = [
            ("ForSequenceClassification", Head::Classes),
            ("ForTokenClassification", Head::TokenClasses),
            ("ForMaskedLM", Head::Words),
        ]
        .into_iter()
        .find(|(end, _)| name.ends_with(end))
        .map_or(Head::None, |(_, head)| head);
        let model = Model::build(&config, head, true, Fresh::random(rng, device))?;
        Ok(Pretrained { config, model })
    }

    /// Saves `config.json` and `model.safetensors` in the published layout.
    ///
    /// **Errors** when the directory cannot be written.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        std::fs::create_dir_all(directory).map_err(|error| Error::io(directory, error))?;
        let text = serde_json::to_string_pretty(&self.config).expect("it was JSON");
        files::write_whole(directory.join("config.json"), text.as_bytes())?;
        save(directory.join("model.safetensors"), &self.model)
    }
}
