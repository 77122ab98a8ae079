//! Draws curves over training steps.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Curves with a title and axes.
pub struct Figure<'a> {
    /// The name of its files.
    pub key: &'static str,
    pub title: &'static str,
    pub y_title: String,
    pub curves: Vec<Curve<'a>>,
}

/// The values of a method over the steps.
pub struct Curve<'a> {
    pub method: &'a str,
    /// The number of a colour and a marker, the same for a method in all figures.
    pub style: usize,
    pub points: Vec<Point>,
}

/// The mean and the standard deviation of a value at a step.
pub struct Point {
    pub step: usize,
    pub mean: f64,
    pub deviation: f64,
}

/// In pixels. The page shows figures at about half this size, so the fonts are large.
const SIZE: (u32, u32) = (1000, 640);
const FONT: &str = "sans-serif";
const TITLE_FONT_SIZE: u32 = 30;
const FONT_SIZE: u32 = 26;
const LINE_WIDTH: u32 = 3;
const BAND_OPACITY: f64 = 0.15;
const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(220, 220, 220);

/// In the legend: the length of a line, where its text begins, and the width besides the text.
const LEGEND_LINE: i32 = 40;
const LEGEND_TEXT: i32 = 50;
const LEGEND_MARGINS: u32 = 70;
/// The height of the first line, and the largest distance between two of them.
const LEGEND_TOP: i32 = 40;
const LEGEND_PITCH: i32 = 44;

/// The most labels on the y axis.
const MAX_Y_LABELS: usize = 7;
/// The y axis is logarithmic if the means differ by more than this factor. Otherwise one method with an exploding
/// perplexity would press all others onto the x axis.
const LOGARITHMIC_RATIO: f64 = 100.0;

/// The colours of Okabe and Ito, which colour-blind readers can distinguish, with a wine red in place of the yellow,
/// which is too faint on white.
const COLOURS: [u32; 8] = [0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x000000, 0x882255];

/// The corners, in pixels, of a square, a triangle, a diamond, an inverted triangle and a bow tie. Five markers and
/// eight colours make forty styles.
const MARKERS: [&[(i32, i32)]; 5] = [
    &[(-8, -8), (8, -8), (8, 8), (-8, 8)],
    &[(0, -10), (10, 8), (-10, 8)],
    &[(0, -11), (11, 0), (0, 11), (-11, 0)],
    &[(0, 10), (10, -8), (-10, -8)],
    &[(-9, -9), (0, -3), (9, -9), (9, 9), (0, 3), (-9, 9)],
];

impl Figure<'_> {
    /// Draws the figure as an SVG and a PNG file in a folder. Returns the SVG.
    pub fn save(&self, folder: &Path) -> Result<String> {
        register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
            .map_err(|_| anyhow!("the font of the figures is not readable"))?;
        let path = folder.join(self.key);
        let mut svg = String::new();
        self.draw(SVGBackend::with_string(&mut svg, SIZE))?;
        fs::write(path.with_extension("svg"), &svg)?;
        self.draw(BitMapBackend::new(&path.with_extension("png"), SIZE))?;
        Ok(svg)
    }

    fn draw<DB: DrawingBackend>(&self, backend: DB) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let root = backend.into_drawing_area();
        root.fill(&WHITE)?;
        let body = root.margin(16, 0, 0, 0).titled(self.title, text_style(TITLE_FONT_SIZE))?;
        // The legend is beside the plot, where it covers no line. The font of an SVG viewer may be a fifth wider.
        let mut legend_width = 0;
        for curve in &self.curves {
            let (width, _) = root.estimate_text_size(curve.method, &text_style(FONT_SIZE))?;
            legend_width = legend_width.max(LEGEND_MARGINS + width * 6 / 5);
        }
        let (plot, legend) = body.split_horizontally(SIZE.0 - legend_width.min(SIZE.0 / 2));
        self.draw_plot(&plot)?;
        self.draw_legend(&legend)?;
        Ok(root.present()?)
    }

    fn draw_plot<DB: DrawingBackend>(&self, plot: &DrawingArea<DB, Shift>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let axis = YAxis::of(&self.curves);
        let last_step = self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.step).max();
        let mut chart = ChartBuilder::on(plot)
            .margin(20)
            .margin_right(40)
            .x_label_area_size(80)
            .y_label_area_size(130)
            .build_cartesian_2d(0..last_step.unwrap_or(0).max(1), axis.range.clone())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .label_style(text_style(FONT_SIZE))
            .axis_desc_style(text_style(FONT_SIZE))
            .set_all_tick_mark_size(14)
            .x_labels(8)
            .y_labels(axis.labels)
            .x_desc("training step")
            .y_desc(&self.y_title)
            .y_label_formatter(&|tick| axis.label(*tick))
            .draw()?;
        let area = chart.plotting_area();
        // All bands first, so that they cover no line.
        for curve in &self.curves {
            let edge = |sign: f64| move |point: &Point| (point.step, point.mean + sign * point.deviation);
            let (upper, lower) = (curve.points.iter().map(edge(1.0)), curve.points.iter().rev().map(edge(-1.0)));
            let band: Vec<_> = upper.chain(lower).map(|(step, value)| (step, axis.height(value))).collect();
            area.draw(&Polygon::new(band, curve.colour().mix(BAND_OPACITY)))?;
        }
        for curve in &self.curves {
            let line: Vec<_> = curve.points.iter().map(|point| (point.step, axis.height(point.mean))).collect();
            for &at in &line {
                area.draw(&(EmptyElement::at(at) + curve.marker()))?;
            }
            area.draw(&PathElement::new(line, curve.line_style()))?;
        }
        Ok(())
    }

    fn draw_legend<DB: DrawingBackend>(&self, legend: &DrawingArea<DB, Shift>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let pitch = LEGEND_PITCH.min((SIZE.1 as i32 - 3 * LEGEND_TOP) / self.curves.len() as i32);
        for (curve, index) in self.curves.iter().zip(0..) {
            let y = LEGEND_TOP + pitch * index;
            legend.draw(&PathElement::new([(0, y), (LEGEND_LINE, y)], curve.line_style()))?;
            legend.draw(&(EmptyElement::at((LEGEND_LINE / 2, y)) + curve.marker()))?;
            let style = text_style(FONT_SIZE).pos(Pos::new(HPos::Left, VPos::Center));
            legend.draw(&Text::new(curve.method, (LEGEND_TEXT, y), style))?;
        }
        Ok(())
    }
}

