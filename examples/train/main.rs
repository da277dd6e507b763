//! The training tool: one command adapts a published model to a published task and measures it.
//!
//! ```text
//! cargo run --release --example train -- --model DIR --task mrpc --data DIR --epochs 3 --out runs/mrpc
//! cargo run --release --example train -- --model DIR --task e2e --data DIR --rank 4 --alpha 32 --out runs/e2e
//! cargo run --release --example train -- --resume runs/mrpc
//! cargo run --release --example train -- report runs
//! cargo run --release --example train -- study --plan examples/train/study.toml --out runs/study
//! ```
//! Read next: `options.rs`, what a run can be told; `folder.rs`, what it leaves; `training.rs`, the loop;
//! `understanding.rs` and `generation.rs`, the tasks; `methods.rs`, what can be trained; `report.rs` and `study.rs`.

#[path = "../common/answering.rs"]
mod answering;
mod comparison;
#[path = "../common/curves.rs"]
mod curves;
#[path = "../common/flags.rs"]
mod flags;
mod folder;
mod generation;
#[path = "../common/interruption.rs"]
mod interruption;
#[path = "../common/lock.rs"]
mod lock;
mod methods;
#[path = "../common/numbers.rs"]
mod numbers;
mod options;
mod pictures;
#[path = "../common/progress.rs"]
mod progress;
mod report;
#[path = "../common/samples.rs"]
mod samples;
#[cfg(test)]
mod settings_tests;
mod study;
#[cfg(test)]
mod study_tests;
#[path = "../common/subject.rs"]
mod subject;
#[cfg(test)]
mod tests;
#[path = "../common/tokens.rs"]
mod tokens;
mod training;
mod understanding;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use engrad::Error;
use engrad::device::cpu::use_threads;
use folder::{Folder, Outcome};
use generation::Writing;
use options::{Other, Settings, Task};
use training::Ended;
use understanding::Answering;

fn main() -> ExitCode {
    let stop = interruption::asked("lose the steps since the last checkpoint");
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match command(&arguments, &stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ended::Failed(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
        Err(Ended::Interrupted) => {
            eprintln!(
                "interrupted; a study goes on by the same command, a run by --resume and its directory"
            );
            ExitCode::from(130)
        }
    }
}

/// Does what the command line says.
fn command(arguments: &[OsString], stop: &AtomicBool) -> Result<(), Ended> {
    let command = options::read(arguments)?;
    match (command.other, command.source.resume) {
        (Some(Other::Report { runs, against, picture }), _) => {
            let (runs, unfinished) = report::finished(&runs)?;
            println!("{}", report::table(&runs, &against));
            if unfinished > 0 {
                println!("left out, because they are not finished: {unfinished}");
            }
            picture.map_or(Ok(()), |path| comparison::write(&path, &report::panels(&runs)))?;
        }
        (Some(Other::Study { plan, out }), _) => study::run(&plan, &out, stop)?,
        (None, Some(path)) => {
            let (_, settings) = Folder::open(&path)?;
            threads(&settings)?;
            show(&path, &resume(&path, stop)?);
        }
        (None, None) => {
            let settings = command.settings;
            threads(&settings)?;
            show(&settings.out.clone(), &fresh(settings, stop)?);
        }
    }
    Ok(())
}

/// A new run.
fn fresh(settings: Settings, stop: &AtomicBool) -> Result<Outcome, Ended> {
    let settings = settings.resolved()?;
    let mut folder = Folder::create(&settings)?;
    run(&settings, &mut folder, stop)
}

/// Goes on with a run, or says how it ended.
fn resume(path: &Path, stop: &AtomicBool) -> Result<Outcome, Ended> {
    let (mut folder, settings) = Folder::open(path)?;
    if let Some(outcome) = folder.outcome()? {
        return Ok(outcome);
    }
    folder.lock()?;
    run(&settings, &mut folder, stop)
}

fn run(settings: &Settings, folder: &mut Folder, stop: &AtomicBool) -> Result<Outcome, Ended> {
    match settings.task()? {
        Task::Understanding(task) => {
            training::train(&Answering::new(task, settings)?, settings, folder, stop)
        }
        Task::Generation(task) => training::train(&Writing::new(task, settings)?, settings, folder, stop),
    }
}

/// Threads of the whole process.
fn threads(settings: &Settings) -> Result<(), Error> {
    use_threads(settings.threads.map(usize::from))
}

fn show(path: &Path, outcome: &Outcome) {
    let values: Vec<String> =
        outcome.values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
    println!(
        "best after {} of {} steps: {}\n{} numbers trained, {:.1} ms a step; everything is in {}",
        outcome.best_step,
        outcome.steps,
        values.join("  "),
        outcome.trained,
        1e3 * outcome.step_seconds,
        path.display()
    );
}
