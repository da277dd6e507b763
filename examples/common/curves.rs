//! Curves, such as losses over the steps of training, as a picture in SVG.
//! Read next: `finetune/report.rs`, which draws losses with it.

use std::error::Error;
use std::path::Path;

use engrad::nn::files::write_whole;
use plotters::coord::Shift;
use plotters::prelude::*;

/// Told apart by people who see colours differently, too (Okabe and Ito 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];

/// A line: its name, and its points.
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// One panel below the other, each with a title, the name of its vertical axis, and curves; `along` names
/// the horizontal axis.
///
/// **Errors** when plotters cannot draw.
pub fn picture(along: &str, panels: &[(&str, &str, &[Curve])]) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (900, 420 * panels.len() as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        for (area, panel) in area.split_evenly((panels.len(), 1)).iter().zip(panels) {
            draw(area, along, panel)?;
        }
        area.present()?;
    }
    Ok(text)
}

/// Writes the same to a file.
///
/// **Errors** when plotters cannot draw, or the file cannot be written.
#[allow(dead_code, reason = "benches say where they write")]
pub fn write(path: &Path, along: &str, panels: &[(&str, &str, &[Curve])]) -> engrad::Result<()> {
    write_svg(path, picture(along, panels))
}

/// Writes what was drawn to a file.
///
/// **Errors** when it could not be drawn, or the file cannot be written.
#[allow(dead_code, reason = "benches say where they write")]
pub fn write_svg(path: &Path, drawn: Result<String, Box<dyn Error>>) -> engrad::Result<()> {
    let malformed = |error: Box<dyn Error>| engrad::Error::Format {
        path: path.into(),
        what: format!("cannot be drawn: {error}"),
    };
    write_whole(path, drawn.map_err(malformed)?.as_bytes())
}

fn draw(
    area: &DrawingArea<SVGBackend, Shift>,
    along: &str,
    (title, upwards, curves): &(&str, &str, &[Curve]),
) -> Result<(), Box<dyn Error>> {
    let points = || curves.iter().flat_map(|curve| &curve.points).filter(|(_, value)| value.is_finite());
    let steps = points().map(|(step, _)| *step).fold(2.0, f64::max);
    let highest = points().map(|(_, value)| *value).fold(1e-3, f64::max);
    let lowest = points().map(|(_, value)| *value).fold(0.0, f64::min);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..steps, 1.05 * lowest..1.05 * highest)?;
    let whole = |step: &f64| format!("{step:.0}");
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(along).y_desc(*upwards).x_label_formatter(&whole).light_line_style(WHITE).draw()?;
    for (at, curve) in curves.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let finite = curve.points.iter().copied().filter(|(_, value)| value.is_finite());
        let line = chart.draw_series(LineSeries::new(finite, colour.stroke_width(2)))?;
        line.label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    // More names than colours tell nothing apart.
    if curves.len() <= COLOURS.len() {
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK.mix(0.3)).draw()?;
    }
    Ok(())
}

/// A running mean, because single losses jump.
#[allow(dead_code, reason = "benches draw what does not jump")]
pub fn smooth(losses: &[f64]) -> Vec<f64> {
    let mut mean = losses.first().copied().unwrap_or(0.0);
    let running = |&loss: &f64| {
        mean += 0.1 * (loss - mean);
        mean
    };
    losses.iter().map(running).collect()
}
