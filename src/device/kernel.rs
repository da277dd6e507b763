//! Everything a device must be able to do, as data.
//!
//! A kernel names its inputs; [`Kernel::output_sizes`] says what comes out. Adding a variant makes
//! the compiler list what is left to write: a definition in `reference.rs`, a fast form in `cpu/`,
//! a shader. Row kernels (softmax, normalise, sort, ...) work along the last axis.
//! Read next: `reference.rs`, which defines each of them in a few plain lines.

use super::array::{Array, Ids};
use crate::expr::Program;

/// What a reduction does with the elements it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduction {
    Sum,
    Max,
}

/// One unit of work for a device.
pub enum Kernel<'a> {
    /// A program on each element; the inputs are already broadcast to `sizes`.
    Elementwise {
        /// The formula.
        program: &'a Program,
        /// One array per input, each of `sizes`. They are given away, so that a device may write an
        /// output where an input lay, if nobody else holds it.
        inputs: Vec<Array>,
        /// The sizes of inputs and outputs.
        sizes: &'a [usize],
    },
    /// Folds the elements along `axes`; those axes get size 1.
    Reduce {
        /// Sum or maximum.
        op: Reduction,
        /// Any sizes.
        x: &'a Array,
        /// Sorted, without repetition.
        axes: &'a [usize],
    },
    /// The first position of the largest element (or of the first NaN) of each row: `[.., n] -> [..]`.
    ArgMax {
        /// `[.., n]`, n at least 1.
        x: &'a Array,
    },
    /// The positions that sort each row, equal elements in their order: `[.., n] -> [.., n]`.
    ArgSort {
        /// `[.., n]`; NaN counts as largest.
        x: &'a Array,
        /// Largest first.
        descending: bool,
    },
    /// `h[t] = decay[t]·h[t-1] + input[t]` along each row, from `h[-1] = 0`.
    Recurrence {
        /// `[.., n]`
        decay: &'a Array,
        /// `[.., n]`
        input: &'a Array,
    },
    /// `scale · a·b + add`: `[batch.., m, k] · [batch.., k, n] -> [batch.., m, n]`.
    MatMul {
        /// `[batch.., m, k]`
        a: &'a Array,
        /// `[batch.., k, n]`
        b: &'a Array,
        /// Multiplies the product.
        scale: f64,
        /// `[batch.., m, n]` (broadcast views are fine), or nothing.
        add: Option<&'a Array>,
    },
    /// Arrays behind one another along `axis`.
    Concat {
        /// At least one; all sizes but that of `axis` agree.
        parts: &'a [&'a Array],
        /// Where they are joined.
        axis: usize,
    },
    /// Row `ids[i]` of a table; zeros for an ignored id: `[rows, width] -> [ids.., width]`.
    Gather {
        /// `[rows, width]`
        table: &'a Array,
        /// Limited by `rows`.
        ids: &'a Ids,
    },
    /// Adds row i to row `ids[i]` of zeros: `[ids.., width] -> [count, width]`.
    ScatterAdd {
        /// `[ids.., width]`
        rows: &'a Array,
        /// Limited by `count`.
        ids: &'a Ids,
        /// Rows of the result.
        count: usize,
    },
    /// `exp(x - max) / sum` of each row.
    Softmax {
        /// `[.., n]`
        x: &'a Array,
    },
    /// `y·(g - sum(g·y))` of each row.
    SoftmaxGrad {
        /// The softmax.
        y: &'a Array,
        /// The incoming gradient.
        g: &'a Array,
    },
    /// `(x - mean) · rstd` of each row and `rstd = 1/sqrt(mean((x - mean)²) + eps)`, `[.., 1]`.
    Normalise {
        /// `[.., n]`
        x: &'a Array,
        /// Keeps the root away from 0.
        eps: f64,
        /// With `false` the mean counts as 0 (root mean square).
        centred: bool,
    },
    /// The gradient of [`Kernel::Normalise`].
    NormaliseGrad {
        /// The normalised rows.
        y: &'a Array,
        /// `[.., 1]`
        rstd: &'a Array,
        /// The incoming gradient.
        g: &'a Array,
        /// As in the forward kernel.
        centred: bool,
    },
    /// `log(sum(exp(x))) - x[target]` of each row, 0 where ignored, and the log-sum: `[n, classes] -> [n], [n]`.
    CrossEntropy {
        /// `[n, classes]`
        logits: &'a Array,
        /// `[n]`, limited by `classes`.
        targets: &'a Ids,
    },
    /// `(softmax(x) - onehot(target))·g` of each row, 0 where ignored.
    CrossEntropyGrad {
        /// `[n, classes]`
        logits: &'a Array,
        /// `[n]`
        log_sum: &'a Array,
        /// `[n]`
        targets: &'a Ids,
        /// `[n]`
        g: &'a Array,
    },
}

