//! Micro-kernels: the innermost loops of `gemm.rs`, written once and compiled per instruction set.
//!
//! Everything here is generic over [`Vector`], a register of `LANES` floats with a handful of
//! operations. `vectors.rs` implements it per instruction set (AVX-512, AVX2 with FMA, plain arrays), the
//! [`kernels!`] macro compiles the three algorithms below for each shim, and [`best`] picks one set
//! at run time:
//!
//! * [`tile`]: a small block of `out` held in registers while the whole depth streams past it;
//! * [`pack`]: copies a panel of an operand into the order in which `tile` reads it;
//! * [`dot`]: scalar products of rows that are contiguous along the depth (thin products).
//!
//! The generic functions are `#[inline(always)]` so that they take on the target features of the
//! function the macro wraps around them; without that every operation would be a function call.

use super::vectors::{MOST_LANES, Vector, load_up_to, store_up_to};

/// A strided matrix by its first element. Only views made from `out` are ever written to.
#[derive(Clone, Copy)]
pub struct View {
    pub pointer: *mut f32,
    pub row_stride: isize,
    pub col_stride: isize,
}

// SAFETY: a View is only an address; whoever dereferences it must show that the element exists and
// that no other thread writes to it at the same time.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// The address of element (row, column); dereferencing it is what needs care.
    #[inline(always)]
    pub fn at(self, row: usize, column: usize) -> *mut f32 {
        let offset = row as isize * self.row_stride + column as isize * self.col_stride;
        self.pointer.wrapping_offset(offset)
    }

    /// The same matrix without its first `row` rows and `column` columns.
    pub fn from(self, row: usize, column: usize) -> View {
        View { pointer: self.at(row, column), ..self }
    }

    pub fn transposed(self) -> View {
        View { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// How a finished sum reaches memory: `out = addend + scale * sum`.
#[derive(Clone, Copy)]
pub struct Epilogue {
    pub out: View,
    pub scale: f32,
    pub addend: Option<View>,
}

impl Epilogue {
    pub fn from(self, row: usize, column: usize) -> Epilogue {
        let addend = self.addend.map(|addend| addend.from(row, column));
        Epilogue { out: self.out.from(row, column), addend, ..self }
    }

    pub fn transposed(self) -> Epilogue {
        let addend = self.addend.map(View::transposed);
        Epilogue { out: self.out.transposed(), addend, ..self }
    }

    /// The epilogue for a later part of the depth: it adds to what the earlier parts left in `out`.
    pub fn accumulating(self) -> Epilogue {
        Epilogue { addend: Some(self.out), ..self }
    }

    /// Finishes one element.
    ///
    /// # Safety
    /// Element (row, column) of `out` and of the addend exists, and no other thread touches it.
    #[inline(always)]
    pub unsafe fn write(&self, row: usize, column: usize, sum: f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let before = self.addend.map(|addend| *addend.at(row, column));
            *self.out.at(row, column) = match before {
                Some(before) => before + self.scale * sum,
                None => self.scale * sum,
            };
        }
    }
}

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
unsafe fn tile<V: Vector, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
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

/// The arguments of [`pack`]: a depth x `across` source, a depth x `width` destination.
pub struct Panel {
    /// Rows run along the depth, columns across the panel.
    pub source: View,
    pub depth: usize,
    pub across: usize,
    /// The destination's row length; values past `across` become zero.
    pub width: usize,
    pub destination: *mut f32,
}

/// Copies a panel into consecutive memory, one depth step after the other.
///
/// # Safety
/// The source's depth x `across` and the destination's depth x `width` elements exist.
#[inline(always)]
unsafe fn pack<V: Vector>(panel: &Panel) {
    let &Panel { source, depth, across, width, destination } = panel;
    // SAFETY: all indices stay below the extents the caller vouches for.
    unsafe {
        if source.row_stride == 1 && source.col_stride != 1 {
            for first in (0..width).step_by(V::LANES) {
                pack_transposed::<V>(panel, first);
            }
            return;
        }
        for step in 0..depth {
            let (from, to) = (source.at(step, 0), destination.add(step * width));
            for first in (0..width).step_by(V::LANES) {
                let present = across.saturating_sub(first).min(V::LANES);
                let row = if source.col_stride == 1 {
                    load_up_to::<V>(from.wrapping_add(first), present)
                } else {
                    let mut lanes = [0.0; MOST_LANES];
                    for (lane, value) in lanes[..present].iter_mut().enumerate() {
                        *value = *source.at(step, first + lane);
                    }
                    V::load(lanes.as_ptr())
                };
                store_up_to(row, to.add(first), width - first);
            }
        }
    }
}

/// Packs up to `LANES` columns from `first` on whose values are contiguous along the depth.
///
/// Reads square blocks of registers and transposes each with repeated [`Vector::zip`]: every round
/// moves the top bit of the row number to the bottom of the lane number, so after log2(LANES)
/// rounds rows and lanes have changed places.
#[inline(always)]
unsafe fn pack_transposed<V: Vector>(panel: &Panel, first: usize) {
    let &Panel { source, depth, across, width, destination } = panel;
    let present = across.saturating_sub(first).min(V::LANES);
    // SAFETY: `present` and `steps` are clipped to the extents `pack`'s caller vouches for.
    unsafe {
        for start in (0..depth).step_by(V::LANES) {
            let steps = (depth - start).min(V::LANES);
            let mut block = [V::splat(0.0); MOST_LANES];
            for (lane, register) in block.iter_mut().take(V::LANES).enumerate() {
                if lane < present {
                    *register = load_up_to::<V>(source.at(start, first + lane), steps);
                }
            }
            let mut rounds = V::LANES;
            while rounds > 1 {
                let before = block;
                for pair in 0..V::LANES / 2 {
                    let (low, high) = before[pair].zip(before[pair + V::LANES / 2]);
                    (block[2 * pair], block[2 * pair + 1]) = (low, high);
                }
                rounds /= 2;
            }
            for (step, &register) in block.iter().take(V::LANES).enumerate() {
                if step < steps {
                    let to = destination.add((start + step) * width + first);
                    store_up_to(register, to, width - first);
                }
            }
        }
    }
}

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
/// one register at the end of the depth.
///
/// # Safety
/// `long_count` and `SHORT` rows of `depth` values exist, and the elements of the epilogue.
#[inline(always)]
unsafe fn dot<V: Vector, const LONG: usize, const SHORT: usize>(dot: &Dot) {
    // SAFETY: rows and depth are clipped to the extents the caller vouches for.
    unsafe {
        for first in (0..dot.long_count).step_by(LONG) {
            let mut long = [dot.long; LONG];
            for (row, address) in long.iter_mut().enumerate() {
                // The last group repeats its last row rather than running past the end.
                let row = (first + row).min(dot.long_count - 1);
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
            for (row, sums) in lanes.chunks(SHORT).take(LONG).enumerate() {
                if first + row < dot.long_count {
                    for (short, &sum) in sums[..dot.short_count].iter().enumerate() {
                        dot.epilogue.write(short, first + row, sum);
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

/// The compiled algorithms for one instruction set.
pub struct MicroKernel {
    #[cfg(test)]
    pub name: &'static str,
    pub lanes: usize,
    /// `tiles[rows - 1][vectors - 1]`
    tiles: &'static [[unsafe fn(&Tile); 2]],
    pack: unsafe fn(&Panel),
    dot_one: unsafe fn(&Dot),
    dot_many: unsafe fn(&Dot),
    /// How many short rows `dot_many` takes.
    pub short_rows: usize,
}

impl MicroKernel {
    /// The tallest tile.
    pub fn rows(&self) -> usize {
        self.tiles.len()
    }

    /// The widest tile.
    pub fn columns(&self) -> usize {
        2 * self.lanes
    }

    /// The width of a packed `b` panel that holds `columns` columns.
    pub fn panel_width(&self, columns: usize) -> usize {
        if columns > self.lanes { 2 * self.lanes } else { self.lanes }
    }

    /// # Safety
    /// As for [`tile`], with `rows` rows and as many columns in `b` as `panel_width` says.
    pub unsafe fn tile(&self, rows: usize, tile: &Tile) {
        let vectors = self.panel_width(tile.columns) / self.lanes;
        // SAFETY: the caller's promise; `best` hands out only kernels this processor can run.
        unsafe { self.tiles[rows - 1][vectors - 1](tile) }
    }

    /// # Safety
    /// As for [`pack`].
    pub unsafe fn pack(&self, panel: &Panel) {
        // SAFETY: as in `tile`.
        unsafe { (self.pack)(panel) }
    }

    /// # Safety
    /// As for [`dot`], with one short row if `short_count` is 1 and `short_rows` otherwise.
    pub unsafe fn dot(&self, dot: &Dot) {
        // SAFETY: as in `tile`.
        unsafe { if dot.short_count == 1 { (self.dot_one)(dot) } else { (self.dot_many)(dot) } }
    }
}

/// The fastest kernel this processor can run.
pub fn best() -> &'static MicroKernel {
    supported()[0]
}

/// All kernels this processor can run, the fastest first.
pub fn supported() -> &'static [&'static MicroKernel] {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
            return &[&avx512::KERNEL, &avx2::KERNEL, &portable::KERNEL];
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return &[&avx2::KERNEL, &portable::KERNEL];
        }
    }
    &[&portable::KERNEL]
}

/// Compiles the algorithms above for one vector shim, with tiles of the listed heights.
macro_rules! kernels {
    ($module:ident, $vector:ty, short $short:literal, rows [$($rows:literal)*], $(#[$features:meta])*) => {
        mod $module {
            use super::*;

            $(#[$features])*
            unsafe fn tile<const ROWS: usize, const VECTORS: usize>(arguments: &Tile) {
                // SAFETY: the caller's promise.
                unsafe { super::tile::<$vector, ROWS, VECTORS>(arguments) }
            }

            $(#[$features])*
            unsafe fn pack(arguments: &Panel) {
                // SAFETY: the caller's promise.
                unsafe { super::pack::<$vector>(arguments) }
            }

            $(#[$features])*
            unsafe fn dot<const LONG: usize, const SHORT: usize>(arguments: &Dot) {
                // SAFETY: the caller's promise.
                unsafe { super::dot::<$vector, LONG, SHORT>(arguments) }
            }

            const LANES: usize = <$vector>::LANES;
            pub const KERNEL: MicroKernel = MicroKernel {
                #[cfg(test)]
                name: stringify!($module),
                lanes: LANES,
                tiles: &[$([tile::<$rows, 1>, tile::<$rows, 2>]),*],
                pack,
                dot_one: dot::<LANES, 1>,
                dot_many: dot::<{ LANES / $short }, $short>,
                short_rows: $short,
            };
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(avx512, std::arch::x86_64::__m512, short 8, rows [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
    #[target_feature(enable = "avx512f,fma")]);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, std::arch::x86_64::__m256, short 8, rows [1 2 3 4 5 6],
    #[target_feature(enable = "avx2,fma")]);
kernels!(portable, [f32; 4], short 4, rows [1 2 3 4 5 6],);
