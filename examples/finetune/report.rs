//! What the job says in the end: a table, and a picture of the loss curves.

use std::path::Path;

use engrad::nn::files::write_whole;
use engrad::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::stage::Record;

/// Told apart by people who see colours differently, too (Okabe and Ito 2008).
const COLOURS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(230, 159, 0), RGBColor(0, 158, 115)];

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
            1e3 * record.step_seconds(),
            if record.peak == 0 { "not counted".into() } else { megabytes(record.peak) },
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

fn megabytes(bytes: usize) -> String {
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
fn process_peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<usize>().ok()? * 1024)
}

/// Draws the loss of pretraining, if there was any, and of each method below it.
///
/// **Errors** when the file cannot be written.
pub fn draw(path: &Path, pretraining: Option<&Record>, records: &[Record]) -> Result<()> {
    let mut text = String::new();
    let drawn = || -> std::result::Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(&mut text, (900, if pretraining.is_some() { 840 } else { 420 }))
            .into_drawing_area();
        area.fill(&WHITE)?;
        let panels = area.split_evenly((if pretraining.is_some() { 2 } else { 1 }, 1));
        if let Some(record) = pretraining {
            panel(&panels[0], "Loss of pretraining: guessing hidden words", std::slice::from_ref(record))?;
        }
        panel(&panels[panels.len() - 1], "Loss of fine-tuning", records)?;
        area.present()?;
        Ok(())
    };
    let mut drawn = drawn;
    drawn()
        .map_err(|error| Error::Format { path: path.into(), what: format!("cannot be drawn: {error}") })?;
    write_whole(path, text.as_bytes())
}

/// One line per record over the steps, each a running mean, because single losses jump.
fn panel(
    area: &DrawingArea<SVGBackend, Shift>,
    title: &str,
    records: &[Record],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let curves: Vec<Vec<f64>> = records.iter().map(|record| smooth(&record.losses)).collect();
    let steps = curves.iter().map(Vec::len).max().unwrap_or(1).max(2);
    let highest = curves.iter().flatten().copied().fold(1e-3, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(0..steps, 0.0..1.05 * highest)?;
    chart.configure_mesh().x_desc("step").y_desc("loss").light_line_style(WHITE).draw()?;
    for (at, (record, curve)) in records.iter().zip(&curves).enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let line = LineSeries::new(curve.iter().copied().enumerate(), colour.stroke_width(2));
        chart
            .draw_series(line)?
            .label(&record.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK.mix(0.3)).draw()?;
    Ok(())
}

fn smooth(losses: &[f64]) -> Vec<f64> {
    let mut mean = losses.first().copied().unwrap_or(0.0);
    let running = |&loss: &f64| {
        mean += 0.1 * (loss - mean);
        mean
    };
    losses.iter().map(running).collect()
}
