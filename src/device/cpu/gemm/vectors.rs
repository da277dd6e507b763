//! Vector registers under one trait: a shim per instruction set (AVX-512, AVX2 with FMA, plain arrays).
//!
//! A shim says how a register is loaded, stored, multiplied and interleaved; the loops that use it
//! stand once, in `tile.rs`, `pack.rs` and `dot.rs`.

use super::super::simd::BASELINE_FMA;

/// One register of `LANES` floats.
///
/// # Safety
/// Every method may use the shim's instruction set, so the processor must have it. `load` and
/// `store` touch `LANES` floats, `load_first` and `store_first` only `count <= LANES` of them.
pub trait Vector: Copy {
    const LANES: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Loads `count` lanes and zeroes the others.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    unsafe fn store_first(self, to: *mut f32, count: usize);
    /// `self * factor + sum`, rounded once where the hardware can.
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    /// Interleaves two registers: `[a0 b0 a1 b1 ..]`, split over two results.
    unsafe fn zip(self, other: Self) -> (Self, Self);
    /// Loads four floats from each of the first `LANES / 4` addresses, one quad of lanes after the other.
    unsafe fn load_quads(from: [*const f32; 4]) -> Self;
    /// Transposes the 4 x 4 matrices that the same quad of four registers makes.
    unsafe fn transpose_quads(rows: [Self; 4]) -> [Self; 4];
}

/// No register here has more lanes than this.
pub const MOST_LANES: usize = 16;

/// Loads `count` lanes, or all of them if `count` is larger.
#[inline(always)]
pub unsafe fn load_up_to<V: Vector>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller vouches for `count` floats.
    unsafe { if count >= V::LANES { V::load(from) } else { V::load_first(from, count) } }
}

/// Stores `count` lanes, or all of them if `count` is larger.
#[inline(always)]
pub unsafe fn store_up_to<V: Vector>(value: V, to: *mut f32, count: usize) {
    // SAFETY: the caller vouches for `count` floats.
    unsafe { if count >= V::LANES { value.store(to) } else { value.store_first(to, count) } }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    // SAFETY of every block here: the caller's promises, as the trait states them.
    #[rustfmt::skip]
    impl Vector for __m512 {
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self { unsafe { _mm512_set1_ps(value) } }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self { unsafe { _mm512_loadu_ps(from) } }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) { unsafe { _mm512_storeu_ps(to, self) } }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> Self {
            unsafe { _mm512_maskz_loadu_ps(first_lanes(count), from) }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            unsafe { _mm512_mask_storeu_ps(to, first_lanes(count), self) }
        }
        #[inline(always)]
        unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
            unsafe { _mm512_fmadd_ps(self, factor, sum) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self { unsafe { _mm512_add_ps(self, other) } }
        #[inline(always)]
        unsafe fn zip(self, other: Self) -> (Self, Self) {
            unsafe {
                let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
                (_mm512_permutex2var_ps(self, low, other), _mm512_permutex2var_ps(self, high, other))
            }
        }
        #[inline(always)]
        unsafe fn load_quads(from: [*const f32; 4]) -> Self {
            unsafe {
                let quads = _mm512_castps128_ps512(_mm_loadu_ps(from[0]));
                let quads = _mm512_insertf32x4::<1>(quads, _mm_loadu_ps(from[1]));
                let quads = _mm512_insertf32x4::<2>(quads, _mm_loadu_ps(from[2]));
                _mm512_insertf32x4::<3>(quads, _mm_loadu_ps(from[3]))
            }
        }
        #[inline(always)]
        unsafe fn transpose_quads([a, b, c, d]: [Self; 4]) -> [Self; 4] {
            unsafe {
                let (ab, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (cd, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                [
                    _mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xee>(ab, cd),
                    _mm512_shuffle_ps::<0x44>(ab_high, cd_high), _mm512_shuffle_ps::<0xee>(ab_high, cd_high),
                ]
            }
        }
    }

    #[inline(always)]
    fn first_lanes(count: usize) -> __mmask16 {
        ((1u32 << count) - 1) as __mmask16
    }

    // SAFETY of every block here: the caller's promises, as the trait states them.
    #[rustfmt::skip]
    impl Vector for __m256 {
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self { unsafe { _mm256_set1_ps(value) } }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self { unsafe { _mm256_loadu_ps(from) } }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) { unsafe { _mm256_storeu_ps(to, self) } }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> Self {
            unsafe { _mm256_maskload_ps(from, lane_mask(count)) }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            unsafe { _mm256_maskstore_ps(to, lane_mask(count), self) }
        }
        #[inline(always)]
        unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
            unsafe { _mm256_fmadd_ps(self, factor, sum) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self { unsafe { _mm256_add_ps(self, other) } }
        #[inline(always)]
        unsafe fn zip(self, other: Self) -> (Self, Self) {
            // The unpack instructions stay inside 128-bit halves; the permutes put those in order.
            unsafe {
                let (low, high) = (_mm256_unpacklo_ps(self, other), _mm256_unpackhi_ps(self, other));
                (_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31))
            }
        }
        #[inline(always)]
        unsafe fn load_quads(from: [*const f32; 4]) -> Self {
            unsafe { _mm256_set_m128(_mm_loadu_ps(from[1]), _mm_loadu_ps(from[0])) }
        }
        #[inline(always)]
        unsafe fn transpose_quads([a, b, c, d]: [Self; 4]) -> [Self; 4] {
            unsafe {
                let (ab, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let (cd, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                [
                    _mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xee>(ab, cd),
                    _mm256_shuffle_ps::<0x44>(ab_high, cd_high), _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
                ]
            }
        }
    }

    #[inline(always)]
    unsafe fn lane_mask(count: usize) -> __m256i {
        const MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: count <= 8, so the eight values read lie inside the table.
        unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - count).cast()) }
    }
}

/// Plain arrays: the compiler turns them into whatever registers the target always has (SSE2, NEON).
// SAFETY of every block here: the caller's promises, as the trait states them.
#[rustfmt::skip]
impl Vector for [f32; 4] {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self { [value; 4] }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self { unsafe { from.cast::<Self>().read_unaligned() } }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) { unsafe { to.cast::<Self>().write_unaligned(self) } }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 4];
        unsafe { from.copy_to_nonoverlapping(lanes.as_mut_ptr(), count) };
        lanes
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { to.copy_from_nonoverlapping(self.as_ptr(), count) };
    }
    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        // Without hardware support `mul_add` is a slow library call.
        let mut result = sum;
        for lane in 0..4 {
            let product = (self[lane], factor[lane]);
            result[lane] =
                if BASELINE_FMA { product.0.mul_add(product.1, sum[lane]) } else { product.0 * product.1 + sum[lane] };
        }
        result
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        [self[0] + other[0], self[1] + other[1], self[2] + other[2], self[3] + other[3]]
    }
    #[inline(always)]
    unsafe fn zip(self, other: Self) -> (Self, Self) {
        ([self[0], other[0], self[1], other[1]], [self[2], other[2], self[3], other[3]])
    }
    #[inline(always)]
    unsafe fn load_quads(from: [*const f32; 4]) -> Self { unsafe { Self::load(from[0]) } }
    #[inline(always)]
    unsafe fn transpose_quads(rows: [Self; 4]) -> [Self; 4] {
        std::array::from_fn(|lane| rows.map(|row| row[lane]))
    }
}
