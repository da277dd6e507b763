//! Layer norm and root-mean-square norm: one kernel normalises rows, multiplies by a weight and adds a bias.

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
        op: &'static str,
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
        let (width, device) = (self.size(-1), self.device());
        let weight = weight.cloned().unwrap_or_else(|| Tensor::ones([width], &device));
        let bias = bias.cloned().unwrap_or_else(|| Tensor::zeros([width], &device));
        let [y, statistics] = device.run(Kernel::Normalise {
            x: self.array(),
            weight: weight.array(),
            bias: bias.array(),
            eps,
            centred,
        });
        let statistics = Tensor::constant(statistics);
        let to_rows = edge(self, [self, &weight, &statistics], move |g, [x, weight, statistics]| {
            let (x, weight, statistics) = (x.array(), weight.array(), statistics.array());
            let [dx] = g.device().run(Kernel::NormaliseGrad { x, weight, statistics, g: g.array(), centred });
            Tensor::constant(dx)
        });
        let to_weight = edge(&weight, [self, &statistics], |g, [x, statistics]| {
            let [mean, rstd] = [0, 1].map(|at| statistics.narrow(-1, at, 1));
            elementwise("pull", [g, x, &mean, &rstd], |[g, x, mean, rstd]| g * ((x - mean) * rstd))
        });
        let to_bias = edge(&bias, [], |g, []| g.clone());
        Tensor::from_op(op, y, [to_rows, to_weight, to_bias])
    }
}
