//! A tensor framework from scratch: reverse-mode autodiff, transformers, and adapters that fine-tune them.
//!
//! ```text
//!             examples/   benches/   tests/
//!    ────────────────────────────────────────────────
//! 7  train     Trainer · Loader · checkpoint          tasks  published data
//! 6  adapters  the methods            optim  the updates
//! 5  nn        Module tree · Param · Linear (with its adapter socket) · attention · block · models · generate
//! 4  ops       methods on Tensor: forward, and an edge to each tracked input
//! 3  tensor    Tensor = Array + history · backward · Gradients
//! 2  device    Device · Array · Kernel          ┌ reference  f64, the definition
//!              run(kernel): the one fork ───────┼ cpu/       f32, rayon, vectors
//!                                               └ gpu/       f32, wgpu ── shaders/*.wgsl
//! 1  layout · expr · rng · metrics · error       plain arithmetic, no data
//! ```
//!
//! A layer uses the layers below it, never one above or beside it; `ARCHITECTURE.md` says why.
//!
//! ```
//! use engrad::{Device, Tensor};
//! let x = Tensor::new(&[1.0, 2.0, 3.0], [3], &Device::Cpu).tracked();
//! let loss = (&x * &x).sum(..);
//! let gradients = loss.backward();
//! assert_eq!(gradients.of(&x).unwrap().to_vec(), [2.0, 4.0, 6.0]);
//! ```
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod adapters;
pub mod device;
pub mod error;
pub mod expr;
pub mod layout;
pub mod metrics;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod rng;
pub mod tasks;
pub mod tensor;
pub mod train;

pub use device::Device;
pub use device::array::Ids;
pub use error::{Error, Result};
pub use ops::Axes;
pub use ops::attention::{Mask, attention, attention_over};
pub use ops::elementwise::elementwise;
pub use ops::loss::{CrossEntropy, Reduction};
pub use rng::Rng;
pub use tensor::autograd::{Gradients, edge, inference, training};
pub use tensor::recompute::{recomputed, recomputing};
pub use tensor::{Gradcheck, Tensor, gradcheck};

/// The README's program compiles, or the documentation tests fail.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
