//! Layer norm and root-mean-square norm: one kernel normalises rows; gain and shift are elementwise.

use crate::device::kernel::Kernel;
use crate::error::refuse;
use crate::layout::resolve_axis;
use crate::ops::elementwise::elementwise;
use crate::tensor::Tensor;
use crate::tensor::autograd::edge;

/// Normalising rows. Each panics when weight or bias do not have the size of the last axis.
impl Tensor {
    /// Rows of mean 0 and variance 1, times `weight`, plus `bias` (arXiv 1607.06450): `[.., n]`, both `[n]`.
    #[track_caller]
    pub fn layer_norm(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Tensor {
        self.scaled_rows("layer_norm", weight, bias, eps, true)
    }

    /// Rows of root mean square 1, times `weight` (arXiv 1910.07467): `[.., n]`, weight `[n]`.
    #[track_caller]
    pub fn rms_norm(&self, weight: Option<&Tensor>, eps: f64) -> Tensor {
        self.scaled_rows("rms_norm", weight, None, eps, false)
    }

    /// Each row over its Euclidean length, or over `eps` if that is larger.
    #[track_caller]
    pub fn normalize(&self, axis: isize, eps: f64) -> Tensor {
        let axis = resolve_axis("normalize", axis, self.ndim()) as isize;
        let length = self.norm_keep(axis);
        elementwise("normalize", [self, &length], |[x, length]| x / length.max(eps))
    }

    #[track_caller]
    fn scaled_rows(
        &self,
        op: &str,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
        centred: bool,
    ) -> Tensor {
        if self.ndim() == 0 {
            refuse(op, "a scalar has no rows");
        }
        let misfit = [weight, bias].into_iter().flatten().find(|part| part.sizes() != [self.size(-1)]);
        if let Some(part) = misfit {
            refuse(
                op,
                format_args!("rows of {:?} with a weight or bias of {:?}", self.sizes(), part.sizes()),
            );
        }
        let y = self.normalised(eps, centred);
        match (weight, bias) {
            (Some(weight), Some(bias)) => {
                elementwise("scale_shift", [&y, weight, bias], |[y, w, b]| y * w + b)
            }
            (Some(weight), None) => y * weight,
            (None, Some(bias)) => y + bias,
            (None, None) => y,
        }
    }

    fn normalised(&self, eps: f64, centred: bool) -> Tensor {
        let [y, rstd] = self.device().run(Kernel::Normalise { x: self.array(), eps, centred });
        let saved = [Tensor::constant(y.clone()), Tensor::constant(rstd)];
        let pull = edge(self, saved.each_ref(), move |g, [y, rstd]| {
            let kernel = Kernel::NormaliseGrad { y: y.array(), rstd: rstd.array(), g: g.array(), centred };
            let [x] = g.device().run(kernel);
            Tensor::constant(x)
        });
        Tensor::from_op("normalise", y, [pull])
    }
}
