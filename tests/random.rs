//! Random tensors: the same on every device, of the promised distributions, and unrelated to each other.

mod common;

use common::devices;
use engrad::{Device, Rng, Tensor};

const COUNT: usize = 1 << 20;

/// A million numbers have moments within this of their distribution's: five standard errors.
const SCATTER: f64 = 5.0 / 1024.0;

fn numbers(make: impl Fn(&mut Rng) -> Tensor) -> [Vec<f64>; 2] {
    let mut rng = Rng::seeded(5);
    [make(&mut rng).to_f64(), make(&mut rng).to_f64()]
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    values.sum::<f64>() / COUNT as f64
}

#[test]
fn every_device_starts_from_the_same_numbers() {
    let made = |device: &Device| {
        let rng = &mut Rng::seeded(3);
        [Tensor::normal(0.02, [7, 31], rng, device), Tensor::uniform(-1.0, 2.0, [5], rng, device)]
            .map(|x| x.to_vec())
    };
    for device in devices() {
        assert_eq!(made(&device), made(&Device::Reference), "on {device}");
    }
}

#[test]
fn normal_numbers_have_the_moments_and_shares_of_their_distribution() {
    let [x, _] = numbers(|rng| Tensor::normal(1.0, [COUNT], rng, &Device::Cpu));
    // Powers of a normal number: their means, and the standard deviations of those powers.
    for (power, expected, deviation) in
        [(1, 0.0, 1.0), (2, 1.0, 2f64.sqrt()), (3, 0.0, 15f64.sqrt()), (4, 3.0, 96f64.sqrt())]
    {
        let found = mean(x.iter().map(|x| x.powi(power)));
        assert!((found - expected).abs() < SCATTER * deviation, "the mean of x^{power} is {found}");
    }
    for (limit, expected) in
        [(0.1, 0.079656), (0.5, 0.382925), (1.0, 0.682689), (2.0, 0.954500), (4.0, 0.999937)]
    {
        let found = mean(x.iter().map(|x| f64::from(x.abs() < limit)));
        assert!((found - expected).abs() < SCATTER / 2.0, "{found} of all numbers are nearer than {limit}");
    }
    assert!(x.iter().all(|x| x.abs() < 5.8));
}

#[test]
fn even_numbers_fill_their_range_evenly() {
    let [x, _] = numbers(|rng| Tensor::uniform(-1.0, 3.0, [COUNT], rng, &Device::Cpu));
    assert!(x.iter().all(|x| (-1.0..=3.0).contains(x)));
    for tenth in 0..10 {
        let low = -1.0 + 0.4 * f64::from(tenth);
        let found = mean(x.iter().map(|x| f64::from(*x >= low && *x < low + 0.4)));
        assert!(
            (found - 0.1).abs() < 0.3 * SCATTER,
            "{found} of all numbers lie between {low} and {}",
            low + 0.4
        );
    }
}

#[test]
fn neighbours_rows_and_the_next_tensor_are_unrelated() {
    let [x, next] = numbers(|rng| Tensor::normal(1.0, [COUNT], rng, &Device::Cpu));
    for apart in [1, 2, 3, 64, 384, 1024, 1536, 65536] {
        let found = mean(x.iter().zip(&x[apart..]).map(|(a, b)| a * b));
        assert!(found.abs() < SCATTER, "numbers {apart} apart correlate by {found}");
        // Lengths, too: a common radius would leave the signs unrelated.
        let found = mean(x.iter().zip(&x[apart..]).map(|(a, b)| (a * a - 1.0) * (b * b - 1.0)));
        assert!(found.abs() < 2.0 * SCATTER, "squares of numbers {apart} apart correlate by {found}");
    }
    let found = mean(x.iter().zip(&next).map(|(a, b)| a * b));
    assert!(found.abs() < SCATTER, "two tensors of one stream correlate by {found}");
}
