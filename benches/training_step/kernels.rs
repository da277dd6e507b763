//! W5: single kernels.

use std::time::Instant;

use engrad::{Tensor, inference};

use super::Options;
use super::inputs::uniform;
use super::measuring::{emit, spread};

/// W5: each kernel in batches of about 50 ms.
pub fn measure(options: &Options) {
    let device = &options.device;
    let products: [(&str, &[usize], &[usize]); 5] = [
        ("mm512", &[512, 512], &[512, 512]),
        ("mm2048x384x384", &[2048, 384], &[384, 384]),
        ("mm2048x768x8", &[2048, 768], &[768, 8]),
        ("mm2048x8x768", &[2048, 8], &[8, 768]),
        ("bmm384x64x32x64", &[384, 64, 32], &[384, 32, 64]),
    ];
    for (case, left, right) in products {
        let (a, b) = (uniform(1, left, 1.0, device), uniform(2, right, 1.0, device));
        let flops = 2.0 * (a.count() * b.size(-1)) as f64;
        measure_kernel(options, case, flops * 1e-9, "GFLOP/s", || a.matmul(&b));
    }
    let x = uniform(3, &[384, 64, 64], 1.0, device);
    measure_kernel(options, "softmax384x64x64", 8e-9 * x.count() as f64, "GB/s", || x.softmax(-1));
    let x = uniform(4, &[2048, 384], 1.0, device);
    let (weight, bias) =
        (Tensor::ones([384], device).contiguous(), Tensor::zeros([384], device).contiguous());
    let norm = || x.layer_norm(Some(&weight), Some(&bias), 1e-5);
    measure_kernel(options, "layernorm2048x384", 8e-9 * x.count() as f64, "GB/s", norm);
    let x = uniform(5, &[2048, 1536], 1.0, device);
    measure_kernel(options, "gelu2048x1536", 8e-9 * x.count() as f64, "GB/s", || x.gelu());
}

fn measure_kernel(options: &Options, case: &str, work: f64, unit: &str, kernel: impl Fn() -> Tensor) {
    let wait = || options.device.synchronise().expect("the device goes on");
    inference(|| {
        for _ in 0..options.warmup {
            kernel();
        }
        wait();
        let started = Instant::now();
        kernel();
        wait();
        let repeats = ((0.05 / started.elapsed().as_secs_f64()) as usize).max(1);
        let times: Vec<f64> = (0..options.steps.max(10))
            .map(|_| {
                let started = Instant::now();
                for _ in 0..repeats {
                    kernel();
                }
                wait();
                started.elapsed().as_secs_f64() * 1e3 / repeats as f64
            })
            .collect();
        let rate = work / spread(&times).0 * 1e3;
        emit(options, &times, &format!("\"case\":\"{case}\",\"rate\":{rate:.2},\"unit\":\"{unit}\""));
    });
}
