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

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use engrad::nn::files::write_whole;
use engrad::{Error, Result};
use toml::{Table, Value};

use super::comparison;
use super::folder::{Folder, Outcome, SETTINGS};
use super::options::{self, Settings, Task};
use super::report::{self, Run};
use super::training::Ended;
use super::{fresh, resume, threads};

/// Where the trials are by which rates are chosen.
pub const CHOOSING: &str = "choosing";

/// Does what is left to do of a plan, and writes `report.md` and `report.svg`.
///
/// **Errors** when the plan cannot be used as a whole, before anything is written, and when a run fails.
pub fn run(plan: &Path, out: &Path, stop: &AtomicBool) -> std::result::Result<(), Ended> {
    let study = Study::read(plan)?;
    let settings = named(plan, &study.runs)?;
    study.check(plan, &settings, out)?;
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

/// How many training rows, or records, a task has.
fn training_rows(settings: &Settings) -> Result<usize> {
    Ok(match settings.task()? {
        Task::Understanding(task) => task.read(&settings.data)?.train.len(),
        Task::Generation(task) => task.read(&settings.data)?.train.len(),
    })
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
    pub seeds: Vec<u64>,
    rates: Vec<f64>,
    hold_out: u32,
    /// The settings of each run, the common ones among them.
    pub runs: Vec<Table>,
}

impl Study {
    /// Whether every run can begin: a mistake in the last one shall not wait until all others are done.
    ///
    /// **Errors** name the run whose task is unknown, whose model or data is missing or malformed, or that has too few
    /// rows to hold any out.
    fn check(&self, plan: &Path, runs: &[(String, Settings)], out: &Path) -> Result<()> {
        let mut counted = BTreeMap::new();
        for (name, settings) in runs {
            let wrong = |what: &dyn Display| {
                let what = format!("{name}: {what}");
                Error::Format { path: plan.into(), what }
            };
            let settings = Settings { out: out.into(), ..settings.clone() }.resolved();
            let settings = settings.map_err(|error| wrong(&error))?;
            let rows = match counted.entry((settings.task.clone(), settings.data.clone())) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => {
                    *unknown.insert(training_rows(&settings).map_err(|error| wrong(&error))?)
                }
            };
            let held = if self.rates.is_empty() { settings.hold_out } else { Some(self.hold_out) };
            if let Some(held) = held.filter(|&held| held as usize >= rows) {
                return Err(wrong(&format!("hold-out is {held} of {rows} training rows, expected fewer")));
            }
        }
        Ok(())
    }

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
        let list = |key: &str| match table.get(key) {
            None => Ok(&[][..]),
            Some(Value::Array(list)) => Ok(&list[..]),
            Some(other) => Err(malformed(format!("{key} is {other}, expected a list of numbers"))),
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
        // The range of --seed.
        let seed = |value: &Value| {
            let seed = value.as_integer().and_then(|seed| u64::try_from(seed).ok());
            let what =
                || malformed(format!("seeds holds {value}, expected whole numbers from 0 to below 2^60"));
            seed.filter(|&seed| seed < 1 << 60).ok_or_else(what)
        };
        let seeds: Vec<u64> = list("seeds")?.iter().map(seed).collect::<Result<_>>()?;
        if let Some(at) = (1..seeds.len()).find(|&at| seeds[..at].contains(&seeds[at])) {
            return Err(malformed(format!("seeds holds {} twice", seeds[at])));
        }
        let seeds = if seeds.is_empty() { vec![0] } else { seeds };
        let rate = |value: &Value| {
            let rate = value.as_float().or(value.as_integer().map(|rate| rate as f64));
            let rate = rate.filter(|rate| rate.is_finite() && *rate > 0.0);
            rate.ok_or_else(|| malformed(format!("rates holds {value}, expected numbers above 0")))
        };
        let rates: Vec<f64> = list("rates")?.iter().map(rate).collect::<Result<_>>()?;
        let chosen = !rates.is_empty();
        for (key, useless, instead) in [
            ("seed", true, "write seeds = [...] above them"),
            ("out", true, "give --out DIR on the command line"),
            ("rate", chosen, "leave out either it or rates"),
            ("hold-out", chosen, "write it above them, beside rates"),
        ] {
            if let Some(value) = runs.iter().find_map(|run| run.get(key)).filter(|_| useless) {
                let what = format!("{key} = {value} has no effect in [common] and [[runs]]; {instead}");
                return Err(malformed(what));
            }
        }
        if !chosen && table.contains_key("hold-out") {
            let what = "hold-out has no effect without rates to choose from; write rates = [...] beside it, or \
                        hold-out in [common] to measure the runs themselves on such rows";
            return Err(malformed(what.into()));
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
