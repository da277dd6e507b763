//! Matrix products: which rung of the ladder a product takes.
//!
//! Each rung is a shader of its own, to be read in this order: `matmul_naive.wgsl`,
//! `matmul_tiled.wgsl`, `matmul_blocked.wgsl`, then those for thin shapes. Strides are parameters,
//! so no operand is copied unless its batch has more axes than a shader walks.

use std::sync::Arc;

use super::{Gpu, Memory, contiguous, launch_entry, memory, per_element};
use crate::device::array::Array;
use crate::layout::Layout;

/// `y = scale · a·b + add` for each matrix of the batch.
pub fn run(gpu: &Arc<Gpu>, a: &Array, b: &Array, scale: f32, add: Option<&Array>, y: &Memory) {
    let [.., m, k] = *a.sizes() else { unreachable!("the op checks for two axes") };
    let n = *b.sizes().last().expect("two axes");
    let operands = [a, b, add.unwrap_or(a)].map(Operand::of);
    let batch = y.len() / (m * n);
    let mut params = vec![batch as u32, operands[0].batch_inner as u32, m as u32, n as u32, k as u32];
    params.extend([scale.to_bits(), u32::from(add.is_some())]);
    for operand in &operands {
        params.push(operand.array.layout().offset() as u32);
        params.extend(operand.strides.map(|stride| stride as u32));
    }
    let inputs = operands.each_ref().map(|operand| memory(&operand.array));
    let flops = 2 * (batch * m * n * k) as u64;
    launch_entry(gpu, "matmul_naive", "main", &params, &inputs, &[y], per_element(y.len() as u32), flops);
}

/// A batch of matrices: where they are and how to step through them.
struct Operand {
    array: Array,
    /// The size of the last batch axis.
    batch_inner: usize,
    /// Between batches along the outer and the inner batch axis, between rows, between columns.
    strides: [isize; 4],
}

impl Operand {
    fn of(x: &Array) -> Operand {
        Operand::strided(x)
            .unwrap_or_else(|| Operand::strided(&contiguous(x)).expect("dense axes behave as one"))
    }

    /// `None` when the outer batch axes do not behave as one.
    fn strided(x: &Array) -> Option<Operand> {
        let (sizes, strides) = (x.sizes(), x.layout().strides());
        let axes = sizes.len();
        let inner = axes.checked_sub(3);
        let outer = 0..inner.unwrap_or(0);
        let outer_stride = match Layout::strided(sizes[outer.clone()].into(), strides[outer].into(), 0).groups()[..] {
            [] => 0,
            [(_, stride)] => stride,
            _ => return None,
        };
        Some(Operand {
            array: x.clone(),
            batch_inner: inner.map_or(1, |axis| sizes[axis]),
            strides: [outer_stride, inner.map_or(0, |axis| strides[axis]), strides[axes - 2], strides[axes - 1]],
        })
    }
}
