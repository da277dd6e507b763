//! Many runs from one plan, restartable: what is finished stays, what was begun is gone on with.
//!
//! ```toml
//! seeds = [0, 1, 2, 3, 4]
//! rates = [5e-4, 2e-3]      # chosen from for each run, with seed 0, on training rows that are held out
//! hold-out = 500            # how many
//! [common]                  # settings of all runs, by the names of the flags
//! model = "DIR"
//! [[runs]]                  # settings of some, which win; with a list of methods a run of each
//! task = "mrpc"
//! data = "DIR"
//! method = ["lora", "dora"]
//! ```
//! Read next: `study.toml`, such a plan.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use engrad::nn::files::write_whole;
use engrad::{Error, Result};
use toml::{Table, Value};

use super::comparison;
use super::folder::{Folder, Outcome, SETTINGS};
use super::options::{self, Settings};
use super::report::{self, Run};
use super::training::Ended;
use super::{fresh, resume, threads};

/// Where the trials are by which rates are chosen.
pub const CHOOSING: &str = "choosing";

/// Does what is left to do of a plan, and writes `report.md` and `report.svg`.
pub fn run(plan: &Path, out: &Path, stop: &AtomicBool) -> std::result::Result<(), Ended> {
    let study = Study::read(plan)?;
    let settings = named(plan, &study.runs)?;
    // A mistake in the last run shall not wait until all others are done.
    for (_, settings) in &settings {
        Settings { out: out.into(), ..settings.clone() }.resolved()?;
    }
    std::fs::create_dir_all(out).map_err(|source| Error::Io { path: out.into(), source })?;
    settings.first().map_or(Ok(()), |(_, first)| threads(first))?;
    let mut done = Vec::new();
    for (name, settings) in &settings {
        let rate = match study.rates.is_empty() {
            true => settings.rate,
            false => chosen(&study, name, settings, out, stop)?,
        };
        for &seed in &study.seeds {
            let out = out.join("runs").join(format!("{name}-{seed}"));
            let settings = Settings { rate, seed, out, ..settings.clone() };
            done.push(Run { outcome: finished(&settings, stop)?, settings });
        }
    }
    let text = report::table(&done, "lora");
    write_whole(out.join("report.md"), text.as_bytes())?;
    comparison::write(&out.join("report.svg"), &report::panels(&done))?;
    println!("{text}");
    Ok(())
}

/// The rate that has the best score on rows that are held out.
///
/// **Errors** when a trial fails, or none has a score.
fn chosen(
    study: &Study,
    name: &str,
    settings: &Settings,
    out: &Path,
    stop: &AtomicBool,
) -> std::result::Result<f64, Ended> {
    let mut best: Option<(f64, f64)> = None;
    for &rate in &study.rates {
        let out = out.join(CHOOSING).join(format!("{name}-{rate}"));
        let trial = Settings { rate, seed: 0, hold_out: Some(study.hold_out), out, ..settings.clone() };
        let score = match finished(&trial, stop) {
            // A rate at which training diverges is none to choose.
            Err(Ended::Failed(error @ Error::NotFinite(_))) => {
                eprintln!("{error}");
                f64::NAN
            }
            outcome => outcome?.score,
        };
        if !score.is_nan() && best.is_none_or(|(_, highest)| score > highest) {
            best = Some((rate, score));
        }
    }
    let rates = &study.rates;
    best.map(|(rate, _)| rate)
        .ok_or_else(|| Error::Config(format!("{name}: none of the rates {rates:?} has a score")).into())
}

/// The settings of each run, and the name of its directories.
///
/// **Errors** when settings cannot be used, or two runs would share a directory.
pub fn named(plan: &Path, runs: &[Table]) -> Result<Vec<(String, Settings)>> {
    let mut all: Vec<(String, Settings)> = Vec::new();
    for table in runs {
        let settings = options::settings(plan, table)?;
        let name = format!("{}-{}", settings.task, settings.method);
        if all.iter().any(|(other, _)| *other == name) {
            let what = format!("two runs are called {name}; a plan has one of each task and method");
            return Err(Error::Format { path: plan.into(), what });
        }
        all.push((name, settings));
    }
    Ok(all)
}

/// The outcome of a run that may have been finished or begun before, by the same settings.
fn finished(settings: &Settings, stop: &AtomicBool) -> std::result::Result<Outcome, Ended> {
    let out = &settings.out;
    eprintln!("{} (seed {}, rate {})", out.display(), settings.seed, settings.rate);
    if !out.join(SETTINGS).exists() {
        return fresh(settings.clone(), stop);
    }
    let (_, begun) = Folder::open(out)?;
    let changes = settings.clone().resolved()?.differences(&begun)?;
    if !changes.is_empty() {
        let (out, changes) = (out.display(), changes.join(", "));
        let what = format!("{out} is a run of another plan: {changes}; remove it, or choose another --out");
        return Err(Error::Config(what).into());
    }
    resume(out, stop)
}

