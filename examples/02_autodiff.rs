//! Automatic differentiation: how a result remembers where it came from, and what that is good for.
//!
//! A tensor that is `tracked` starts a history; whatever is computed from it carries the history on.
//! `backward` walks it once, from the result to the start, and gives the gradient of every start.
//! What is compared digit by digit lives on the f64 reference, everything else on `--device`.
//! Read next: `03_training_by_hand.rs`.
//!
//! ```text
//! cargo run --release --example 02_autodiff [-- --device gpu]
//! ```

#[path = "common/device.rs"]
mod device;

use clap::Parser;
use device::OnDevice;
use engrad::device::counted;
use engrad::{Device, Rng, Tensor, elementwise, gradcheck};

fn main() -> engrad::Result<()> {
    let device = &OnDevice::parse().device;
    let exact = &Device::Reference;

    println!("A gradient by the chain rule");
    let x = Tensor::new(&[0.5, 2.0], [2], exact).tracked();
    let y = (&x * &x).exp().sum(..);
    let slope = y.backward().of(&x).expect("y depends on x").to_f64();
    let by_hand = [0.5f64, 2.0].map(|x| 2.0 * x * (x * x).exp());
    println!("  d/dx exp(x²) at 0.5 and 2: {slope:.6?}, by hand {by_hand:.6?}");
    assert!(slope.iter().zip(by_hand).all(|(a, b)| (a - b).abs() < 1e-12 * b));

    println!("\nThe history of a small network's loss; a part used twice is drawn once");
    let rng = &mut Rng::seeded(1);
    let input = Tensor::normal(1.0, [4, 3], rng, exact);
    let weight = Tensor::normal(1.0, [3, 3], rng, exact).tracked();
    let gain = Tensor::ones([3], exact).tracked();
    let hidden = input.matmul(&weight).tanh();
    let loss = (&hidden * &gain + &hidden).square().mean(..);
    print!("{}", indented(&loss.graph()));

    println!("\nIs it true? A small step in any direction must change the loss as the gradient says");
    let worst = gradcheck(|x| (x[0].matmul(&x[1]).tanh() * &x[2]).softmax(-1), &[input, weight, gain])?;
    println!("  largest difference: {worst:.1e}");
    assert!(worst < 1e-7);

    println!("\nAn op of your own is its formula; the gradient follows from it");
    let bump = |x: &Tensor| elementwise("bump", [x], |[x]| x / (1.0 + x * x));
    let points = Tensor::normal(2.0, [50], rng, exact);
    println!(
        "  x / (1 + x²): largest difference {:.1e}",
        gradcheck(|x| bump(&x[0]), std::slice::from_ref(&points))?
    );

    println!("\nA gradient with a hole does not pass: detach cuts the history");
    let wrong = gradcheck(|x| &x[0] * x[0].detach(), &[points]).unwrap_err();
    println!("  {wrong}");

    println!("\nWhat is frozen costs nothing: only the products that someone asked for are computed");
    for (trained, frozen) in [("both weights", false), ("the last weight", true)] {
        println!("  {trained:<16} {} products on the way back", products_backward(frozen, device));
    }
    assert_eq!((products_backward(false, device), products_backward(true, device)), (3, 1));

    println!("\nA minimum, found by following the gradient downhill");
    // Rosenbrock's valley is easy to enter and hard to follow: its lowest point is (1, 1).
    let valley = |p: &Tensor| {
        let (x, y) = (p.select(0, 0), p.select(0, 1));
        (1.0 - &x).square() + 100.0 * (y - x.square()).square()
    };
    let (mut point, mut velocity) = (Tensor::new(&[-1.0, 1.0], [2], device), Tensor::zeros([2], device));
    for step in 0..=4000 {
        let leaf = point.tracked();
        let height = valley(&leaf);
        if step % 1000 == 0 {
            println!("  step {step:4}  height {:9.2e}  at {:.4?}", height.item(), point.to_vec());
        }
        let gradients = height.backward();
        velocity = velocity * 0.95 - gradients.of(&leaf).expect("the height depends on the point") * 2e-4;
        point = point + &velocity;
    }
    assert!(point.to_vec().iter().all(|x| (x - 1.0).abs() < 1e-2));
    Ok(())
}

/// Matrix products that `backward` does in a chain of two layers.
fn products_backward(first_is_frozen: bool, device: &Device) -> u64 {
    let make = || Tensor::normal(0.1, [16, 16], &mut Rng::seeded(2), device);
    let (x, last) = (make(), make().tracked());
    let first = if first_is_frozen { make() } else { make().tracked() };
    let loss = x.matmul(&first).tanh().matmul(&last).sum(..);
    let (_, kernels) = counted(|| loss.backward());
    kernels.iter().filter(|(name, _)| name.contains("matmul")).map(|(_, count)| count.runs).sum()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
