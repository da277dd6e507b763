//! LoRA: a trained, frozen transformer learns a second task through small matrices beside its weights.
//!
//! First the encoder learns which digit stands *after* the star. Then it is frozen, and rank-4
//! adapters on its queries and values, with a fresh head, learn which digit stands *before* it.
//! The adapter is merged, taken apart again, saved, and loaded onto another copy of the model.
//! Read next: `finetune/main.rs`, the same on a language, or on a published model.
//!
//! ```text
//! cargo run --release --example 06_lora [-- --device gpu]
//! ```

#[path = "common/device.rs"]
mod device;
#[path = "common/stars.rs"]
mod stars;

use clap::Parser;
use device::OnDevice;
use engrad::adapters::{self, Lora};
use engrad::nn::{self, Classifier};
use engrad::optim::{AdamW, Schedule};
use engrad::train::{Trainable, Trainer};
use engrad::{Device, Rng, Tensor, inference};

/// Where the answer stands, counted from the star.
const AFTER: isize = 1;
const BEFORE: isize = -1;
/// The linear layers that get an adapter.
const TARGETS: &str = "*.attention.self.{query,value}";

fn main() -> engrad::Result<()> {
    let device = &OnDevice::parse().device;
    let folder = tempfile::tempdir().expect("room for temporary files");
    let base_file = folder.path().join("base.safetensors");

    println!("1. The first task: the digit after the star");
    let model = stars::model(1, device)?;
    train(&model, &model, AFTER, 500, 3e-3)?;
    nn::save(&base_file, &model)?;
    println!("   accuracy on the second task, the digit before it: {}", percent(&model, BEFORE)?);

    println!("2. The second task with the base frozen: a new head alone, then with LoRA");
    let bare = base(&base_file, device)?;
    nn::freeze(&bare, "bert.encoder.*")?;
    nn::freeze(&bare, "bert.embeddings.*")?;
    train(&bare, &bare, BEFORE, 500, 5e-3)?;
    println!("   head alone, accuracy {}", percent(&bare, BEFORE)?);

    let model = base(&base_file, device)?;
    let rows = model.encoder.batch(&stars::rows(32, BEFORE, &mut Rng::seeded(9)).0, None)?;
    let scores = |model: &Classifier| inference(|| model.forward(&rows));
    let before = scores(&model);
    let tuned = adapters::attach(&model, TARGETS, Lora::new(4))?
        .also_train("bert.pooler.*")?
        .also_train("classifier.*")?;
    assert_eq!(scores(&model).to_vec(), before.to_vec(), "a fresh adapter changes nothing");
    println!("   {}", tuned.summary().totals());
    let tuned = train(&model, tuned, BEFORE, 500, 5e-3)?;
    println!("   with LoRA,  accuracy {}", percent(&model, BEFORE)?);
    assert!(stars::accuracy(&model, BEFORE)? > stars::accuracy(&bare, BEFORE)? + 0.2);

    println!("3. Merging folds the adapter into the weights: no product more, the same answers");
    let apart = scores(&model);
    tuned.merge()?;
    println!("   merged against unmerged: {:.1e}", distance(&scores(&model), &apart));
    assert!(distance(&scores(&model), &apart) < 1e-3);
    tuned.unmerge();
    assert_eq!(scores(&model).to_vec(), apart.to_vec(), "unmerging restores every bit");

    println!("4. The adapter is a folder of its own, in PEFT's layout, to be put on any copy of the base");
    let adapter = folder.path().join("before-the-star");
    tuned.save(&adapter)?;
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        println!(
            "   {:>6} bytes  {file}",
            std::fs::metadata(adapter.join(file)).map_or(0, |file| file.len())
        );
    }
    println!("   {:>6} bytes  the base", std::fs::metadata(&base_file).map_or(0, |file| file.len()));
    let copy = base(&base_file, device)?;
    let loaded = adapters::load(&copy, &adapter)?;
    assert_eq!(scores(&copy).to_vec(), apart.to_vec(), "loading restores every bit");

    println!("5. Without its adapters the encoder is what it was");
    loaded.detach();
    let [original, copy] =
        [base(&base_file, device)?.encoder, copy.encoder].map(|encoder| encoder.forward(&rows));
    assert_eq!(original.to_vec(), copy.to_vec());
    Ok(())
}

/// A copy of the model that knows the first task.
fn base(file: &std::path::Path, device: &Device) -> engrad::Result<Classifier> {
    let model = stars::model(0, device)?;
    nn::load(file, &model)?;
    Ok(model)
}

/// Trains what of the model is not frozen: a plain model and adapters go the same way.
fn train<T: Trainable>(
    model: &Classifier,
    what: T,
    beside: isize,
    steps: u64,
    rate: f64,
) -> engrad::Result<T> {
    let schedule = Schedule::linear(rate, steps / 10, steps);
    let mut trainer = Trainer::new(what, AdamW::new(0.01), schedule).clipped(1.0);
    let rng = &mut Rng::seeded(2);
    for step in 1..=steps {
        let (tokens, answers) = stars::batch(model, 64, beside, rng)?;
        let done = trainer.step(|| model.forward(&tokens).cross_entropy(&answers))?;
        if step % (steps / 2) == 0 {
            println!("   step {step}  loss {:.4}", done.loss);
        }
    }
    Ok(trainer.subject)
}

fn percent(model: &Classifier, beside: isize) -> engrad::Result<String> {
    Ok(format!("{:.1} %", 100.0 * stars::accuracy(model, beside)?))
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max(..).item()
}
