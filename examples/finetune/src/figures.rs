//! Curves over training steps, drawn.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::aside;

pub struct Figure<'a> {
    /// Names its files.
    pub key: &'static str,
    pub title: String,
    pub y_title: String,
    pub curves: Vec<Curve<'a>>,
}

pub struct Curve<'a> {
    pub method: &'a str,
    /// Which colour and marker; the same for a method in all figures.
    pub look: usize,
    /// Step, mean and standard deviation.
    pub points: Vec<(usize, f64, f64)>,
}

impl Curve<'_> {
    fn colour(&self) -> RGBColor {
        let [_, red, green, blue] = COLOURS[self.look % COLOURS.len()].to_be_bytes();
        RGBColor(red, green, blue)
    }

    fn marker(&self) -> &'static [(i32, i32)] {
        MARKERS[self.look % MARKERS.len()]
    }
}

impl Figure<'_> {
    /// Draws it as SVG and as PNG into files of a folder; returns the SVG.
    pub fn save(&self, folder: &Path) -> Result<String> {
        register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
            .map_err(|_| anyhow!("the font of the figures cannot be read"))?;
        let path = folder.join(self.key);
        let mut svg = String::new();
        draw(SVGBackend::with_string(&mut svg, SIZE), self)?;
        aside::file(&path.with_extension("svg"), |aside| Ok(fs::write(aside, &svg)?))?;
        aside::file(&path.with_extension("png"), |aside| draw(BitMapBackend::new(aside, SIZE), self))?;
        Ok(svg)
    }
}

/// Large, with letters to match: the page shows a figure at about half this size.
const SIZE: (u32, u32) = (1000, 640);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(220, 220, 220);

/// The colours of Okabe and Ito, which colour-blind readers can tell apart, but a wine red for the yellow, which is
/// too faint on white.
const COLOURS: [u32; 8] = [0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x000000, 0x882255];

/// The corners, in pixels, of a square, a triangle, a diamond, a triangle upside down and a bow tie. Five of them with
/// eight colours make forty pairs.
const MARKERS: [&[(i32, i32)]; 5] = [
    &[(-8, -8), (8, -8), (8, 8), (-8, 8)],
    &[(0, -10), (10, 8), (-10, 8)],
    &[(0, -11), (11, 0), (0, 11), (-11, 0)],
    &[(0, 10), (10, -8), (-10, -8)],
    &[(-9, -9), (0, -3), (9, -9), (9, 9), (0, 3), (-9, 9)],
];

fn draw<DB: DrawingBackend>(backend: DB, figure: &Figure) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let text = |size: u32| (FONT, size).into_font().color(&INK);
    let root = backend.into_drawing_area();
    root.fill(&WHITE)?;
    let body = root.margin(16, 0, 0, 0).titled(&figure.title, text(30))?;

    // The legend stands beside the plot, where it covers no line. A viewer's own letters may be wider than these.
    let mut legend_width = 0;
    for curve in &figure.curves {
        legend_width = legend_width.max(70 + root.estimate_text_size(curve.method, &text(26))?.0 * 6 / 5);
    }
    let (plot, legend) = body.split_horizontally(SIZE.0 - legend_width.min(SIZE.0 / 2));

    let points = || figure.curves.iter().flat_map(|curve| &curve.points);
    let last_step = points().map(|&(step, ..)| step).max().unwrap_or(0).max(1);
    let (lowest, highest) = extent(points().map(|&(_, mean, _)| mean));
    // On a linear scale, a single method whose perplexity explodes would press all others onto the axis.
    let logarithmic = lowest > 0.0 && highest / lowest > 100.0;
    let height = |value: f64| {
        if logarithmic { value.max(lowest / 2.0).log10() } else { value }
    };
    let (low, high) = extent(points().flat_map(|&(_, mean, sd)| [height(mean - sd), height(mean + sd)]));
    // A flat line needs some room as well.
    let level = low.abs().max(high.abs());
    let room = if high - low > level * 1e-6 { (high - low) / 20.0 } else { (level / 20.0).max(0.01) };
    let range = low - room..high + room;
    // On a logarithmic scale, so few labels that they stand at whole powers of ten.
    let labels = if logarithmic { (1 + (range.end - range.start) as usize).min(7) } else { 7 };
    let ticks = RangedCoordf64::from(range.clone()).key_points(labels);
    let spacing = ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    let label = |&tick: &f64| {
        let (value, unit) = if logarithmic { (10f64.powf(tick), 10f64.powf(tick)) } else { (tick, spacing) };
        let decimals = (-unit.log10()).ceil();
        if decimals > 5.0 || value.abs() >= 1e6 {
            format!("{value:.1e}")
        } else {
            format!("{value:.*}", decimals as usize)
        }
    };

    let mut chart = ChartBuilder::on(&plot)
        .margin(20)
        .margin_right(40)
        .x_label_area_size(80)
        .y_label_area_size(130)
        .build_cartesian_2d(0..last_step, range)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(text(26))
        .axis_desc_style(text(26))
        .set_all_tick_mark_size(14)
        .x_labels(8)
        .y_labels(labels)
        .x_desc("training step")
        .y_desc(&figure.y_title)
        .y_label_formatter(&label)
        .draw()?;
    let area = chart.plotting_area();
    let pitch = 44.min((SIZE.1 as i32 - 120) / figure.curves.len() as i32);
    for curve in &figure.curves {
        let edge = |sign: f64| move |&(step, mean, sd): &(usize, f64, f64)| (step, height(mean + sign * sd));
        let band = curve.points.iter().map(edge(1.0)).chain(curve.points.iter().rev().map(edge(-1.0)));
        area.draw(&Polygon::new(band.collect::<Vec<_>>(), curve.colour().mix(0.15)))?;
    }
    for (index, curve) in figure.curves.iter().enumerate() {
        let line: Vec<_> = curve.points.iter().map(|&(step, mean, _)| (step, height(mean))).collect();
        for &at in &line {
            area.draw(&(EmptyElement::at(at) + Polygon::new(curve.marker(), curve.colour().filled())))?;
        }
        area.draw(&PathElement::new(line, curve.colour().stroke_width(3)))?;
        let y = 40 + pitch * index as i32;
        legend.draw(&PathElement::new([(0, y), (40, y)], curve.colour().stroke_width(3)))?;
        legend.draw(&(EmptyElement::at((20, y)) + Polygon::new(curve.marker(), curve.colour().filled())))?;
        let left = Pos::new(HPos::Left, VPos::Center);
        legend.draw(&Text::new(curve.method, (50, y), text(26).pos(left)))?;
    }
    Ok(root.present()?)
}

fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}
