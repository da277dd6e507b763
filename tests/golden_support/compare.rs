//! When numbers agree: equal sizes, NaN and infinities at the same places, and every other number
//! within a tolerance relative to the largest magnitude of the expected tensor.

use super::folder::Stored;

/// What differs, at the place where it differs most; `None` when nothing does.
pub fn difference(found: &[f64], sizes: &[usize], expected: &Stored, tolerance: f64) -> Option<String> {
    if sizes != expected.sizes {
        return Some(format!("sizes {sizes:?} instead of {:?}", expected.sizes));
    }
    let finite = expected.values.iter().map(|value| value.abs()).filter(|value| value.is_finite());
    let largest = finite.fold(0.0, f64::max);
    let error = |(found, expected): (&f64, &f64)| match (found - expected).abs() {
        _ if found == expected || (found.is_nan() && expected.is_nan()) => 0.0,
        error if error.is_finite() => error,
        _ => f64::INFINITY,
    };
    let errors: Vec<f64> = found.iter().zip(&expected.values).map(error).collect();
    let worst = (0..errors.len()).max_by(|&a, &b| errors[a].total_cmp(&errors[b]))?;
    (errors[worst] > tolerance * largest).then(|| {
        format!(
            "{} instead of {} at {:?} (error {:.3e}, allowed {:.3e} = {tolerance:.1e} of {largest:.3e})",
            found[worst],
            expected.values[worst],
            index(worst, sizes),
            errors[worst],
            tolerance * largest
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
