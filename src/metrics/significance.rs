//! Whether a difference between paired results may be chance.
//! Read next: `examples/train/report.rs`, which compares runs by it.

use super::same_count;

/// The probability that paired results differ in their means by as much as they do, or more, although
/// nothing but chance tells them apart: Student's paired t-test, two-sided (1908). Both lists are `[pairs]`.
/// It is not a number for fewer than two pairs, or when all pairs are equal.
///
/// **Panics** when the lists differ in length.
#[track_caller]
pub fn paired_t_test(x: &[f64], y: &[f64]) -> f64 {
    same_count("paired_t_test", x.len(), y.len());
    let count = x.len() as f64;
    let differences: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
    let mean = differences.iter().sum::<f64>() / count;
    let squares: f64 = differences.iter().map(|difference| (difference - mean).powi(2)).sum();
    let freedom = count - 1.0;
    if freedom < 1.0 || (squares == 0.0 && mean == 0.0) {
        return f64::NAN;
    }
    let t_squared = mean * mean * count * freedom / squares;
    regularised_beta(freedom / (freedom + t_squared), freedom / 2.0, 0.5)
}

/// The regularised incomplete beta function I(x; a, b), by its continued fraction (Abramowitz and Stegun
/// 26.5.8), which converges fast below the mean; above it the symmetry I(x; a, b) = 1 - I(1-x; b, a) helps.
fn regularised_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - regularised_beta(1.0 - x, b, a);
    }
    let front = (a * x.ln() + b * (1.0 - x).ln() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b)).exp() / a;
    // From the innermost term outwards: enough of them for a hundred thousand pairs.
    let mut fraction = 1.0;
    for m in (1..=2000).rev().map(f64::from) {
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        fraction = 1.0 + even / (1.0 + odd / fraction);
    }
    let first = -(a + b) * x / (a + 1.0);
    front / (1.0 + first / fraction)
}

/// The logarithm of the gamma function, by Stirling's series above 10 and the recurrence below.
fn ln_gamma(x: f64) -> f64 {
    if x < 10.0 {
        return ln_gamma(x + 1.0) - x.ln();
    }
    let inverse = 1.0 / (x * x);
    let series = (1.0 / 12.0 - inverse * (1.0 / 360.0 - inverse * (1.0 / 1260.0 - inverse / 1680.0))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series
}
