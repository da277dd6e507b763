//! How the elements of a tensor lie in its buffer: sizes, strides and an offset.
//!
//! Element `[i, j, k]` is found at `offset + i·strides[0] + j·strides[1] + k·strides[2]`.
//! Permuting, slicing, flipping and broadcasting therefore only compute a new `Layout` and move
//! no data: a broadcast axis has stride 0, a flipped one a negative stride.
//! Read next: `expr/mod.rs` (what is computed per element), then `device/array.rs` (layout + buffer).

use crate::error::refuse;

/// Sizes, strides (in elements) and the offset of the first element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    sizes: Vec<usize>,
    strides: Vec<isize>,
    offset: usize,
}

/// Row-major strides of `sizes`: the last axis is dense. Sizes that nobody can count wrap around here and
/// are refused where they are counted.
fn row_major(sizes: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; sizes.len()];
    for axis in (1..sizes.len()).rev() {
        strides[axis - 1] = strides[axis].wrapping_mul(sizes[axis].max(1) as isize);
    }
    strides
}

/// How many elements there are of `sizes`; `None` where the machine cannot count as far, or could not but
/// for a size of 0: strides are products of the others.
pub fn checked_count(sizes: &[usize]) -> Option<usize> {
    let fold = |product: isize, &size: &usize| product.checked_mul(size.max(1).try_into().ok()?);
    let filled = sizes.iter().try_fold(1, fold)?;
    Some(if sizes.contains(&0) { 0 } else { filled.unsigned_abs() })
}

/// How many elements there are of `sizes`.
///
/// **Panics** when the machine cannot count as far.
#[track_caller]
pub fn count(sizes: &[usize]) -> usize {
    match checked_count(sizes) {
        Some(count) => count,
        None => refuse("sizes", format_args!("{sizes:?} are beyond any memory")),
    }
}

/// The axis meant by `axis` among `ndim` axes, where -1 is the last one.
///
/// **Panics** when there is no such axis. A scalar accepts 0 and -1, as in PyTorch.
#[track_caller]
pub fn resolve_axis(op: &str, axis: isize, ndim: usize) -> usize {
    let count = ndim.max(1) as isize;
    if !(-count..count).contains(&axis) {
        refuse(op, format_args!("axis {axis} of a tensor with {ndim} axes"));
    }
    axis.rem_euclid(count) as usize
}

/// As [`resolve_axis`] for several axes, in their order.
///
/// **Panics** when one does not exist.
#[track_caller]
pub fn resolve_axes(op: &str, axes: &[isize], ndim: usize) -> Vec<usize> {
    let mut resolved = Vec::with_capacity(axes.len());
    // A loop and no closure, so that the panic points at the caller.
    for &axis in axes {
        resolved.push(resolve_axis(op, axis, ndim));
    }
    resolved
}

/// The sizes two operands broadcast to, aligned at the last axis; `None` if they do not fit.
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let ndim = a.len().max(b.len());
    let size =
        |sizes: &[usize], axis: usize| (axis + sizes.len()).checked_sub(ndim).map_or(1, |axis| sizes[axis]);
    (0..ndim)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (a, b) if a == b || b == 1 => Some(a),
            (1, b) => Some(b),
            _ => None,
        })
        .collect()
}

impl Layout {
    /// A dense row-major layout of `sizes`.
    pub fn contiguous(sizes: impl Into<Vec<usize>>) -> Layout {
        let sizes = sizes.into();
        Layout { strides: row_major(&sizes), sizes, offset: 0 }
    }

    /// A view given by its parts; strides count elements.
    ///
    /// **Panics** when sizes and strides differ in number.
    pub fn strided(sizes: Vec<usize>, strides: Vec<isize>, offset: usize) -> Layout {
        assert_eq!(sizes.len(), strides.len(), "a stride for each size");
        Layout { sizes, strides, offset }
    }

    /// The size of each axis.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// The distance between neighbours along each axis, in elements.
    pub fn strides(&self) -> &[isize] {
        &self.strides
    }

    /// The position of the first element in the buffer.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// How many elements there are.
    ///
    /// **Panics** when the machine cannot count as far.
    #[track_caller]
    pub fn count(&self) -> usize {
        count(&self.sizes)
    }

    /// Whether the elements lie densely in row-major order (from any offset).
    pub fn is_contiguous(&self) -> bool {
        let mut dense = 1;
        for (&size, &stride) in self.sizes.iter().zip(&self.strides).rev() {
            if size != 1 && stride != dense {
                return self.count() == 0;
            }
            dense *= size as isize;
        }
        true
    }

    /// The lowest and one past the highest buffer position a view touches; `None` when empty.
    #[track_caller]
    pub fn span(&self) -> Option<(isize, isize)> {
        if self.count() == 0 {
            return None;
        }
        let (mut low, mut high) = (self.offset as isize, self.offset as isize);
        for (&size, &stride) in self.sizes.iter().zip(&self.strides) {
            let reach = (size as isize - 1) * stride;
            low += reach.min(0);
            high += reach.max(0);
        }
        Some((low, high + 1))
    }

