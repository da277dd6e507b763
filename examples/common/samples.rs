//! What a few numbers have in common: their mean, how far they lie apart, and the one in the middle.
//! Read next: `compare/report.rs`, which makes a table of them.

#[allow(dead_code, reason = "not every program has several runs")]
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean and the deviation of a sample, as text; a single value has no deviation.
#[allow(dead_code, reason = "not every program has several runs")]
pub fn mean_and_deviation(values: &[f64]) -> String {
    let mean = mean(values);
    if values.len() < 2 {
        return format!("{mean:.4}");
    }
    format!("{mean:.4} ± {:.4}", deviation(values))
}

/// The deviation of a sample; 0 of a single value.
#[allow(dead_code, reason = "not every program has several runs")]
pub fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len().max(2) - 1) as f64).sqrt()
}

/// The number in the middle of all, sorted by size; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
