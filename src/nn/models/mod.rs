//! The models, each composed of the same blocks, under the parameter names of the published files.
//!
//! Read next: `encoder.rs` (BERT, RoBERTa) and `heads.rs`; `decoder.rs`, `gpt2.rs`, `llama.rs`;
//! `seq2seq.rs`, `transformer.rs`, `bart.rs`, `t5.rs`; and `auto.rs`, which finds out what a directory
//! holds.

pub mod auto;
pub mod bart;
pub mod batch;
mod config;
pub mod decoder;
pub mod encoder;
mod encoder_config;
pub mod gpt2;
pub mod heads;
pub mod llama;
pub mod seq2seq;
pub mod t5;
pub mod transformer;
