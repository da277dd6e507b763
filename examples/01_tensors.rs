//! Tensors: making them, computing with them, looking at them from another side.
//!
//! A tensor is an n-dimensional array of numbers on a device. It never changes: every operation gives
//! a new one, and what only looks at the same numbers in another way copies nothing.
//! Read next: `02_autodiff.rs`.
//!
//! ```text
//! cargo run --release --example 01_tensors [-- --device gpu]
//! ```

#[path = "common/device.rs"]
mod device;

use clap::Parser;
use device::OnDevice;
use engrad::device::counted;
use engrad::{Device, Ids, Rng, Tensor};

fn main() -> engrad::Result<()> {
    let device = &OnDevice::parse().device;

    println!("Making");
    let months = Tensor::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3], device);
    println!("  from values      {months}");
    println!("  one value        {}", Tensor::full(0.5, [2, 2], device));
    println!("  counting         {}", Tensor::arange(5, device));
    // Random numbers follow from a seed, so every run of a program draws the same ones.
    println!("  random           {}", Tensor::normal(1.0, [4], &mut Rng::seeded(7), device));

    println!("\nComputing");
    println!("  of each element  {}", (&months * 10.0 + 1.0).sqrt());
    println!("  of all           {}", months.sum(..));
    println!("  of each row      {}", months.mean(-1));
    println!("  product          {}", months.matmul(&months.t()));

    println!("\nBroadcasting: a missing axis, or one of size 1, is repeated");
    let column = Tensor::new(&[100.0, 200.0], [2, 1], device);
    let row = Tensor::new(&[1.0, 2.0, 3.0], [3], device);
    println!("  [2, 1] + [3]     {}", &column + &row);
    // Standardising each row takes nothing else: `_keep` leaves the folded axis with size 1.
    let centred = &months - months.mean_keep(-1);
    let standard = &centred / months.var_keep(-1, 1.0).sqrt();
    println!("  standardised     {standard}");
    assert!(standard.mean(-1).abs().max(..).item() < 1e-6);

    println!("\nLooking from another side");
    let ((), kernels) = counted(|| {
        println!("  transposed       {}", months.t());
        println!("  second column    {}", months.select(1, 1));
        println!("  backwards        {}", months.flip(-1));
        println!("  every other      {}", months.slice(1, 0..3, 2));
        println!("  as one row       {}", months.reshape([1, 6]));
    });
    println!("  kernels run      {}: a view is a new layout on the same numbers", kernels.len());
    assert!(kernels.is_empty());

    println!("\nPicking by index");
    // Indices are checked where they are made, because they often come from files.
    let ids = Ids::new([1, 1, 0], [3], months.size(0))?;
    println!("  rows 1, 1, 0     {}", months.embedding(&ids));
    println!("  largest at       {:?}", months.argmax(-1).values());
    println!("  row 2 is refused {}", Ids::new([2], [1], months.size(0)).unwrap_err());

    println!("\nTwo devices, one meaning");
    let x = Tensor::normal(1.0, [64, 64], &mut Rng::seeded(1), device);
    let fast = x.matmul(&x).softmax(-1);
    let exact = x.to(&Device::Reference)?.matmul(&x.to(&Device::Reference)?).softmax(-1);
    let apart = (fast.to(&Device::Reference)? - &exact).abs().max(..).item();
    println!("  {device} against the f64 reference: {apart:.1e} apart at most");
    assert!(apart < 1e-5);

    println!("\nA wrong shape is a mistake of the program: it panics, naming the op and both sizes");
    std::panic::set_hook(Box::new(|panic| println!("  {}", panic.to_string().replace('\n', "\n  "))));
    let outcome =
        std::panic::catch_unwind(|| Tensor::ones([2, 3], device).matmul(&Tensor::ones([2, 3], device)));
    assert!(outcome.is_err());
    Ok(())
}
