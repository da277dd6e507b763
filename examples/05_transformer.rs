//! A transformer encoder learns a task that needs attention: which digit stands after the star?
//!
//! The rows and the model's sizes are in `common/stars.rs`. The encoder is the library's BERT; its
//! parameters have the published names, so the same code runs on a published model.
//! Read next: `06_lora.rs`, which adapts a trained one.
//!
//! ```text
//! cargo run --release --example 05_transformer [-- --device gpu]
//! ```

#[path = "common/device.rs"]
mod device;
#[path = "common/stars.rs"]
mod stars;

use clap::Parser;
use device::OnDevice;
use engrad::nn::{Classifier, freeze, named_params, summary};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Rng, inference};

/// The answer stands one place right of the star.
const AFTER: isize = 1;
const STEPS: u64 = 600;

fn main() -> engrad::Result<()> {
    let device = &OnDevice::parse().device;
    let model = stars::model(1, device)?;
    let (rows, answers) = stars::rows(3, AFTER, &mut Rng::seeded(4));
    println!("Rows, and their answers (10 is the star, 11 begins a row)");
    for (row, answer) in rows.iter().zip(&answers) {
        println!("  {answer}  <-  {row:?}");
    }

    println!("\nThe model's parameters\n{}", summary(&model));

    println!("\nTraining: every step sees 64 rows that were never seen before");
    train(&model)?;
    assert!(stars::accuracy(&model, AFTER)? > 0.95);

    println!("\nPadding changes nothing: a row alone, and the same row padded in a batch");
    let [alone, all] = [model.encoder.batch(&rows[..1], None)?, model.encoder.batch(&rows, None)?];
    let alone = inference(|| model.forward(&alone));
    let padded = inference(|| model.forward(&all)).narrow(0, 0, 1);
    let apart = (&alone - padded).abs().max(..).item();
    println!("  scores at most {apart:.1e} apart");
    assert!(apart < 1e-4);

    println!("\nThe order of tokens is known from the position embeddings alone; a model without them");
    let blind = stars::model(1, device)?;
    let table = "bert.embeddings.position_embeddings.weight";
    let params = named_params(&blind);
    let (_, positions) = params.iter().find(|(path, _)| path == table).expect("every BERT has positions");
    positions.set(&(positions.value() * 0.0));
    freeze(&blind, table)?;
    train(&blind)?;
    println!("  can only guess among the digits that it sees");
    assert!(stars::accuracy(&blind, AFTER)? < 0.5);
    Ok(())
}

fn train(model: &Classifier) -> engrad::Result<()> {
    let schedule = Schedule::linear(3e-3, STEPS / 10, STEPS);
    let mut trainer = Trainer::new(model, AdamW::new(0.01), schedule).clipped(1.0);
    let rng = &mut Rng::seeded(2);
    for step in 1..=STEPS {
        let (tokens, answers) = stars::batch(model, 64, AFTER, rng)?;
        let done = trainer.step(|| model.forward(&tokens).cross_entropy(&answers))?;
        if step % 100 == 0 {
            let accuracy = 100.0 * stars::accuracy(model, AFTER)?;
            println!(
                "  step {step}  loss {:.4}  rate {:.1e}  accuracy {accuracy:.1} %",
                done.loss, done.rate
            );
        }
    }
    Ok(())
}
