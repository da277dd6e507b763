//! Normalised rows (the heart of layer norm and of root-mean-square norm) and their gradient.

use super::reduce::row_sum;
use super::simd::simd;
use super::softmax::multiply;
use crate::device::array::Array;

/// `(x - mean) · rstd` of each row, and `rstd = 1/sqrt(mean((x - mean)²) + eps)`.
pub fn normalise(x: &Array, eps: f32, centred: bool, y: &mut [f32], rstd: &mut [f32]) {
    let x = super::contiguous(x);
    let width = *x.sizes().last().expect("rows");
    if width == 0 {
        return rstd.fill(f32::NAN);
    }
    let x = super::elements(&x);
    super::for_rows_of_two(y, width, rstd, 1, width, |first, y, rstd| {
        let rows = x[first * width..].chunks_exact(width);
        for ((y, rstd), x) in y.chunks_exact_mut(width).zip(rstd).zip(rows) {
            let mean = if centred { row_sum(x) / width as f32 } else { 0.0 };
            squared_distances(x, mean, y);
            *rstd = 1.0 / (row_sum(y) / width as f32 + eps).sqrt();
            shift_and_scale(x, mean, *rstd, y);
        }
    });
}

/// The gradient of [`normalise`], given its results.
pub fn normalise_grad(y: &Array, rstd: &Array, g: &Array, centred: bool, x: &mut [f32]) {
    let (y, rstd, g) = (super::contiguous(y), super::contiguous(rstd), super::contiguous(g));
    let width = *y.sizes().last().expect("rows");
    let (y, rstd, g) = (super::elements(&y), super::elements(&rstd), super::elements(&g));
    super::for_rows(x, width, width, |first, x| {
        for (row, x) in x.chunks_exact_mut(width).enumerate() {
            let at = (first + row) * width;
            let (y, g) = (&y[at..at + width], &g[at..at + width]);
            let mean_g = if centred { row_sum(g) / width as f32 } else { 0.0 };
            multiply(y, g, x);
            let mean_gy = row_sum(x) / width as f32;
            pull_row(y, g, [rstd[first + row], mean_g, mean_gy], x);
        }
    });
}

simd! {
    fn squared_distances(x: &[f32], mean: f32, y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = (x - mean) * (x - mean));
    }
}

simd! {
    fn shift_and_scale(x: &[f32], mean: f32, rstd: f32, y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = (x - mean) * rstd);
    }
}

simd! {
    fn pull_row(y: &[f32], g: &[f32], rstd_and_means: [f32; 3], x: &mut [f32]) {
        let [rstd, mean_g, mean_gy] = rstd_and_means;
        x.iter_mut().zip(y).zip(g).for_each(|((x, &y), &g)| *x = rstd * (g - mean_g - y * mean_gy));
    }
}
