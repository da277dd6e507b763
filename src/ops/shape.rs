//! Ops that only look at the elements differently, or put them side by side.
//!
//! Views (permute, slice, expand, flip, and reshape where strides allow it) move no data. Joining is
//! the one kernel here; padding, rolling and repeating are views and joins.

use std::ops::Range;

use crate::device::kernel::Kernel;
use crate::error::refuse;
use crate::expr::Program;
use crate::layout::{Layout, resolve_axes, resolve_axis};
use crate::ops::elementwise::{elementwise, run_program};
use crate::tensor::Tensor;
use crate::tensor::autograd::edge;

/// Looking at the same elements differently. Each panics when an axis or index does not exist.
impl Tensor {
    /// A view of the same buffer, and how a gradient looks back through it.
    fn view(
        &self,
        name: &'static str,
        layout: Layout,
        pull: impl Fn(&Tensor) -> Tensor + Send + Sync + 'static,
    ) -> Tensor {
        Tensor::from_op(name, self.array().view(layout), [edge(self, [], move |g, []| pull(g))])
    }

    /// The axes in another order: axis `i` of the result is axis `order[i]`.
    #[track_caller]
    pub fn permute(&self, order: &[isize]) -> Tensor {
        let order = resolve_axes("permute", order, self.ndim());
        let mut inverse = vec![usize::MAX; self.ndim()];
        order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
        if order.len() != self.ndim() || inverse.contains(&usize::MAX) {
            refuse("permute", format_args!("{order:?} is no order of the axes of {:?}", self.sizes()));
        }
        let inverse = super::reduce::signed(&inverse);
        self.view("permute", self.layout().permute(&order), move |g| g.permute(&inverse))
    }

    /// With axes `a` and `b` exchanged.
    #[track_caller]
    pub fn transpose(&self, a: isize, b: isize) -> Tensor {
        let (a, b) = (resolve_axis("transpose", a, self.ndim()), resolve_axis("transpose", b, self.ndim()));
        let mut order: Vec<isize> = (0..self.ndim() as isize).collect();
        if self.ndim() > 0 {
            order.swap(a, b);
        }
        self.permute(&order)
    }

    /// The matrix transposed: `[.., m, n] -> [.., n, m]`; fewer than two axes stay as they are.
    pub fn t(&self) -> Tensor {
        if self.ndim() < 2 { self.clone() } else { self.transpose(-2, -1) }
    }

    /// The axis `from` moved to place `to`.
    #[track_caller]
    pub fn move_axis(&self, from: isize, to: isize) -> Tensor {
        let (from, to) =
            (resolve_axis("move_axis", from, self.ndim()), resolve_axis("move_axis", to, self.ndim()));
        let mut order: Vec<isize> = (0..self.ndim() as isize).collect();
        if self.ndim() > 0 {
            let axis = order.remove(from);
            order.insert(to, axis);
        }
        self.permute(&order)
    }

    /// The same elements in row-major order under other sizes.
    ///
    /// **Panics** when the number of elements differs.
    #[track_caller]
    pub fn reshape(&self, sizes: impl AsRef<[usize]>) -> Tensor {
        let sizes = sizes.as_ref();
        if sizes == self.sizes() {
            return self.clone();
        }
        if sizes.iter().product::<usize>() != self.count() {
            refuse("reshape", format_args!("{:?} to {sizes:?}: different numbers of elements", self.sizes()));
        }
        let Some(layout) = self.layout().reshape(sizes) else { return self.contiguous().reshape(sizes) };
        let old = self.sizes().to_vec();
        self.view("reshape", layout, move |g| g.reshape(&old))
    }

    /// The axes `from..=to` as one.
    #[track_caller]
    pub fn flatten(&self, from: isize, to: isize) -> Tensor {
        let (from, to) =
            (resolve_axis("flatten", from, self.ndim()), resolve_axis("flatten", to, self.ndim()));
        if self.ndim() == 0 {
            return self.reshape([1]);
        }
        if from > to {
            refuse("flatten", format_args!("axis {from} lies behind axis {to}"));
        }
        let sizes = self.sizes();
        self.reshape([&sizes[..from], &[sizes[from..=to].iter().product()], &sizes[to + 1..]].concat())
    }

    /// One axis as several, whose sizes multiply to its size.
    #[track_caller]
    pub fn unflatten(&self, axis: isize, sizes: &[usize]) -> Tensor {
        let axis = resolve_axis("unflatten", axis, self.ndim());
        if self.ndim() == 0 || sizes.iter().product::<usize>() != self.sizes()[axis] {
            refuse("unflatten", format_args!("{sizes:?} for axis {axis} of {:?}", self.sizes()));
        }
        self.reshape([&self.sizes()[..axis], sizes, &self.sizes()[axis + 1..]].concat())
    }

