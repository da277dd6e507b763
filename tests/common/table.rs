//! THE table of ops: a row says a name, the sizes of the inputs, the call, and where it must, the
//! values it is defined on or a tolerance with its reason.
//!
//! `tests/ops.rs` derives from each row forward and gradient on every device, in every arrangement
//! of the inputs; `tests/determinism.rs` that the bits do not depend on threads. A new op adds a
//! row, and a test says so when the row is missing. The first word of a name is the op's.

use engrad::{
    CrossEntropy, Device, Ids, Mask, Reduction, Tensor, attention, attention_over, elementwise, training,
};

use super::row::{Row, Sizes, Values, row};

/// Indices below `limit`, every fifth one ignored.
pub fn ids(sizes: &[usize], limit: usize) -> Ids {
    let count: usize = sizes.iter().product();
    let id = |at: usize| match limit == 0 || at % 5 == 4 {
        true => Ids::IGNORED,
        false => engrad::rng::hash(3, at as u32) % limit as u32,
    };
    Ids::new((0..count).map(id).collect::<Vec<u32>>(), sizes, limit).expect("ids below their limit")
}

/// Indices as a tensor, to compare them.
fn positions(ids: &Ids, device: &Device) -> Tensor {
    let values: Vec<f64> = ids.values().iter().map(|&id| f64::from(id)).collect();
    Tensor::from_f64(&values, ids.sizes(), device)
}

/// Pieces put together again in the opposite order.
fn joined_backwards(pieces: &[Tensor], axis: isize) -> Tensor {
    Tensor::concat(&pieces.iter().rev().collect::<Vec<_>>(), axis)
}

/// A bias that nobody learns: `[queries, keys]`.
fn waves(queries: usize, keys: usize, device: &Device) -> Tensor {
    (Tensor::arange(queries, device).unsqueeze(1) + 0.7 * Tensor::arange(keys, device)).sin()
}

/// Any sizes.
const ANY: Sizes = &[&[&[]], &[&[1]], &[&[0, 3]], &[&[5]], &[&[2, 3, 5]], &[&[50_007]], &[&[223, 241]]];
/// At least one axis.
const ROWS: Sizes =
    &[&[&[1]], &[&[0, 3]], &[&[3, 0]], &[&[7]], &[&[3, 5]], &[&[2, 3, 5]], &[&[223, 241]], &[&[50_007]]];
/// At least one axis, and no empty one.
const FILLED_ROWS: Sizes =
    &[&[&[1]], &[&[7]], &[&[3, 1]], &[&[3, 5]], &[&[2, 3, 5]], &[&[223, 241]], &[&[50_007]]];
/// At least one element besides each along the last axis.
const SPREAD_ROWS: Sizes = &[&[&[7]], &[&[0, 3]], &[&[3, 2]], &[&[2, 3, 5]], &[&[223, 241]]];
/// Few elements along each axis, so that their product stays in the range of f32.
const FEW: Sizes = &[&[&[]], &[&[1]], &[&[0, 3]], &[&[3, 0]], &[&[7]], &[&[2, 3, 5]], &[&[31, 41, 43]]];
/// At least two axes.
const MATRICES: Sizes =
    &[&[&[1, 1]], &[&[0, 3]], &[&[3, 0]], &[&[3, 5]], &[&[2, 5, 3]], &[&[223, 241]], &[&[3, 130, 131]]];
/// Two axes of at least 2 and 3.
const GRIDS: Sizes = &[&[&[2, 3]], &[&[5, 7]], &[&[4, 3, 2]], &[&[0, 3, 4]], &[&[223, 241]]];
/// Two operands of equal sizes.
const TWINS: Sizes = &[&[&[1], &[1]], &[&[0, 3], &[0, 3]], &[&[3, 5], &[3, 5]], &[&[223, 241], &[223, 241]]];
/// Two operands that broadcast.
const PAIRS: Sizes = &[
    &[&[], &[]],
    &[&[1], &[]],
    &[&[3, 5], &[3, 5]],
    &[&[3, 5], &[5]],
    &[&[2, 1, 4], &[3, 1]],
    &[&[0, 3], &[1, 3]],
    &[&[1, 3], &[0, 1]],
    &[&[], &[50_007]],
    &[&[223, 241], &[241]],
    &[&[223, 1], &[1, 241]],
];
/// Three operands that broadcast.
const TRIPLES: Sizes = &[
    &[&[], &[], &[]],
    &[&[3, 5], &[3, 5], &[3, 5]],
    &[&[3, 5], &[5], &[]],
    &[&[2, 1, 1], &[1, 3, 1], &[4]],
    &[&[0, 3], &[3], &[1]],
    &[&[223, 241], &[1], &[223, 1]],
];
/// A table of rows.
const TABLES: Sizes = &[&[&[1, 1]], &[&[5, 3]], &[&[4, 0]], &[&[0, 3]], &[&[500, 101]]];

