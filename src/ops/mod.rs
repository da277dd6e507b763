//! What can be computed with tensors: one place per op, forward and way back side by side.
//!
//! An elementwise op is its formula (`elementwise.rs`). A few ops rest on a kernel of their own
//! (`matmul.rs`, `attention.rs`, `reduce.rs`, `softmax.rs`, `normalise.rs`, `gather.rs`, `sort.rs`,
//! `recurrence.rs`, `cross_entropy.rs`); views move no data (`shape.rs`), joins do (`join.rs`); everything else is
//! composed of these.
//! Read next: `elementwise.rs`.

pub mod attention;
mod cross_entropy;
mod dropout;
mod einsum;
pub mod elementwise;
mod gather;
mod join;
pub mod loss;
mod matmul;
mod normalise;
mod recurrence;
mod reduce;
mod shape;
mod softmax;
mod sort;

pub use reduce::Axes;
