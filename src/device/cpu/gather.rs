//! Rows by index, and its transpose: rows added at an index.

use super::simd::simd;
use crate::device::array::{Array, Ids};

/// `y[i] = table[ids[i]]`; zeros for an ignored id.
pub fn gather(table: &Array, ids: &Ids, y: &mut [f32]) {
    let table = super::contiguous(table);
    let width: usize = table.sizes()[1..].iter().product();
    let table = super::elements(&table);
    if width == 0 {
        return;
    }
    super::for_rows(y, width, width, |first, y| {
        for (y, &id) in y.chunks_exact_mut(width).zip(&ids.values()[first..]) {
            match id {
                Ids::IGNORED => y.fill(0.0),
                id => y.copy_from_slice(&table[id as usize * width..][..width]),
            }
        }
    });
}

/// `y[ids[i]] += rows[i]`, starting from zeros. Each target row adds its own sources in their order,
/// so nothing is shared between threads.
pub fn scatter_add(rows: &Array, ids: &Ids, count: usize, y: &mut [f32]) {
    let rows = super::contiguous(rows);
    let width = rows.width();
    let rows = super::elements(&rows);
    if width == 0 {
        return;
    }
    let sources = ids.sources(count);
    super::for_rows(y, width, width, |first, y| {
        for (target, y) in y.chunks_exact_mut(width).enumerate() {
            y.fill(0.0);
            for &source in sources.of(first + target) {
                add_into(&rows[source as usize * width..][..width], y);
            }
        }
    });
}

simd! {
    fn add_into(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
    }
}