/// Two axes, no more.
const MATRICES_ONLY: Sizes = &[&[&[1, 1]], &[&[0, 3]], &[&[3, 0]], &[&[6, 5]], &[&[223, 241]]];
/// Queries, keys and values of different widths, also of one query.
const ATTENDED: Sizes = &[
    &[&[2, 3, 4, 5], &[2, 3, 6, 5], &[2, 3, 6, 3]],
    &[&[1, 3], &[7, 3], &[7, 1]],
    &[&[2, 2, 70, 8], &[2, 2, 131, 8], &[2, 2, 131, 70]],
];
/// Queries, keys and values, longer than one block.
const MASKED_HEADS: Sizes = &[
    &[&[2, 1, 3, 4], &[2, 1, 131, 4], &[2, 1, 131, 2]],
    &[&[3, 2, 130, 33], &[3, 2, 131, 33], &[3, 2, 131, 5]],
];
/// Queries, keys and values of several heads.
const HEADS: Sizes = &[
    &[&[2, 3, 4, 5], &[2, 3, 6, 5], &[2, 3, 6, 5]],
    &[&[1, 5], &[1, 5], &[1, 2]],
    &[&[2, 0, 5], &[2, 3, 5], &[2, 3, 4]],
    &[&[2, 3, 5], &[2, 0, 5], &[2, 0, 4]],
    &[&[2, 2, 100, 8], &[2, 2, 101, 8], &[2, 2, 101, 16]],
];

/// Why a tolerance is loose.
const MANY_TERMS: &str = "tens of thousands of terms of either sign nearly cancel";

