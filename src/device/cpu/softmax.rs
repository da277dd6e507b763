//! Softmax of rows and its gradient, one row at a time while it lies in the cache.

use super::math;
use super::reduce::{row_max, row_sum};
use super::simd::simd;
use crate::device::array::Array;

/// `exp(x - max) / sum` of each row.
pub fn softmax(x: &Array, y: &mut [f32]) {
    let x = super::contiguous(x);
    let width = *x.sizes().last().expect("rows");
    let x = super::elements(&x);
    super::for_rows(y, width, width, |first, y| {
        for (y, x) in y.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width)) {
            exp_shifted(x, row_max(x), y);
            let factor = 1.0 / row_sum(y);
            scale(factor, y);
        }
    });
}

/// `y·(g - sum(g·y))` of each row.
pub fn softmax_grad(y: &Array, g: &Array, x: &mut [f32]) {
    let (y, g) = (super::contiguous(y), super::contiguous(g));
    let width = *y.sizes().last().expect("rows");
    let (y, g) = (super::elements(&y), super::elements(&g));
    super::for_rows(x, width, width, |first, x| {
        let rows = y[first * width..].chunks_exact(width).zip(g[first * width..].chunks_exact(width));
        for (x, (y, g)) in x.chunks_exact_mut(width).zip(rows) {
            multiply(y, g, x);
            let dot = row_sum(x);
            pull_row(y, g, dot, x);
        }
    });
}

simd! {
    /// `y = exp(x - shift)`
    pub fn exp_shifted(x: &[f32], shift: f32, y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = math::exp(x - shift));
    }
}

simd! {
    fn scale(factor: f32, y: &mut [f32]) {
        y.iter_mut().for_each(|y| *y *= factor);
    }
}

simd! {
    /// `y = a·b`
    pub fn multiply(a: &[f32], b: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = a * b);
    }
}

simd! {
    fn pull_row(y: &[f32], g: &[f32], dot: f32, x: &mut [f32]) {
        x.iter_mut().zip(y).zip(g).for_each(|((x, &y), &g)| *x = y * (g - dot));
    }
}