/// A run of each method that a table names.
fn of_each_method(run: &Table) -> Vec<Table> {
    let Some(Value::Array(methods)) = run.get("method") else { return vec![run.clone()] };
    let with =
        |method: &Value| Table::from_iter(run.clone().into_iter().chain([("method".into(), method.clone())]));
    methods.iter().map(with).collect()
}

/// What a plan says.
pub struct Study {
    seeds: Vec<u64>,
    rates: Vec<f64>,
    hold_out: u32,
    /// The settings of each run, the common ones among them.
    pub runs: Vec<Table>,
}

impl Study {
    /// Reads a plan.
    ///
    /// **Errors** when it cannot be read, names what no plan has, or gives a value that cannot be used.
    pub fn read(path: &Path) -> Result<Study> {
        let table = options::table(path)?;
        let malformed = |what: String| Error::Format { path: path.into(), what };
        for key in table.keys() {
            let known = ["seeds", "rates", "hold-out", "common", "runs"];
            if !known.contains(&key.as_str()) {
                let near = engrad::tasks::nearest(key, known).unwrap_or_default();
                return Err(malformed(format!("{key} is no part of a plan; did you mean {near}?")));
            }
        }
        let numbers = |key: &str| -> Result<Vec<f64>> {
            let Some(value) = table.get(key) else { return Ok(Vec::new()) };
            let number = |value: &Value| value.as_float().or(value.as_integer().map(|number| number as f64));
            let list = value.as_array().and_then(|list| list.iter().map(number).collect());
            list.ok_or_else(|| malformed(format!("{key} is {value}, expected a list of numbers")))
        };
        let common = match table.get("common") {
            None => Table::new(),
            Some(Value::Table(common)) => common.clone(),
            Some(other) => return Err(malformed(format!("common is {other}, expected settings"))),
        };
        let runs: Option<Vec<Table>> = table.get("runs").and_then(Value::as_array).and_then(|runs| {
            let with_common =
                |run: &Value| Some(common.clone().into_iter().chain(run.as_table()?.clone()).collect());
            runs.iter().map(with_common).collect()
        });
        let runs: Vec<Table> = runs.iter().flatten().flat_map(of_each_method).collect();
        if runs.is_empty() {
            return Err(malformed("expected [[runs]], each with settings and one method or more".into()));
        }
        let seed = |value: &Value| {
            let seed = value.as_integer().and_then(|seed| u64::try_from(seed).ok());
            seed.filter(|&seed| seed < 1 << 60).ok_or_else(|| {
                malformed(format!("seeds holds {value}, expected whole numbers from 0 to below 2^60"))
            })
        };
        let seeds: Vec<u64> = match table.get("seeds") {
            None => Vec::new(),
            Some(Value::Array(seeds)) => seeds.iter().map(seed).collect::<Result<_>>()?,
            Some(other) => return Err(malformed(format!("seeds is {other}, expected a list of numbers"))),
        };
        if let Some(at) = (1..seeds.len()).find(|&at| seeds[..at].contains(&seeds[at])) {
            return Err(malformed(format!("seeds holds {} twice", seeds[at])));
        }
        let seeds = if seeds.is_empty() { vec![0] } else { seeds };
        let rates = numbers("rates")?;
        if let Some(rate) = rates.iter().find(|rate| !rate.is_finite() || **rate <= 0.0) {
            return Err(malformed(format!("rates holds {rate}, expected numbers above 0")));
        }
        let chosen = ["rate", "hold-out"].into_iter().filter(|_| !rates.is_empty());
        for key in ["seed", "out"].into_iter().chain(chosen) {
            if runs.iter().any(|run| run.contains_key(key)) {
                let what =
                    "is said for all runs at once: by seeds, rates and hold-out above [common], and --out";
                return Err(malformed(format!("{key} of a run {what}")));
            }
        }
        let hold_out = match table.get("hold-out") {
            None => Some(500),
            Some(value) => value.as_integer().and_then(|rows| u32::try_from(rows).ok()),
        };
        let hold_out = hold_out.filter(|&rows| rows > 0);
        let hold_out =
            hold_out.ok_or_else(|| malformed(format!("hold-out is {}, expected rows", table["hold-out"])))?;
        Ok(Study { seeds, rates, hold_out, runs })
    }
}
