//! Interpreted formulas against the same arithmetic written by hand, on the device cpu.

use std::hint::black_box;

use engrad::device::cpu::math;
use engrad::nn::Param;
use engrad::optim::{AdamW, Optimizer};
use engrad::{Device, Rng, Tensor, inference};
use rayon::prelude::*;

use super::best_time;

/// Elements that a thread takes at once.
const PIECE: usize = 1 << 14;

/// Compiles a loop for the widest vectors too, and takes those where the processor has them.
macro_rules! widest {
    (fn $name:ident($($argument:ident: $type:ty),*) $body:block) => {
        fn $name($($argument: $type),*) {
            #[inline(always)]
            fn body<const FMA: bool>($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                fn wide($($argument: $type),*) { body::<true>($($argument),*) }
                let has_all = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("fma");
                if has_all {
                    // SAFETY: the processor has just been asked.
                    return unsafe { wide($($argument),*) };
                }
            }
            body::<false>($($argument),*)
        }
    };
}

widest! {
    fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = a + b);
    }
}

widest! {
    fn gelu(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = math::gelu::<FMA>(x);
        }
    }
}

widest! {
    fn adamw(gradient: &[f32], p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(gradient) {
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.999 * *v + 0.001 * g * g;
            *p = *p * 0.999_99 - 0.001 * *m / (v.abs().sqrt() * 31.6 + 1e-8);
        }
    }
}

/// Measures both.
pub fn compare() {
    println!(
        "{:10} {:>10} {:>14} {:>14} {:>7}",
        "formula", "elements", "expression us", "by hand us", "ratio"
    );
    for count in [1 << 10, 1 << 14, 1 << 18, 1 << 22] {
        let mut rng = Rng::seeded(1);
        let [a, b] = [(); 2].map(|()| Tensor::uniform(-2.0, 2.0, [count], &mut rng, &Device::Cpu));
        let values = [a.to_vec(), b.to_vec()];
        let chunks = |y: &mut [f32], work: &(dyn Fn(usize, &mut [f32]) + Sync)| {
            y.par_chunks_mut(PIECE).enumerate().for_each(|(i, y)| work(i * PIECE, y));
        };
        let mut y = vec![0.0f32; count];
        let report = |name: &str, expression: f64, hand: f64| {
            println!(
                "{name:10} {count:10} {:14.2} {:14.2} {:7.2}",
                expression * 1e6,
                hand * 1e6,
                expression / hand
            );
        };

        let expression = inference(|| best_time(|| drop(black_box(&a + &b))));
        let hand = best_time(|| {
            chunks(&mut y, &|at, y| add(&values[0][at..at + y.len()], &values[1][at..at + y.len()], y));
            black_box(&y);
        });
        report("add", expression, hand);

        let expression = inference(|| best_time(|| drop(black_box(a.gelu()))));
        let hand = best_time(|| {
            chunks(&mut y, &|at, y| gelu(&values[0][at..at + y.len()], y));
            black_box(&y);
        });
        report("gelu", expression, hand);

        let (param, mut optimizer) = (Param::new(&a), AdamW::new(0.01));
        let expression = best_time(|| optimizer.update(&param, &b, 1e-3, 1.0));
        let (mut m, mut v) = (values[0].clone(), values[1].clone());
        y.copy_from_slice(&values[0]);
        let hand = best_time(|| {
            let pieces = y.par_chunks_mut(PIECE).zip(m.par_chunks_mut(PIECE)).zip(v.par_chunks_mut(PIECE));
            pieces
                .enumerate()
                .for_each(|(i, ((p, m), v))| adamw(&values[1][i * PIECE..][..p.len()], p, m, v));
        });
        report("adamw", expression, hand);
    }
}
