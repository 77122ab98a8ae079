//! Values by their number, whose quantiles and pictures need no list of them.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::register_font;
use serde::{Serialize, Serializer};

/// How often each value occurred. Values are rounded to so many `parts` of the unit, but for the mean.
pub struct Histogram {
    name: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    /// What has such a value.
    of: &'static str,
    parts: f64,
    counts: BTreeMap<u64, u64>,
    total: u64,
    sum: f64,
}

#[derive(Serialize)]
pub struct Summary {
    pub min: f64,
    pub p5: f64,
    pub median: f64,
    pub mean: f64,
    pub p95: f64,
    pub max: f64,
}

impl Histogram {
    pub fn new(name: &'static str, title: &'static str, unit: &'static str, of: &'static str, parts: f64) -> Self {
        Self { name, title, unit, of, parts, counts: BTreeMap::new(), total: 0, sum: 0.0 }
    }

    pub fn push(&mut self, value: f64) {
        *self.counts.entry((value * self.parts).round() as u64).or_default() += 1;
        self.total += 1;
        self.sum += value;
    }

    /// The least value that `percent` of all do not exceed.
    fn quantile(&self, percent: u64) -> f64 {
        let (mut left, mut value) = ((self.total * percent).div_ceil(100).max(1), 0);
        for (&at, &count) in &self.counts {
            value = at;
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
        value as f64 / self.parts
    }

    pub fn summary(&self) -> Summary {
        let mean = self.sum / self.total.max(1) as f64;
        let [min, p5, median, p95, max] = [0, 5, 50, 95, 100].map(|percent| self.quantile(percent));
        Summary { min, p5, median, mean, p95, max }
    }

    /// A value with as many decimals as it has.
    pub fn show(&self, value: f64) -> String {
        format!("{value:.*}", usize::from(self.parts > 1.0))
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Named<'a> {
            name: &'a str,
            unit: &'a str,
            of: &'a str,
            #[serde(flatten)]
            summary: Summary,
        }
        Named { name: self.name, unit: self.unit, of: self.of, summary: self.summary() }.serialize(serializer)
    }
}

const SIZE: (u32, u32) = (1200, 720);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(220, 220, 220);
const BARS: RGBColor = RGBColor(0, 114, 178);
const MEDIAN: RGBColor = RGBColor(213, 94, 0);

/// One SVG of them all, three beside each other.
pub fn draw(title: &str, histograms: &[Histogram]) -> Result<String> {
    register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the font of the figure cannot be read"))?;
    let text = |size: u32| (FONT, size).into_font().color(&INK);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let body = root.margin(12, 8, 8, 8).titled(title, text(24))?;
        for (histogram, area) in histograms.iter().zip(body.split_evenly((histograms.len().div_ceil(3), 3))) {
            let Bins { bars, width, beyond } = histogram.bins();
            let (first, last) = (bars[0].0, bars[bars.len() - 1].0 + width);
            let highest = bars.iter().map(|bar| bar.1).max().unwrap_or(0).max(1) as f64;
            let median = histogram.quantile(50);
            let title = format!("{} (median {} {})", histogram.title, histogram.show(median), histogram.unit);
            let mut axis = histogram.unit.to_owned();
            if beyond > 0 {
                axis += &format!("; {beyond} beyond, up to {}", histogram.show(histogram.quantile(100)));
            }
            let mut chart = ChartBuilder::on(&area)
                .caption(title, text(19))
                .margin(12)
                .margin_right(24)
                .x_label_area_size(48)
                .y_label_area_size(72)
                .build_cartesian_2d(first..last, 0.0..highest * 1.05)?;
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
                .y_desc(histogram.of)
                .draw()?;
            let bar = |&(from, count): &(f64, u64)| {
                Rectangle::new([(from, 0.0), (from + width, count as f64)], BARS.mix(0.85).filled())
            };
            chart.draw_series(bars.iter().map(bar))?;
            if median <= last {
                chart.draw_series([PathElement::new(
                    [(median, 0.0), (median, highest * 1.05)],
                    MEDIAN.stroke_width(2),
                )])?;
            }
        }
        root.present()?;
    }
    Ok(svg)
}

/// Without the decimals that a number does not have.
fn short(value: &f64) -> String {
    match (value * 100.0).round() / 100.0 {
        value if value >= 1e6 => format!("{value:.1e}"),
        value => value.to_string(),
    }
}

struct Bins {
    /// Where each begins, and how many values are in it.
    bars: Vec<(f64, u64)>,
    width: f64,
    /// How many are not in any.
    beyond: u64,
}

impl Histogram {
    /// About thirty of a round width. Where the longest percent would press the rest onto the axis, it is left out.
    fn bins(&self) -> Bins {
        let (first, most, last) = (self.quantile(0), self.quantile(99), self.quantile(100));
        let end = if last - first > 1.5 * (most - first) { most } else { last };
        let least = ((end - first) / 30.0).max(if self.parts > 1.0 { 0.1 } else { 1.0 });
        let power = 10f64.powf(least.log10().floor());
        let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least * 0.999).unwrap_or(10.0);
        let width = factor * power;
        let place = |value: f64| (value / width + 1e-6).floor();
        let (from, count) = (place(first), (place(end) - place(first)) as usize + 1);
        let mut bars: Vec<_> = (0..count).map(|at| ((from + at as f64) * width, 0)).collect();
        let mut beyond = 0;
        for (&value, &its) in &self.counts {
            match bars.get_mut((place(value as f64 / self.parts) - from) as usize) {
                Some(bar) => bar.1 += its,
                None => beyond += its,
            }
        }
        Bins { bars, width, beyond }
    }
}
