//! What a device can do at most, measured: the figures beside which an op's own stand.

use std::hint::black_box;

use engrad::{Device, Tensor, elementwise};
use rayon::prelude::*;

use super::{best_time, best_time_on};

/// What a device can do at most.
pub struct Ceilings {
    /// GB/s read and written by a copy far larger than the caches.
    pub copy: f64,
    /// GFLOP/s of multiply-adds that never leave the registers.
    pub multiply_add: f64,
}

impl Ceilings {
    pub fn of(device: &Device) -> Ceilings {
        match device {
            Device::Cpu => Ceilings { copy: copy_bandwidth(), multiply_add: multiply_add_rate() },
            _ => Ceilings { copy: formula_bandwidth(device), multiply_add: formula_rate(device) },
        }
    }
}

/// A copy as the device's own shader, in GB/s.
fn formula_bandwidth(device: &Device) -> f64 {
    let x = Tensor::ones([1 << 24], device).contiguous();
    let seconds = best_time_on(device, || elementwise("copy", [&x], |[x]| x));
    8.0 * x.count() as f64 / seconds / 1e9
}

/// A formula of multiply-adds in independent chains, in GFLOP/s.
fn formula_rate(device: &Device) -> f64 {
    const ROUNDS: usize = 64;
    const CHAINS: usize = 8;
    let x = Tensor::full(0.5, [1 << 20], device).contiguous();
    let seconds = best_time_on(device, || {
        elementwise("multiply-adds", [&x], |[x]| {
            let mut chains = [(); CHAINS].map(|()| x);
            chains.iter_mut().enumerate().for_each(|(at, chain)| *chain = *chain * (at as f64 * 0.125));
            for _ in 0..ROUNDS {
                chains.iter_mut().for_each(|chain| *chain = *chain * x + x);
            }
            chains.into_iter().reduce(|a, b| a + b).expect("some chains")
        })
    });
    (2 * ROUNDS * CHAINS * x.count()) as f64 / seconds / 1e9
}

/// Bytes read and written per second by a copy far larger than the caches, in GB/s.
fn copy_bandwidth() -> f64 {
    let source = vec![1.0f32; 1 << 25];
    let mut target = vec![0.0f32; 1 << 25];
    let seconds = best_time(|| {
        target
            .par_chunks_mut(1 << 16)
            .zip(source.par_chunks(1 << 16))
            .for_each(|(t, s)| t.copy_from_slice(s));
    });
    8.0 * source.len() as f64 / seconds / 1e9
}

/// Multiply-adds that never leave the registers, on every thread, in GFLOP/s.
fn multiply_add_rate() -> f64 {
    const ROUNDS: usize = 1 << 20;
    let threads = rayon::current_num_threads();
    let (rounds, numbers) = best_rounds();
    let seconds = best_time(|| {
        let sums: Vec<f32> = (0..threads).into_par_iter().map(|_| rounds(black_box(ROUNDS))).collect();
        black_box(sums);
    });
    (threads * ROUNDS * numbers * 2) as f64 / seconds / 1e9
}

/// Rounds of multiply-adds on so many numbers side by side: twelve registers of them, enough to hide the latency
/// of one, and few enough to stay in registers.
fn best_rounds() -> (fn(usize) -> f32, usize) {
    #[inline(always)]
    fn body<const NUMBERS: usize>(rounds: usize) -> f32 {
        let factor = black_box(0.999f32);
        // One flat array: of an array of arrays the compiler gathers its lanes one by one.
        let mut chains = [1.0f32; NUMBERS];
        for _ in 0..rounds {
            for x in &mut chains {
                *x = x.mul_add(factor, factor);
            }
        }
        chains.iter().sum()
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,fma")]
        fn avx512(rounds: usize) -> f32 {
            body::<192>(rounds)
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2(rounds: usize) -> f32 {
            body::<96>(rounds)
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been asked.
            return (|rounds| unsafe { avx512(rounds) }, 192);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has just been asked.
            return (|rounds| unsafe { avx2(rounds) }, 96);
        }
    }
    (body::<48>, 48)
}
