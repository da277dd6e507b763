//! Sums and maxima: which of the shader's two forms runs, and in how many pieces.
//!
//! Read next: `shaders/reduce.wgsl`.

use std::sync::Arc;

use super::elementwise::contiguous;
use super::matmul::halves;
use super::record::{Recorded, launch, per_element};
use super::window::Window;
use super::{Gpu, Memory, dense, reserve};
use crate::device::array::Array;
use crate::device::kernel::Fold;
use crate::layout::Layout;

/// Narrower reductions do not occupy a workgroup.
const WORKGROUP_WIDTH: usize = 32;

/// Folds `axes` of `x`.
pub fn run(gpu: &Arc<Gpu>, op: Fold, x: &Array, axes: &[usize], y: &Arc<Memory>) -> Recorded {
    let mut sizes = x.sizes().to_vec();
    axes.iter().for_each(|&axis| sizes[axis] = 1);
    fold(gpu, op, x, axes, &dense(y, sizes))
}

/// The reduction as one dispatch, or cut in two where an array is too large to be bound.
fn fold(gpu: &Arc<Gpu>, op: Fold, x: &Array, axes: &[usize], y: &Array) -> Recorded {
    // A broadcast view may have more elements than shaders count, wherever they lie.
    let small = |x: &Array| Window::of_view(x).0.fits() && u32::try_from(x.layout().count()).is_ok();
    if small(x) && small(y) {
        return dispatch(gpu, op, x, axes, y);
    }
    let reach = |&axis: &usize| {
        let size = x.sizes()[axis];
        ((size - 1) * x.layout().strides()[axis].unsigned_abs(), size)
    };
    let furthest = (0..x.sizes().len()).max_by_key(reach).expect("a scalar is small");
    // Halves of the result must be dense, so it is cut along its first axis.
    let first = y.sizes().iter().position(|&size| size > 1);
    let axis = if small(y) { furthest } else { first.expect("one element is small") };
    if !axes.contains(&axis) && first != Some(axis) {
        return fold(gpu, op, &contiguous(x), axes, y);
    }
    let [one, other] = halves(x, axis)?;
    if !axes.contains(&axis) {
        let [y, rest] = halves(y, axis)?;
        fold(gpu, op, &one, axes, &y)?;
        return fold(gpu, op, &other, axes, &rest);
    }
    // The result of each half, then of both.
    let results = dense(&reserve(gpu, 2 * y.layout().count())?, [&[2], y.sizes()].concat());
    let result = |at| results.view(results.layout().slice(0, at, at + 1, 1).squeeze(0));
    fold(gpu, op, &one, axes, &result(0))?;
    fold(gpu, op, &other, axes, &result(1))?;
    fold(gpu, op, &results, &[0], y)
}

/// `y` is dense, and shaders count the elements of both.
fn dispatch(gpu: &Arc<Gpu>, op: Fold, x: &Array, axes: &[usize], y: &Array) -> Recorded {
    let kept: Vec<usize> = (0..x.sizes().len()).filter(|axis| !axes.contains(axis)).collect();
    let (kept, reduced) = match (Walk::of(x.layout(), &kept), Walk::of(x.layout(), axes)) {
        (Some(kept), Some(reduced)) => (kept, reduced),
        _ => {
            let order = [&kept[..], axes].concat();
            let [x, y] = [x, y].map(|x| x.view(x.layout().permute(&order)));
            let last: Vec<usize> = (kept.len()..order.len()).collect();
            return fold(gpu, op, &contiguous(&x), &last, &y);
        }
    };
    let (outputs, width) = (kept.count, reduced.count);
    let terms_lie_closer = reduced.inner.unsigned_abs() <= kept.inner.unsigned_abs();
    let by_workgroup = width >= WORKGROUP_WIDTH && (outputs == 1 || terms_lie_closer);
    // Few long reductions are cut, so that the whole GPU has something to do; into how many pieces
    // depends on the sizes alone, and so does the result, unless a binding holds no more pieces.
    let (shortest, most) = if by_workgroup { (4096, 1024) } else { (64, 16_384_usize) };
    let chunks = (width / shortest).clamp(1, most.div_ceil(outputs).min(gpu.bindable() / outputs));
    let partial = match chunks {
        1 => None,
        _ => Some(dense(&reserve(gpu, outputs * chunks)?, vec![outputs, chunks])),
    };
    let (source, offset) = Window::of_view(x);
    let (target, y_offset) = Window::of_view(partial.as_ref().unwrap_or(y));
    let params = [
        outputs * chunks,
        chunks,
        width.div_ceil(chunks),
        width,
        offset,
        kept.size,
        kept.outer as usize,
        kept.inner as usize,
        reduced.size,
        reduced.outer as usize,
        reduced.inner as usize,
        usize::from(op == Fold::Max),
        y_offset,
    ]
    .map(|word| word as u32);
    let (entry, groups) = match by_workgroup {
        true => ("by_workgroup", outputs * chunks),
        false => ("by_invocation", per_element(outputs * chunks)),
    };
    launch(gpu, "reduce", entry, &params, &[source], &[target], groups)?;
    partial.map_or(Ok(()), |partial| dispatch(gpu, op, &partial, &[1], y))
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
