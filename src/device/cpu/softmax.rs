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

simd! {
    fn softmax_rows(x: &[f32], width: usize, y: &mut [f32]) {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let shift = largest_number(x);
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = math::exp(x - shift));
            let factor = 1.0 / sum(y);
            y.iter_mut().for_each(|y| *y *= factor);
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
