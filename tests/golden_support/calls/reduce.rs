//! Ops that fold axes, run along one, or look for order.

use engrad::{Ids, Tensor};

use super::super::argument::{Argument, BY_NAME, Call};
use super::{Outputs, Row};

pub const ROWS: &[Row] = &[
    ("sum", |c| fold(c, |x, axes| x.sum(axes), |x, axes| x.sum_keep(axes)).into()),
    ("mean", |c| fold(c, |x, axes| x.mean(axes), |x, axes| x.mean_keep(axes)).into()),
    ("amax", |c| fold(c, |x, axes| x.max(axes), |x, axes| x.max_keep(axes)).into()),
    ("amin", |c| fold(c, |x, axes| x.min(axes), |x, axes| x.min_keep(axes)).into()),
    ("logsumexp", |c| fold(c, |x, axes| x.logsumexp(axes), |x, axes| x.logsumexp_keep(axes)).into()),
    ("max", |c| extreme(c, Tensor::maximum, |x| x.max(..), Tensor::max_at)),
    ("min", |c| {
        extreme(
            c,
            Tensor::minimum,
            |x| x.min(..),
            |x, axis| {
                let (value, at) = (-x).max_at(axis);
                (-value, at)
            },
        )
    }),
    ("max_dim", |c| c.x().max_at(c.integer(0, "dim", -1)).into()),
    ("prod", |c| match c.integers(0, "dim") {
        None => c.x().reshape([c.x().count()]).prod(0).into(),
        Some(axes) => kept(c, c.x().prod(axes[0]), axes[0]).into(),
    }),
    ("cumsum", |c| c.x().cumsum(c.integer(0, "dim", 0)).into()),
    ("cumprod", |c| c.x().cumprod(c.integer(0, "dim", 0)).into()),
    ("var", |c| spread(c).0.into()),
    ("std", |c| spread(c).0.sqrt().into()),
    ("var_mean", |c| {
        let (variance, mean) = spread(c);
        vec![variance, mean].into()
    }),
    ("norm", |c| norm(c, order(c.get(0, "p")), 1).into()),
    ("linalg.vector_norm", |c| norm(c, order(c.get(0, "ord")), 1).into()),
    ("argmax", |c| position(c, Tensor::argmax).into()),
    ("argmin", |c| position(c, Tensor::argmin).into()),
    ("argsort", |c| c.x().argsort(c.integer(0, "dim", -1), c.flag(1, "descending", false)).into()),
    ("sort", |c| c.x().sort(c.integer(0, "dim", -1), c.flag(1, "descending", false)).into()),
    ("topk", |c| c.x().topk(c.count(0, "k"), c.integer(1, "dim", -1), c.flag(2, "largest", true)).into()),
];

/// The axes at place `at`, all of them when none is named, and whether they are kept.
fn axes(c: &Call, at: usize) -> (Vec<isize>, bool) {
    let named = c.integers(at, "dim").filter(|axes| !axes.is_empty());
    let all = || (0..c.x().ndim() as isize).collect();
    (named.unwrap_or_else(all), c.flag(at.saturating_add(1), "keepdim", false))
}

fn fold(
    c: &Call,
    drop: impl Fn(&Tensor, &[isize]) -> Tensor,
    keep: impl Fn(&Tensor, &[isize]) -> Tensor,
) -> Tensor {
    match axes(c, 0) {
        (axes, false) => drop(&c.x(), &axes),
        (axes, true) => keep(&c.x(), &axes),
    }
}

/// With the dropped axis back at size 1 if the call asks for it.
fn kept(c: &Call, folded: Tensor, axis: isize) -> Tensor {
    let keep = c.flag(1, "keepdim", false) && c.x().ndim() > 0;
    if keep { folded.unsqueeze(axis) } else { folded }
}

fn kept_ids(c: &Call, ids: Ids, axis: isize) -> Ids {
    let keep = c.flag(1, "keepdim", false) && c.x().ndim() > 0;
    if !keep {
        return ids;
    }
    let mut sizes = c.x().sizes().to_vec();
    sizes[axis.rem_euclid(c.x().ndim() as isize) as usize] = 1;
    ids.reshape(sizes)
}

/// Of two tensors, of everything, or along an axis with its position.
fn extreme(
    c: &Call,
    of_two: impl Fn(&Tensor, &Tensor) -> Tensor,
    of_all: impl Fn(&Tensor) -> Tensor,
    along: impl Fn(&Tensor, isize) -> (Tensor, Ids),
) -> Outputs {
    match c.get(0, "dim") {
        Argument::Tensor(other) => of_two(&c.x(), other).into(),
        Argument::Null => of_all(&c.x()).into(),
        _ => {
            let axis = c.integer(0, "dim", -1);
            let (value, ids) = along(&c.x(), axis);
            (kept(c, value, axis), kept_ids(c, ids, axis)).into()
        }
    }
}

fn position(c: &Call, along: impl Fn(&Tensor, isize) -> Ids) -> Ids {
    match c.integers(0, "dim") {
        None => along(&c.x().reshape([c.x().count()]), 0),
        Some(axes) => kept_ids(c, along(&c.x(), axes[0]), axes[0]),
    }
}

/// Variance and mean. The correction has been called `unbiased`, as the first argument too.
fn spread(c: &Call) -> (Tensor, Tensor) {
    let unbiased = match c.get(0, "dim") {
        Argument::Flag(flag) => Some(*flag),
        _ => c.has(BY_NAME, "unbiased").then(|| c.flag(BY_NAME, "unbiased", true)),
    };
    let default = if unbiased == Some(false) { 0.0 } else { 1.0 };
    let correction = c.number(BY_NAME, "correction", default);
    let (axes, keep) = match c.get(0, "dim") {
        Argument::Flag(_) => axes(c, BY_NAME - 1),
        _ => axes(c, 0),
    };
    let x = c.x();
    match keep {
        true => (x.var_keep(&axes[..], correction), x.mean_keep(&axes[..])),
        false => (x.var(&axes[..], correction), x.mean(&axes[..])),
    }
}

/// The order of a norm; the Frobenius norm is the Euclidean one of all elements.
fn order(argument: &Argument) -> f64 {
    match argument {
        Argument::Number(order) => *order,
        _ => 2.0,
    }
}

fn norm(c: &Call, order: f64, axes_at: usize) -> Tensor {
    let (axes, keep) = axes(c, axes_at);
    let kept = norm_keep(&c.x(), order, &axes);
    match keep {
        true => kept,
        // Kept axes have size 1: their sum is the axis left out.
        false => kept.sum(&axes[..]),
    }
}

/// The norm of any order over axes, which keep size 1.
pub fn norm_keep(x: &Tensor, order: f64, axes: &[isize]) -> Tensor {
    let zero = Tensor::zeros([], &x.device());
    match order {
        2.0 => x.norm_keep(axes),
        1.0 => x.abs().sum_keep(axes),
        0.0 => x.ne(&zero).sum_keep(axes),
        f64::INFINITY => x.abs().max_keep(axes),
        f64::NEG_INFINITY => x.abs().min_keep(axes),
        _ => x.abs().powf(order).sum_keep(axes).powf(1.0 / order),
    }
}
