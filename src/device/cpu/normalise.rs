//! Normalised rows (the heart of layer norm and of root-mean-square norm) and their gradient.

use super::reduce::{dot, sum};
use super::simd::simd;
use crate::device::array::Array;

/// `(x - mean) · rstd` of each row, and `rstd = 1/sqrt(mean((x - mean)²) + eps)`.
pub fn normalise(x: &Array, eps: f32, centred: bool, y: &mut [f32], rstd: &mut [f32]) {
    let x = super::contiguous(x);
    let width = x.width();
    if width == 0 {
        return rstd.fill(f32::NAN);
    }
    let x = super::elements(&x);
    super::for_rows_of_two(y, width, rstd, 1, width, |first, y, rstd| {
        normalise_rows(&x[first * width..], width, eps, centred, y, rstd);
    });
}

/// The gradient of [`normalise`], given its results.
pub fn normalise_grad(y: &Array, rstd: &Array, g: &Array, centred: bool, x: &mut [f32]) {
    let (y, rstd, g) = (super::contiguous(y), super::contiguous(rstd), super::contiguous(g));
    let width = y.width();
    let (y, rstd, g) = (super::elements(&y), super::elements(&rstd), super::elements(&g));
    super::for_rows(x, width, width, |first, x| {
        pull_rows(&y[first * width..], &rstd[first..], &g[first * width..], centred, x, width);
    });
}

simd! {
    fn normalise_rows(x: &[f32], width: usize, eps: f32, centred: bool, y: &mut [f32], rstd: &mut [f32]) {
        let per_element = 1.0 / width as f32;
        for ((y, rstd), x) in y.chunks_exact_mut(width).zip(rstd).zip(x.chunks_exact(width)) {
            let mean = if centred { sum(x) * per_element } else { 0.0 };
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = x - mean);
            let scale = 1.0 / (dot(y, y) * per_element + eps).sqrt();
            y.iter_mut().for_each(|y| *y *= scale);
            *rstd = scale;
        }
    }
}

simd! {
    fn pull_rows(y: &[f32], rstd: &[f32], g: &[f32], centred: bool, x: &mut [f32], width: usize) {
        let per_element = 1.0 / width as f32;
        let rows = y.chunks_exact(width).zip(g.chunks_exact(width)).zip(rstd);
        for (x, ((y, g), &rstd)) in x.chunks_exact_mut(width).zip(rows) {
            let mean_g = if centred { sum(g) * per_element } else { 0.0 };
            let mean_gy = dot(g, y) * per_element;
            x.iter_mut().zip(y).zip(g).for_each(|((x, &y), &g)| *x = rstd * (g - mean_g - y * mean_gy));
        }
    }
}
