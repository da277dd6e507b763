//! The widest vectors of the processor, chosen when the program runs.
//!
//! Loops are written plainly and left to the compiler to vectorise (as `for`: what a closure does is not
//! always compiled into the loop, and then with the baseline's instructions). [`simd!`] compiles a function
//! three times, for AVX-512, for AVX2 and for the baseline (SSE2, NEON), and picks one when it is
//! called. Its body may read the constant `FMA`, which says whether a product and a sum are one
//! instruction in that tier; only what asks for that (`math`) has other bits without it.

use std::sync::LazyLock;

/// Instruction sets that a function is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Tier {
    /// What every processor of the target has.
    Baseline,
    /// 8 numbers at a time.
    Avx2,
    /// 16 numbers at a time.
    Avx512,
}

/// Whether the baseline multiplies and adds in one instruction.
pub const BASELINE_FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// The best tier of this processor.
pub static TIER: LazyLock<Tier> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    {
        if ["avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"].iter().all(|name| has(name)) {
            return Tier::Avx512;
        }
        if has("avx2") && has("fma") {
            return Tier::Avx2;
        }
    }
    Tier::Baseline
});

#[cfg(target_arch = "x86_64")]
fn has(name: &str) -> bool {
    match name {
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512dq" => is_x86_feature_detected!("avx512dq"),
        "avx512vl" => is_x86_feature_detected!("avx512vl"),
        "avx2" => is_x86_feature_detected!("avx2"),
        "fma" => is_x86_feature_detected!("fma"),
        _ => false,
    }
}

/// Compiles a function for each tier and dispatches when it is called.
macro_rules! simd {
    (
        $(#[$meta:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    ) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body<const FMA: bool>($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                fn avx512($($argument: $type),*) $(-> $result)? { body::<true>($($argument),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) $(-> $result)? { body::<true>($($argument),*) }

                match *$crate::device::cpu::simd::TIER {
                    // SAFETY: `TIER` names only instruction sets that this processor reports.
                    $crate::device::cpu::simd::Tier::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    $crate::device::cpu::simd::Tier::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::device::cpu::simd::Tier::Baseline => {}
                }
            }
            body::<{ $crate::device::cpu::simd::BASELINE_FMA }>($($argument),*)
        }
    };
}
pub(crate) use simd;
