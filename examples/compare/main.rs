//! Every method side by side: the same base, task, seeds and number of steps.
//!
//! ```text
//! cargo run --release --example compare
//! cargo run --release --example compare -- --methods head,lora,mtlora-shim --seeds 5
//! cargo run --release --example compare -- --model DIR --task mrpc --data DIR --out runs/mrpc
//! ```
//!
//! Without --model the base is an encoder that this program pretrains on a language of its own, and the
//! task is to tell correct sentences from wrong ones, as in `finetune`. Each run is a line in
//! `results.jsonl`, written as it ends; table and pictures are made of these lines.
//! Read next: `subject.rs` in `common`, what a method's name stands for; `running.rs`, a run; `report.rs`.

#[path = "../common/answering.rs"]
mod answering;
#[path = "../common/curves.rs"]
mod curves;
#[path = "../common/ending.rs"]
mod ending;
#[path = "../common/flags.rs"]
mod flags;
#[path = "../common/language.rs"]
mod language;
#[path = "../common/lock.rs"]
mod lock;
#[path = "../common/numbers.rs"]
mod numbers;
mod options;
#[path = "../common/pretraining.rs"]
mod pretraining;
#[path = "../common/progress.rs"]
mod progress;
mod report;
mod results;
mod running;
#[path = "../common/samples.rs"]
mod samples;
#[path = "../common/subject.rs"]
mod subject;
#[path = "../common/task.rs"]
mod task;
#[cfg(test)]
mod tests;
#[path = "../common/tokens.rs"]
mod tokens;

use std::process::ExitCode;

use clap::Parser;
use ending::exit_code;
use engrad::device::cpu::use_threads;
use engrad::{Error, Result};
use options::Options;
use results::Results;
use running::Subjects;

fn main() -> ExitCode {
    exit_code(use_threads(None).and_then(|()| run(&Options::parse())))
}

/// The whole comparison; gives the table.
fn run(options: &Options) -> Result<String> {
    let mut results = Results::open(&options.out, &options.settings)?;
    let missing: Vec<(u64, &str)> = (0..u64::from(options.seeds))
        .flat_map(|seed| options.methods().into_iter().map(move |method| (seed, method)))
        .filter(|(seed, method)| !results.has(method, *seed))
        .collect();
    if !missing.is_empty() {
        let subjects = Subjects::read(options)?;
        results.begin()?;
        for (at, (seed, method)) in missing.iter().enumerate() {
            println!("{} of {}: {method}, seed {seed}", at + 1, missing.len());
            let run = match subjects.run(method, *seed) {
                // The others can be compared all the same; the table says of how many seeds.
                Err(Error::NotFinite(what)) => {
                    println!("  left out: {what}");
                    continue;
                }
                run => run?,
            };
            let shown: Vec<String> =
                run.measures.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
            println!("  {}", shown.join("  "));
            results.add(run)?;
        }
    }
    let asked = options.methods();
    results.runs.retain(|run| asked.contains(&run.method.as_str()) && run.seed < u64::from(options.seeds));
    let table = report::table(&asked, &results.runs);
    report::write(&options.out, &asked, &results.runs, &table)?;
    println!("\n{table}\neverything is in {}", options.out.display());
    Ok(table)
}
