//! Modules: parameters with names, layers, and the transformers made of them.
//!
//! A parameter's path is its Hugging Face name, so checkpoints, adapter files, freeze patterns and
//! summaries share one naming. `forward` is an ordinary method with the arguments that make sense.
//! Read next: `param.rs`, `module.rs`, `linear.rs` (with its adapter socket), `attention.rs`,
//! `block.rs`, `models/`.

mod attention;
mod block;
mod cache;
mod embedding;
mod feed_forward;
pub mod files;
mod fresh;
pub mod generate;
mod linear;
mod loading;
pub mod models;
mod module;
mod norm;
mod param;
mod pattern;
mod position;
mod rotary;
mod socket;
mod virtual_tokens;

pub use attention::{Attention, Projections};
pub use block::{Block, Order, Surroundings};
pub use cache::{BlockCache, Cache, KeysValues};
pub use embedding::Embedding;
pub use feed_forward::{Activation, FeedForward};
pub use fresh::Fresh;
pub use generate::{Choose, Generation, generate, translate};
pub use linear::Linear;
pub use loading::{Directory, load, save};
pub use models::auto::{Model, Pretrained};
pub use models::bart::{Bart, BartConfig};
pub use models::batch::{Sequences, Side, TokenBatch};
pub use models::decoder::{CausalLm, Decoder, DecoderClassifier, LanguageModel};
pub use models::encoder::{self, Encoder, EncoderConfig, Family};
pub use models::gpt2::Gpt2Config;
pub use models::heads::{Classifier, MaskedLm, TokenClassifier};
pub use models::llama::LlamaConfig;
pub use models::seq2seq::Seq2Seq;
pub use models::t5::{T5, T5Config};
pub use models::transformer::{Transformer, TransformerConfig};
pub(crate) use module::all_names;
pub use module::{Module, Part, Summary, Walker, freeze, named_params, sockets, summary, unfreeze};
pub use norm::{LayerNorm, Norm, RmsNorm};
pub use param::{Form, Param};
pub use pattern::Pattern;
pub use position::{RelativeBias, sinusoids};
pub use rotary::{Rotary, Rotation, Stretch};
pub use socket::{Adapter, Socket, Stack, Stored, Weights};
pub use virtual_tokens::{Prefix, VirtualTokens};
