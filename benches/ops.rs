//! The op table again, timed: each row's largest case with the rate it reaches, beside what the
//! machine can do at most, measured in the same run.
//!
//! `cargo bench --bench ops [-- FILTER] [--device gpu]`; `-- products` times matrix products and the row
//! kernels at a transformer's sizes against those ceilings; `-- expressions` compares interpreted formulas with
//! hand-written loops instead (the figures behind the elementwise design, see ARCHITECTURE.md), and
//! `-- scaling` attention in one kernel with attention composed of products and a softmax.

#[path = "../tests/common/mod.rs"]
mod common;

use std::f32::consts::SQRT_2;
use std::hint::black_box;
use std::time::Instant;

use common::Arrangement;
use common::table::{Case, table};
use engrad::device::counted;
use engrad::device::cpu::{forget_peak, math, pool_statistics};
use engrad::optim::{AdamW, Optimizer};
use engrad::{Device, Mask, Rng, Tensor, attention, elementwise, inference, nn::Param};
use rayon::prelude::*;

fn main() {
    let mut filter = String::new();
    let mut device = Device::Cpu;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--device" => {
                let name = arguments.next().expect("the name of a device");
                device = name.parse().expect("a device of this machine");
            }
            other if !other.starts_with("--") => filter = other.into(),
            _ => {}
        }
    }
    if filter == "expressions" {
        return expressions();
    }
    if filter == "scaling" {
        return scaling(&device);
    }
    let ceilings = Ceilings::of(&device);
    println!("{device}: copy {:.1} GB/s, multiply-add {:.0} GFLOP/s", ceilings.copy, ceilings.multiply_add);
    if filter == "products" {
        return products(&device, &ceilings);
    }
    println!("{:28} {:>34} {:>10} {:>10} {:>10}", "op", "sizes", "us", "GB/s", "GFLOP/s");
    for row in table().iter().filter(|row| row.name.contains(&filter)) {
        let elements = |case: &Case| case.sizes.iter().map(|s| s.iter().product::<usize>()).sum::<usize>();
        let cases = row.cases();
        let dense = cases.iter().filter(|case| case.arrangement == Arrangement::Dense);
        let Some(case) = dense.max_by_key(|case| elements(case)) else { continue };
        let inputs = case.stored(&device);
        let (_, counts) = counted(|| inference(|| case.call(&inputs)));
        let seconds = inference(|| best_time_on(&device, || case.call(&inputs)));
        let bytes: u64 = counts.values().map(|count| count.bytes).sum();
        let flops: u64 = counts.values().map(|count| count.flops).sum();
        let (gb, gflop) = (bytes as f64 / seconds / 1e9, flops as f64 / seconds / 1e9);
        println!(
            "{:28} {:>34} {:10.1} {gb:10.2} {gflop:10.1}",
            row.name,
            format!("{:?}", case.sizes),
            seconds * 1e6
        );
    }
}

/// What a device can do at most.
struct Ceilings {
    /// GB/s read and written by a copy far larger than the caches.
    copy: f64,
    /// GFLOP/s of multiply-adds that never leave the registers.
    multiply_add: f64,
}

