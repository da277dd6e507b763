//! Ops that fold axes: sums, means, extremes, spreads.
//!
//! Axes are named as in PyTorch (-1 is the last, `..` is all); `_keep` leaves them with size 1.
//! Only sum and max are kernels.

use std::ops::RangeFull;

use crate::device::kernel::{Fold, Kernel};
use crate::error::refuse;
use crate::layout::resolve_axes;
use crate::ops::elementwise::elementwise;
use crate::tensor::Tensor;
use crate::tensor::autograd::edge;

/// What names axes: one number, several, or `..` for all.
pub trait Axes {
    /// The axes among `ndim`, sorted.
    ///
    /// **Panics** when one does not exist or is named twice.
    #[track_caller]
    fn resolve(&self, op: &str, ndim: usize) -> Vec<usize>;
}

impl Axes for isize {
    fn resolve(&self, op: &str, ndim: usize) -> Vec<usize> {
        [*self].resolve(op, ndim)
    }
}

impl Axes for RangeFull {
    fn resolve(&self, _: &str, ndim: usize) -> Vec<usize> {
        (0..ndim).collect()
    }
}

impl<const N: usize> Axes for [isize; N] {
    fn resolve(&self, op: &str, ndim: usize) -> Vec<usize> {
        self[..].resolve(op, ndim)
    }
}

impl Axes for [isize] {
    fn resolve(&self, op: &str, ndim: usize) -> Vec<usize> {
        let mut axes = resolve_axes(op, self, ndim);
        axes.sort_unstable();
        if axes.windows(2).any(|pair| pair[0] == pair[1]) {
            refuse(op, format_args!("axes {self:?} name one axis twice"));
        }
        axes.retain(|&axis| axis < ndim);
        axes
    }
}

impl<A: Axes + ?Sized> Axes for &A {
    fn resolve(&self, op: &str, ndim: usize) -> Vec<usize> {
        (**self).resolve(op, ndim)
    }
}

/// Folding axes. Each panics when an axis does not exist.
impl Tensor {
    /// The sum over `axes`, which disappear.
    #[track_caller]
    pub fn sum(&self, axes: impl Axes) -> Tensor {
        self.sum_keep(&axes).dropped(&axes)
    }

    /// The sum over `axes`, which keep size 1.
    #[track_caller]
    pub fn sum_keep(&self, axes: impl Axes) -> Tensor {
        let axes = axes.resolve("sum", self.ndim());
        let [value] = self.device().run(Kernel::Reduce { op: Fold::Sum, x: self.array(), axes: &axes });
        let sizes = self.sizes().to_vec();
        Tensor::from_op("sum", value, [edge(self, [], move |g, []| g.expand(&sizes))])
    }

    /// The largest over `axes`, which disappear; equal ones share the gradient evenly.
    ///
    /// **Panics** when there is nothing to choose from.
    #[track_caller]
    pub fn max(&self, axes: impl Axes) -> Tensor {
        self.max_keep(&axes).dropped(&axes)
    }

    /// The largest over `axes`, which keep size 1; equal ones share the gradient evenly.
    ///
    /// **Panics** when there is nothing to choose from.
    #[track_caller]
    pub fn max_keep(&self, axes: impl Axes) -> Tensor {
        self.largest("max", axes)
    }

    /// The largest over `axes`, which keep size 1, on behalf of `op`.
    #[track_caller]
    fn largest(&self, op: &'static str, axes: impl Axes) -> Tensor {
        let axes = axes.resolve(op, self.ndim());
        if axes.iter().any(|&axis| self.sizes()[axis] == 0) {
            refuse(op, format_args!("nothing to choose from along axes {axes:?} of {:?}", self.sizes()));
        }
        let [value] = self.device().run(Kernel::Reduce { op: Fold::Max, x: self.array(), axes: &axes });
        let value = Tensor::constant(value);
        let axes: Vec<isize> = axes.into_iter().map(|axis| axis as isize).collect();
        let pull = edge(self, [self, &value], move |g, [x, y]| {
            let hit = elementwise("max_pull", [x, y], |[x, y]| {
                let both_nan = (1.0 - x.equal(x)) * (1.0 - y.equal(y));
                x.equal(y) + both_nan
            });
            &hit / hit.sum_keep(&axes[..]) * g
        });
        Tensor::from_op("max", value.array().clone(), [pull])
    }

    /// The smallest over `axes`, which disappear; equal ones share the gradient evenly.
    ///
    /// **Panics** when there is nothing to choose from.
    #[track_caller]
    pub fn min(&self, axes: impl Axes) -> Tensor {
        self.min_keep(&axes).dropped(&axes)
    }

    /// The smallest over `axes`, which keep size 1; equal ones share the gradient evenly.
    ///
    /// **Panics** when there is nothing to choose from.
    #[track_caller]
    pub fn min_keep(&self, axes: impl Axes) -> Tensor {
        -(-self).largest("min", axes)
    }

