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

    /// `x - log(sum(exp(x)))` along `axis`.
    #[track_caller]
    pub fn log_softmax(&self, axis: isize) -> Tensor {
        let axis = resolve_axis("log_softmax", axis, self.ndim()) as isize;
        let log_sum = self.logsumexp_keep(axis);
        elementwise("log_softmax", [self, &log_sum], |[x, log_sum]| x - log_sum)
    }
}