impl Ceilings {
    fn of(device: &Device) -> Ceilings {
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

/// Matrix products and row kernels at the sizes of a transformer, each with its share of the ceiling.
fn products(device: &Device, ceilings: &Ceilings) {
    let sides: &[usize] = if is_hardware(device) { &[512, 1024, 2048, 4096] } else { &[512, 1024] };
    let mut shapes: Vec<[Vec<usize>; 2]> = sides.iter().map(|&n| [vec![n, n], vec![n, n]]).collect();
    // MiniLM with batches of 32 x 64 tokens: projection, up, down, adapter factors, scores, values.
    shapes.extend([
        [vec![2048, 384], vec![384, 384]],
        [vec![2048, 384], vec![384, 1536]],
        [vec![2048, 1536], vec![1536, 384]],
        [vec![2048, 384], vec![384, 8]],
        [vec![2048, 8], vec![8, 384]],
        [vec![384, 64, 32], vec![384, 32, 64]],
        [vec![384, 64, 64], vec![384, 64, 32]],
    ]);
    println!("{:44} {:>10} {:>10} {:>9}", "kernel", "us", "rate", "ceiling");
    let report = |name: String, seconds: f64, rate: f64, unit: &str, ceiling: f64| {
        println!("{name:44} {:10.1} {rate:10.1} {unit} {:5.1} %", seconds * 1e6, 100.0 * rate / ceiling);
    };
    let random = |sizes: &[usize]| Tensor::uniform(-1.0, 1.0, sizes, &mut Rng::seeded(1), device);
    for [left, right] in shapes {
        let (a, b) = (random(&left), random(&right));
        let seconds = inference(|| best_time_on(device, || a.matmul(&b)));
        let rate = 2.0 * (a.count() * b.size(-1)) as f64 / seconds / 1e9;
        report(format!("product {left:?} {right:?}"), seconds, rate, "GFLOP/s", ceilings.multiply_add);
    }
    type Kernel = fn(&Tensor) -> Tensor;
    let kernels: [(&str, &[usize], Kernel); 5] = [
        ("add", &[2048, 1536], |x| x + x),
        ("gelu", &[2048, 1536], |x| x.gelu()),
        ("softmax", &[384, 64, 64], |x| x.softmax(-1)),
        ("normalise", &[2048, 384], |x| x.layer_norm(None, None, 1e-5)),
        ("sum of rows", &[2048, 384], |x| x.sum(-1)),
    ];
    for (name, sizes, kernel) in kernels {
        let x = random(sizes);
        let (_, counts) = counted(|| inference(|| kernel(&x)));
        let bytes: u64 = counts.values().map(|count| count.bytes).sum();
        let seconds = inference(|| best_time_on(device, || kernel(&x)));
        report(format!("{name} {sizes:?}"), seconds, bytes as f64 / seconds / 1e9, "GB/s   ", ceilings.copy);
    }
}

fn is_hardware(device: &Device) -> bool {
    match device {
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => !gpu.adapter().is_software(),
        _ => false,
    }
}

/// As [`best_time`], of a tensor that is really there.
fn best_time_on(device: &Device, run: impl Fn() -> Tensor) -> f64 {
    best_time(|| {
        black_box(run());
        device.synchronise().expect("the device goes on");
    })
}

/// The shortest of many runs, in seconds: what the code can do when the machine lets it.
fn best_time(mut run: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 5 || (begun.elapsed().as_secs_f64() < 0.1 && runs < 10_000) {
        let started = Instant::now();
        run();
        best = best.min(started.elapsed().as_secs_f64());
        runs += 1;
    }
    best
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
    let seconds = best_time(|| {
        let sums: Vec<f32> =
            (0..threads).into_par_iter().map(|_| multiply_add_rounds(black_box(ROUNDS))).collect();
        black_box(sums);
    });
    (threads * ROUNDS * LANES * CHAINS * 2) as f64 / seconds / 1e9
}

const LANES: usize = 16;
/// Enough independent chains to hide the latency of one.
const CHAINS: usize = 12;

fn multiply_add_rounds(rounds: usize) -> f32 {
    #[inline(always)]
    fn body(rounds: usize) -> f32 {
        let factor = [black_box(0.999f32); LANES];
        let mut chains = [[1.0f32; LANES]; CHAINS];
        for _ in 0..rounds {
            for chain in &mut chains {
                for (x, f) in chain.iter_mut().zip(&factor) {
                    *x = x.mul_add(*f, *f);
                }
            }
        }
        chains.iter().flatten().sum()
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,fma")]
        fn avx512(rounds: usize) -> f32 {
            body(rounds)
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2(rounds: usize) -> f32 {
            body(rounds)
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been asked.
            return unsafe { avx512(rounds) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has just been asked.
            return unsafe { avx2(rounds) };
        }
    }
    body(rounds)
}

const PIECE: usize = 1 << 14;

macro_rules! widest {
    (fn $name:ident($($argument:ident: $type:ty),*) $body:block) => {
        fn $name($($argument: $type),*) {
            #[inline(always)]
            fn body($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn wide($($argument: $type),*) { body($($argument),*) }
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq") {
                    // SAFETY: the processor has just been asked.
                    return unsafe { wide($($argument),*) };
                }
            }
            body($($argument),*)
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
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * (0.5 * (math::erf(x * (1.0 / SQRT_2)) + 1.0)));
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

/// Interpreted formulas against the same arithmetic written by hand.
fn expressions() {
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

/// Attention of the works W1 and W3 of `training_step.rs`, and of longer texts: time forward, time
/// forward and back, and the most memory in use on the device cpu, by the kernel and by the formula.
fn scaling(device: &Device) {
    common::fuse_attention(device);
    let titles = ["forward", "composed", "and back", "composed", "peak", "composed"];
    println!("{:29} {}", "[batch, heads, time, width]", titles.map(|title| format!("{title:>10}")).concat());
    let lengths = |batch: usize, time: usize| -> Vec<usize> {
        (0..batch).map(|row| time / 2 + row * 7 * time / 64 % (time / 2 + 1)).collect()
    };
    let times = [64, 128, 256, 512].map(|time| ([2048 / time, 12, time, 32], false));
    let cases = [([32, 12, 64, 32], false), ([8, 6, 128, 64], true), ([8, 6, 512, 64], true)];
    for (sizes, causal) in cases.into_iter().chain(times) {
        let [batch, _, time, width] = sizes;
        let mut rng = Rng::seeded(1);
        // As a model has them: heads split from a row of all.
        let split = |_| {
            let [batch, heads, time, width] = sizes;
            Tensor::normal(1.0, [batch, time, heads, width], &mut rng, device).transpose(1, 2).tracked()
        };
        let [q, k, v] = [0, 1, 2].map(split);
        let padding = Mask::lengths(&lengths(batch, time), time, device).expect("lengths within the time");
        let mask = if causal { Mask::causal() } else { padding };
        let scale = 1.0 / (width as f64).sqrt();
        let hidden = Tensor::full(engrad::ops::attention::MASKED, [time, time], device).triu(1);
        let keys = Tensor::arange(time, device);
        let ends: Vec<f32> = lengths(batch, time).iter().map(|&length| length as f32).collect();
        let behind = Tensor::new(&ends, [batch, 1, 1, 1], device).le(&keys) * engrad::ops::attention::MASKED;
        let added = if causal { hidden } else { behind };
        let fused = || attention(&q, &k, &v, &mask, scale, 0.0);
        let composed = || added.add_matmul(&q, &k.t(), scale).softmax(-1).matmul(&v);
        let g = Tensor::normal(1.0, [batch, time, sizes[1], width], &mut rng, device).transpose(1, 2);
        let measure = |attend: &dyn Fn() -> Tensor| {
            let finish = || device.synchronise().expect("the device works");
            let forward = inference(|| {
                best_time(|| {
                    black_box(attend());
                    finish();
                })
            });
            let both = best_time(|| {
                black_box(attend().backward_with(g.clone()));
                finish();
            });
            forget_peak();
            let before = pool_statistics().used;
            drop(attend().backward_with(g.clone()));
            let peak = (pool_statistics().peak - before) as f64 * 4e-6;
            (forward * 1e3, both * 1e3, peak)
        };
        let (one, other) = (measure(&fused), measure(&composed));
        println!(
            "{:22} {:6} {:7.2} ms{:7.2} ms{:7.2} ms{:7.2} ms{:7.1} MB{:7.1} MB",
            format!("{sizes:?}"),
            if causal { "causal" } else { "" },
            one.0,
            other.0,
            one.1,
            other.1,
            one.2,
            other.2
        );
    }
}