    /// The mean over `axes`, which disappear.
    #[track_caller]
    pub fn mean(&self, axes: impl Axes) -> Tensor {
        self.mean_keep(&axes).dropped(&axes)
    }

    /// The mean over `axes`, which keep size 1.
    #[track_caller]
    pub fn mean_keep(&self, axes: impl Axes) -> Tensor {
        let axes = axes.resolve("mean", self.ndim());
        let count: usize = axes.iter().map(|&axis| self.sizes()[axis]).product();
        self.sum_keep(&signed(&axes)[..]) / count as f64
    }

    /// The variance over `axes`, which disappear: squared distances over (count - `correction`).
    #[track_caller]
    pub fn var(&self, axes: impl Axes, correction: f64) -> Tensor {
        self.var_keep(&axes, correction).dropped(&axes)
    }

    /// The variance over `axes`, which keep size 1.
    #[track_caller]
    pub fn var_keep(&self, axes: impl Axes, correction: f64) -> Tensor {
        let axes = axes.resolve("var", self.ndim());
        let count: usize = axes.iter().map(|&axis| self.sizes()[axis]).product();
        let axes = signed(&axes);
        let distances = self - self.mean_keep(&axes[..]);
        distances.square().sum_keep(&axes[..]) / (count as f64 - correction).max(0.0)
    }

    /// The standard deviation over `axes`, which disappear; the slope where nothing varies is 0.
    #[track_caller]
    pub fn std(&self, axes: impl Axes, correction: f64) -> Tensor {
        let axes = signed(&axes.resolve("std", self.ndim()));
        flat_at_zero("std", &self.var(&axes[..], correction))
    }

    /// `log(sum(exp(x)))` over `axes`, which disappear; nothing overflows.
    #[track_caller]
    pub fn logsumexp(&self, axes: impl Axes) -> Tensor {
        self.logsumexp_keep(&axes).dropped(&axes)
    }

    /// `log(sum(exp(x)))` over `axes`, which keep size 1.
    #[track_caller]
    pub fn logsumexp_keep(&self, axes: impl Axes) -> Tensor {
        let axes = axes.resolve("logsumexp", self.ndim());
        let axes = signed(&axes);
        if self.count() == 0 {
            return self.exp().sum_keep(&axes[..]).log();
        }
        let (shift, sum) = self.shifted_exp_sum(&axes);
        let y = elementwise("log", [&sum, &shift], |[sum, shift]| sum.ln() + shift);
        let pull = edge(self, [self, &y], |g, [x, y]| {
            elementwise("logsumexp_pull", [g, x, y], |[g, x, y]| g * (x - y).exp())
        });
        Tensor::from_op("logsumexp", y.array().clone(), [pull])
    }

    /// A shift and `sum(exp(x - shift))` over axes that keep size 1, without history. The shift is
    /// the maximum, so that nothing overflows; an infinite one would turn `x - shift` into NaN, and
    /// without a shift the result is right.
    pub(crate) fn shifted_exp_sum(&self, axes: &[isize]) -> (Tensor, Tensor) {
        let x = self.detach();
        let max = x.max_keep(axes);
        let shift = elementwise("finite", [&max], |[m]| m.abs().less(f64::INFINITY).select(m, 0.0));
        let sum = elementwise("exp", [&x, &shift], |[x, shift]| (x - shift).exp()).sum_keep(axes);
        (shift, sum)
    }

    /// The Euclidean length over `axes`, which disappear; the slope at length 0 is 0.
    #[track_caller]
    pub fn norm(&self, axes: impl Axes) -> Tensor {
        self.norm_keep(&axes).dropped(&axes)
    }

    /// The Euclidean length over `axes`, which keep size 1; the slope at length 0 is 0.
    #[track_caller]
    pub fn norm_keep(&self, axes: impl Axes) -> Tensor {
        let axes = signed(&axes.resolve("norm", self.ndim()));
        let squared = self.square().sum_keep(&axes[..]);
        flat_at_zero("norm", &squared)
    }

    /// Without `axes`, which a fold has left with size 1.
    #[track_caller]
    fn dropped(&self, axes: &impl Axes) -> Tensor {
        let axes = axes.resolve("reduction", self.ndim());
        let kept = (0..self.ndim()).filter(|axis| !axes.contains(axis)).map(|axis| self.sizes()[axis]);
        self.reshape(kept.collect::<Vec<usize>>())
    }
}

/// The square root, with the slope 0 at 0, where that of the root alone is infinite.
fn flat_at_zero(op: &'static str, squared: &Tensor) -> Tensor {
    elementwise(op, [squared], |[s]| s.equal(0.0).select(0.0, s.sqrt()))
}

pub(crate) fn signed(axes: &[usize]) -> Vec<isize> {
    axes.iter().map(|&axis| axis as isize).collect()
}
