//! Shorter roads for a small `out`: few rows or columns, or a depth far larger than both.
//!
//! A thin product reads its large operand once, so packing it would only add to the traffic. A product
//! of great depth over a small `out` has too little of it to share, so the threads share its depth.

use super::blocked::pack_panels;
use super::dot::Dot;
use super::view::{Epilogue, View};
use super::{Product, even_step, for_each_chunk, multiply, write_sums};
use crate::device::cpu::memory::with_scratch;

/// A large depth over a small `out` is cut into pieces of this length, summed separately.
pub const PIECE_DEPTH: usize = 256;
pub const MOST_OUTPUTS: usize = 16 * 1024;
const MOST_PIECES: usize = 16;

/// Sums pieces of the depth separately, for a small `out` that alone could not occupy the threads.
pub fn multiply_in_pieces(product: Product) {
    let Product { rows, depth, columns, epilogue, .. } = product;
    let step = even_step(depth, PIECE_DEPTH.max(depth.div_ceil(MOST_PIECES)));
    let size = rows * columns;
    let mut sums = vec![0.0; depth.div_ceil(step) * size];
    for_each_chunk(true, &mut sums, size, |piece, sums| {
        let first = piece * step;
        let out = View { pointer: sums.as_mut_ptr(), row_stride: columns as isize, col_stride: 1 };
        multiply(Product {
            parallel: false,
            depth: step.min(depth - first),
            a: product.a.from(0, first),
            b: product.b.from(first, 0),
            epilogue: Epilogue { out, scale: 1.0, addend: None },
            ..product
        });
    });
    let (total, pieces) = sums.split_at_mut(size);
    for piece in pieces.chunks(size) {
        total.iter_mut().zip(piece).for_each(|(total, value)| *total += value);
    }
    write_sums(&epilogue, columns, total);
}

/// A thin product whose `b` has contiguous columns: scalar products, nothing large is packed.
pub fn multiply_by_dots(product: Product) {
    let Product { kernel, rows, depth, columns, a, b, epilogue, .. } = product;
    let short_rows = if rows == 1 { 1 } else { kernel.short_rows };
    for first in (0..rows).step_by(short_rows) {
        let short_count = short_rows.min(rows - first);
        // The rows stand as they are where they are complete and contiguous; else a copy is.
        let complete = short_count == short_rows && a.col_stride == 1;
        let copied = if complete { 0 } else { short_rows * depth };
        with_scratch(copied, |copy| {
            let mut short = a.from(first, 0);
            if !complete {
                copy.fill(0.0);
                pack_panels(kernel, short, [short_count, depth, depth], |across| across, copy);
                short = View { pointer: copy.as_mut_ptr(), row_stride: depth as isize, col_stride: 1 };
            }
            let dot = Dot {
                depth,
                long: b.pointer,
                long_stride: b.col_stride,
                long_count: columns,
                short: short.pointer,
                short_stride: short.row_stride,
                short_count,
                epilogue: epilogue.from(first, 0),
            };
            // SAFETY: all rows hold `depth` contiguous values, `short` exactly the rows `dot` expects;
            // the views came from checked matrices and this part of `out` belongs to this call.
            unsafe { kernel.dot(&dot) };
        });
    }
}
