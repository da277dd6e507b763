//! Softmax and its logarithm along one axis. The kernel works on the last axis; others are moved there.

use crate::device::kernel::Kernel;
use crate::layout::resolve_axis;
use crate::ops::elementwise::elementwise;
use crate::tensor::Tensor;
use crate::tensor::autograd::edge;

/// Probabilities along an axis. Each panics when the axis does not exist.
impl Tensor {
    /// `exp(x) / sum(exp(x))` along `axis`.
    #[track_caller]
    pub fn softmax(&self, axis: isize) -> Tensor {
        let axis = resolve_axis("softmax", axis, self.ndim()) as isize;
        if self.ndim() == 0 {
            return self.reshape([1]).softmax(0).reshape([]);
        }
        if axis + 1 != self.ndim() as isize {
            return self.transpose(axis, -1).softmax(-1).transpose(axis, -1);
        }
        let [y] = self.device().run(Kernel::Softmax { x: self.array() });
        let saved = Tensor::constant(y.clone());
        let pull = edge(self, [&saved], |g, [y]| {
            let [x] = g.device().run(Kernel::SoftmaxGrad { y: y.array(), g: g.array() });
            Tensor::constant(x)
        });
        Tensor::from_op("softmax", y, [pull])
    }

    /// `x - log(sum(exp(x)))` along `axis`; right also where all elements are huge.
    #[track_caller]
    pub fn log_softmax(&self, axis: isize) -> Tensor {
        let axis = resolve_axis("log_softmax", axis, self.ndim()) as isize;
        if self.count() == 0 {
            return self.clone();
        }
        let (shift, sum) = self.shifted_exp_sum(&[axis]);
        // The shift first: beside a huge x, the logarithm of the sum would vanish.
        let y = elementwise("log_softmax", [&self.detach(), &shift, &sum], |[x, shift, sum]| {
            x - shift - sum.ln()
        });
        let pull = edge(self, [&y], move |g, [y]| {
            elementwise("log_softmax_pull", [g, y, &g.sum_keep(axis)], |[g, y, sum]| g - y.exp() * sum)
        });
        Tensor::from_op("log_softmax", y.array().clone(), [pull])
    }
}
