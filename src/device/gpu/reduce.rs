//! Sums and maxima: which of the shader's two forms runs, and in how many pieces.
//!
//! Read next: `shaders/reduce.wgsl`.

use std::sync::Arc;

use super::{Gpu, Memory, contiguous, launch_entry, memory, per_element, reserve};
use crate::device::array::{Array, Buffer};
use crate::device::kernel::Reduction;
use crate::layout::Layout;

/// Narrower reductions do not occupy a workgroup.
const WORKGROUP_WIDTH: usize = 32;

/// Folds `axes` of `x`.
pub fn run(gpu: &Arc<Gpu>, op: Reduction, x: &Array, axes: &[usize], y: &Memory) {
    let kept: Vec<usize> = (0..x.sizes().len()).filter(|axis| !axes.contains(axis)).collect();
    let (kept, reduced) = match (Walk::of(x.layout(), &kept), Walk::of(x.layout(), axes)) {
        (Some(kept), Some(reduced)) => (kept, reduced),
        _ => {
            let dense = contiguous(&x.view(x.layout().permute(&[&kept[..], axes].concat())));
            let last: Vec<usize> = (kept.len()..x.sizes().len()).collect();
            return run(gpu, op, &dense, &last, y);
        }
    };
    let (outputs, width) = (kept.count, reduced.count);
    let by_workgroup =
        width >= WORKGROUP_WIDTH && (outputs == 1 || reduced.inner.unsigned_abs() <= kept.inner.unsigned_abs());
    // Few long reductions are cut, so that the whole GPU has something to do; the pieces have sizes
    // that depend on nothing but the sizes of `x`.
    let (piece, pieces) = if by_workgroup { (4096, 1024) } else { (64, 16_384) };
    let chunks = (width / piece).clamp(1, usize::div_ceil(pieces, outputs));
    let partial = (chunks > 1).then(|| reserve(gpu, outputs * chunks));
    let params = [
        (outputs * chunks) as u32,
        chunks as u32,
        width.div_ceil(chunks) as u32,
        width as u32,
        x.layout().offset() as u32,
        kept.size as u32,
        kept.outer as u32,
        kept.inner as u32,
        reduced.size as u32,
        reduced.outer as u32,
        reduced.inner as u32,
        u32::from(op == Reduction::Max),
    ];
    let (entry, groups) = match by_workgroup {
        true => ("by_workgroup", outputs * chunks),
        false => ("by_invocation", per_element((outputs * chunks) as u32)),
    };
    let target = partial.as_ref().unwrap_or(y);
    launch_entry(gpu, "reduce", entry, &params, &[memory(x)], &[target], groups, 0);
    if let Some(partial) = partial {
        let partial = Array::new(Layout::contiguous([outputs, chunks]), Buffer::Gpu(Arc::new(partial)));
        run(gpu, op, &partial, &[1], y);
    }
}

/// How a group of axes is walked: as two axes, the inner one of `size`.
struct Walk {
    count: usize,
    size: usize,
    outer: isize,
    inner: isize,
}

impl Walk {
    /// `None` when the axes do not behave as two.
    fn of(layout: &Layout, axes: &[usize]) -> Option<Walk> {
        let sizes: Vec<usize> = axes.iter().map(|&axis| layout.sizes()[axis]).collect();
        let strides = axes.iter().map(|&axis| layout.strides()[axis]).collect();
        let count = sizes.iter().product();
        match Layout::strided(sizes, strides, 0).groups()[..] {
            _ if count == 0 => Some(Walk { count, size: 1, outer: 0, inner: 0 }),
            [] => Some(Walk { count, size: 1, outer: 0, inner: 0 }),
            [(size, inner)] => Some(Walk { count, size, outer: 0, inner }),
            [(_, outer), (size, inner)] => Some(Walk { count, size, outer, inner }),
            _ => None,
        }
    }
}