    /// The axes in another order: axis `i` of the result is axis `order[i]`.
    pub fn permute(&self, order: &[usize]) -> Layout {
        Layout {
            sizes: order.iter().map(|&axis| self.sizes[axis]).collect(),
            strides: order.iter().map(|&axis| self.strides[axis]).collect(),
            offset: self.offset,
        }
    }

    /// Broadcast to `sizes`, aligned at the last axis; `None` if that is not possible.
    pub fn expand(&self, sizes: &[usize]) -> Option<Layout> {
        let added = sizes.len().checked_sub(self.sizes.len())?;
        let mut strides = vec![0; sizes.len()];
        for (axis, (&from, &stride)) in self.sizes.iter().zip(&self.strides).enumerate() {
            match (from, sizes[added + axis]) {
                (from, to) if from == to => strides[added + axis] = stride,
                (1, _) => {}
                _ => return None,
            }
        }
        Some(Layout { sizes: sizes.to_vec(), strides, offset: self.offset })
    }

    /// Every `step`-th index of `start..stop` along `axis`. The caller keeps the range inside.
    pub fn slice(&self, axis: usize, start: usize, stop: usize, step: usize) -> Layout {
        let mut view = self.clone();
        view.sizes[axis] = stop.saturating_sub(start).div_ceil(step);
        view.strides[axis] *= step as isize;
        if view.count() > 0 {
            view.offset = (view.offset as isize + start as isize * self.strides[axis]) as usize;
        }
        view
    }

    /// The indices along `axis` in reverse order.
    pub fn flip(&self, axis: usize) -> Layout {
        let mut view = self.clone();
        if self.sizes[axis] > 0 && self.count() > 0 {
            let last = (self.sizes[axis] as isize - 1) * self.strides[axis];
            view.offset = (view.offset as isize + last) as usize;
        }
        view.strides[axis] = -view.strides[axis];
        view
    }

    /// A new axis of size 1 in front of `axis`.
    pub fn unsqueeze(&self, axis: usize) -> Layout {
        let mut view = self.clone();
        view.sizes.insert(axis, 1);
        view.strides.insert(axis, 0);
        view
    }

    /// Without `axis`, at its first index.
    pub fn squeeze(&self, axis: usize) -> Layout {
        let mut view = self.clone();
        view.sizes.remove(axis);
        view.strides.remove(axis);
        view
    }

    /// The same elements in row-major order under other sizes, when strides can express that.
    pub fn reshape(&self, sizes: &[usize]) -> Option<Layout> {
        if self.count() == 0 {
            return Some(Layout::contiguous(sizes));
        }
        let old = self.groups();
        let mut strides = vec![0; sizes.len()];
        let (mut group, mut left) = (old.len(), 1);
        let mut stride = 0;
        for axis in (0..sizes.len()).rev().filter(|&axis| sizes[axis] != 1) {
            if left == 1 {
                group = group.checked_sub(1)?;
                (left, stride) = old[group];
            }
            if left % sizes[axis] != 0 {
                return None;
            }
            strides[axis] = stride;
            stride *= sizes[axis] as isize;
            left /= sizes[axis];
        }
        Some(Layout { sizes: sizes.to_vec(), strides, offset: self.offset })
    }

    /// Maximal runs of axes that behave as one axis, as (size, stride), outermost first.
    pub(crate) fn groups(&self) -> Vec<(usize, isize)> {
        let axes: Vec<_> = self.sizes.iter().copied().zip(self.strides.iter().copied()).collect();
        let mut groups: Vec<(usize, isize)> = Vec::new();
        for (size, stride) in axes.into_iter().filter(|&(size, _)| size != 1) {
            match groups.last_mut() {
                Some(last) if last.1 == stride * size as isize => *last = (last.0 * size, stride),
                _ => groups.push((size, stride)),
            }
        }
        groups
    }

    /// The buffer position of each element in row-major order.
    pub fn positions(&self) -> Positions<'_> {
        Positions {
            layout: self,
            index: vec![0; self.sizes.len()],
            at: self.offset as isize,
            left: self.count(),
        }
    }
}

/// Walks a layout in row-major order, like an odometer.
pub struct Positions<'a> {
    layout: &'a Layout,
    index: Vec<usize>,
    at: isize,
    left: usize,
}

impl Iterator for Positions<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let here = self.at as usize;
        for axis in (0..self.index.len()).rev() {
            let (size, stride) = (self.layout.sizes[axis], self.layout.strides[axis]);
            self.index[axis] += 1;
            self.at += stride;
            if self.index[axis] < size {
                break;
            }
            self.index[axis] = 0;
            self.at -= size as isize * stride;
        }
        Some(here)
    }
}
