//! Training: batches, the order of a step, and going on after an interruption.
//!
//! Read next: `trainer.rs`, the one place that knows the order of a step; `loader.rs`;
//! `checkpoint.rs`.

mod checkpoint;
mod loader;
mod trainer;

pub use loader::Loader;
pub use trainer::{Group, Step, Trainable, Trainer};