/// Every op.
pub fn table() -> Vec<Row> {
    use Values::{AwayFromZero, Between, Whole};
    const NORMAL: Values = Between(-2.0, 2.0);
    vec![
        // Elementwise, one operand.
        row("neg", ANY, |x| -&x[0]),
        row("neg owned", ANY, |x| -x[0].clone()),
        row("exp", ANY, |x| x[0].exp()),
        row("expm1", ANY, |x| x[0].expm1()),
        row("log", ANY, |x| x[0].log()).between(0.5, 3.0),
        row("log1p", ANY, |x| x[0].log1p()).between(-0.5, 3.0),
        row("log2", ANY, |x| x[0].log2()).between(0.5, 3.0),
        row("sqrt", ANY, |x| x[0].sqrt()).between(0.5, 3.0),
        row("rsqrt", ANY, |x| x[0].rsqrt()).between(0.5, 3.0),
        row("reciprocal", ANY, |x| x[0].reciprocal()).between(0.5, 3.0),
        row("square", ANY, |x| x[0].square()),
        row("powf", ANY, |x| x[0].powf(2.5)).between(0.5, 3.0),
        row("powf of 0", ANY, |x| x[0].powf(0.0)).steps(),
        row("powf of -1", ANY, |x| x[0].powf(-1.0)).between(0.5, 3.0),
        row("powf of 3", ANY, |x| x[0].powf(3.0)),
        row("powf of 4", ANY, |x| x[0].powf(4.0)).away_from_zero(),
        row("tanh", ANY, |x| x[0].tanh()),
        row("sigmoid", ANY, |x| x[0].sigmoid()),
        row("log_sigmoid", ANY, |x| x[0].log_sigmoid()).away_from_zero(),
        row("softplus", ANY, |x| x[0].softplus()).away_from_zero(),
        row("relu", ANY, |x| x[0].relu()).away_from_zero(),
        row("leaky_relu", ANY, |x| x[0].leaky_relu(0.1)).away_from_zero(),
        row("elu", ANY, |x| x[0].elu(0.7)).away_from_zero(),
        row("gelu", ANY, |x| x[0].gelu()),
        row("gelu_tanh", ANY, |x| x[0].gelu_tanh()),
        row("silu", ANY, |x| x[0].silu()),
        row("mish", ANY, |x| x[0].mish()).away_from_zero(),
        row("erf", ANY, |x| x[0].erf()),
        row("sin", ANY, |x| x[0].sin()).between(-9.0, 9.0),
        row("cos", ANY, |x| x[0].cos()).between(-9.0, 9.0),
        row("abs", ANY, |x| x[0].abs()).away_from_zero(),
        row("sign", ANY, |x| x[0].sign()).steps(),
        row("floor", ANY, |x| x[0].floor()).between(-9.0, 9.0).steps(),
        row("ceil", ANY, |x| x[0].ceil()).between(-9.0, 9.0).steps(),
        row("round", ANY, |x| (&x[0] * 0.5).round()).values([Whole(9.0)]).steps(),
        row("is_nan", ANY, |x| x[0].log().is_nan()).steps(),
        row("clamp", ANY, |x| x[0].clamp(-0.7, 1.1)),
        row("dropout", ANY, |x| training(5, || x[0].dropout(0.4))),
        row("dropout outside of training", ANY, |x| x[0].dropout(0.4)),
        row("elementwise", TRIPLES, |x| {
            elementwise("mix", [&x[0], &x[1], &x[2]], |[a, b, c]| a * b.tanh() + (c - a).sin() * b)
        })
        .tolerance(1e-4, MANY_TERMS),
        // Elementwise, several operands.
        row("add", PAIRS, |x| &x[0] + &x[1]),
        row("add a number", ANY, |x| 2.0 + &x[0] + 3.0),
        row("sub", PAIRS, |x| &x[0] - x[1].clone()),
        row("sub from a number", ANY, |x| 2.0 - (&x[0] - 3.0)),
        row("mul", PAIRS, |x| x[0].clone() * &x[1]),
        row("mul by a number", ANY, |x| 2.0 * (&x[0] * 3.0)),
        row("mul with itself", ANY, |x| &x[0] * &x[0]),
        row("div", PAIRS, |x| x[0].clone() / x[1].clone()).values([NORMAL, Between(0.5, 3.0)]),
        row("div of a number", ANY, |x| 2.0 / (&x[0] / 3.0)).between(0.5, 3.0),
        row("pow", PAIRS, |x| x[0].pow(&x[1])).values([Between(0.5, 3.0), NORMAL]),
        row("maximum", PAIRS, |x| x[0].maximum(&x[1])),
        row("maximum with ties", PAIRS, |x| x[0].maximum(&x[1])).values([Whole(3.0)]),
        row("minimum", PAIRS, |x| x[0].minimum(&x[1])),
        row("minimum with ties", PAIRS, |x| x[0].minimum(&x[1])).values([Whole(3.0)]),
        row("lt", PAIRS, |x| x[0].lt(&x[1])).values([Whole(3.0)]).steps(),
        row("le", PAIRS, |x| x[0].le(&x[1])).values([Whole(3.0)]).steps(),
        row("gt", PAIRS, |x| x[0].gt(&x[1])).values([Whole(3.0)]).steps(),
        row("ge", PAIRS, |x| x[0].ge(&x[1])).values([Whole(3.0)]).steps(),
        row("eq", PAIRS, |x| x[0].eq(&x[1])).values([Whole(3.0)]).steps(),
        row("ne", PAIRS, |x| x[0].ne(&x[1])).values([Whole(3.0)]).steps(),
        row("where_", TRIPLES, |x| Tensor::where_(&x[0].detach(), &x[1], &x[2])).values([Whole(2.0), NORMAL]),
        row("masked_fill", PAIRS, |x| x[0].masked_fill(&x[1].detach(), 5.0)).values([NORMAL, Whole(2.0)]),
        // Folding axes.
        row("sum", ROWS, |x| x[0].sum(-1)),
        row("sum of the first axis", ROWS, |x| x[0].sum(0)),
        row("sum of all", ANY, |x| x[0].sum(..)).tolerance(1e-4, MANY_TERMS),
        row("sum of no axis", ANY, |x| x[0].sum([])),
        row("sum of two axes", MATRICES, |x| x[0].sum([0, -1])),
        row("sum_keep", MATRICES, |x| x[0].sum_keep([-2])),
        row("mean", ROWS, |x| x[0].mean(-1)),
        row("mean_keep", ROWS, |x| x[0].mean_keep(0)),
        row("max", FILLED_ROWS, |x| x[0].max(-1)),
        row("max of all", FILLED_ROWS, |x| x[0].max(..)),
        row("max_keep", FILLED_ROWS, |x| x[0].max_keep(0)),
        row("min", FILLED_ROWS, |x| x[0].min(-1)),
        row("min_keep", FILLED_ROWS, |x| x[0].min_keep([0])),
        row("var", SPREAD_ROWS, |x| x[0].var(-1, 1.0)),
        row("var of one element", &[&[&[1]], &[&[3, 1]]], |x| x[0].var(-1, 0.0)),
        row("var_keep", SPREAD_ROWS, |x| x[0].var_keep(.., 0.0)),
        row("std", SPREAD_ROWS, |x| x[0].std(-1, 1.0)),
        row("logsumexp", ROWS, |x| x[0].logsumexp(-1)),
        row("logsumexp of all", ANY, |x| x[0].logsumexp(..)),
        row("logsumexp_keep", ROWS, |x| x[0].logsumexp_keep(0)),
        row("norm", ROWS, |x| x[0].norm(-1)),
        row("norm_keep", ANY, |x| x[0].norm_keep(..)),
        // Running along an axis.
        row("recurrence", TWINS, |x| Tensor::recurrence(&x[0], &x[1])).between(-1.1, 1.1),
        row("cumsum", ROWS, |x| x[0].cumsum(-1)),
        row("cumsum of the first axis", ROWS, |x| x[0].cumsum(0)),
        row("cumprod", ROWS, |x| x[0].cumprod(-1)).between(-1.2, 1.2),
        row("cumprod with zeros", ROWS, |x| x[0].cumprod(0))
            .values([Whole(3.0)])
            .no_broadcast("a column of twos leaves the range of f32"),
        row("prod", FEW, |x| x[0].prod(-1)),
        row("prod with zeros", FEW, |x| x[0].prod(0)).values([Whole(4.0)]),
        // Products.
        row(
            "matmul",
            &[
                &[&[1, 1], &[1, 1]],
                &[&[2, 3], &[3, 4]],
                &[&[0, 3], &[3, 4]],
                &[&[2, 0], &[0, 4]],
                &[&[2, 3], &[3, 0]],
                &[&[17, 33], &[33, 9]],
                &[&[129, 65], &[65, 257]],
                &[&[3, 300], &[300, 201]],
            ],
            |x| x[0].matmul(&x[1]),
        ),
        row("matmul of vectors", &[&[&[5], &[5]], &[&[0], &[0]], &[&[50_007], &[50_007]]], |x| {
            x[0].matmul(&x[1])
        }),
        row("matmul of a vector", &[&[&[3], &[3, 4]], &[&[3], &[2, 3, 4]], &[&[1], &[1, 0]]], |x| {
            x[0].matmul(&x[1])
        }),
        row("matmul by a vector", &[&[&[3, 4], &[4]], &[&[2, 3, 4], &[4]], &[&[0, 4], &[4]]], |x| {
            x[0].matmul(&x[1])
        }),
        row(
            "matmul of stacks",
            &[
                &[&[2, 3, 4], &[2, 4, 5]],
                &[&[2, 3, 4], &[4, 5]],
                &[&[3, 4], &[2, 4, 5]],
                &[&[2, 1, 3, 4], &[5, 4, 2]],
                &[&[0, 3, 4], &[1, 4, 5]],
                &[&[0, 3, 4], &[4, 5]],
                &[&[6, 65, 33], &[6, 33, 70]],
                &[&[40, 1, 30], &[1, 30, 50]],
            ],
            |x| x[0].matmul(&x[1]),
        ),
        row(
            "add_matmul",
            &[
                &[&[2, 4], &[2, 3], &[3, 4]],
                &[&[4], &[2, 3], &[3, 4]],
                &[&[], &[2, 0], &[0, 4]],
                &[&[1, 2, 1], &[3, 2, 4], &[4, 5]],
                &[&[257], &[129, 65], &[65, 257]],
            ],
            |x| x[0].add_matmul(&x[1], &x[2], 0.5),
        ),
        row(
            "linear",
            &[
                &[&[3, 4], &[5, 4], &[5]],
                &[&[4], &[5, 4], &[5]],
                &[&[2, 3, 4], &[1, 4], &[1]],
                &[&[0, 4], &[5, 4], &[5]],
                &[&[3, 0], &[5, 0], &[5]],
                &[&[130, 130], &[140, 130], &[140]],
            ],
            |x| x[0].linear(&x[1], Some(&x[2])),
        ),
        row("linear without bias", &[&[&[2, 3, 4], &[5, 4]], &[&[200, 70], &[300, 70]]], |x| {
            x[0].linear(&x[1], None)
        }),
        row(
            "linear_add",
            &[
                &[&[2, 3, 4], &[5, 4], &[2, 3, 5]],
                &[&[3, 4], &[5, 4], &[3, 1]],
                &[&[3, 4], &[5, 4], &[]],
                &[&[130, 130], &[140, 130], &[130, 140]],
            ],
            |x| x[0].linear_add(&x[1], 0.5, Some(&x[2])),
        ),
        row("outer", &[&[&[3], &[4]], &[&[1], &[0]], &[&[223], &[241]]], |x| x[0].outer(&x[1])),
        row("einsum", &[&[&[2, 3], &[3, 4]], &[&[0, 3], &[3, 1]], &[&[129, 65], &[65, 257]]], |x| {
            Tensor::einsum("ij,jk->ik", &x[0], &x[1])
        }),
        row("einsum of heads", &[&[&[2, 3, 4, 5], &[2, 3, 6, 5]], &[&[1, 2, 90, 9], &[1, 2, 91, 9]]], |x| {
            Tensor::einsum("bhqd,bhkd->bqhk", &x[0], &x[1])
        }),
        row("einsum without a result axis", &[&[&[3, 4], &[4]], &[&[3, 1], &[4]]], |x| {
            Tensor::einsum("ij,j->", &x[0], &x[1])
        }),
        row("einsum of a diagonal", &[&[&[4, 3, 4], &[3]]], |x| Tensor::einsum("iji,j->i", &x[0], &x[1])),
        row("einsum of all pairs", &[&[&[3], &[4, 2]]], |x| Tensor::einsum("i,jk->kij", &x[0], &x[1])),
        // Views, and elements side by side.
        row("permute", &[&[&[2, 3, 4]], &[&[1, 0, 5]], &[&[30, 41, 43]]], |x| x[0].permute(&[2, 0, 1]).exp()),
        row("transpose", MATRICES, |x| x[0].transpose(0, -1).exp()),
        row("t", ANY, |x| x[0].t().exp()),
        row("move_axis", MATRICES, |x| x[0].move_axis(0, -1).exp()),
        row("reshape", &[&[&[4, 3]], &[&[2, 6]], &[&[0, 6]], &[&[300, 200]]], |x| {
            x[0].reshape([x[0].count() / 2, 2]).exp()
        }),
        row("flatten", MATRICES, |x| x[0].flatten(0, 1).exp()),
        row("flatten all", ANY, |x| x[0].flatten(0, -1).exp()),
        row("unflatten", &[&[&[6, 2]], &[&[6, 0]], &[&[6, 9001]]], |x| x[0].unflatten(0, &[3, 2]).exp()),
        row("squeeze", &[&[&[1, 3]], &[&[1, 1]], &[&[1, 0]], &[&[3, 2]]], |x| x[0].squeeze(0).exp()),
        row("unsqueeze", ANY, |x| x[0].unsqueeze(-1).unsqueeze(0).exp()),
        row("expand", &[&[&[3, 1]], &[&[1]], &[&[]]], |x| x[0].expand([2, 3, 4]).exp()),
        row("slice", GRIDS, |x| x[0].slice(1, 1..3, 2).exp()),
        row("slice by steps", &[&[&[3, 9]], &[&[2, 8]], &[&[0, 8]], &[&[300, 401]]], |x| {
            x[0].slice(1, 1..x[0].size(1) - 1, 3)
        }),
        row("narrow", GRIDS, |x| x[0].narrow(1, 1, 2).exp()),
        row("select", GRIDS, |x| x[0].select(1, 2).exp()),
        row("flip", ROWS, |x| x[0].flip(-1).exp()),
        row("diagonal", MATRICES, |x| x[0].diagonal(1)),
        row("diagonal below", MATRICES, |x| x[0].diagonal(-1)),
        row("contiguous", ANY, |x| x[0].contiguous()),
        row(
            "concat",
            &[
                &[&[2, 3], &[2, 1], &[2, 0]],
                &[&[0, 3], &[0, 1], &[0, 2]],
                &[&[2, 1, 3], &[2, 4, 3], &[2, 2, 3]],
                &[&[130, 131], &[130, 7], &[130, 300]],
            ],
            |x| Tensor::concat(&[&x[0], &x[1], &x[2], &x[0]], 1),
        ),
        row("concat of rows", &[&[&[2, 3], &[1, 3]], &[&[0, 3], &[2, 3]], &[&[130, 131], &[9, 131]]], |x| {
            Tensor::concat(&[&x[0], &x[1]], 0)
        }),
        row("stack", TWINS, |x| Tensor::stack(&[&x[0], &x[1]], -1)),
        row("split", &[&[&[2, 5]], &[&[0, 5]], &[&[9001, 5]]], |x| {
            joined_backwards(&x[0].split(1, &[2, 0, 3]), 1)
        }),
        row("chunk", ROWS, |x| joined_backwards(&x[0].chunk(3, 0), 0)),
        row("pad_axis", ROWS, |x| x[0].pad_axis(-1, 2, 1, 0.5)),
        row("pad", GRIDS, |x| x[0].pad(&[(1, 0), (-1, 2)], 0.5)),
        row("roll", ROWS, |x| x[0].roll(-2, -1)),
        row("repeat", ROWS, |x| {
            x[0].repeat(&[&[2][..], &vec![1; x[0].ndim() - 1], &[3]].concat()).narrow(
                -1,
                0,
                2.min(x[0].size(-1)),
            )
        }),
        row("tril", MATRICES, |x| x[0].tril(-1)),
        row("triu", MATRICES, |x| x[0].triu(1)),
        // Picking and adding by index.
        row("embedding", TABLES, |x| x[0].embedding(&ids(&[3, 7], x[0].size(0)))),
        row("embedding of many", TABLES, |x| x[0].embedding(&ids(&[999], x[0].size(0)))),
        row("scatter_rows", TABLES, |x| x[0].scatter_rows(&ids(&[x[0].size(0)], 4), 5)),
        row("index_select", MATRICES, |x| x[0].index_select(-1, &ids(&[6], x[0].size(-1)))),
        row(
            "index_add",
            &[&[&[3, 4], &[3, 5]], &[&[0, 4], &[0, 5]], &[&[3, 0], &[3, 0]], &[&[223, 241], &[223, 60]]],
            |x| x[0].index_add(1, &ids(&[x[1].size(1)], x[0].size(1)), &x[1]),
        ),
        row("gather", MATRICES, |x| {
            let mut sizes = x[0].sizes().to_vec();
            sizes[1] = 6;
            x[0].gather(1, &ids(&sizes, x[0].size(1)))
        }),
        row("scatter_add", &[&[&[3, 4], &[3, 5]], &[&[0, 4], &[0, 5]], &[&[223, 241], &[223, 300]]], |x| {
            x[0].scatter_add(1, &ids(x[1].sizes(), x[0].size(1)), &x[1])
        }),
        // Probabilities and normalised rows.
        row("softmax", ROWS, |x| x[0].softmax(-1)),
        row("softmax of a scalar", &[&[&[]]], |x| x[0].softmax(-1)),
        row("softmax of the first axis", ROWS, |x| x[0].softmax(0))
            .no_broadcast("the gradient of equal rows is 0, and rounding all that is left"),
        row("log_softmax", ROWS, |x| x[0].log_softmax(-1)),
        row(
            "layer_norm",
            &[
                &[&[3, 5], &[5], &[5]],
                &[&[7], &[7], &[7]],
                &[&[2, 3, 1], &[1], &[1]],
                &[&[0, 3], &[3], &[3]],
                &[&[3, 0], &[0], &[0]],
                &[&[223, 241], &[241], &[241]],
            ],
            |x| x[0].layer_norm(Some(&x[1]), Some(&x[2]), 1e-5),
        ),
        row("layer_norm without bias", &[&[&[3, 5], &[5]]], |x| x[0].layer_norm(Some(&x[1]), None, 1e-5)),
        row("layer_norm without weight", &[&[&[3, 5], &[5]]], |x| x[0].layer_norm(None, Some(&x[1]), 1e-5)),
        row("rms_norm", &[&[&[3, 5], &[5]], &[&[3, 0], &[0]], &[&[223, 241], &[241]]], |x| {
            x[0].rms_norm(Some(&x[1]), 1e-5)
        }),
        row("rms_norm without weight", ROWS, |x| x[0].rms_norm(None, 1e-3)),
        row("normalize", ROWS, |x| x[0].normalize(-1, 1e-12)),
        // Losses.
        row("cross_entropy", &[&[&[4, 5]], &[&[1, 1]], &[&[223, 241]]], |x| {
            x[0].cross_entropy(&ids(&[x[0].size(0)], x[0].size(1)))
        }),
        row("cross_entropy_rows", MATRICES_ONLY, |x| {
            x[0].cross_entropy_rows(&ids(&[x[0].size(0)], x[0].size(1)))
        }),
        row("CrossEntropy::of with every option", &[&[&[6, 5], &[5]], &[&[223, 241], &[241]]], |x| {
            let options = CrossEntropy {
                class_weights: Some(x[1].clone()),
                label_smoothing: 0.2,
                reduction: Reduction::Mean,
            };
            options.of(&x[0], &ids(&[x[0].size(0)], x[0].size(1)))
        })
        .values([NORMAL, Between(0.5, 2.0)]),
        row("CrossEntropy::of_log_probabilities", &[&[&[6, 5]], &[&[223, 241]]], |x| {
            let options = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
            options.of_log_probabilities(&x[0].log_softmax(-1), &ids(&[x[0].size(0)], x[0].size(1)))
        }),
        row("nll_loss", &[&[&[6, 5]], &[&[223, 241]]], |x| {
            x[0].nll_loss(&ids(&[x[0].size(0)], x[0].size(1)))
        }),
        row("mse_loss", PAIRS, |x| x[0].mse_loss(&x[1], Reduction::None)).tolerance(1e-4, MANY_TERMS),
        row("mse_loss mean", TWINS, |x| x[0].mse_loss(&x[1], Reduction::Mean)),
        row("l1_loss", PAIRS, |x| x[0].l1_loss(&x[1], Reduction::Sum)),
        row("huber_loss", PAIRS, |x| x[0].huber_loss(&x[1], 0.8, Reduction::Sum)),
        row("bce_with_logits", PAIRS, |x| x[0].bce_with_logits(&x[1], Reduction::Sum))
            .values([AwayFromZero, Between(0.0, 1.0)]),
        row("bce_with_logits_elements", TRIPLES, |x| x[0].bce_with_logits_elements(&x[1], &x[2]))
            .values([AwayFromZero, Between(0.0, 1.0)]),
        row("cosine_similarity", TWINS, |x| x[0].cosine_similarity(&x[1], -1, 1e-8)),
        // Attention and its masks.
        row("attention", HEADS, |x| attention(&x[0], &x[1], &x[2], &Mask::full(), 0.4, 0.0)),
        row("attention with dropout", HEADS, |x| {
            training(3, || attention(&x[0], &x[1], &x[2], &Mask::full(), 0.4, 0.3))
        }),
        row("attention of every kind", ATTENDED, |x| {
            let mask = Mask::causal_after(2).with_bias(&waves(x[0].size(-2), x[1].size(-2), &x[0].device()));
            training(3, || attention(&x[0], &x[1], &x[2], &mask, 0.4, 0.3))
        }),
        row("attention of a broadcast batch", &[&[&[2, 1, 4, 5], &[3, 6, 5], &[3, 6, 2]]], |x| {
            attention(&x[0], &x[1], &x[2], &Mask::causal(), 0.4, 0.0)
        }),
        row("attention by values of a larger batch", &[&[&[4, 5], &[6, 5], &[3, 6, 2]]], |x| {
            attention(&x[0], &x[1], &x[2], &Mask::full(), 0.4, 0.0)
        }),
        row("attention with one input tracked", HEADS, |x| {
            let constant = |x: &Tensor| waves(x.size(-2), x.size(-1), &x.device()).expand(x.sizes());
            let (q, k, v) = (constant(&x[0]), constant(&x[1]), constant(&x[2]));
            let of_values = attention(&q, &k, &x[2], &Mask::causal(), 0.4, 0.0);
            let of_keys = attention(&q, &x[1], &v, &Mask::causal(), 0.4, 0.0);
            of_values + of_keys + attention(&x[0], &k, &v, &Mask::causal(), 0.4, 0.0)
        }),
        row("Mask::full", HEADS, |x| attention(&x[0], &x[1], &x[2], &Mask::full(), 1.0, 0.0)),
        row("Mask::causal", HEADS, |x| attention(&x[0], &x[1], &x[2], &Mask::causal(), 0.4, 0.0)),
        row("Mask::lengths", &[&[&[2, 3, 4, 5], &[2, 3, 6, 5], &[2, 3, 6, 5]]], |x| {
            let mask = Mask::lengths(&[4, 6], 6, &x[0].device()).expect("lengths within the time");
            attention(&x[0], &x[1], &x[2], &mask, 0.4, 0.0)
        }),
        row("Mask::keep", &[&[&[2, 4, 5], &[2, 6, 5], &[2, 6, 3]]], |x| {
            let mask =
                Mask::keep(&Tensor::arange(6, &x[0].device()).lt(&Tensor::full(4.0, [], &x[0].device())));
            attention(&x[0], &x[1], &x[2], &mask, 0.4, 0.0)
        }),
        row("Mask::with_bias", &[&[&[2, 4, 5], &[2, 6, 5], &[2, 6, 3], &[2, 1, 6]]], |x| {
            attention(&x[0], &x[1], &x[2], &Mask::full().with_bias(&x[3]).with_bias(&x[3]), 0.4, 0.0)
        }),
        row("Mask::and_causal", &[&[&[2, 4, 5], &[2, 4, 5], &[2, 4, 3], &[2, 1, 4]]], |x| {
            attention(&x[0], &x[1], &x[2], &Mask::full().with_bias(&x[3]).and_causal(), 0.4, 0.0)
        }),
        row("Mask::causal_after", &[&[&[2, 3, 5], &[2, 6, 5], &[2, 6, 3]]], |x| {
            attention(&x[0], &x[1], &x[2], &Mask::causal_after(3), 0.4, 0.0)
        }),
        row("Mask::spans", &[&[&[2, 3, 4, 5], &[2, 3, 6, 5], &[2, 3, 6, 5]]], |x| {
            let mask = Mask::spans(&[2..6, 0..4], 6, &x[0].device());
            attention(&x[0], &x[1], &x[2], &mask, 0.4, 0.0)
        }),
        row("Mask::spans and none before", MASKED_HEADS, |x| {
            let spans = [2..40, 0..100, 90..131];
            let mask = Mask::spans(&spans[..x[0].size(0)], 131, &x[0].device()).and_causal();
            attention(&x[0], &x[1], &x[2], &mask, 0.4, 0.0)
        }),
        // Two parts, keys and values with half the heads, and a mask of both kinds.
        row("attention_over", &[&[&[2, 4, 3, 5], &[2, 2, 6, 5], &[2, 2, 6, 3], &[2, 1, 1, 6]]], |x| {
            let part = |from, count| (x[1].narrow(2, from, count), x[2].narrow(2, from, count));
            let mask = Mask::causal_after(3).with_bias(&x[3]);
            attention_over(&x[0], &[part(0, 4), part(4, 2)], &mask, 0.4, 0.0)
        }),
        // Order.
        row("argmax", FILLED_ROWS, |x| positions(&x[0].argmax(-1), &x[0].device()))
            .values([Whole(9.0)])
            .steps(),
        row("argmin", FILLED_ROWS, |x| positions(&x[0].argmin(0), &x[0].device()))
            .values([Whole(9.0)])
            .steps(),
        row("argsort", ROWS, |x| positions(&x[0].argsort(0, false), &x[0].device()))
            .values([Whole(9.0)])
            .steps(),
        row("argsort descending", ROWS, |x| positions(&x[0].argsort(-1, true), &x[0].device()))
            .values([Whole(9.0)])
            .steps(),
        row("read_argmax", FILLED_ROWS, |x| positions(&x[0].read_argmax(-1).unwrap(), &x[0].device()))
            .values([Whole(9.0)])
            .steps(),
        row("read_argsort", ROWS, |x| positions(&x[0].read_argsort(0, true).unwrap(), &x[0].device()))
            .values([Whole(9.0)])
            .steps(),
        row("sort", ROWS, |x| x[0].sort(-1, false).0),
        row("sort descending", ROWS, |x| x[0].sort(0, true).0),
        row("topk", FILLED_ROWS, |x| x[0].topk(x[0].size(-1).min(2), -1, true).0),
        row("topk smallest", FILLED_ROWS, |x| x[0].topk(x[0].size(0).min(2), 0, false).0),
        row("max_at", FILLED_ROWS, |x| x[0].max_at(-1).0),
    ]
}
