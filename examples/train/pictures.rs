//! Pictures of a run: loss, measures and ranks over the updates.
//! Read next: `common/curves.rs`.

use std::collections::BTreeMap;

use engrad::Result;

use super::curves::{self, Curve, smooth};
use super::folder::{Folder, Line};

/// Draws all pictures that the log has something for.
///
/// **Errors** when a file cannot be written.
pub fn draw(folder: &Folder) -> Result<()> {
    let mut losses = Vec::new();
    let mut measures: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut ranks: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
    for line in folder.lines() {
        match line {
            Line::Step { loss, .. } => losses.push(*loss),
            Line::Measured { step, values, ranks: now, .. } => {
                let at = *step as f64;
                for (name, value) in values {
                    measures.entry(name.clone()).or_default().push((at, *value));
                }
                for (site, rank) in now.iter().enumerate() {
                    ranks.entry(site).or_default().push((at, *rank as f64));
                }
            }
        }
    }
    let loss = (1..).map(f64::from).zip(smooth(&losses)).collect();
    let sites = ranks.into_iter().map(|(site, points)| Curve { name: format!("layer {site}"), points });
    let measures = measures.into_iter().map(|(name, points)| Curve { name, points });
    for (name, title, axis, curves) in [
        ("loss.svg", "Loss", "loss", vec![Curve { name: "loss".into(), points: loss }]),
        ("measures.svg", "Measures", "measure", measures.collect()),
        ("ranks.svg", "Ranks of the adapted layers", "rank", sites.collect()),
    ] {
        if curves.iter().all(|curve| curve.points.is_empty()) {
            continue;
        }
        curves::write(&folder.file(name), "step", &[(title, axis, &curves)])?;
    }
    Ok(())
}
