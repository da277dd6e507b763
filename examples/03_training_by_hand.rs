//! Training with nothing hidden: a small network, its loss, its gradients and its updates by hand.
//!
//! The task: two spirals wind around each other; say to which one a point belongs. No straight line
//! can do it. The network is two layers of 32 units, `tanh(tanh(x·A + a)·B + b)·C + c`, its
//! parameters are six tensors in a list, and a step is the eight lines in the middle of `main`.
//! Read next: `04_modules.rs`, which gives the parameters names.
//!
//! ```text
//! cargo run --release --example 03_training_by_hand [-- --device gpu]
//! ```

#[path = "common/device.rs"]
mod device;

use std::f64::consts::PI;

use clap::Parser;
use device::OnDevice;
use engrad::{Device, Ids, Rng, Tensor, inference};

const HIDDEN: usize = 32;
const STEPS: usize = 2000;

fn main() -> engrad::Result<()> {
    let device = &OnDevice::parse().device;
    let rng = &mut Rng::seeded(3);
    let (points, labels) = spirals(200, rng, device)?;
    let (unseen, answers) = spirals(200, rng, device)?;

    let layer = |inputs: usize, outputs: usize, rng: &mut Rng| {
        let scale = 1.5 / (inputs as f64).sqrt();
        [Tensor::normal(scale, [inputs, outputs], rng, device), Tensor::zeros([outputs], device)]
    };
    let mut params: Vec<Tensor> = [layer(2, HIDDEN, rng), layer(HIDDEN, HIDDEN, rng), layer(HIDDEN, 2, rng)]
        .into_iter()
        .flatten()
        .collect();
    let mut velocities: Vec<Tensor> = params.iter().map(|p| Tensor::zeros(p.sizes(), device)).collect();

    for step in 0..STEPS {
        let leaves: Vec<Tensor> = params.iter().map(Tensor::tracked).collect();
        let loss = scores(&leaves, &points).cross_entropy(&labels);
        if step % 400 == 0 {
            println!("step {step:4}  loss {:.4}", loss.item());
        }
        let gradients = loss.backward();
        for ((param, velocity), leaf) in params.iter_mut().zip(&mut velocities).zip(&leaves) {
            let gradient = gradients.of(leaf).expect("every parameter takes part");
            *velocity = &*velocity * 0.9 + gradient;
            *param = &*param - &*velocity * 0.1;
        }
    }

    let learned = accuracy(&params, &points, &labels);
    let generalised = accuracy(&params, &unseen, &answers);
    println!(
        "accuracy: {:.1} % on its own points, {:.1} % on unseen ones\n",
        100.0 * learned,
        100.0 * generalised
    );
    println!("{}", picture(&params));
    assert!(generalised > 0.95);
    Ok(())
}

/// `[points, 2] -> [points, 2]`: a score for each spiral.
fn scores(params: &[Tensor], points: &Tensor) -> Tensor {
    let hidden = (points.matmul(&params[0]) + &params[1]).tanh();
    let hidden = (hidden.matmul(&params[2]) + &params[3]).tanh();
    hidden.matmul(&params[4]) + &params[5]
}

/// The share of points whose highest score is that of their spiral. Nobody will ask for gradients,
/// so `inference` keeps no history.
fn accuracy(params: &[Tensor], points: &Tensor, labels: &Ids) -> f64 {
    let guesses = inference(|| scores(params, points)).argmax(-1);
    let right = guesses.values().iter().zip(labels.values()).filter(|(guess, label)| guess == label);
    right.count() as f64 / labels.count() as f64
}

/// Points on two spirals in turn, a little off: `[count, 2]`, and which one each is on: `[count]`.
fn spirals(count: usize, rng: &mut Rng, device: &Device) -> engrad::Result<(Tensor, Ids)> {
    let (mut points, mut labels) = (Vec::new(), Vec::new());
    for i in 0..count {
        let along = rng.uniform();
        let turn = 3.0 * PI * along + PI * (i % 2) as f64;
        for direction in [turn.cos(), turn.sin()] {
            points.push(((0.15 + along) * direction + 0.015 * rng.normal()) as f32);
        }
        labels.push((i % 2) as u32);
    }
    Ok((Tensor::new(&points, [count, 2], device), Ids::new(labels, [count], 2)?))
}

/// What the network thinks of every place in the plane, one character each.
fn picture(params: &[Tensor]) -> String {
    const WIDTH: usize = 64;
    const HEIGHT: usize = 30;
    let at = |i: usize, count: usize| 1.3 * (2.0 * (i as f32 + 0.5) / count as f32 - 1.0);
    let places: Vec<f32> =
        (0..WIDTH * HEIGHT).flat_map(|i| [at(i % WIDTH, WIDTH), -at(i / WIDTH, HEIGHT)]).collect();
    let places = Tensor::new(&places, [WIDTH * HEIGHT, 2], &params[0].device());
    let confidence = inference(|| scores(params, &places).softmax(-1).select(1, 1)).to_vec();
    let shade = |p: &f32| [' ', '.', ':', '+', '#'][(p * 4.999) as usize];
    let rows = confidence.chunks(WIDTH).map(|row| row.iter().map(shade).collect::<String>());
    rows.collect::<Vec<_>>().join("\n")
}
