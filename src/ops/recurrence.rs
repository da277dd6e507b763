//! First-order linear recurrences, and the cumulative sums and products that are special cases.

use crate::device::kernel::Kernel;
use crate::error::refuse;
use crate::layout::resolve_axis;
use crate::tensor::Tensor;
use crate::tensor::autograd::edge;

/// Running along an axis. Each panics when the axis does not exist.
impl Tensor {
    /// `h[t] = decay[t]·h[t-1] + input[t]` along the last axis, from `h[-1] = 0`: both `[.., time]`.
    ///
    /// **Panics** when the sizes differ.
    #[track_caller]
    pub fn recurrence(decay: &Tensor, input: &Tensor) -> Tensor {
        if decay.sizes() != input.sizes() || decay.ndim() == 0 || decay.device() != input.device() {
            refuse("recurrence", format_args!("decay {:?} and input {:?}", decay.sizes(), input.sizes()));
        }
        let [h] = decay.device().run(Kernel::Recurrence { decay: decay.array(), input: input.array() });
        let h = Tensor::constant(h);
        // The gradient runs the same recurrence from the end: s[t] = g[t] + decay[t+1]·s[t+1].
        let from_the_end =
            |g: &Tensor, decay: &Tensor| Tensor::recurrence(&shifted(&decay.flip(-1)), &g.flip(-1)).flip(-1);
        let edges = [
            edge(decay, [decay, &h], move |g, [decay, h]| from_the_end(g, decay) * shifted(h)),
            edge(input, [decay], move |g, [decay]| from_the_end(g, decay)),
        ];
        Tensor::from_op("recurrence", h.array().clone(), edges)
    }

    /// The sum of the elements up to each one along `axis`.
    #[track_caller]
    pub fn cumsum(&self, axis: isize) -> Tensor {
        self.along("cumsum", axis, |x| Tensor::recurrence(&Tensor::ones(x.sizes(), &x.device()), x))
    }

    /// The product of the elements up to each one along `axis`; right also where elements are 0.
    #[track_caller]
    pub fn cumprod(&self, axis: isize) -> Tensor {
        self.along("cumprod", axis, |x| {
            let first = x.size(-1).min(1);
            let later = x.size(-1) - first;
            // The first element is where a row starts and no factor: infinity times the 0 before it
            // would be NaN.
            let factors = x.narrow(-1, first, later).pad_axis(-1, first, 0, 0.0);
            Tensor::recurrence(&factors, &x.narrow(-1, 0, first).pad_axis(-1, 0, later, 0.0))
        })
    }

    /// The product of the elements along `axis`, which disappears; right also where elements are 0.
    #[track_caller]
    pub fn prod(&self, axis: isize) -> Tensor {
        let axis = resolve_axis("prod", axis, self.ndim()) as isize;
        match self.size(axis) {
            0 => self.sum(axis) + 1.0,
            size if self.ndim() > 0 => self.cumprod(axis).select(axis, size - 1),
            _ => self.clone(),
        }
    }

    #[track_caller]
    fn along(&self, op: &str, axis: isize, run: impl Fn(&Tensor) -> Tensor) -> Tensor {
        let axis = resolve_axis(op, axis, self.ndim()) as isize;
        match self.ndim() {
            0 => self.clone(),
            _ => run(&self.transpose(axis, -1)).transpose(axis, -1),
        }
    }
}

/// The rows one place later, with 0 in front.
fn shifted(x: &Tensor) -> Tensor {
    let size = x.size(-1);
    x.narrow(-1, 0, size.saturating_sub(1)).pad_axis(-1, size.min(1), 0, 0.0)
}
