//! Sums and maxima along any axes.
//!
//! The kept axes become rows and the reduced ones columns. Where a row's elements are neighbours,
//! sixteen running totals fill the vectors; where the rows are neighbours instead (the gradient of
//! a bias), whole rows are added to one another. The order of additions is fixed by the sizes.

use rayon::prelude::*;

use super::simd::simd;
use crate::device::array::Array;
use crate::device::kernel::Fold;

/// Running totals of one row.
const LANES: usize = 16;
/// Rows that one piece of a column sum adds up.
const PIECE: usize = 128;

/// Reduces `x` along `axes`; `y` holds one element per kept index.
pub fn run(op: Fold, x: &Array, axes: &[usize], y: &mut [f32]) {
    let layout = x.layout();
    if layout.count() == 0 {
        return y.fill(match op {
            Fold::Sum => 0.0,
            Fold::Max => f32::NEG_INFINITY,
        });
    }
    let kept: Vec<usize> = (0..x.sizes().len()).filter(|axis| !axes.contains(axis)).collect();
    let width: usize = axes.iter().map(|&axis| x.sizes()[axis]).product();
    let columns = layout.permute(&[axes, &kept[..]].concat());
    if columns.is_contiguous() && y.len() > 1 {
        let columns = x.view(columns);
        return fold_rows_together(op, super::elements(&columns), y);
    }
    let rows = super::contiguous(&x.view(layout.permute(&[&kept[..], axes].concat())));
    let values = super::elements(&rows);
    super::for_rows(y, 1, width, |first, y| {
        for (row, y) in y.iter_mut().enumerate() {
            *y = fold_long_row(op, &values[(first + row) * width..][..width]);
        }
    });
}

/// Folds one row, in pieces whose results are folded in order: exacter than one long chain, and a
/// single long row occupies all threads.
fn fold_long_row(op: Fold, row: &[f32]) -> f32 {
    let fold = match op {
        Fold::Sum => row_sum,
        Fold::Max => row_max,
    };
    if row.len() <= super::GRAIN {
        return fold(row);
    }
    fold(&row.par_chunks(super::GRAIN).map(fold).collect::<Vec<f32>>())
}

/// Folds rows of `y.len()` elements into one row, in pieces whose results are folded in order.
fn fold_rows_together(op: Fold, values: &[f32], y: &mut [f32]) {
    let width = y.len();
    let partial = |rows: &[f32]| {
        let (first, rest) = rows.split_at(width);
        let mut total = first.to_vec();
        rest.chunks_exact(width).for_each(|row| fold_into(op, row, &mut total));
        total
    };
    let partials: Vec<Vec<f32>> = match values.len() <= super::GRAIN {
        true => values.chunks(PIECE * width).map(partial).collect(),
        false => values.par_chunks(PIECE * width).map(partial).collect(),
    };
    y.copy_from_slice(&partials[0]);
    partials[1..].iter().for_each(|partial| fold_into(op, partial, y));
}

/// The larger, or NaN if either is NaN.
#[inline(always)]
pub fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

/// Folds neighbouring elements: sixteen totals side by side, then the totals in halves.
#[inline(always)]
fn fold_row(row: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    fold_rows(row, row, start, |total, x, _| fold(total, x), &fold)
}

/// As `fold_row`, over two rows at once.
#[inline(always)]
pub fn fold_rows(
    a: &[f32],
    b: &[f32],
    start: f32,
    enter: impl Fn(f32, f32, f32) -> f32,
    fold: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut totals = [start; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest = rest.fold(start, |total, (&a, &b)| enter(total, a, b));
    for (a, b) in a.zip(b) {
        for ((total, &a), &b) in totals.iter_mut().zip(a).zip(b) {
            *total = enter(*total, a, b);
        }
    }
    // The compiler begins with the last addition, which has two totals, and would keep to pairs all the way up to
    // the loads. Where it cannot see what becomes of the totals, they fill whole vectors.
    let totals = std::hint::black_box(totals);
    let half: [f32; LANES / 2] = std::array::from_fn(|lane| fold(totals[lane], totals[lane + LANES / 2]));
    let [p, q, r, s]: [f32; LANES / 4] = std::array::from_fn(|lane| fold(half[lane], half[lane + LANES / 4]));
    fold(fold(fold(p, r), fold(q, s)), rest)
}

/// The sum of neighbouring elements.
#[inline(always)]
pub fn sum(row: &[f32]) -> f32 {
    fold_row(row, 0.0, |a, b| a + b)
}

/// The largest of neighbouring elements, or NaN if there is one.
#[inline(always)]
fn max(row: &[f32]) -> f32 {
    fold_row(row, f32::NEG_INFINITY, maximum)
}

/// The largest of neighbouring elements, to be subtracted before `exp`. A NaN may be passed over, since its own
/// exponential shows it; the comparison is then one instruction instead of four.
#[inline(always)]
pub fn largest_number(row: &[f32]) -> f32 {
    fold_row(row, f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
}

/// The sum of the products of two rows.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    fold_rows(a, b, 0.0, |total, a, b| total + a * b, |a, b| a + b)
}

simd! {
    fn row_sum(row: &[f32]) -> f32 {
        sum(row)
    }
}

simd! {
    fn row_max(row: &[f32]) -> f32 {
        max(row)
    }
}

simd! {
    fn fold_into(op: Fold, row: &[f32], total: &mut [f32]) {
        match op {
            Fold::Sum => total.iter_mut().zip(row).for_each(|(total, &x)| *total += x),
            Fold::Max => total.iter_mut().zip(row).for_each(|(total, &x)| *total = maximum(*total, x)),
        }
    }
}
