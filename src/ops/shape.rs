//! Ops that only look at the elements differently: permute, slice, expand, flip, and reshape where
//! strides allow it move no data; and those that blank out a triangle.
//! Read next: `join.rs`, which puts elements side by side.

use std::ops::Range;

use crate::error::refuse;
use crate::expr::Program;
use crate::layout::{self, Layout, resolve_axes, resolve_axis};
use crate::ops::elementwise::{elementwise, run_program};
use crate::tensor::Tensor;
use crate::tensor::autograd::edge;

/// Looking at the same elements differently. Each panics when an axis or index does not exist.
impl Tensor {
    /// A view of the same buffer, and how a gradient looks back through it.
    #[track_caller]
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
        let mut inverse: Vec<usize> = (0..order.len()).collect();
        inverse.sort_unstable_by_key(|&to| order[to]);
        if !inverse.iter().map(|&to| order[to]).eq(0..self.ndim()) {
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
        if layout::count(sizes) != self.count() {
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
        if self.ndim() == 0 || layout::count(sizes) != self.sizes()[axis] {
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
        // A longer step would leave more zeros behind the elements on the way back, and no others here.
        let step = step.min(range.len().max(1));
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
        let (row, column) = (offset.min(0).unsigned_abs(), offset.max(0) as usize);
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
        let [value] = run_program("contiguous", vec![self.array().clone()], &Program::build(|[x]| x));
        Tensor::from_op("contiguous", value, [edge(self, [], |g, []| g.clone())])
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
