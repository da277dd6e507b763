//! The order of the elements of each row: where the largest is, and how to sort them.

use std::cmp::Ordering;

use crate::device::array::Array;

/// NaN counts as larger than every number, so that it shows.
fn ascending(a: f32, b: f32) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The first position of the largest element of each row.
pub fn arg_max(x: &Array, y: &mut [f32]) {
    let x = super::contiguous(x);
    let width = x.width();
    let x = super::elements(&x);
    super::for_rows(y, 1, width, |first, y| {
        for (y, row) in y.iter_mut().zip(x[first * width..].chunks_exact(width)) {
            let larger =
                |best: usize, at: usize| if ascending(row[at], row[best]).is_gt() { at } else { best };
            *y = (1..width).fold(0, larger) as f32;
        }
    });
}

/// The positions that sort each row, equal elements in their order.
pub fn arg_sort(x: &Array, descending: bool, y: &mut [f32]) {
    let x = super::contiguous(x);
    let width = x.width();
    if width == 0 {
        return;
    }
    let x = super::elements(&x);
    super::for_rows(y, width, width * 8, |first, y| {
        let mut order: Vec<usize> = Vec::with_capacity(width);
        for (y, row) in y.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width)) {
            order.clear();
            order.extend(0..width);
            order.sort_by(|&a, &b| {
                let (a, b) = if descending { (row[b], row[a]) } else { (row[a], row[b]) };
                ascending(a, b)
            });
            y.iter_mut().zip(&order).for_each(|(y, &at)| *y = at as f32);
        }
    });
}