impl Kernel<'_> {
    /// The kernel's name in traces and counts: the variant's, in snake case.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Elementwise { .. } => "elementwise",
            Kernel::Reduce { .. } => "reduce",
            Kernel::ArgMax { .. } => "arg_max",
            Kernel::ArgSort { .. } => "arg_sort",
            Kernel::Recurrence { .. } => "recurrence",
            Kernel::MatMul { .. } => "matmul",
            Kernel::Concat { .. } => "concat",
            Kernel::Gather { .. } => "gather",
            Kernel::ScatterAdd { .. } => "scatter_add",
            Kernel::Softmax { .. } => "softmax",
            Kernel::SoftmaxGrad { .. } => "softmax_grad",
            Kernel::Normalise { .. } => "normalise",
            Kernel::NormaliseGrad { .. } => "normalise_grad",
            Kernel::CrossEntropy { .. } => "cross_entropy",
            Kernel::CrossEntropyGrad { .. } => "cross_entropy_grad",
        }
    }

    /// The arrays it reads.
    pub fn inputs(&self) -> Vec<&Array> {
        match self {
            Kernel::Elementwise { inputs, .. } => inputs.iter().collect(),
            Kernel::Concat { parts, .. } => parts.to_vec(),
            Kernel::Reduce { x, .. }
            | Kernel::ArgMax { x }
            | Kernel::ArgSort { x, .. }
            | Kernel::Softmax { x }
            | Kernel::Normalise { x, .. } => vec![x],
            Kernel::Recurrence { decay, input } => vec![decay, input],
            Kernel::MatMul { a, b, add, .. } => [Some(*a), Some(*b), *add].into_iter().flatten().collect(),
            Kernel::Gather { table, .. } => vec![table],
            Kernel::ScatterAdd { rows, .. } => vec![rows],
            Kernel::SoftmaxGrad { y, g } => vec![y, g],
            Kernel::NormaliseGrad { y, rstd, g, .. } => vec![y, rstd, g],
            Kernel::CrossEntropy { logits, .. } => vec![logits],
            Kernel::CrossEntropyGrad { logits, log_sum, g, .. } => vec![logits, log_sum, g],
        }
    }

    /// The sizes of each output.
    pub fn output_sizes(&self) -> Vec<Vec<usize>> {
        let without_last = |x: &Array| x.sizes()[..x.sizes().len() - 1].to_vec();
        match self {
            Kernel::Elementwise { program, sizes, .. } => vec![sizes.to_vec(); program.outputs().len()],
            Kernel::Reduce { x, axes, .. } => {
                let mut sizes = x.sizes().to_vec();
                axes.iter().for_each(|&axis| sizes[axis] = 1);
                vec![sizes]
            }
            Kernel::ArgMax { x } => vec![without_last(x)],
            Kernel::ArgSort { x, .. } | Kernel::Softmax { x } => vec![x.sizes().to_vec()],
            Kernel::Recurrence { input, .. } => vec![input.sizes().to_vec()],
            Kernel::MatMul { a, b, .. } => {
                let mut sizes = a.sizes().to_vec();
                *sizes.last_mut().expect("a matrix") = *b.sizes().last().expect("a matrix");
                vec![sizes]
            }
            Kernel::Concat { parts, axis } => {
                let mut sizes = parts[0].sizes().to_vec();
                sizes[*axis] = parts.iter().map(|part| part.sizes()[*axis]).sum();
                vec![sizes]
            }
            Kernel::Gather { table, ids } => vec![[ids.sizes(), &table.sizes()[1..]].concat()],
            Kernel::ScatterAdd { rows, count, .. } => {
                vec![vec![*count, *rows.sizes().last().expect("rows")]]
            }
            Kernel::SoftmaxGrad { y, .. } | Kernel::NormaliseGrad { y, .. } => vec![y.sizes().to_vec()],
            Kernel::Normalise { x, .. } => vec![x.sizes().to_vec(), [without_last(x), vec![1]].concat()],
            Kernel::CrossEntropy { logits, .. } => vec![without_last(logits); 2],
            Kernel::CrossEntropyGrad { logits, .. } => vec![logits.sizes().to_vec()],
        }
    }

    /// Floating-point operations of a matrix product; 0 for kernels bound by memory.
    pub fn flops(&self) -> u64 {
        match self {
            Kernel::MatMul { a, b, .. } => {
                2 * a.layout().count() as u64 * *b.sizes().last().expect("a matrix") as u64
            }
            _ => 0,
        }
    }

    /// Bytes that must at least be read and written, with four per element.
    pub fn bytes(&self) -> u64 {
        let read: usize = self.inputs().iter().map(|x| x.layout().count()).sum();
        let written: usize = self.output_sizes().iter().map(|sizes| sizes.iter().product::<usize>()).sum();
        4 * (read + written) as u64
    }
}
