//! Histograms as an SVG.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use super::histogram::{Bars, Histogram, Quantity};

const SIZE: (u32, u32) = (1200, 720);
const COLUMNS: usize = 3;
/// Space above the highest bar, as a factor.
const HEADROOM: f64 = 1.05;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(220, 220, 220);
const BAR: RGBColor = RGBColor(0, 114, 178);
const MEDIAN: RGBColor = RGBColor(213, 94, 0);

/// One SVG with a panel for each histogram.
pub fn draw(title: &str, histograms: &[Histogram]) -> Result<String> {
    register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the font of the figure cannot be read"))?;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let body = root.margin(12, 8, 8, 8).titled(title, text(24))?;
        let panels = body.split_evenly((histograms.len().div_ceil(COLUMNS), COLUMNS));
        for (histogram, panel) in histograms.iter().zip(panels) {
            draw_panel(histogram, &panel)?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn draw_panel(histogram: &Histogram, panel: &DrawingArea<SVGBackend, Shift>) -> Result<()> {
    let Quantity { title, unit, of, .. } = histogram.quantity;
    let Bars { bars, width, beyond } = histogram.bars();
    let (first, last) = (bars[0].0, bars[bars.len() - 1].0 + width);
    let top = bars.iter().map(|bar| bar.1).max().unwrap_or(0).max(1) as f64 * HEADROOM;
    let median = histogram.quantile(50);
    let mut axis = unit.to_owned();
    if beyond > 0 {
        axis += &format!("; {beyond} beyond, up to {}", histogram.format(histogram.quantile(100)));
    }
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("{title} (median {} {unit})", histogram.format(median)), text(19))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(first..last, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(text(16))
        .axis_desc_style(text(16))
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&short)
        .y_label_formatter(&short)
        .x_desc(axis)
        .y_desc(of)
        .draw()?;
    let bar = |&(from, count): &(f64, u64)| {
        Rectangle::new([(from, 0.0), (from + width, count as f64)], BAR.mix(0.85).filled())
    };
    chart.draw_series(bars.iter().map(bar))?;
    if median <= last {
        chart.draw_series([PathElement::new([(median, 0.0), (median, top)], MEDIAN.stroke_width(2))])?;
    }
    Ok(())
}

fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

/// A number with at most two decimals.
fn short(value: &f64) -> String {
    match (value * 100.0).round() / 100.0 {
        value if value >= 1e6 => format!("{value:.1e}"),
        value => value.to_string(),
    }
}
