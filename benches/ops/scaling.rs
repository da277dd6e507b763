//! Attention in one kernel against attention composed of products and a softmax, as texts grow.

use std::hint::black_box;

use engrad::device::cpu::{forget_peak, pool_statistics};
use engrad::ops::attention::MASKED;
use engrad::{Device, Mask, Rng, Tensor, attention, inference};

use super::{best_time, common};

/// Attention of the works W1 and W3 of the bench `training_step`, and of longer texts: time forward, time
/// forward and back, and the most memory in use on the device cpu, by the kernel and by the formula.
pub fn compare(device: &Device) {
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
        let hidden = Tensor::full(MASKED, [time, time], device).triu(1);
        let keys = Tensor::arange(time, device);
        let ends: Vec<f32> = lengths(batch, time).iter().map(|&length| length as f32).collect();
        let behind = Tensor::new(&ends, [batch, 1, 1, 1], device).le(&keys) * MASKED;
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
            let peak = (pool_statistics().peak - before) as f64 * 1e-6;
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
