//! The singular value decomposition of a small matrix, in f64.
//!
//! One-sided Jacobi (Hestenes 1958): rotate pairs of columns until all are orthogonal; their lengths
//! are then the singular values. Slow and accurate; used once per layer, when an adapter starts from
//! singular vectors or is exported.

/// Sweeps over all pairs; convergence is quadratic, and about ten are enough for any matrix.
const SWEEPS: usize = 60;

/// Of `a: [rows, columns]`: left vectors `[rows, k]`, singular values `[k]` from the largest, right
/// vectors `[columns, k]`, with `k` the smaller of the sizes and `a = left · diag(values) · rightᵀ`.
pub(super) fn svd(a: &[f64], rows: usize, columns: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    if rows < columns {
        let turned: Vec<f64> =
            (0..columns).flat_map(|column| (0..rows).map(move |row| a[row * columns + column])).collect();
        let (left, values, right) = svd(&turned, columns, rows);
        return (right, values, left);
    }
    let column = |number: usize| (0..rows).map(|row| a[row * columns + number]).collect::<Vec<f64>>();
    let unit = |number: usize| (0..columns).map(|at| f64::from(u8::from(at == number))).collect::<Vec<f64>>();
    let mut u: Vec<Vec<f64>> = (0..columns).map(column).collect();
    let mut v: Vec<Vec<f64>> = (0..columns).map(unit).collect();
    for _ in 0..SWEEPS {
        let mut turned = false;
        for first in 0..columns {
            for second in first + 1..columns {
                let (aa, bb, ab) =
                    (dot(&u[first], &u[first]), dot(&u[second], &u[second]), dot(&u[first], &u[second]));
                if ab.abs() <= 1e-15 * (aa * bb).sqrt() || ab == 0.0 {
                    continue;
                }
                turned = true;
                let zeta = (bb - aa) / (2.0 * ab);
                let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                rotate(&mut u, first, second, cosine, cosine * tangent);
                rotate(&mut v, first, second, cosine, cosine * tangent);
            }
        }
        if !turned {
            break;
        }
    }
    let lengths: Vec<f64> = u.iter().map(|column| dot(column, column).sqrt()).collect();
    let mut order: Vec<usize> = (0..columns).collect();
    order.sort_by(|&a, &b| lengths[b].total_cmp(&lengths[a]));
    let mut left = vec![0.0; rows * columns];
    let mut right = vec![0.0; columns * columns];
    for (at, &from) in order.iter().enumerate() {
        let scale = if lengths[from] > 0.0 { 1.0 / lengths[from] } else { 0.0 };
        u[from].iter().enumerate().for_each(|(row, x)| left[row * columns + at] = x * scale);
        v[from].iter().enumerate().for_each(|(row, x)| right[row * columns + at] = *x);
    }
    (left, order.iter().map(|&from| lengths[from]).collect(), right)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn rotate(columns: &mut [Vec<f64>], first: usize, second: usize, cosine: f64, sine: f64) {
    let (before, after) = columns.split_at_mut(second);
    for (a, b) in before[first].iter_mut().zip(&mut after[0]) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

#[cfg(test)]
#[path = "svd_tests.rs"]
mod tests;
