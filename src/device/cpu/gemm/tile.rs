//! The inner loop of large products: a block of `out` held in registers while the depth streams past it.
//!
//! `blocked.rs` arranges the operands so that every load here finds its line in a near cache.
//! Read next: `pack.rs`, which makes the panels that are read here.

use super::vectors::{MOST_LANES, Vector};
use super::view::{Epilogue, Lines, prefetch};

/// About so many depth steps hide the way of a line from memory. A tile of no more is shallow: it asks for the rows
/// of `out` that a tile further down will write, and `blocked.rs` goes along the rows.
pub const MEMORY_STEPS: usize = 128;
const MOST_TILES_AHEAD: usize = 4;

/// The arguments of [`tiles`]: some of one size, each below or beside the one before.
pub struct Tiles<'a> {
    /// The first one.
    pub tile: Tile,
    pub count: usize,
    pub next: Next,
    pub ahead: &'a mut Ahead,
}

/// From one tile to the next: how far in `a` and `b`, of which they share one, and how many rows or columns of `out`.
pub struct Next {
    pub a: isize,
    pub b: isize,
    pub rows: usize,
    pub columns: usize,
}

/// Memory to be asked for while tiles are computed.
pub struct Ahead {
    pub lines: Lines,
    pub lines_a_tile: usize,
}

/// One block of `out` and what it is made of.
pub struct Tile {
    pub depth: usize,
    /// `ROWS` values for each depth step.
    pub a: Strip,
    /// `VECTORS * LANES` values for each depth step.
    pub b: Strip,
    /// How many of those columns exist in `out`.
    pub columns: usize,
    pub epilogue: Epilogue,
}

/// A part of an operand, packed or where it lies.
#[derive(Clone, Copy)]
pub struct Strip {
    pub pointer: *const f32,
    /// From one depth step to the next.
    pub stride: isize,
    /// From one value of a depth step to the next: 1 where packed, and for all of `b`.
    pub across: isize,
}

/// In place, the rows of up to so many may lie anywhere: each takes a register for its address.
pub const ROWS_IN_PLACE: usize = 8;

impl Strip {
    #[inline(always)]
    fn after(self, steps: isize) -> Strip {
        self.moved(steps * self.stride)
    }

    #[inline(always)]
    fn moved(self, by: isize) -> Strip {
        Strip { pointer: self.pointer.wrapping_offset(by), ..self }
    }
}

/// One tile after the other, in one call: getting ready for each on its own takes half as long as 32 depth steps.
///
/// # Safety
/// As for [`tile`], of each of them.
#[inline(always)]
pub unsafe fn tiles<V: Vector, const ROWS: usize, const VECTORS: usize>(tiles: Tiles) {
    let Tiles { mut tile, count, next, ahead } = tiles;
    for _ in 0..count {
        ahead.lines.by_ref().take(ahead.lines_a_tile).for_each(prefetch);
        // SAFETY: the caller's promise.
        unsafe { self::tile::<V, ROWS, VECTORS>(&tile) };
        let epilogue = tile.epilogue.from(next.rows, next.columns);
        tile = Tile { a: tile.a.moved(next.a), b: tile.b.moved(next.b), epilogue, ..tile };
    }
}

/// Multiplies a `ROWS` x depth strip of `a` with a depth x `VECTORS` registers strip of `b`.
///
/// All sums stay in registers: each step loads `VECTORS + ROWS` values for `VECTORS * ROWS`
/// multiply-adds, which is what lets the arithmetic rather than the loads set the pace.
///
/// # Safety
/// The strips and the `ROWS` x `columns` elements of the epilogue's matrices exist; for more than
/// [`ROWS_IN_PLACE`] rows the values of `a` stand side by side.
#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    // SAFETY: the caller's promise. That packed values stand side by side is said as a constant: addresses with a
    // stride that is only known when the program runs cost a large product 3 %.
    unsafe {
        let sums: [[V; VECTORS]; ROWS] = if ROWS <= ROWS_IN_PLACE && tile.a.across != 1 {
            sum_products(tile, tile.a.across)
        } else {
            sum_products(tile, 1)
        };
        write_tile(tile, &sums);
    }
}

/// The sums of a tile whose values of `a` lie `across` apart.
#[inline(always)]
unsafe fn sum_products<V: Vector, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
    across: isize,
) -> [[V; VECTORS]; ROWS] {
    // SAFETY: every step stays inside the strips the caller vouches for.
    unsafe {
        let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
        let (mut a, mut b) = (tile.a, tile.b);
        let ahead = (MEMORY_STEPS / tile.depth).min(MOST_TILES_AHEAD) * ROWS;
        // Unrolled by two: the loop's own counting competes with the multiply-adds for ports, but
        // longer bodies measured slower.
        for pair in 0..tile.depth / 2 {
            // While there is arithmetic left to hide its way from memory, ask for a row of `out`.
            for vector in 0..if pair < ROWS { VECTORS } else { 0 } {
                prefetch(tile.epilogue.out.at(ahead + pair, vector * V::LANES));
            }
            multiply_step(a.pointer, across, b.pointer, &mut sums);
            multiply_step(a.after(1).pointer, across, b.after(1).pointer, &mut sums);
            (a, b) = (a.after(2), b.after(2));
        }
        if tile.depth % 2 == 1 {
            multiply_step(a.pointer, across, b.pointer, &mut sums);
        }
        sums
    }
}

/// One depth step: the outer product of a column of `a` and a row of `b`.
#[inline(always)]
unsafe fn multiply_step<V: Vector, const ROWS: usize, const VECTORS: usize>(
    a: *const f32,
    across: isize,
    b: *const f32,
    sums: &mut [[V; VECTORS]; ROWS],
) {
    // SAFETY: `tile` passes addresses inside its strips.
    unsafe {
        let mut b_row = [V::splat(0.0); VECTORS];
        for (vector, value) in b_row.iter_mut().enumerate() {
            *value = V::load(b.add(vector * V::LANES));
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let a_value = V::splat(*a.offset(row as isize * across));
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
            Some(addend) if whole && addend.col_stride == 0 => {
                for (row, sums) in sums.iter().enumerate() {
                    let before = V::splat(*addend.at(row, 0));
                    for (vector, sum) in sums.iter().enumerate() {
                        sum.multiply_add(scales, before).store(out.at(row, vector * V::LANES));
                    }
                }
            }
            _ => {
                let mut detour = [[[0.0; MOST_LANES]; VECTORS]; ROWS];
                let detour = detour.as_flattened_mut().as_flattened_mut();
                for (row, sums) in sums.iter().enumerate() {
                    for (vector, sum) in sums.iter().enumerate() {
                        sum.store(detour[(row * VECTORS + vector) * V::LANES..].as_mut_ptr());
                    }
                }
                let sums = &detour[..ROWS * VECTORS * V::LANES];
                tile.epilogue.write_rows(sums, VECTORS * V::LANES, tile.columns);
            }
        }
    }
}
