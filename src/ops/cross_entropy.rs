//! Cross-entropy between logits and class ids, fused: probabilities are never stored.
//! Read next: `loss.rs` for its options and for other losses.

use crate::device::array::Ids;
use crate::device::kernel::Kernel;
use crate::error::refuse;
use crate::tensor::Tensor;
use crate::tensor::autograd::edge;

impl Tensor {
    /// `log(sum(exp(x))) - x[target]` of each row, 0 where the target is ignored:
    /// `[n, classes]`, targets `[n] -> [n]`.
    ///
    /// **Panics** when the targets were checked against more classes than there are, or do not fit.
    #[track_caller]
    pub fn cross_entropy_rows(&self, targets: &Ids) -> Tensor {
        let fits =
            self.ndim() == 2 && targets.sizes() == &self.sizes()[..1] && targets.limit() <= self.sizes()[1];
        if !fits {
            refuse(
                "cross_entropy",
                format_args!(
                    "logits {:?} and targets {:?} below {}",
                    self.sizes(),
                    targets.sizes(),
                    targets.limit()
                ),
            );
        }
        let [losses, log_sum] = self.device().run(Kernel::CrossEntropy { logits: self.array(), targets });
        let (log_sum, targets) = (Tensor::constant(log_sum), targets.clone());
        let pull = edge(self, [self, &log_sum], move |g, [logits, log_sum]| {
            let kernel = Kernel::CrossEntropyGrad {
                logits: logits.array(),
                log_sum: log_sum.array(),
                targets: &targets,
                g: g.array(),
            };
            let [x] = g.device().run(kernel);
            Tensor::constant(x)
        });
        Tensor::from_op("cross_entropy", losses, [pull])
    }
}
