//! Measures of number answers: correlations and mean errors.
//! Read next: `words.rs`.

use super::same_count;

/// Pearson's correlation of two lists of numbers `[count]`, from -1 to 1; not a number when one of them
/// does not vary, or there are fewer than two.
///
/// **Panics** when the lists differ in length.
#[track_caller]
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    same_count("pearson", x.len(), y.len());
    if varies_not(x) || varies_not(y) {
        return f64::NAN;
    }
    let (x, y) = (centred(x), centred(y));
    // Each is divided by its own length first, so that no product of large squares is formed.
    let product: f64 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
    product.clamp(-1.0, 1.0)
}

/// Spearman's correlation: Pearson's of the [`ranks`]; not a number where Pearson's is none, or a number is NaN,
/// which has no place.
///
/// **Panics** when the lists differ in length.
#[track_caller]
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    match x.iter().chain(y).any(|number| number.is_nan()) {
        true => f64::NAN,
        false => pearson(&ranks(x), &ranks(y)),
    }
}

/// The place of each number in sorted order, counted from 1; equal numbers share the mean of their places.
pub fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
    let mut ranks = vec![0.0; numbers.len()];
    let mut first = 0;
    for tie in order.chunk_by(|&a, &b| numbers[a] == numbers[b]) {
        let mean = first as f64 + (tie.len() as f64 + 1.0) / 2.0;
        tie.iter().for_each(|&at| ranks[at] = mean);
        first += tie.len();
    }
    ranks
}

/// The mean of the squared differences; not a number for no numbers.
///
/// **Panics** when the lists differ in length.
#[track_caller]
pub fn mean_squared_error(x: &[f64], y: &[f64]) -> f64 {
    same_count("mean_squared_error", x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f64>() / x.len() as f64
}

/// The mean of the differences without their signs; not a number for no numbers.
///
/// **Panics** when the lists differ in length.
#[track_caller]
pub fn mean_absolute_error(x: &[f64], y: &[f64]) -> f64 {
    same_count("mean_absolute_error", x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).sum::<f64>() / x.len() as f64
}

fn varies_not(numbers: &[f64]) -> bool {
    numbers.iter().all(|number| *number == numbers[0])
}

/// The numbers less their mean, divided by their length as a vector. The mean of large numbers is rounded,
/// so the mean of what it leaves is taken away, too.
fn centred(numbers: &[f64]) -> Vec<f64> {
    let less_mean = |numbers: &[f64]| {
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        numbers.iter().map(|number| number - mean).collect::<Vec<f64>>()
    };
    let numbers = less_mean(&less_mean(numbers));
    // Of numbers up to 1 no square is too large, and not all are too small.
    let largest = numbers.iter().fold(0f64, |largest, number| largest.max(number.abs()));
    let numbers: Vec<f64> = numbers.iter().map(|number| number / largest).collect();
    let length = numbers.iter().map(|number| number.powi(2)).sum::<f64>().sqrt();
    numbers.iter().map(|number| number / length).collect()
}
