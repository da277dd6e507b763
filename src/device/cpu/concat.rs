//! Arrays behind one another: each part is copied to its place in the rows of the output.

use crate::device::array::Array;

/// Joins `parts` along `axis`.
pub fn run(parts: &[&Array], axis: usize, y: &mut [f32]) {
    let below: usize = parts[0].sizes()[axis + 1..].iter().product();
    let width: usize = parts.iter().map(|part| part.sizes()[axis] * below).sum();
    if width == 0 {
        return;
    }
    let parts: Vec<Array> = parts.iter().map(|part| super::contiguous(part)).collect();
    let parts: Vec<(&[f32], usize)> =
        parts.iter().map(|part| (super::elements(part), part.sizes()[axis] * below)).collect();
    super::for_rows(y, width, width, |first, y| {
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let mut at = 0;
            for &(values, size) in &parts {
                y[at..at + size].copy_from_slice(&values[(first + row) * size..][..size]);
                at += size;
            }
        }
    });
}
