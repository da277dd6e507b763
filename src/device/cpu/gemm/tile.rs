//! The inner loop of large products: a block of `out` held in registers while the depth streams past it.
//!
//! `blocked.rs` arranges the operands so that every load here finds its line in a near cache.
//! Read next: `pack.rs`, which makes the panels that are read here.

use super::vectors::{MOST_LANES, Vector};
use super::view::Epilogue;

/// The arguments of [`tile`].
pub struct Tile {
    pub depth: usize,
    /// Packed: `rows` values for depth 0, then `rows` values for depth 1, ...
    pub a: *const f32,
    /// One row of `VECTORS * LANES` values per depth step, `b_stride` apart.
    pub b: *const f32,
    pub b_stride: isize,
    /// How many of those columns exist in `out`.
    pub columns: usize,
    pub epilogue: Epilogue,
}

/// Multiplies a `ROWS` x depth panel of `a` with a depth x `VECTORS` registers panel of `b`.
///
/// All sums stay in registers: each step loads `VECTORS + ROWS` values for `VECTORS * ROWS`
/// multiply-adds, which is what lets the arithmetic rather than the loads set the pace.
///
/// # Safety
/// The panels and the `ROWS` x `columns` elements of the epilogue's matrices exist.
#[inline(always)]
pub unsafe fn tile<V: Vector, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    // SAFETY: every step stays inside the panels the caller vouches for.
    unsafe {
        let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
        let (mut a, mut b) = (tile.a, tile.b);
        // Unrolled by two: the loop's own counting competes with the multiply-adds for ports, but
        // longer bodies measured slower.
        for pair in 0..tile.depth / 2 {
            // While there is arithmetic left to hide its way from memory, ask for a row of `out`.
            for vector in 0..if pair < ROWS { VECTORS } else { 0 } {
                prefetch(tile.epilogue.out.at(pair, vector * V::LANES));
            }
            multiply_step(a, b, &mut sums);
            multiply_step(a.add(ROWS), b.wrapping_offset(tile.b_stride), &mut sums);
            (a, b) = (a.add(2 * ROWS), b.wrapping_offset(2 * tile.b_stride));
        }
        if tile.depth % 2 == 1 {
            multiply_step(a, b, &mut sums);
        }
        write_tile(tile, &sums);
    }
}

/// Asks for a line of memory that will soon be written.
#[inline(always)]
fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// One depth step: the outer product of a column of `a` and a row of `b`.
#[inline(always)]
unsafe fn multiply_step<V: Vector, const ROWS: usize, const VECTORS: usize>(
    a: *const f32,
    b: *const f32,
    sums: &mut [[V; VECTORS]; ROWS],
) {
    // SAFETY: `tile` passes addresses inside its panels.
    unsafe {
        let mut b_row = [V::splat(0.0); VECTORS];
        for (vector, value) in b_row.iter_mut().enumerate() {
            *value = V::load(b.add(vector * V::LANES));
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let a_value = V::splat(*a.add(row));
            for (sum, b_value) in sums.iter_mut().zip(b_row) {
                *sum = a_value.multiply_add(b_value, *sum);
            }
        }
    }
}

/// Applies the epilogue. Whole rows of registers go straight to memory, all else by a detour.
#[inline(always)]
unsafe fn write_tile<V: Vector, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
    sums: &[[V; VECTORS]; ROWS],
) {
    let Epilogue { out, scale, addend } = tile.epilogue;
    let whole = out.col_stride == 1 && tile.columns == VECTORS * V::LANES;
    // SAFETY: the caller vouches for `ROWS` x `columns` elements, which is all that is touched.
    unsafe {
        // The compiler keeps `sums` in registers only if it can unroll every loop over them, so
        // these are kept short and free of branches.
        let scales = V::splat(scale);
        match addend {
            None if whole => {
                let zero = V::splat(0.0);
                for (row, sums) in sums.iter().enumerate() {
                    for (vector, sum) in sums.iter().enumerate() {
                        sum.multiply_add(scales, zero).store(out.at(row, vector * V::LANES));
                    }
                }
            }
            Some(addend) if whole && addend.col_stride == 1 => {
                for (row, sums) in sums.iter().enumerate() {
                    for (vector, sum) in sums.iter().enumerate() {
                        let before = V::load(addend.at(row, vector * V::LANES));
                        sum.multiply_add(scales, before).store(out.at(row, vector * V::LANES));
                    }
                }
            }
            _ => {
                let mut detour = [[[0.0; MOST_LANES]; VECTORS]; ROWS];
                for (sums, detour) in sums.iter().zip(&mut detour) {
                    for (sum, detour) in sums.iter().zip(detour) {
                        sum.store(detour.as_mut_ptr());
                    }
                }
                for (row, detour) in detour.iter().enumerate() {
                    for column in 0..tile.columns {
                        let sum = detour[column / V::LANES][column % V::LANES];
                        tile.epilogue.write(row, column, sum);
                    }
                }
            }
        }
    }
}