impl Curve<'_> {
    fn colour(&self) -> RGBColor {
        let [_, red, green, blue] = COLOURS[self.style % COLOURS.len()].to_be_bytes();
        RGBColor(red, green, blue)
    }

    fn line_style(&self) -> ShapeStyle {
        self.colour().stroke_width(LINE_WIDTH)
    }

    fn marker(&self) -> Polygon<(i32, i32)> {
        Polygon::new(MARKERS[self.style % MARKERS.len()], self.colour().filled())
    }
}

/// The y axis of a figure. On a logarithmic one, heights are powers of ten.
struct YAxis {
    range: Range<f64>,
    /// Present on a logarithmic axis: the value that stands for all smaller ones.
    floor: Option<f64>,
    /// The number of labels to request.
    labels: usize,
    /// The distance between labels.
    spacing: f64,
}

impl YAxis {
    fn of(curves: &[Curve]) -> Self {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let (lowest, highest) = extent(points().map(|point| point.mean));
        let floor = (lowest > 0.0 && highest / lowest > LOGARITHMIC_RATIO).then_some(lowest / 2.0);
        let mut axis = Self { range: 0.0..0.0, floor, labels: MAX_Y_LABELS, spacing: 0.0 };
        let ends = |point: &Point| [point.mean - point.deviation, point.mean + point.deviation];
        let (low, high) = extent(points().flat_map(ends).map(|value| axis.height(value)));
        // A flat line needs some room as well.
        let level = low.abs().max(high.abs());
        let room = if high - low > level * 1e-6 { (high - low) / 20.0 } else { (level / 20.0).max(0.01) };
        axis.range = low - room..high + room;
        if floor.is_some() {
            // Few enough for labels at whole powers of ten only.
            axis.labels = (1 + (axis.range.end - axis.range.start) as usize).min(MAX_Y_LABELS);
        }
        let ticks = RangedCoordf64::from(axis.range.clone()).key_points(axis.labels);
        axis.spacing = ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
        axis
    }

    fn height(&self, value: f64) -> f64 {
        match self.floor {
            Some(floor) => value.max(floor).log10(),
            None => value,
        }
    }

    /// The value at a tick, with the decimals that distinguish it from its neighbours.
    fn label(&self, tick: f64) -> String {
        let (value, unit) = match self.floor {
            Some(_) => (10f64.powf(tick), 10f64.powf(tick)),
            None => (tick, self.spacing),
        };
        let decimals = (-unit.log10()).ceil();
        if decimals > 5.0 || value.abs() >= 1e6 {
            format!("{value:.1e}")
        } else {
            format!("{value:.*}", decimals as usize)
        }
    }
}

fn text_style(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}
