//! When numbers agree: equal sizes, NaN and infinities at the same places, and every other number
//! within a tolerance.

use super::folder::Stored;

/// How far numbers may differ: the larger of the two.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative to the largest magnitude of the expected tensor.
    pub relative: f64,
    pub absolute: f64,
}

impl Tolerance {
    /// For indices, truths and rounded numbers, which are right or wrong.
    pub const EXACT: Tolerance = Tolerance { relative: 0.0, absolute: 0.0 };
}

/// The largest magnitude among the finite numbers.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().map(|value| value.abs()).filter(|value| value.is_finite()).fold(0.0, f64::max)
}

/// What differs, at the place where it differs most; `None` when nothing does.
pub fn difference(found: &[f64], sizes: &[usize], expected: &Stored, tolerance: Tolerance) -> Option<String> {
    if sizes != expected.sizes {
        return Some(format!("sizes {sizes:?} instead of {:?}", expected.sizes));
    }
    let largest = largest(&expected.values);
    let allowed = (tolerance.relative * largest).max(tolerance.absolute);
    let error = |(found, expected): (&f64, &f64)| match (found - expected).abs() {
        _ if found == expected || (found.is_nan() && expected.is_nan()) => 0.0,
        error if error.is_finite() => error,
        _ => f64::INFINITY,
    };
    let errors: Vec<f64> = found.iter().zip(&expected.values).map(error).collect();
    let worst = (0..errors.len()).max_by(|&a, &b| errors[a].total_cmp(&errors[b]))?;
    (errors[worst] > allowed).then(|| {
        format!(
            "{:e} instead of {:e} at {:?} (error {:.3e}, allowed {allowed:.3e}, largest {largest:.3e})",
            found[worst],
            expected.values[worst],
            index(worst, sizes),
            errors[worst],
        )
    })
}

/// The index of an element from its place in row-major order.
fn index(mut at: usize, sizes: &[usize]) -> Vec<usize> {
    let mut index = vec![0; sizes.len()];
    for axis in (0..sizes.len()).rev() {
        index[axis] = at % sizes[axis];
        at /= sizes[axis];
    }
    index
}