    /// Without `axis` if its size is 1, else unchanged.
    #[track_caller]
    pub fn squeeze(&self, axis: isize) -> Tensor {
        let axis = resolve_axis("squeeze", axis, self.ndim());
        if self.sizes().get(axis) != Some(&1) {
            return self.clone();
        }
        self.view("squeeze", self.layout().squeeze(axis), move |g| g.unsqueeze(axis as isize))
    }

    /// A new axis of size 1 at place `axis` of the result.
    #[track_caller]
    pub fn unsqueeze(&self, axis: isize) -> Tensor {
        let axis = resolve_axis("unsqueeze", axis, self.ndim() + 1);
        self.view("unsqueeze", self.layout().unsqueeze(axis), move |g| g.squeeze(axis as isize))
    }

    /// Repeated along axes of size 1 and along new leading axes, without copying.
    ///
    /// **Panics** when the sizes do not broadcast to `sizes`.
    #[track_caller]
    pub fn expand(&self, sizes: impl AsRef<[usize]>) -> Tensor {
        let sizes = sizes.as_ref();
        let Some(layout) = self.layout().expand(sizes) else {
            refuse("expand", format_args!("{:?} does not broadcast to {sizes:?}", self.sizes()))
        };
        if sizes == self.sizes() {
            return self.clone();
        }
        self.view("expand", layout, Tensor::clone)
    }

    /// Every `step`-th index of `range` along `axis`.
    ///
    /// **Panics** when the range leaves the axis or the step is 0.
    #[track_caller]
    pub fn slice(&self, axis: isize, range: Range<usize>, step: usize) -> Tensor {
        self.cut("slice", axis, range, step)
    }

    /// The indices `start..start + length` along `axis`.
    ///
    /// **Panics** when they leave the axis.
    #[track_caller]
    pub fn narrow(&self, axis: isize, start: usize, length: usize) -> Tensor {
        self.cut("narrow", axis, start..start + length, 1)
    }

    /// Every `step`-th index of `range` along `axis`, on behalf of `op`.
    #[track_caller]
    fn cut(&self, op: &'static str, axis: isize, range: Range<usize>, step: usize) -> Tensor {
        let at = resolve_axis(op, axis, self.ndim());
        let size = self.size(axis);
        if range.start > range.end || range.end > size || step == 0 || self.ndim() == 0 {
            refuse(op, format_args!("{range:?} by {step} along axis {at} of {:?}", self.sizes()));
        }
        if range == (0..size) && step == 1 {
            return self.clone();
        }
        let layout = self.layout().slice(at, range.start, range.end, step);
        self.view(op, layout, move |g| g.unslice(at, &range, step, size))
    }

    /// Zeros of `size` along `axis`, with this tensor where [`Tensor::slice`] had taken it from.
    fn unslice(&self, axis: usize, range: &Range<usize>, step: usize, size: usize) -> Tensor {
        let axis = axis as isize;
        let mut spread = self.clone();
        if step > 1 && self.size(axis) > 0 {
            // Each element followed by step - 1 zeros, less what reaches past the range.
            let rows = self.unsqueeze(axis + 1).pad_axis(axis + 1, 0, step - 1, 0.0).flatten(axis, axis + 1);
            spread = rows.narrow(axis, 0, rows.size(axis).min(range.len()));
        }
        let after = size - range.start - spread.size(axis);
        spread.pad_axis(axis, range.start, after, 0.0)
    }

    /// One index along `axis`, which disappears.
    #[track_caller]
    pub fn select(&self, axis: isize, index: usize) -> Tensor {
        let at = resolve_axis("select", axis, self.ndim());
        if index >= self.size(axis) || self.ndim() == 0 {
            refuse("select", format_args!("index {index} along axis {at} of {:?}", self.sizes()));
        }
        self.narrow(axis, index, 1).squeeze(at as isize)
    }

    /// The indices along `axis` in reverse order.
    #[track_caller]
    pub fn flip(&self, axis: isize) -> Tensor {
        let axis = resolve_axis("flip", axis, self.ndim());
        if self.ndim() == 0 {
            return self.clone();
        }
        self.view("flip", self.layout().flip(axis), move |g| g.flip(axis as isize))
    }

