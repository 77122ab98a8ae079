//! How often each value occurs: enough for quantiles and pictures, without a list of all values.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// The approximate number of bars in a picture.
const BARS: f64 = 30.0;
/// The top 1 % of the values is cut off if the picture would be this many times wider with it.
const WIDENING: f64 = 1.5;

/// A number that is counted, and its unit.
#[derive(Clone, Copy)]
pub struct Quantity {
    /// Its name in JSON.
    pub name: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    /// What has such a value: pairs or rows.
    pub of: &'static str,
    /// Values are rounded to 1 / `parts` of the unit.
    pub parts: f64,
}

/// How often each value occurred. Values are rounded; only their mean is exact.
pub struct Histogram {
    pub quantity: Quantity,
    counts: BTreeMap<u64, u64>,
    total: u64,
    sum: f64,
}

#[derive(Serialize)]
pub struct Quantiles {
    pub min: f64,
    pub p5: f64,
    pub median: f64,
    pub mean: f64,
    pub p95: f64,
    pub max: f64,
}

/// Bars of equal width.
pub struct Bars {
    /// Where each bar begins, and how many values it has.
    pub bars: Vec<(f64, u64)>,
    pub width: f64,
    /// Values beyond the last bar.
    pub beyond: u64,
}

impl Histogram {
    pub fn new(quantity: Quantity) -> Self {
        Self { quantity, counts: BTreeMap::new(), total: 0, sum: 0.0 }
    }

    pub fn add(&mut self, value: f64) {
        *self.counts.entry((value * self.quantity.parts).round() as u64).or_default() += 1;
        self.total += 1;
        self.sum += value;
    }

    /// The smallest value that at least `percent` of all values do not exceed.
    pub fn quantile(&self, percent: u64) -> f64 {
        let (mut remaining, mut quantile) = ((self.total * percent).div_ceil(100).max(1), 0);
        for (&value, &count) in &self.counts {
            quantile = value;
            remaining = remaining.saturating_sub(count);
            if remaining == 0 {
                break;
            }
        }
        quantile as f64 / self.quantity.parts
    }

    pub fn quantiles(&self) -> Quantiles {
        let mean = self.sum / self.total.max(1) as f64;
        let [min, p5, median, p95, max] = [0, 5, 50, 95, 100].map(|percent| self.quantile(percent));
        Quantiles { min, p5, median, mean, p95, max }
    }

    /// A value with one decimal, if values have any.
    pub fn format(&self, value: f64) -> String {
        format!("{value:.*}", usize::from(self.quantity.parts > 1.0))
    }

    /// Bars of a round width for a picture.
    pub fn bars(&self) -> Bars {
        let [first, p99, last] = [0, 99, 100].map(|percent| self.quantile(percent));
        let end = if last - first > WIDENING * (p99 - first) { p99 } else { last };
        let narrowest = if self.quantity.parts > 1.0 { 0.1 } else { 1.0 };
        let width = round_up(((end - first) / BARS).max(narrowest));
        let bar_of = |value: f64| (value / width + 1e-6).floor();
        let (from, count) = (bar_of(first), (bar_of(end) - bar_of(first)) as usize + 1);
        let mut bars: Vec<_> = (0..count).map(|at| ((from + at as f64) * width, 0)).collect();
        let mut beyond = 0;
        for (&value, &count) in &self.counts {
            match bars.get_mut((bar_of(value as f64 / self.quantity.parts) - from) as usize) {
                Some(bar) => bar.1 += count,
                None => beyond += count,
            }
        }
        Bars { bars, width, beyond }
    }
}

/// The next number that is 1, 2, 5 or 10 times a power of ten.
fn round_up(width: f64) -> f64 {
    let power = 10f64.powf(width.log10().floor());
    // Slightly less, because the division is not exact.
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= width * 0.999);
    factor.unwrap_or(10.0) * power
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Named<'a> {
            name: &'a str,
            unit: &'a str,
            of: &'a str,
            #[serde(flatten)]
            quantiles: Quantiles,
        }
        let Quantity { name, unit, of, .. } = self.quantity;
        Named { name, unit, of, quantiles: self.quantiles() }.serialize(serializer)
    }
}
