//! Modules: parameters with names, layers, and the transformer encoder.
//!
//! A parameter's path is its Hugging Face name, so checkpoints, adapter files, freeze patterns and
//! summaries share one naming. `forward` is an ordinary method with the arguments that make sense.
//! Read next: `param.rs`, `module.rs`, `linear.rs` (with its adapter socket), `encoder.rs`.

mod attention;
mod embedding;
pub mod encoder;
mod feed_forward;
pub mod files;
mod linear;
mod module;
mod norm;
mod param;
mod pattern;
mod socket;

pub use attention::SelfAttention;
pub use embedding::Embedding;
pub use encoder::{Classifier, Encoder, EncoderConfig, TokenBatch};
pub use feed_forward::{Activation, FeedForward};
pub use files::{load, save};
pub use linear::Linear;
pub use module::{Module, Part, Summary, Walker, freeze, linears, named_params, summary, unfreeze};
pub use norm::LayerNorm;
pub use param::Param;
pub use pattern::Pattern;
pub use socket::{Adapter, Stored, Weights};
