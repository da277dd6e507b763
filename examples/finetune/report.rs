//! What the job says in the end: a table, and a picture of the loss curves.
//! Read next: `common/curves.rs`.

use std::path::Path;

use engrad::Result;

use super::curves::{self, Curve, smooth};
use super::samples::median;
use super::stage::Record;

/// One line per way of training.
pub fn table(records: &[Record], guessing: f64) -> String {
    let mut text = format!(
        "{:<10} {:>9} {:>19} {:>11} {:>12}\n",
        "method", "accuracy", "trained parameters", "step time", "peak memory"
    );
    for record in records {
        text += &format!(
            "{:<10} {:>7.2} % {:>19} {:>8.1} ms {:>12}\n",
            record.name,
            100.0 * record.accuracy,
            grouped(record.trained),
            1e3 * median(&record.seconds),
            record.peak.map_or("not counted".into(), megabytes),
        );
    }
    text += &format!("{:<10} {:>7.2} %\n", "guessing", 100.0 * guessing);
    text += "step time: the median step, forward, backward and update; peak memory: the most that tensors\n";
    text += "(weights, activations, gradients, optimiser) held at once in a step of that method";
    if let Some(peak) = process_peak() {
        text += &format!(";\nthe whole process, data and all methods, peaked at {}", megabytes(peak));
    }
    text
}

/// How far the losses of two runs are from one another, step by step.
pub fn apart(record: &Record, other: &Record) -> String {
    let each = record.losses.iter().zip(&other.losses).map(|(a, b)| (a - b).abs());
    let steps = record.losses.len().min(other.losses.len());
    let largest = each.fold(0.0, f64::max);
    format!(
        "{:<10} losses of {steps} steps are at most {largest:.1e} from those of the other run",
        record.name
    )
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Digits in groups of three.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let pieces: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|piece| std::str::from_utf8(piece).unwrap_or("")).collect();
    pieces.join(",")
}

/// The most main memory that this process ever held, in bytes, where the system tells (Linux).
fn process_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Draws the loss of pretraining, if there was any, and of each method below it.
///
/// **Errors** when the file cannot be written.
pub fn draw(path: &Path, pretraining: Option<&Record>, records: &[Record]) -> Result<()> {
    let curve = |record: &Record| {
        let points = (1..).map(f64::from).zip(smooth(&record.losses)).collect();
        Curve { name: record.name.clone(), points }
    };
    let pretraining: Vec<Curve> = pretraining.into_iter().map(curve).collect();
    let tuning: Vec<Curve> = records.iter().map(curve).collect();
    let mut panels = vec![("Loss of fine-tuning", "loss", &tuning[..])];
    if !pretraining.is_empty() {
        panels.insert(0, ("Loss of pretraining: guessing hidden words", "loss", &pretraining[..]));
    }
    curves::write(path, "step", &panels)
}
