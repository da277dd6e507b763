//! Matrix products and row kernels at the sizes of a transformer.

use engrad::device::counted;
use engrad::{Device, Rng, Tensor, inference};

use super::best_time_on;
use super::ceilings::Ceilings;

/// Measures each, with its share of the ceiling.
pub fn measure(device: &Device, ceilings: &Ceilings) {
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
    let product = |name: String, a: &Tensor, b: &Tensor| {
        let seconds = inference(|| best_time_on(device, || a.matmul(b)));
        let rate = 2.0 * (a.count() * b.size(-1)) as f64 / seconds / 1e9;
        report(name, seconds, rate, "GFLOP/s", ceilings.multiply_add);
    };
    for [left, right] in shapes {
        product(format!("product {left:?} {right:?}"), &random(&left), &random(&right));
    }
    // The gradient of a weight: the gradient of what came out, turned, times what went in.
    for [outputs, inputs] in [[384, 384], [1536, 384], [384, 1536], [384, 8]] {
        let (gradient, x) = (random(&[2048, outputs]), random(&[2048, inputs]));
        product(format!("gradient of [{outputs}, {inputs}] by 2048 rows"), &gradient.t(), &x);
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
