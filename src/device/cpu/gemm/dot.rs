//! The inner loop of thin products: scalar products of rows that are contiguous along the depth.
//!
//! Such a product reads its large operand once, so nothing is packed and memory sets the pace.
//! Read next: `small.rs`, which calls it.

use super::vectors::{MOST_LANES, Vector, load_up_to};
use super::view::Epilogue;

/// The arguments of [`dot`]; both operands' rows are contiguous along the depth.
pub struct Dot {
    pub depth: usize,
    pub long: *const f32,
    pub long_stride: isize,
    pub long_count: usize,
    /// Rows of the operand with few rows, exactly as many as the kernel's `SHORT`.
    pub short: *const f32,
    pub short_stride: isize,
    pub short_count: usize,
    /// Rows follow the short operand, columns the long one.
    pub epilogue: Epilogue,
}

/// Scalar products of every short row with every long row.
///
/// `LONG * SHORT == LANES` sums run at once, each spread over the lanes of a register, and meet in
/// one register at the end of the depth. The long rows of a group lie in as many stretches of the operand,
/// each of which is read from its beginning to its end: memory answers such streams at twice the rate
/// of rows side by side.
///
/// # Safety
/// `long_count` and `SHORT` rows of `depth` values exist, and the elements of the epilogue.
#[inline(always)]
pub unsafe fn dot<V: Vector, const LONG: usize, const SHORT: usize>(dot: &Dot) {
    // SAFETY: rows and depth are clipped to the extents the caller vouches for.
    unsafe {
        let groups = dot.long_count.div_ceil(LONG);
        for group in 0..groups {
            let mut long = [dot.long; LONG];
            for (stretch, address) in long.iter_mut().enumerate() {
                // The last stretch repeats its last row rather than running past the end.
                let row = (stretch * groups + group).min(dot.long_count - 1);
                *address = dot.long.wrapping_offset(row as isize * dot.long_stride);
            }
            let mut sums = [[V::splat(0.0); SHORT]; LONG];
            let whole = dot.depth - dot.depth % V::LANES;
            for start in (0..whole).step_by(V::LANES) {
                dot_step(dot, &long, start, V::LANES, &mut sums);
            }
            if whole < dot.depth {
                dot_step(dot, &long, whole, dot.depth - whole, &mut sums);
            }
            let mut lanes = [0.0; MOST_LANES];
            sum_lanes::<V>(sums.as_flattened()).store(lanes.as_mut_ptr());
            for (stretch, sums) in lanes.chunks(SHORT).take(LONG).enumerate() {
                let row = stretch * groups + group;
                if row < dot.long_count {
                    for (short, &sum) in sums[..dot.short_count].iter().enumerate() {
                        dot.epilogue.write(short, row, sum);
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn dot_step<V: Vector, const LONG: usize, const SHORT: usize>(
    dot: &Dot,
    long: &[*const f32; LONG],
    start: usize,
    count: usize,
    sums: &mut [[V; SHORT]; LONG],
) {
    // SAFETY: `start + count <= depth`, and `dot`'s caller vouches for the rows.
    unsafe {
        let mut short = [V::splat(0.0); SHORT];
        for (row, value) in short.iter_mut().enumerate() {
            let address = dot.short.wrapping_offset(row as isize * dot.short_stride);
            *value = load_up_to(address.wrapping_add(start), count);
        }
        for (sums, address) in sums.iter_mut().zip(long) {
            let value: V = load_up_to(address.wrapping_add(start), count);
            for (sum, factor) in sums.iter_mut().zip(short) {
                *sum = value.multiply_add(factor, *sum);
            }
        }
    }
}

/// Sums the lanes of `LANES` registers; lane `i` of the result belongs to register `i`.
#[inline(always)]
unsafe fn sum_lanes<V: Vector>(registers: &[V]) -> V {
    // SAFETY: the arithmetic of the instruction set `dot`'s caller vouches for.
    unsafe {
        let mut sums = [V::splat(0.0); MOST_LANES];
        sums[..V::LANES].copy_from_slice(registers);
        let mut half = V::LANES / 2;
        while half > 0 {
            for index in 0..half {
                let (low, high) = sums[index].zip(sums[index + half]);
                sums[index] = low.add(high);
            }
            half /= 2;
        }
        sums[0]
    }
}
