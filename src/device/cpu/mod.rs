//! The fast device on the processor: f32, all cores, vectors.
//!
//! One line per kernel below; each file holds one kernel (or one family) and says how it is made
//! fast. Work is cut into pieces of a fixed size, never "one per thread", so results do not depend
//! on how many threads there are.
//! Read next: `elementwise.rs`, then `matmul.rs`.

mod attention;
mod concat;
mod cross_entropy;
mod elementwise;
mod feed;
mod gather;
#[allow(unsafe_code)]
mod gemm;
pub mod math;
mod matmul;
mod memory;
mod normalise;
mod recurrence;
mod reduce;
pub(crate) mod simd;
mod softmax;
mod sort;
mod threads;

use std::sync::Arc;

use rayon::prelude::*;

use super::array::{Array, Buffer};
use super::kernel::Kernel;
use crate::layout::Layout;
pub use memory::{Memory, forget_peak, poison_new_buffers, pool_statistics};
pub use threads::use_threads;

/// Elements below which a second thread does not pay.
const GRAIN: usize = 1 << 14;

/// Runs one kernel.
pub fn run(kernel: Kernel) -> Vec<Array> {
    let sizes = kernel.output_sizes();
    let counts = sizes.iter().map(|sizes| sizes.iter().product());
    let memories = match kernel {
        Kernel::Elementwise { program, inputs, sizes } => {
            elementwise::run(program, inputs, sizes.iter().product())
        }
        kernel => {
            let mut memories: Vec<Memory> = counts.map(Memory::reserve).collect();
            let outputs: Vec<&mut [f32]> = memories.iter_mut().map(Memory::values_mut).collect();
            fill(&kernel, outputs);
            memories
        }
    };
    let array = |(memory, sizes): (Memory, Vec<usize>)| {
        Array::new(Layout::contiguous(sizes), Buffer::Cpu(Arc::new(memory)))
    };
    memories.into_iter().zip(sizes).map(array).collect()
}

/// Runs one kernel on memory made for its outputs.
fn fill(kernel: &Kernel, mut outputs: Vec<&mut [f32]>) {
    match (kernel, &mut outputs[..]) {
        (Kernel::Reduce { op, x, axes }, [y]) => reduce::run(*op, x, axes, y),
        (Kernel::ArgMax { x }, [y]) => sort::arg_max(x, y),
        (Kernel::ArgSort { x, descending }, [y]) => sort::arg_sort(x, *descending, y),
        (Kernel::Recurrence { decay, input }, [h]) => recurrence::run(decay, input, h),
        (Kernel::MatMul { a, b, scale, add }, [y]) => matmul::run(a, b, *scale as f32, *add, y),
        (Kernel::Concat { parts, axis }, [y]) => concat::run(parts, *axis, y),
        (Kernel::Gather { table, ids }, [y]) => gather::gather(table, ids, y),
        (Kernel::ScatterAdd { rows, ids, count }, [y]) => gather::scatter_add(rows, ids, *count, y),
        (Kernel::Softmax { x }, [y]) => softmax::softmax(x, y),
        (Kernel::SoftmaxGrad { y, g }, [x]) => softmax::softmax_grad(y, g, x),
        (Kernel::Normalise { x, weight, bias, eps, centred }, [y, statistics]) => {
            normalise::normalise(x, [weight, bias], *eps as f32, *centred, y, statistics)
        }
        (Kernel::NormaliseGrad { x, weight, statistics, g, centred }, [dx]) => {
            normalise::normalise_grad(x, weight, statistics, g, *centred, dx)
        }
        (Kernel::CrossEntropy { logits, targets }, [losses, log_sums]) => {
            cross_entropy::cross_entropy(logits, targets, losses, log_sums)
        }
        (Kernel::CrossEntropyGrad { logits, log_sum, targets, g }, [x]) => {
            cross_entropy::cross_entropy_grad(logits, log_sum, targets, g, x)
        }
        (Kernel::Attention { inputs }, [out, sums]) => attention::attention(inputs, out, sums),
        (Kernel::AttentionGrad { inputs, sums, g, .. }, [dq, dk, dv]) => {
            attention::attention_grad(inputs, sums, g, [dq, dk, dv])
        }
        _ => unreachable!("as many outputs as Kernel::output_sizes says"),
    }
}

/// The whole buffer of an array on this device.
fn buffer(x: &Array) -> &[f32] {
    match x.buffer() {
        Buffer::Cpu(memory) => memory,
        _ => unreachable!("Device::run has checked the device of each input"),
    }
}

/// The elements of a contiguous array.
fn elements(x: &Array) -> &[f32] {
    debug_assert!(x.layout().is_contiguous());
    let start = x.layout().offset();
    &buffer(x)[start..][..x.layout().count()]
}

/// The array itself if it is contiguous, else a contiguous copy.
fn contiguous(x: &Array) -> Array {
    if x.layout().is_contiguous() && x.layout().count() > 0 {
        return x.clone();
    }
    let mut memory = Memory::reserve(x.layout().count());
    elementwise::copy(x, memory.values_mut());
    Array::new(Layout::contiguous(x.sizes()), Buffer::Cpu(Arc::new(memory)))
}

/// Calls `work(first_row, rows)` on pieces of `output` that hold whole rows of `width` elements;
/// a piece is large enough to pay for a thread when a row costs `cost` element visits.
fn for_rows(output: &mut [f32], width: usize, cost: usize, work: impl Fn(usize, &mut [f32]) + Sync + Send) {
    for_rows_of_two(output, width, &mut [], 0, cost, |first, rows, _| work(first, rows));
}

/// As [`for_rows`] with a second output, whose rows have their own width.
fn for_rows_of_two(
    a: &mut [f32],
    width_a: usize,
    b: &mut [f32],
    width_b: usize,
    cost: usize,
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync + Send,
) {
    if a.is_empty() {
        return;
    }
    let rows = (GRAIN / cost.max(1)).max(1);
    if a.len() <= rows * width_a {
        return work(0, a, b);
    }
    let mut rest = b;
    let mut pieces: Vec<(&mut [f32], &mut [f32])> = Vec::with_capacity(a.len() / (rows * width_a) + 1);
    for piece in a.chunks_mut(rows * width_a) {
        let (part, others) = rest.split_at_mut(piece.len() / width_a * width_b);
        pieces.push((piece, part));
        rest = others;
    }
    pieces.into_par_iter().enumerate().for_each(|(piece, (a, b))| work(piece * rows, a, b));
}
