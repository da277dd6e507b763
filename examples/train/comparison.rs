//! Finished runs side by side as a picture: for each task and measure a row for every method, with each
//! seed as a dot, and the mean with its deviation.
//! Read next: `report.rs`, which says which runs belong together.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::curves::write_svg;
use super::samples::{deviation, mean};

/// What was measured of one task.
pub struct Panel {
    pub title: String,
    /// Methods by name, with a value for each seed.
    pub rows: Vec<(String, Vec<f64>)>,
}

/// Pixels of a row, and of what surrounds a panel's rows.
const ROW: u32 = 26;
const FRAME: u32 = 110;
const WIDTH: u32 = 900;

/// Writes the panels to a file, one below the other.
///
/// **Errors** when plotters cannot draw, or the file cannot be written.
pub fn write(path: &Path, panels: &[Panel]) -> engrad::Result<()> {
    write_svg(path, picture(panels))
}

/// The picture as SVG.
fn picture(panels: &[Panel]) -> Result<String, Box<dyn Error>> {
    let height = |panel: &Panel| FRAME + ROW * panel.rows.len() as u32;
    let mut text = String::new();
    {
        let size = (WIDTH, panels.iter().map(height).sum());
        let mut rest = SVGBackend::with_string(&mut text, size).into_drawing_area();
        rest.fill(&WHITE)?;
        for panel in panels {
            let (area, below) = rest.split_vertically(height(panel));
            draw(&area, panel)?;
            rest = below;
        }
        rest.present()?;
    }
    Ok(text)
}

fn draw(area: &DrawingArea<SVGBackend, Shift>, panel: &Panel) -> Result<(), Box<dyn Error>> {
    let finite = |values: &[f64]| values.iter().copied().filter(|x| x.is_finite()).collect::<Vec<_>>();
    // The first method stands on top.
    let rows: Vec<(&str, Vec<f64>)> =
        panel.rows.iter().rev().map(|(name, values)| (&name[..], finite(values))).collect();
    let all = || rows.iter().flat_map(|(_, values)| values.iter().copied());
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = 0.05 * (high - low).max(1e-3);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(30)
        .y_label_area_size(150)
        .build_cartesian_2d(low - margin..high + margin, -0.6..rows.len() as f64 - 0.4)?;
    let name = |at: &f64| match rows.get(at.round() as usize) {
        Some((name, _)) if (at - at.round()).abs() < 1e-6 && *at > -0.5 => name.to_string(),
        _ => String::new(),
    };
    let mut mesh = chart.configure_mesh();
    mesh.label_style(("sans-serif", 14))
        .y_labels(4 * rows.len())
        .y_label_formatter(&name)
        .disable_y_mesh()
        .light_line_style(WHITE);
    mesh.draw()?;
    for (at, (_, values)) in rows.iter().enumerate().filter(|(_, (_, values))| !values.is_empty()) {
        let (at, middle, apart) = (at as f64, mean(values), deviation(values));
        let colour = RGBColor(0, 114, 178);
        let reach = PathElement::new([(middle - apart, at), (middle + apart, at)], colour.stroke_width(2));
        chart.draw_series([reach])?;
        chart.draw_series(values.iter().map(|&x| Circle::new((x, at), 3, BLACK.mix(0.35).filled())))?;
        chart.draw_series([Circle::new((middle, at), 5, colour.filled())])?;
    }
    Ok(())
}
