//! Micro-kernels: the innermost loops of a product, written once and compiled per instruction set.
//!
//! [`tiles`], [`pack`] and [`dot`] are generic over [`Vector`], a register of `LANES` floats with a
//! handful of operations. `vectors.rs` implements it per instruction set (AVX-512, AVX2 with FMA, plain
//! arrays), the [`kernels!`] macro compiles the three loops for each, and [`best`] picks one set at run
//! time.
//!
//! The generic functions are `#[inline(always)]` so that they take on the target features of the
//! function the macro wraps around them; without that every operation would be a function call.
//! Read next: `tile.rs`.

use super::dot::{Dot, dot};
use super::pack::{Panel, pack};
use super::tile::{Tiles, tiles};
use super::vectors::Vector;
use crate::device::cpu::simd::{TIER, Tier};

/// The compiled algorithms for one instruction set.
pub struct MicroKernel {
    #[cfg(test)]
    pub name: &'static str,
    pub lanes: usize,
    /// `tiles[rows - 1][vectors - 1]`
    tiles: &'static [[unsafe fn(Tiles); 2]],
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
    /// As for [`tiles`], with `rows` rows and as many columns in `b` as `panel_width` says.
    pub unsafe fn tiles(&self, rows: usize, tiles: Tiles) {
        let wide = usize::from(tiles.tile.columns > self.lanes);
        // SAFETY: the caller's promise; `best` hands out only kernels this processor can run.
        unsafe { self.tiles[rows - 1][wide](tiles) }
    }

    /// # Safety
    /// As for [`pack`].
    pub unsafe fn pack(&self, panel: &Panel) {
        // SAFETY: as in `tiles`.
        unsafe { (self.pack)(panel) }
    }

    /// # Safety
    /// As for [`dot`], with one short row if `short_count` is 1 and `short_rows` otherwise.
    pub unsafe fn dot(&self, dot: &Dot) {
        // SAFETY: as in `tiles`.
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
    match *TIER {
        Tier::Avx512 => return &[&avx512::KERNEL, &avx2::KERNEL, &portable::KERNEL],
        Tier::Avx2 => return &[&avx2::KERNEL, &portable::KERNEL],
        Tier::Baseline => {}
    }
    &[&portable::KERNEL]
}

/// Compiles the three loops for one kind of register, with tiles of the listed heights.
macro_rules! kernels {
    ($module:ident, $vector:ty, short $short:literal, rows [$($rows:literal)*], $(#[$features:meta])*) => {
        mod $module {
            use super::*;

            $(#[$features])*
            unsafe fn tiles<const ROWS: usize, const VECTORS: usize>(arguments: Tiles) {
                // SAFETY: the caller's promise.
                unsafe { super::tiles::<$vector, ROWS, VECTORS>(arguments) }
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
                tiles: &[$([tiles::<$rows, 1>, tiles::<$rows, 2>]),*],
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
