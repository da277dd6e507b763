//! What only a GPU can get wrong. That every op is right on it is shown by the table (`tests/ops.rs`).
//! Read next: `shapes.rs` (grids and forms of a kernel), `pieces.rs` (what outgrows a binding or takes too
//! long), `queue.rs` (deferred work), `training.rs` (memory that grows), `faults.rs`.
#![cfg(feature = "gpu")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod pieces;
mod queue;
mod shapes;
mod training;

use std::sync::Arc;

use common::{compare, largest};
use engrad::device::gpu::{Gpu, GpuOptions};
use engrad::{Device, Tensor};

/// A device of its own, for a test that breaks or counts it; `None` where there is no GPU.
fn own(options: &GpuOptions) -> Option<(Device, Arc<Gpu>)> {
    common::gpu()?;
    let gpu = Gpu::open(options).expect("a second device of the adapter that was opened before");
    let device = Device::Gpu(gpu.clone());
    common::fuse_attention(&device);
    Some((device, gpu))
}

/// Holds what `body` gives on the GPU to the reference.
#[track_caller]
fn agrees(device: &Device, tolerance: f64, body: impl Fn(&Device) -> Tensor) {
    let (found, expected) = (body(device), body(&Device::Reference));
    assert_eq!(found.sizes(), expected.sizes());
    let expected = expected.to_f64();
    if let Err(what) = compare(&found.to_f64(), &expected, tolerance * largest(&expected)) {
        panic!("{what}");
    }
}
