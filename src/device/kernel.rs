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
pub enum Fold {
    /// Their sum.
    Sum,
    /// The largest of them, or NaN if there is one.
    Max,
}

/// Added to a score, it takes a key out of a softmax: finite, because shaders may assume that nothing is
/// infinite, and the same number in f32 and f64, because a query may find nothing else.
pub const MASKED: f64 = -1e30_f32 as f64;

/// What attention weights are made of: `softmax(scale · q·kᵀ + bias)`, the softmax over the keys.
#[derive(Clone, Copy)]
pub struct AttentionInputs<'a> {
    /// `[batch.., queries, width]`
    pub q: &'a Array,
    /// `[batch.., keys, width]`, at least one key.
    pub k: &'a Array,
    /// `[batch.., keys, out]`
    pub v: &'a Array,
    /// `[batch.., queries, keys]` (broadcast views are fine), or nothing.
    pub bias: Option<&'a Array>,
    /// Multiplies the products of queries and keys.
    pub scale: f64,
    /// How many keys stand before the first query, if [`MASKED`] is added to the scores of later keys.
    pub past: Option<usize>,
    /// The random numbers' seed and the probability with which a weight is dropped; weights that stay
    /// are divided by what is left of 1. A weight's position is its place in `[batch.., queries, keys]`.
    pub dropout: Option<(u64, f64)>,
}

