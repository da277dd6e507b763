//! MTLoRA, TriAdaptLoRA, SAN and IncreLoRA against an independent PyTorch implementation in f64.
//!
//! `cargo test --release --test golden_brain -- --nocapture` runs the committed part in `tests/golden`.
//! `ENGRAD_GOLDEN=DIR` runs another folder of the same format, `ENGRAD_DEVICE=reference|cpu|gpu` one
//! device instead of all, and `-- FILTER` the folders whose name contains the text. Each line says how
//! far the worst of each kind of number is off; the last one counts folders, which pass when they do on
//! every device.
//! Read next: `brain/mod.rs`.

mod brain;
mod common;
mod stored;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use brain::{Checks, run, still};
use engrad::Device;

fn main() -> ExitCode {
    let root = std::env::var_os("ENGRAD_GOLDEN").map_or_else(|| "tests/golden".into(), PathBuf::from);
    let filter = common::filter();
    let devices = match std::env::var("ENGRAD_DEVICE") {
        Ok(name) => vec![name.parse().expect("ENGRAD_DEVICE names a device of this machine")],
        Err(_) => common::devices(),
    };
    let folders: Vec<PathBuf> = ["static", "train"].iter().flat_map(|kind| folders(&root, kind)).collect();
    let (mut passed, mut failed) = (0, 0);
    for folder in folders.iter().filter(|folder| common::is_named(folder, &filter)) {
        let good = devices.iter().filter(|device| check(&root, folder, device)).count();
        *(if good == devices.len() { &mut passed } else { &mut failed }) += 1;
    }
    println!("{passed} passed, {failed} failed");
    // A filter may be meant for other test files.
    if failed == 0 && (passed > 0 || !filter.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The folders of one kind, by name.
fn folders(root: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root.join("brain").join(kind)).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    folders.sort();
    folders
}

/// Whether a folder passes on a device. A panic is a failure like any other.
fn check(root: &Path, folder: &Path, device: &Device) -> bool {
    let start = Instant::now();
    let mut checks = Checks::new(device);
    let whole = catch_unwind(AssertUnwindSafe(|| match folder.join("run.json").exists() {
        true => run::check(root, folder, device, &mut checks),
        false => still::check(root, folder, device, &mut checks),
    }));
    let good = whole.is_ok() && checks.wrong.is_empty();
    let name = folder.strip_prefix(root.join("brain")).unwrap_or(folder).display();
    let worst: Vec<String> = checks.worst.iter().map(|(what, off)| format!("{what} {off:.0e}")).collect();
    println!(
        "{} {name} on {device}, {:.1} s: {}",
        if good { "ok  " } else { "FAIL" },
        start.elapsed().as_secs_f64(),
        worst.join(", ")
    );
    checks.wrong.iter().for_each(|what| println!("     {what}"));
    good
}
