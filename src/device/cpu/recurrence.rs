//! First-order linear recurrences along rows: cumulative sums and products, and memories that decay.

use crate::device::array::Array;

/// `h[t] = decay[t]·h[t-1] + input[t]`, from `h[-1] = 0`. Totals are kept in f64, so that a long
/// row loses nothing to rounding.
pub fn run(decay: &Array, input: &Array, h: &mut [f32]) {
    let (decay, input) = (super::contiguous(decay), super::contiguous(input));
    let width = input.width();
    if width == 0 {
        return;
    }
    let (decay, input) = (super::elements(&decay), super::elements(&input));
    super::for_rows(h, width, width, |first, h| {
        let rows = decay[first * width..].chunks_exact(width).zip(input[first * width..].chunks_exact(width));
        for (h, (decay, input)) in h.chunks_exact_mut(width).zip(rows) {
            let mut state = 0.0;
            for (h, (&decay, &input)) in h.iter_mut().zip(decay.iter().zip(input)) {
                state = f64::from(decay) * state + f64::from(input);
                *h = state as f32;
            }
        }
    });
}