    /// The elements whose last two indices differ by `offset`, as a new last axis:
    /// `[.., m, n] -> [.., k]`.
    ///
    /// **Panics** when there are fewer than two axes.
    #[track_caller]
    pub fn diagonal(&self, offset: isize) -> Tensor {
        if self.ndim() < 2 {
            refuse("diagonal", format_args!("{:?} has no last two axes", self.sizes()));
        }
        let (m, n) = (self.size(-2), self.size(-1));
        let (row, column) = ((-offset).max(0) as usize, offset.max(0) as usize);
        let count = m.saturating_sub(row).min(n.saturating_sub(column));
        let square = match count {
            0 => return self.narrow(-2, 0, 0).sum(-2).narrow(-1, 0, 0),
            _ => self.narrow(-2, row, count).narrow(-1, column, count),
        };
        let ones = Tensor::ones([count, count], &self.device()).tril(0).triu(0);
        Tensor::where_(&ones, &square, &Tensor::zeros([], &self.device())).sum(-1)
    }

    /// The same elements, dense in row-major order.
    pub fn contiguous(&self) -> Tensor {
        if self.layout().is_contiguous() {
            return self.clone();
        }
        let [value] = run_program("contiguous", &[self], &Program::build(|[x]| x));
        Tensor::from_op("contiguous", value, [edge(self, [], |g, []| g.clone())])
    }
}

/// Putting elements side by side. Each panics when the sizes do not fit.
impl Tensor {
    /// Tensors behind one another along `axis`.
    ///
    /// **Panics** when there is none, or when other sizes than that of `axis` differ.
    #[track_caller]
    pub fn concat(parts: &[&Tensor], axis: isize) -> Tensor {
        let Some(first) = parts.first() else { refuse("concat", "no tensors") };
        let at = resolve_axis("concat", axis, first.ndim());
        let others = |x: &Tensor| {
            let mut sizes = x.sizes().to_vec();
            (at < sizes.len()).then(|| sizes.remove(at)).map(|_| sizes)
        };
        if parts.iter().any(|part| others(part).is_none() || others(part) != others(first)) {
            let all: Vec<_> = parts.iter().map(|part| part.sizes()).collect();
            refuse("concat", format_args!("sizes {all:?} differ besides axis {at}"));
        }
        if let Some(other) = parts.iter().find(|part| part.device() != first.device()) {
            refuse("concat", format_args!("operands on {} and {}", first.device(), other.device()));
        }
        let arrays: Vec<_> = parts.iter().map(|part| part.array()).collect();
        let [value] = first.device().run(Kernel::Concat { parts: &arrays, axis: at });
        let mut start = 0;
        let edges = parts.iter().map(|part| {
            let (from, size) = (start, part.sizes()[at]);
            start += size;
            edge(part, [], move |g, []| g.narrow(at as isize, from, size))
        });
        Tensor::from_op("concat", value, edges)
    }

    /// Tensors of equal sizes along a new axis.
    ///
    /// **Panics** when there is none, or when their sizes differ.
    #[track_caller]
    pub fn stack(parts: &[&Tensor], axis: isize) -> Tensor {
        let Some(first) = parts.first() else { refuse("stack", "no tensors") };
        let at = resolve_axis("stack", axis, first.ndim() + 1);
        if let Some(other) = parts.iter().find(|part| part.sizes() != first.sizes()) {
            refuse("stack", format_args!("{:?} beside {:?}", first.sizes(), other.sizes()));
        }
        let parts: Vec<Tensor> = parts.iter().map(|part| part.unsqueeze(axis)).collect();
        Tensor::concat(&parts.iter().collect::<Vec<_>>(), at as isize)
    }

    /// Pieces of the given sizes along `axis`.
    ///
    /// **Panics** when they do not add up to its size.
    #[track_caller]
    pub fn split(&self, axis: isize, sizes: &[usize]) -> Vec<Tensor> {
        let at = resolve_axis("split", axis, self.ndim());
        if self.ndim() == 0 || sizes.iter().sum::<usize>() != self.size(axis) {
            refuse("split", format_args!("{sizes:?} do not add up to axis {at} of {:?}", self.sizes()));
        }
        let mut start = 0;
        let piece = |&size: &usize| {
            start += size;
            self.narrow(axis, start - size, size)
        };
        sizes.iter().map(piece).collect()
    }

    /// At most `count` pieces of equal size along `axis`; the last may be smaller.
    #[track_caller]
    pub fn chunk(&self, count: usize, axis: isize) -> Vec<Tensor> {
        resolve_axis("chunk", axis, self.ndim());
        let size = self.size(axis);
        let piece = size.div_ceil(count.max(1)).max(1);
        let sizes: Vec<usize> =
            (0..size.max(1)).step_by(piece).map(|start| piece.min(size - start)).collect();
        self.split(axis, &sizes)
    }

