//! Many adapters on one model: named, switched, combined, and exported for tools that know LoRA only.
//!
//! One encoder knows which digit stands *after* the star. Two adapters teach it the digit *before* it
//! and the one *two places before* (or the first), each with a head of its own. Only the active one is
//! in the model.
//! Read next: `08_your_own_adapter.rs`.
//!
//! ```text
//! cargo run --release --example 07_many_adapters [-- --device gpu]
//! ```

#[path = "common/device.rs"]
mod device;
#[path = "common/stars.rs"]
mod stars;

use clap::Parser;
use device::OnDevice;
use engrad::adapters::{self, Lora, Mtlora, Structure};
use engrad::nn::Classifier;
use engrad::optim::{AdamW, Schedule};
use engrad::train::{Trainable, Trainer};
use engrad::{Result, Rng, inference};

const TARGETS: &str = "*.attention.self.{query,value}";

fn main() -> Result<()> {
    let folder = tempfile::tempdir().expect("room for temporary files");
    let model = stars::model(1, &OnDevice::parse().device)?;
    run(&model, &model, 1, 3e-3)?;
    let (rows, _) = stars::batch(&model, 32, 1, &mut Rng::seeded(9))?;
    let scores = || inference(|| model.forward(&rows)).to_vec();
    let base = scores();

    println!("1. Two adapters, one after the other, on the same frozen encoder");
    let tuned = adapters::attach(&model, TARGETS, Lora::new(4))?.also_train("{bert.pooler,classifier}.*")?;
    let mut tuned = run(&model, tuned, -1, 5e-3)?;
    let before = scores();
    println!("   default:     the digit before, accuracy {:.2}", stars::accuracy(&model, -1)?);
    tuned.add("two-before", TARGETS, Mtlora::new(Structure::Shim, 4))?;
    let tuned = tuned.also_train("{bert.pooler,classifier}.*")?;
    let mut tuned = run(&model, tuned, -2, 5e-3)?;
    println!("   two-before:   the second before, accuracy {:.2}", stars::accuracy(&model, -2)?);

    println!("2. Switching gives exactly what the one alone gave, disabling the base, both to the bit");
    tuned.activate("default")?;
    assert_eq!(scores(), before);
    tuned.disable();
    assert_eq!(scores(), base);
    tuned.enable()?;

    println!("3. A weighted sum of both is an adapter too: plain LoRA of both ranks");
    let error = tuned.combine("both", &[("default", 0.7), ("two-before", 0.3)], 8)?;
    println!("   {}", tuned.to_string().replace('\n', "\n   "));
    assert_eq!(error, 0.0, "both updates factor, so nothing is cut off");

    println!("4. On disk, as PEFT lays several adapters out");
    tuned.save(folder.path())?;
    for place in ["", "two-before", "both"] {
        let file = folder.path().join(place).join("adapter_model.safetensors");
        println!("   {:>6} bytes  {}", std::fs::metadata(&file).map_or(0, |file| file.len()), place);
    }
    tuned.detach();
    let mut loaded = adapters::load(&model, folder.path())?;
    assert_eq!(scores(), before);

    println!("5. Another method as LoRA, for tools that know nothing else: exact, because it factors");
    loaded.load("mtlora", folder.path().join("two-before"))?;
    let mtlora = scores();
    loaded.export_as_lora(folder.path().join("exported"), 4)?;
    loaded.load("exported", folder.path().join("exported"))?;
    let off = scores().iter().zip(&mtlora).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
    println!("   exported against MTLoRA: {off:.1e}");
    assert!(off < 1e-3);
    Ok(())
}

/// Trains a whole model, or the active adapter.
fn run<T: Trainable>(model: &Classifier, what: T, beside: isize, rate: f64) -> Result<T> {
    let mut trainer = Trainer::new(what, AdamW::new(0.01), Schedule::linear(rate, 40, 400)).clipped(1.0);
    let rng = &mut Rng::seeded(2);
    for _ in 0..400 {
        let (rows, answers) = stars::batch(model, 64, beside, rng)?;
        trainer.step(|| model.forward(&rows).cross_entropy(&answers))?;
    }
    Ok(trainer.subject)
}
