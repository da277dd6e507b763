//! Softmax of rows and its gradient, one row at a time while it lies in the cache.

use super::math;
use super::reduce::{dot, largest_number, sum};
use super::simd::simd;
use crate::device::array::Array;

/// `exp(x - max) / sum` of each row.
pub fn softmax(x: &Array, y: &mut [f32]) {
    let x = super::contiguous(x);
    let width = x.width();
    let x = super::elements(&x);
    super::for_rows(y, width, width, |first, y| softmax_rows(&x[first * width..], width, y));
}

/// `y·(g - sum(g·y))` of each row.
pub fn softmax_grad(y: &Array, g: &Array, x: &mut [f32]) {
    let (y, g) = (super::contiguous(y), super::contiguous(g));
    let width = y.width();
    let (y, g) = (super::elements(&y), super::elements(&g));
    super::for_rows(x, width, width, |first, x| {
        pull_rows(&y[first * width..], &g[first * width..], width, x);
    });
}

/// Rows that go through a pass together, so that the end of one row's maximum or sum, a chain in which
/// each step waits for the one before, is computed beside other rows'.
pub const ROWS: usize = 16;
/// Elements of those rows at most: longer rows come fewer at a time, and stay in the first-level cache.
const ELEMENTS: usize = 4096;

/// How many rows of a width go through a pass together.
pub fn rows_at_once(width: usize) -> usize {
    (ELEMENTS / width.max(1)).clamp(1, ROWS)
}

simd! {
    fn softmax_rows(x: &[f32], width: usize, y: &mut [f32]) {
        let some = rows_at_once(width) * width;
        for (y, x) in y.chunks_mut(some).zip(x.chunks(some)) {
            let mut shifts = [0.0; ROWS];
            let mut factors = [0.0; ROWS];
            for (shift, x) in shifts.iter_mut().zip(x.chunks_exact(width)) {
                *shift = largest_number(x);
            }
            let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
            for ((y, x), &shift) in rows.zip(&shifts) {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = math::exp_of_negative::<FMA>(x - shift);
                }
            }
            for (factor, y) in factors.iter_mut().zip(y.chunks_exact(width)) {
                *factor = 1.0 / sum(y);
            }
            for (y, &factor) in y.chunks_exact_mut(width).zip(&factors) {
                for y in y {
                    *y *= factor;
                }
            }
        }
    }
}

simd! {
    fn pull_rows(y: &[f32], g: &[f32], width: usize, x: &mut [f32]) {
        let rows = y.chunks_exact(width).zip(g.chunks_exact(width));
        for (x, (y, g)) in x.chunks_exact_mut(width).zip(rows) {
            let dot = dot(y, g);
            x.iter_mut().zip(y).zip(g).for_each(|((x, &y), &g)| *x = y * (g - dot));
        }
    }
}
