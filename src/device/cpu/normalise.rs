//! Normalised rows (layer norm and root-mean-square norm) and their gradient, in one pass each.

use super::reduce::{dot, fold_rows, sum};
use super::simd::simd;
use crate::device::array::Array;

/// `(x - mean)·rstd·weight + bias` of each row, and its mean and `rstd = 1/sqrt(mean((x - mean)²) + eps)`.
pub fn normalise(
    x: &Array,
    [weight, bias]: [&Array; 2],
    eps: f32,
    centred: bool,
    y: &mut [f32],
    statistics: &mut [f32],
) {
    let (x, weight, bias) = (super::contiguous(x), super::contiguous(weight), super::contiguous(bias));
    let width = x.width();
    if width == 0 {
        return statistics.fill(f32::NAN);
    }
    let (x, weight, bias) = (super::elements(&x), super::elements(&weight), super::elements(&bias));
    super::for_rows_of_two(y, width, statistics, 2, width, |first, y, statistics| {
        normalise_rows(&x[first * width..], weight, bias, eps, centred, y, statistics);
    });
}

/// The gradient of [`normalise`] by `x`.
pub fn normalise_grad(
    x: &Array,
    weight: &Array,
    statistics: &Array,
    g: &Array,
    centred: bool,
    dx: &mut [f32],
) {
    let [x, weight, statistics, g] = [x, weight, statistics, g].map(super::contiguous);
    let width = x.width();
    let [x, weight, statistics, g] = [&x, &weight, &statistics, &g].map(super::elements);
    super::for_rows(dx, width, width, |first, dx| {
        pull_rows(&x[first * width..], weight, &statistics[2 * first..], &g[first * width..], centred, dx);
    });
}

simd! {
    fn normalise_rows(
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        centred: bool,
        y: &mut [f32],
        statistics: &mut [f32],
    ) {
        let width = weight.len();
        let per_element = 1.0 / width as f32;
        let rows = x.chunks_exact(width).zip(statistics.chunks_exact_mut(2));
        for (y, (x, statistics)) in y.chunks_exact_mut(width).zip(rows) {
            let mean = if centred { sum(x) * per_element } else { 0.0 };
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = x - mean);
            let rstd = 1.0 / (dot(y, y) * per_element + eps).sqrt();
            y.iter_mut().zip(weight).zip(bias).for_each(|((y, &weight), &bias)| *y = *y * rstd * weight + bias);
            statistics.copy_from_slice(&[mean, rstd]);
        }
    }
}

simd! {
    fn pull_rows(x: &[f32], weight: &[f32], statistics: &[f32], g: &[f32], centred: bool, dx: &mut [f32]) {
        let width = weight.len();
        let per_element = 1.0 / width as f32;
        let rows = x.chunks_exact(width).zip(g.chunks_exact(width)).zip(statistics.chunks_exact(2));
        for (dx, ((x, g), statistics)) in dx.chunks_exact_mut(width).zip(rows) {
            let (mean, rstd) = (statistics[0], statistics[1]);
            // The gradient of the normalised row waits in the result's place.
            dx.iter_mut().zip(g).zip(weight).for_each(|((dx, &g), &weight)| *dx = g * weight);
            let mean_g = if centred { sum(dx) * per_element } else { 0.0 };
            let along = |total, g, x| total + g * ((x - mean) * rstd);
            let mean_gy = fold_rows(dx, x, 0.0, along, |a, b| a + b) * per_element;
            dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx = rstd * (*dx - mean_g - (x - mean) * rstd * mean_gy));
        }
    }
}
