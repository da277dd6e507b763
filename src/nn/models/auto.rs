//! A published directory becomes the model it says it is: `config.json` names the family, the tensors
//! (or, for a fresh model, `architectures`) name the head.

use std::path::Path;

use serde_json::Value;

use super::bart::{Bart, BartConfig};
use super::decoder::{CausalLm, DecoderClassifier, LanguageModel};
use super::encoder::{Encoder, EncoderConfig};
use super::gpt2::Gpt2Config;
use super::heads::{Classifier, MaskedLm, SURPLUS, TokenClassifier, labels};
use super::llama::LlamaConfig;
use super::seq2seq::Seq2Seq;
use super::t5::{T5, T5Config};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::fresh::Fresh;
use crate::nn::loading::{Directory, save_directory};
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

impl Head {
    /// By the ends of the names in `architectures`.
    const NAMES: [(&str, Head); 6] = [
        ("ForSequenceClassification", Head::Classes),
        ("ForTokenClassification", Head::TokenClasses),
        ("ForMaskedLM", Head::Words),
        ("ForCausalLM", Head::None),
        ("ForConditionalGeneration", Head::None),
        ("Model", Head::None),
    ];

    /// The head that the first of `architectures` says; none if there is no such entry.
    ///
    /// **Errors** when it is not implemented.
    fn named(config: &Value) -> Result<Option<Head>> {
        let Some(name) = config.pointer("/architectures/0").and_then(Value::as_str) else { return Ok(None) };
        let found = Head::NAMES.iter().find(|(end, _)| name.ends_with(end));
        found.map(|(_, head)| Some(*head)).ok_or_else(|| {
            let ends = Head::NAMES.map(|(end, _)| end).join(", ");
            Error::Config(format!("architectures names {name:?}; expected one that ends with {ends}"))
        })
    }

    /// The head whose tensors are there.
    fn stored(directory: &Directory) -> Head {
        if directory.has("{cls.predictions.*,lm_head.dense.weight}") {
            Head::Words
        } else if directory.has("{score.weight,classifier.out_proj.weight}") {
            Head::Classes
        } else if directory.has("classifier.weight") {
            // Classes of a text and of its tokens have the same tensors, and older files hold a pooler below
            // either: the configuration knows, and where it does not, a pooler is the best sign.
            match Head::named(&directory.config) {
                Ok(Some(said @ (Head::Classes | Head::TokenClasses))) => said,
                _ if directory.has("*pooler.dense.weight") => Head::Classes,
                _ => Head::TokenClasses,
            }
        } else {
            Head::None
        }
    }
}

impl Model {
    /// The language model, if it is one that goes on from a text by itself.
    pub fn language_model(&self) -> Option<&dyn LanguageModel> {
        match self {
            Model::CausalLm(model) => Some(model),
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
        let labels = || labels(config);
        let family = config.get("model_type").and_then(Value::as_str);
        let fits = match family {
            Some("gpt2" | "llama" | "mistral" | "qwen2") => matches!(head, Head::None | Head::Classes),
            Some("bart" | "marian" | "t5") => head == Head::None,
            _ => true,
        };
        if !fits {
            let family = family.unwrap_or_default();
            return Err(Error::Config(format!("a head for {head:?} is not implemented on a {family}")));
        }
        Ok(match family {
            Some("bert" | "roberta") => {
                let (family, numbers) = EncoderConfig::parse(config)?;
                let encoder = Encoder::of_family(family, &numbers, &mut fresh)?;
                let tied = config.get("tie_word_embeddings") != Some(&Value::Bool(false));
                match head {
                    Head::None if pooler => Model::Encoder(encoder),
                    Head::None => Model::Encoder(encoder.without_pooler()),
                    Head::Classes => Model::Classifier(Classifier::with(encoder, labels()?, &mut fresh)),
                    Head::TokenClasses => {
                        Model::TokenClassifier(TokenClassifier::with(encoder, labels()?, &mut fresh))
                    }
                    Head::Words => Model::MaskedLm(MaskedLm::with(encoder, tied, &mut fresh)),
                }
            }
            Some("gpt2" | "llama" | "mistral" | "qwen2") => {
                let gpt2 = (family == Some("gpt2")).then(|| Gpt2Config::parse(config)).transpose()?;
                match (gpt2, head) {
                    (Some(gpt2), Head::Classes) => {
                        let body = gpt2.body(&mut fresh)?;
                        Model::DecoderClassifier(DecoderClassifier::new(body, labels()?, &mut fresh))
                    }
                    (Some(gpt2), _) => Model::CausalLm(gpt2.causal_lm(&mut fresh)?),
                    (None, Head::Classes) => {
                        let body = LlamaConfig::parse(config)?.body(&mut fresh)?;
                        Model::DecoderClassifier(DecoderClassifier::new(body, labels()?, &mut fresh))
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
        let (head, pooler) = (Head::stored(&directory), directory.has("*pooler.dense.weight"));
        let model = Model::build(&as_stored(&directory), head, pooler, Fresh::zeros(device))
            .map_err(|error| Error::format(path, error.to_string()))?;
        directory.fill(&model, if head == Head::None { "" } else { SURPLUS })?;
        Ok(Pretrained { config, model })
    }

    /// A model with fresh weights; the first of `architectures` says which head it has.
    ///
    /// **Errors** when the configuration contradicts itself or is not implemented.
    pub fn from_config(config: Value, rng: &mut Rng, device: &Device) -> Result<Pretrained> {
        let head = Head::named(&config)?.unwrap_or(Head::None);
        let model = Model::build(&config, head, true, Fresh::random(rng, device))?;
        Ok(Pretrained { config, model })
    }

    /// Saves `config.json` and `model.safetensors` in the published layout.
    ///
    /// **Errors** when adapters sit in the model, or the directory cannot be written.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        save_directory(directory.as_ref(), &self.config, &self.model)
    }
}

/// The configuration as the tensors say it. transformers 5 calls the output of every T5 tied, and leaves it
/// to `scale_decoder_outputs` and the file to tell those that have one of their own.
fn as_stored(directory: &Directory) -> Value {
    let mut config = directory.config.clone();
    let of_its_own = config.get("model_type").is_some_and(|family| family == "t5")
        && config.get("scale_decoder_outputs").is_some_and(|scaled| scaled == false)
        && directory.has("lm_head.weight");
    if of_its_own {
        config["tie_word_embeddings"] = false.into();
    }
    config
}
