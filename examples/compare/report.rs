//! What a comparison says: a table in Markdown, and pictures of losses and ranks.
//! Read next: `common/curves.rs`, how pictures are drawn.

use std::collections::BTreeSet;
use std::path::Path;

use engrad::Result;
use engrad::nn::files::write_whole;

use super::curves::{self, Curve, smooth};
use super::results::Run;
use super::samples::{mean, mean_and_deviation};

/// As many curves as one panel can tell apart.
const TOGETHER: usize = 6;

/// A line for each method, in the order in which they are named. Deviations are those of a sample.
pub fn table(methods: &[&str], runs: &[Run]) -> String {
    let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.measures.keys()).collect();
    let mut text = "| method | seeds |".to_string();
    names.iter().for_each(|name| text += &format!(" {name} |"));
    text += " trained | ms a step | peak MB | final ranks |\n|---|---|";
    text += &"---|".repeat(names.len() + 4);
    for method in methods {
        let of: Vec<&Run> = runs.iter().filter(|run| run.method == *method).collect();
        if of.is_empty() {
            continue;
        }
        text += &format!("\n| {method} | {} |", of.len());
        for name in &names {
            let values: Vec<f64> = of.iter().filter_map(|run| run.measures.get(*name).copied()).collect();
            text += &format!(" {} |", mean_and_deviation(&values));
        }
        let trained: Vec<f64> = of.iter().map(|run| run.trained as f64).collect();
        let times: Vec<f64> = of.iter().map(|run| 1e3 * run.step_seconds).collect();
        let peak = of.iter().map(|run| run.peak).max().unwrap_or(0) as f64 / 1e6;
        let peak = if peak == 0.0 { "-".to_string() } else { format!("{peak:.1}") };
        text += &format!(" {:.0} | {:.1} | {peak} | {} |", mean(&trained), mean(&times), ranks(&of));
    }
    text + "\n"
}

/// The smallest, mean and largest rank in the end, over all sites and seeds.
fn ranks(runs: &[&Run]) -> String {
    let last = runs.iter().filter_map(|run| run.ranks.last()).flat_map(|(_, ranks)| ranks.iter().copied());
    let last: Vec<usize> = last.collect();
    match (last.iter().min(), last.iter().max()) {
        (Some(least), Some(most)) => {
            let values: Vec<f64> = last.iter().map(|&rank| rank as f64).collect();
            format!("{least} to {most}, mean {:.1}", mean(&values))
        }
        _ => "-".into(),
    }
}

/// Writes `table.md`, `loss.svg` if anything was trained, and `ranks.svg` if any ranks changed.
///
/// **Errors** when a file cannot be written.
pub fn write(directory: &Path, methods: &[&str], runs: &[Run], table: &str) -> Result<()> {
    write_whole(directory.join("table.md"), table.as_bytes())?;
    let losses = curves(methods, runs, |run| (1..).map(f64::from).zip(smooth(&run.losses)).collect());
    draw(&directory.join("loss.svg"), "Loss, mean over seeds", "loss", &losses)?;
    let ranks = curves(methods, runs, growth);
    draw(&directory.join("ranks.svg"), "Mean rank of a layer, mean over seeds", "rank", &ranks)
}

/// The mean rank after each step; nothing where ranks do not change.
fn growth(run: &Run) -> Vec<(f64, f64)> {
    let of = |ranks: &[usize]| ranks.iter().sum::<usize>() as f64 / ranks.len().max(1) as f64;
    let Some((_, first)) = run.ranks.first() else { return Vec::new() };
    let mut now = of(first);
    let mut changes = run.ranks.iter().peekable();
    let step = |step: u64| {
        while let Some((_, ranks)) = changes.next_if(|(at, _)| *at <= step) {
            now = of(ranks);
        }
        (step as f64, now)
    };
    (0..=run.losses.len() as u64).map(step).collect()
}

/// The mean over seeds of what is drawn of each method.
fn curves(methods: &[&str], runs: &[Run], points: impl Fn(&Run) -> Vec<(f64, f64)>) -> Vec<Curve> {
    let curve = |method: &&str| {
        let of: Vec<Vec<(f64, f64)>> =
            runs.iter().filter(|run| run.method == **method).map(&points).filter(|c| !c.is_empty()).collect();
        let first = of.first()?;
        let at = |(step, (x, _)): (usize, &(f64, f64))| {
            let values: Vec<f64> = of.iter().filter_map(|curve| Some(curve.get(step)?.1)).collect();
            (*x, mean(&values))
        };
        Some(Curve { name: method.to_string(), points: first.iter().enumerate().map(at).collect() })
    };
    methods.iter().filter_map(curve).collect()
}

fn draw(path: &Path, title: &str, axis: &str, curves: &[Curve]) -> Result<()> {
    let panels: Vec<(&str, &str, &[Curve])> =
        curves.chunks(TOGETHER).map(|together| (title, axis, together)).collect();
    if panels.is_empty() { Ok(()) } else { curves::write(path, "step", &panels) }
}