impl AttentionInputs<'_> {
    /// Number of matrices, queries, keys, width of queries and keys, width of values.
    pub fn dimensions(&self) -> [usize; 5] {
        let [batch @ .., queries, width] = self.q.sizes() else { unreachable!("the op checks for two axes") };
        let [.., keys, out] = self.v.sizes() else { unreachable!("the op checks for two axes") };
        [batch.iter().product(), *queries, *keys, *width, *out]
    }

    /// How many of the first keys a query may look at.
    pub fn visible(&self, query: usize) -> usize {
        let [_, _, keys, ..] = self.dimensions();
        self.past.map_or(keys, |past| keys.min(past + query + 1))
    }

    /// What a weight that is not dropped is multiplied by.
    pub fn kept_scale(&self) -> f64 {
        match self.dropout {
            Some((_, probability)) if probability < 1.0 => 1.0 / (1.0 - probability),
            Some(_) => 0.0,
            None => 1.0,
        }
    }

    fn arrays(&self) -> Vec<&Array> {
        [Some(self.q), Some(self.k), Some(self.v), self.bias].into_iter().flatten().collect()
    }

    /// Floating-point operations of `products` matrix products among queries, keys and values.
    fn flops(&self, products: u64) -> u64 {
        let [batch, queries, keys, width, out] = self.dimensions();
        products * (batch * queries * keys * (width + out)) as u64
    }
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
        op: Fold,
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
    /// `(x - mean)·rstd·weight + bias` of each row, where `rstd = 1/sqrt(mean((x - mean)²) + eps)`, and
    /// the mean and rstd of each row, `[.., 2]`: from these what was normalised can be had again.
    Normalise {
        /// `[.., n]`
        x: &'a Array,
        /// `[n]`
        weight: &'a Array,
        /// `[n]`
        bias: &'a Array,
        /// Keeps the root away from 0.
        eps: f64,
        /// With `false` the mean counts as 0 (root mean square).
        centred: bool,
    },
    /// The gradient of [`Kernel::Normalise`] by `x`.
    NormaliseGrad {
        /// As in the forward kernel.
        x: &'a Array,
        /// As in the forward kernel.
        weight: &'a Array,
        /// Its second result.
        statistics: &'a Array,
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
    /// The values weighted, `[batch.., queries, out]`, and of each query `[batch.., queries, 2]` the
    /// largest score and the sum of `exp(score - largest)`: from these its weights can be had again.
    /// No matrix of scores is stored.
    Attention {
        /// Queries, keys, values, and how they are weighted.
        inputs: AttentionInputs<'a>,
    },
    /// The gradients of [`Kernel::Attention`] by queries, keys and values.
    AttentionGrad {
        /// As in the forward kernel.
        inputs: AttentionInputs<'a>,
        /// Its second result.
        sums: &'a Array,
        /// The incoming gradient, `[batch.., queries, out]`.
        g: &'a Array,
        /// Which of the three are asked for; the others come out empty, `[0]`.
        wanted: [bool; 3],
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
            Kernel::Attention { .. } => "attention",
            Kernel::AttentionGrad { .. } => "attention_grad",
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
            | Kernel::Softmax { x } => vec![x],
            Kernel::Recurrence { decay, input } => vec![decay, input],
            Kernel::MatMul { a, b, add, .. } => [Some(*a), Some(*b), *add].into_iter().flatten().collect(),
            Kernel::Gather { table, .. } => vec![table],
            Kernel::ScatterAdd { rows, .. } => vec![rows],
            Kernel::SoftmaxGrad { y, g } => vec![y, g],
            Kernel::Normalise { x, weight, bias, .. } => vec![x, weight, bias],
            Kernel::NormaliseGrad { x, weight, statistics, g, .. } => vec![x, weight, statistics, g],
            Kernel::CrossEntropy { logits, .. } => vec![logits],
            Kernel::CrossEntropyGrad { logits, log_sum, g, .. } => vec![logits, log_sum, g],
            Kernel::Attention { inputs } => inputs.arrays(),
            Kernel::AttentionGrad { inputs, sums, g, .. } => [&inputs.arrays()[..], &[*sums, *g]].concat(),
        }
    }

    /// The sizes of each output.
    pub fn output_sizes(&self) -> Vec<Vec<usize>> {
        let without_last = |x: &Array| x.sizes()[..x.sizes().len() - 1].to_vec();
        let with_last = |x: &Array, width: usize| [without_last(x), vec![width]].concat();
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
            Kernel::MatMul { a, b, .. } => vec![with_last(a, b.width())],
            Kernel::Concat { parts, axis } => {
                let mut sizes = parts[0].sizes().to_vec();
                sizes[*axis] = parts.iter().map(|part| part.sizes()[*axis]).sum();
                vec![sizes]
            }
            Kernel::Gather { table, ids } => vec![[ids.sizes(), &table.sizes()[1..]].concat()],
            Kernel::ScatterAdd { rows, count, .. } => vec![vec![*count, rows.width()]],
            Kernel::SoftmaxGrad { y: x, .. } | Kernel::NormaliseGrad { x, .. } => vec![x.sizes().to_vec()],
            Kernel::Normalise { x, .. } => vec![x.sizes().to_vec(), with_last(x, 2)],
            Kernel::CrossEntropy { logits, .. } => vec![without_last(logits); 2],
            Kernel::CrossEntropyGrad { logits, .. } => vec![logits.sizes().to_vec()],
            Kernel::Attention { inputs } => {
                vec![with_last(inputs.q, inputs.v.width()), with_last(inputs.q, 2)]
            }
            Kernel::AttentionGrad { inputs: AttentionInputs { q, k, v, .. }, wanted, .. } => {
                let sizes = |(x, &wanted): (&&Array, _)| if wanted { x.sizes().to_vec() } else { vec![0] };
                [*q, *k, *v].iter().zip(wanted).map(sizes).collect()
            }
        }
    }

    /// Floating-point operations of a matrix product; 0 for kernels bound by memory.
    pub fn flops(&self) -> u64 {
        match self {
            Kernel::MatMul { a, b, .. } => 2 * a.layout().count() as u64 * b.width() as u64,
            Kernel::Attention { inputs } => inputs.flops(2),
            // Scores and their gradient, and one product for each gradient.
            Kernel::AttentionGrad { inputs, wanted, .. } => {
                inputs.flops(2 + wanted.iter().filter(|&&wanted| wanted).count() as u64)
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
