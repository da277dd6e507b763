//! Cross-entropy of rows of logits, without ever storing probabilities.

use super::math;
use super::reduce::{largest_number, sum};
use super::simd::simd;
use crate::device::array::{Array, Ids};

/// Elements of a row that are exponentiated at a time.
const BLOCK: usize = 1024;

/// The loss of each row (0 where ignored) and its log-sum-exp.
pub fn cross_entropy(logits: &Array, targets: &Ids, losses: &mut [f32], log_sums: &mut [f32]) {
    let logits = super::contiguous(logits);
    let classes = logits.width();
    let x = super::elements(&logits);
    super::for_rows_of_two(losses, 1, log_sums, 1, classes, |first, losses, log_sums| {
        for (i, (loss, log_sum)) in losses.iter_mut().zip(log_sums).enumerate() {
            let row = &x[(first + i) * classes..][..classes];
            let target = targets.values()[first + i];
            *log_sum = log_sum_exp(row);
            *loss = if target == Ids::IGNORED { 0.0 } else { *log_sum - row[target as usize] };
        }
    });
}

simd! {
    /// `log(sum(exp(x)))` of a row, shifted by its maximum so that nothing overflows.
    fn log_sum_exp(row: &[f32]) -> f32 {
        let shift = largest_number(row);
        let mut terms = [0.0; BLOCK];
        let mut total = 0.0;
        for x in row.chunks(BLOCK) {
            let terms = &mut terms[..x.len()];
            for (term, &x) in terms.iter_mut().zip(x) {
                *term = math::exp_of_negative::<FMA>(x - shift);
            }
            // Summed in f64, so that a large vocabulary costs no digits.
            total += f64::from(sum(terms));
        }
        shift + total.ln() as f32
    }
}

/// `(softmax(x) - onehot(target))·g` of each row; 0 where ignored.
pub fn cross_entropy_grad(logits: &Array, log_sum: &Array, targets: &Ids, g: &Array, x: &mut [f32]) {
    let (logits, log_sum, g) = (super::contiguous(logits), super::contiguous(log_sum), super::contiguous(g));
    let classes = logits.width();
    let (logits, log_sum, g) = (super::elements(&logits), super::elements(&log_sum), super::elements(&g));
    super::for_rows(x, classes, classes, |first, x| {
        for (i, x) in x.chunks_exact_mut(classes).enumerate() {
            let (row, target) = (first + i, targets.values()[first + i]);
            if target == Ids::IGNORED {
                x.fill(0.0);
                continue;
            }
            scaled_exp(&logits[row * classes..][..classes], log_sum[row], g[row], x);
            x[target as usize] -= g[row];
        }
    });
}

simd! {
    fn scaled_exp(x: &[f32], shift: f32, factor: f32, y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = factor * math::exp_of_negative::<FMA>(x - shift);
        }
    }
}