    /// `value` before and after the elements of one axis.
    #[track_caller]
    pub fn pad_axis(&self, axis: isize, before: usize, after: usize, value: f64) -> Tensor {
        let at = resolve_axis("pad", axis, self.ndim());
        if self.ndim() == 0 {
            refuse("pad", "[] has no axis to pad");
        }
        let border = |size: usize| {
            let mut sizes = self.sizes().to_vec();
            sizes[at] = size;
            Tensor::full(value, sizes, &self.device())
        };
        match (before, after) {
            (0, 0) => self.clone(),
            (0, _) => Tensor::concat(&[self, &border(after)], axis),
            (_, 0) => Tensor::concat(&[&border(before), self], axis),
            _ => Tensor::concat(&[&border(before), self, &border(after)], axis),
        }
    }

    /// `value` around the elements: one (before, after) per axis from the first; negative numbers
    /// cut elements off.
    ///
    /// **Panics** when there are more pairs than axes, or more is cut off than there is.
    #[track_caller]
    pub fn pad(&self, borders: &[(isize, isize)], value: f64) -> Tensor {
        if borders.len() > self.ndim() {
            refuse("pad", format_args!("{} borders for the axes of {:?}", borders.len(), self.sizes()));
        }
        let mut padded = self.clone();
        for (axis, &(before, after)) in borders.iter().enumerate() {
            let size = padded.sizes()[axis];
            let (cut_before, cut_after) = ((-before).max(0) as usize, (-after).max(0) as usize);
            if cut_before + cut_after > size {
                refuse("pad", format_args!("{borders:?} cut more than there is of {:?}", self.sizes()));
            }
            let axis = axis as isize;
            padded = padded.narrow(axis, cut_before, size - cut_before - cut_after).pad_axis(
                axis,
                before.max(0) as usize,
                after.max(0) as usize,
                value,
            );
        }
        padded
    }

    /// The elements moved by `shift` places along `axis`; what leaves at one end enters at the other.
    #[track_caller]
    pub fn roll(&self, shift: isize, axis: isize) -> Tensor {
        resolve_axis("roll", axis, self.ndim());
        let size = self.size(axis);
        if size == 0 || self.ndim() == 0 {
            return self.clone();
        }
        match shift.rem_euclid(size as isize) as usize {
            0 => self.clone(),
            shift => Tensor::concat(
                &[&self.narrow(axis, size - shift, shift), &self.narrow(axis, 0, size - shift)],
                axis,
            ),
        }
    }

    /// The whole tensor `times[i]` times along axis `i`; more numbers than axes add leading axes.
    #[track_caller]
    pub fn repeat(&self, times: &[usize]) -> Tensor {
        if times.len() < self.ndim() {
            refuse("repeat", format_args!("{times:?} for the axes of {:?}", self.sizes()));
        }
        let added = times.len() - self.ndim();
        let (mut spread, mut repeated, mut joined) = (Vec::new(), Vec::new(), Vec::new());
        for (axis, &times) in times.iter().enumerate() {
            let size = if axis < added { 1 } else { self.sizes()[axis - added] };
            spread.extend([1, size]);
            repeated.extend([times, size]);
            joined.push(times * size);
        }
        self.reshape(spread).expand(repeated).reshape(joined)
    }

    /// The lower triangle of the last two axes up to diagonal `k`; zeros above.
    #[track_caller]
    pub fn tril(&self, k: isize) -> Tensor {
        self.triangle("tril", k, true)
    }

    /// The upper triangle of the last two axes from diagonal `k`; zeros below.
    #[track_caller]
    pub fn triu(&self, k: isize) -> Tensor {
        self.triangle("triu", k, false)
    }

    #[track_caller]
    fn triangle(&self, name: &'static str, k: isize, lower: bool) -> Tensor {
        if self.ndim() < 2 {
            refuse(name, format_args!("{:?} has no last two axes", self.sizes()));
        }
        let rows = Tensor::arange(self.size(-2), &self.device()).unsqueeze(1);
        let columns = Tensor::arange(self.size(-1), &self.device());
        elementwise(name, [self, &rows, &columns], |[x, row, column]| {
            let edge = row + k as f64;
            let inside = if lower { column.less_equal(edge) } else { edge.less_equal(column) };
            inside.select(x, 0.0)
        })
    }
}
