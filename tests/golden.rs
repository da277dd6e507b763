//! Values and gradients against those that PyTorch computed in f64.
//!
//! `cargo test --release --test golden -- --nocapture` runs the committed part in `tests/golden`.
//! `ENGRAD_GOLDEN=DIR` runs another folder of the same format, `ENGRAD_DEVICE=NAME` one device
//! instead of all, and `-- FILTER` the cases whose id or call contains the text. The
//! last line counts the cases over all devices; the exit status says whether all passed.
//! Read next: `golden_support/mod.rs`.

mod common;
mod golden_support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use engrad::Device;
use golden_support::folder::{File, file_names};
use golden_support::{case, errors, export, left_out, programs};
use serde_json::Value;

/// What became of the cases.
#[derive(Default)]
struct Report {
    passed: BTreeMap<String, usize>,
    failed: BTreeMap<String, usize>,
    failures: Vec<String>,
    /// By name: the reason and the number of cases.
    left_out: BTreeMap<String, (&'static str, usize)>,
}

fn main() -> ExitCode {
    let root = std::env::var_os("ENGRAD_GOLDEN").map_or_else(committed, PathBuf::from);
    if let Some(target) = std::env::var_os("ENGRAD_GOLDEN_EXPORT") {
        export::export(&root, Path::new(&target)).expect("the folder can be read, and the target written");
        return ExitCode::SUCCESS;
    }
    let mut report = Report::default();
    match devices() {
        Ok(devices) => report.run(&root, &devices, &common::filter()),
        Err(error) => report.fail("none", format!("ENGRAD_DEVICE: {error}")),
    }
    report.print();
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn devices() -> engrad::Result<Vec<Device>> {
    match std::env::var("ENGRAD_DEVICE") {
        Ok(name) => Ok(vec![name.parse()?]),
        Err(_) => Ok(common::devices()),
    }
}

impl Report {
    fn run(&mut self, root: &Path, devices: &[Device], filter: &str) {
        let names = file_names(root);
        if names.is_empty() {
            self.fail("none", format!("{}: no golden files", root.display()));
        }
        // A panic is a case's result; its words are in the report.
        std::panic::set_hook(Box::new(|_| {}));
        for name in names {
            let file = match catch_unwind(|| File::read(root, &name)) {
                Ok(file) => file,
                Err(payload) => {
                    self.fail("none", errors::message(payload.as_ref()));
                    continue;
                }
            };
            for (at, case) in file.cases().iter().enumerate() {
                let id = case["id"].as_str().map_or_else(|| format!("errors.{at:02}"), String::from);
                let call = case["call"].as_str().or(case["op"].as_str()).unwrap_or("");
                if id.contains(filter) || call.contains(filter) {
                    self.run_case(&id, case, &file, devices);
                }
            }
        }
        let _ = std::panic::take_hook();
    }

    fn run_case(&mut self, id: &str, case: &Value, file: &File, devices: &[Device]) {
        if let Some((name, reason)) = left_out::reason(case) {
            self.left_out.entry(name).or_insert((reason, 0)).1 += 1;
            return;
        }
        for device in devices {
            let outcome = catch_unwind(AssertUnwindSafe(|| match () {
                _ if case.get("op").is_some() => errors::run(case, device),
                _ if case.get("steps").is_some() => programs::run(case, file, device),
                _ => case::run(case, file, device),
            }));
            let what = match outcome {
                Ok(Ok(())) => {
                    *self.passed.entry(device.to_string()).or_default() += 1;
                    continue;
                }
                Ok(Err(what)) => what,
                Err(payload) => format!("panicked: {}", errors::message(payload.as_ref())),
            };
            let call = case["call"].as_str().or(case["op"].as_str()).unwrap_or("program");
            self.fail(&device.to_string(), format!("{} {id} ({call}) on {device}: {what}", file.name));
        }
    }

    fn fail(&mut self, device: &str, what: String) {
        *self.failed.entry(device.to_string()).or_default() += 1;
        self.failures.push(what);
    }

    fn print(&self) {
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        for (name, (reason, cases)) in &self.left_out {
            println!("left out: {name}, {cases} case(s): {reason}");
        }
        for (name, reason) in left_out::NOT_STORED {
            println!("not stored: {name}: {reason}");
        }
        let count = |of: &BTreeMap<String, usize>, device: &str| of.get(device).copied().unwrap_or(0);
        for device in self.passed.keys() {
            println!(
                "{device}: {} passed, {} failed",
                count(&self.passed, device),
                count(&self.failed, device)
            );
        }
        let sum = |of: &BTreeMap<String, usize>| of.values().sum::<usize>();
        println!("{} passed, {} failed", sum(&self.passed), sum(&self.failed));
    }
}
