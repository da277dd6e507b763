//! The main job: fine-tune an encoder with LoRA and see what it is worth.
//!
//! ```text
//! cargo run --release --example finetune [-- --device gpu]
//! cargo run --release --example finetune -- --model DIR --task sst2 --data DIR
//! ```
//!
//! Without arguments: make a language (`common/language.rs`), pretrain a small encoder by letting it guess
//! hidden words (`common/pretraining.rs`), then teach it to tell correct sentences from wrong ones in three
//! ways, and compare. With arguments: a published encoder and a published task (`tokens.rs`,
//! `common/task.rs`). Both go through `tuning.rs`, whose core is a few lines: attach, train, save.
//! How a run is interrupted and gone on with is in `stage.rs`, the table and the picture in `report.rs`.

#[path = "../common/curves.rs"]
mod curves;
#[path = "../common/device.rs"]
mod device;
#[path = "../common/flags.rs"]
mod flags;
#[path = "../common/interruption.rs"]
mod interruption;
#[path = "../common/language.rs"]
mod language;
mod options;
#[path = "../common/pretraining.rs"]
mod pretraining;
#[path = "../common/progress.rs"]
mod progress;
#[path = "../common/tokens.rs"]
mod published;
mod report;
#[path = "../common/samples.rs"]
mod samples;
mod stage;
#[path = "../common/task.rs"]
mod task;
#[cfg(test)]
mod tests;
mod tokens;
mod tuning;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use engrad::device::cpu::use_threads;
use engrad::nn;
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Error, Rng};
use language::Language;
use options::{Method, Options};
use pretraining::Guesser;
use stage::{Ended, PRETRAINING, Record, Stages};
use tuning::Tuning;

fn main() -> ExitCode {
    let stop = interruption::asked("not leave a checkpoint");
    match run(Options::parse(), &stop) {
        Ok(_) => ExitCode::SUCCESS,
        Err(Ended::Failed(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
        Err(Ended::Interrupted(checkpoint)) => {
            eprintln!("interrupted; to go on as if nothing had happened:");
            eprintln!("  cargo run --release --example finetune -- --resume {}", checkpoint.display());
            ExitCode::from(130)
        }
    }
}

/// The whole job; gives the record of each method.
fn run(mut options: Options, stop: &AtomicBool) -> std::result::Result<Vec<Record>, Ended> {
    // Paths are kept whole, so that a run can be gone on with from another directory.
    for directory in [&mut options.model, &mut options.data].into_iter().flatten() {
        *directory =
            directory.canonicalize().map_err(|source| Error::Io { path: directory.clone(), source })?;
    }
    let (stages, options) = Stages::open(options, stop)?;
    use_threads(options.threads.map(usize::from))?;
    let (base, task, pretraining) = match (&options.model, &options.data) {
        (Some(model), Some(data)) => {
            let task = tokens::sst2(model, data, options.rows(), options.max_length as usize)?;
            (model.clone(), task, None)
        }
        _ => {
            let (language, base, record) = pretrain(&stages, &options)?;
            (base, language.agreement(options.rows(), 1000, options.seed), Some(record))
        }
    };
    println!(
        "{} training rows, {} rows to measure on: {}\n",
        task.train.len(),
        task.dev.len(),
        task.labels.join(" or ")
    );
    let tuning = Tuning { stages: &stages, options: &options, base: &base, task: &task };
    let mut records = Vec::new();
    for method in options.methods() {
        records.push(tuning.run(method)?);
    }
    let picture = stages.path("loss.svg");
    report::draw(&picture, pretraining.as_ref(), &records)?;
    println!("\n{}\n", report::table(&records, task.guessing()));
    if let Some(folder) = &options.against {
        for record in &records {
            println!("{}", report::apart(record, &stage::recorded(folder, &record.name)?));
        }
    }
    if options.methods().contains(&Method::Lora) {
        println!(
            "adapter     {} (PEFT layout; engrad::adapters::load puts it on the base)",
            stages.path("adapter").display()
        );
    }
    println!("base        {}\nloss curve  {}", base.display(), picture.display());
    Ok(records)
}

/// Pretrains an encoder on the program's own language and saves it as a model directory.
fn pretrain(stages: &Stages, options: &Options) -> std::result::Result<(Language, PathBuf, Record), Ended> {
    const BATCH: usize = 64;
    let (language, base) = (Language::new(), stages.path("base"));
    let rng = &mut Rng::derived(options.seed, 1 << 40);
    println!("A language of {} words; some sentences:", language.size() - language::FIRST_WORD as usize);
    for _ in 0..3 {
        println!("  {}", language.text(&language.sentence(rng).tokens));
    }
    if let Some(record) = stages.finished(PRETRAINING)? {
        return Ok((language, base, record));
    }
    let guesser = Guesser::new(&pretraining::config(&language), rng, &options.on.device)?;
    // Guessing words goes past the pooler; what no gradient reaches must be frozen.
    nn::freeze(&guesser, "bert.pooler.*")?;
    let steps = u64::from(options.pretraining_steps);
    println!("Pretraining {} parameters to guess hidden words:", nn::summary(&guesser.encoder).total());
    let mut trainer =
        Trainer::new(&guesser, AdamW::new(0.01), Schedule::linear(3e-3, steps / 10, steps)).clipped(1.0);
    let puzzle = |step| guesser.puzzle(&language, BATCH, &mut Rng::derived(options.seed, (2 << 40) + step));
    let mut record = stages.train(PRETRAINING, &mut trainer, steps, puzzle, |puzzle| guesser.loss(puzzle))?;
    record.accuracy = guesser.agreement(&language, 1000, &mut Rng::derived(options.seed, 3 << 40))?;
    println!(
        "It prefers the right number of a hidden verb in {:.1} % of new sentences.\n",
        100.0 * record.accuracy
    );
    guesser.encoder.save_directory(&base)?;
    let record = stages.finish(record)?;
    Ok((language, base, record))
}
