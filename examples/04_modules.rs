//! Modules: parameters get names, and everything else follows from the names.
//!
//! A module says in `walk` what it is made of, in one line per part. That one method gives it a
//! summary, a file format, freezing by pattern and a trainer. `forward` is an ordinary method.
//! The task: learn the curve `sin(3x) + x/2` from noisy samples.
//! Read next: `05_transformer.rs`.
//!
//! ```text
//! cargo run --release --example 04_modules [-- --device gpu]
//! ```

#[path = "common/device.rs"]
mod device;

use clap::Parser;
use device::OnDevice;
use engrad::nn::{self, LayerNorm, Linear, Module, Walker};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Reduction, Rng, Tensor, inference};

/// `x + down(gelu(up(norm(x))))`: a step away from x, never a replacement.
struct Residual {
    norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Residual {
    fn new(width: usize, rng: &mut Rng, device: &Device) -> Residual {
        Residual {
            norm: LayerNorm::new(width, 1e-5, device),
            up: Linear::new(width, 2 * width, 0.2, rng, device),
            down: Linear::new(2 * width, width, 0.2, rng, device),
        }
    }

    /// `[.., width] -> [.., width]`
    fn forward(&self, x: &Tensor) -> Tensor {
        x + self.down.forward(&self.up.forward(&self.norm.forward(x)).gelu())
    }
}

impl Module for Residual {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("norm", &self.norm);
        at.child("up", &self.up);
        at.child("down", &self.down);
    }
}

/// A curve: one number in, one number out.
struct Curve {
    enter: Linear,
    blocks: Vec<Residual>,
    leave: Linear,
}

impl Curve {
    fn new(width: usize, seed: u64, device: &Device) -> Curve {
        let rng = &mut Rng::seeded(seed);
        Curve {
            enter: Linear::new(1, width, 1.0, rng, device),
            blocks: (0..2).map(|_| Residual::new(width, rng, device)).collect(),
            leave: Linear::new(width, 1, 0.2, rng, device),
        }
    }

    /// `[count, 1] -> [count, 1]`
    fn forward(&self, x: &Tensor) -> Tensor {
        let hidden = self.blocks.iter().fold(self.enter.forward(x), |x, block| block.forward(&x));
        self.leave.forward(&hidden)
    }
}

impl Module for Curve {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("enter", &self.enter);
        at.children("blocks", &self.blocks);
        at.child("leave", &self.leave);
    }
}

fn main() -> engrad::Result<()> {
    let device = &OnDevice::parse().device;
    let rng = &mut Rng::seeded(0);
    let x = Tensor::uniform(-2.0, 2.0, [256, 1], rng, device);
    let truth = (&x * 3.0).sin() + &x * 0.5;
    let samples = &truth + Tensor::normal(0.05, [256, 1], rng, device);
    let distance = |curve: &Curve| inference(|| curve.forward(&x).mse_loss(&truth, Reduction::Mean)).item();

    let curve = Curve::new(16, 1, device);
    println!("The parts of a model, as its walk names them\n{}\n", nn::summary(&curve));

    println!("Training the last layer only, then all of it");
    nn::freeze(&curve, "*")?;
    nn::unfreeze(&curve, "leave.*")?;
    println!("  {}", nn::summary(&curve).totals());
    let before = curve.blocks[0].up.weight().value().to_vec();
    for (what, steps) in [("leave.*", 300), ("*", 600)] {
        nn::unfreeze(&curve, what)?;
        let mut trainer = Trainer::new(&curve, AdamW::new(0.0), Schedule::cosine(1e-2, 20, steps));
        for _ in 0..steps {
            trainer.step(|| curve.forward(&x).mse_loss(&samples, Reduction::Mean))?;
        }
        let moved = curve.blocks[0].up.weight().value().to_vec() != before;
        println!("  {what:<8} mean squared distance {:.5}, blocks.0 moved: {moved}", distance(&curve));
        assert_eq!(moved, what == "*");
    }
    assert!(distance(&curve) < 0.01);

    println!("\nSaving, and loading into a fresh model of the same shape");
    let folder = tempfile::tempdir().expect("room for temporary files");
    let path = folder.path().join("curve.safetensors");
    nn::save(&path, &curve)?;
    let copy = Curve::new(16, 2, device);
    println!("  before loading   {:.5}", distance(&copy));
    nn::load(&path, &copy)?;
    println!("  after loading    {:.5}", distance(&copy));
    assert_eq!(copy.forward(&x).to_vec(), curve.forward(&x).to_vec());

    println!("\nA model of another shape is told everything that does not fit, and stays as it was");
    println!("{}", nn::load(&path, &Curve::new(8, 3, device)).unwrap_err());
    Ok(())
}
