//! Outcomes grouped by method, and values summarised over seeds.

use crate::metrics::{METRICS, Metric, Outcome};

/// Values of at least this size, such as the perplexity of a diverged model, count as infinite: their sums could
/// overflow.
const INFINITE: f64 = 1e300;

/// Each method with its runs, one for each seed, in the order of the outcomes.
pub fn by_method(outcomes: &[Outcome]) -> Vec<(&str, Vec<&Outcome>)> {
    let mut methods: Vec<(&str, Vec<&Outcome>)> = Vec::new();
    for outcome in outcomes {
        match methods.iter_mut().find(|(name, _)| *name == outcome.method) {
            Some((_, runs)) => runs.push(outcome),
            None => methods.push((&outcome.method, vec![outcome])),
        }
    }
    methods
}

/// The metrics that have a finite score in at least one evaluation.
pub fn measured(outcomes: &[Outcome]) -> impl Iterator<Item = &'static Metric> {
    METRICS.iter().filter(|metric| {
        let mut evaluations = outcomes.iter().flat_map(|run| &run.evaluations);
        evaluations.any(|evaluation| (metric.score)(&evaluation.scores).is_some_and(is_finite))
    })
}

fn is_finite(value: f64) -> bool {
    value.abs() < INFINITE
}

/// A value over the seeds. Values that are not finite count as missing.
pub struct Summary {
    pub mean: Option<f64>,
    /// The sample standard deviation, of at least two values.
    pub deviation: Option<f64>,
    /// The number of values that are not missing.
    pub present: usize,
    pub seeds: usize,
}

impl Summary {
    pub fn of(values: impl IntoIterator<Item = Option<f64>>) -> Self {
        let values: Vec<Option<f64>> = values.into_iter().collect();
        let finite: Vec<f64> = values.iter().flatten().copied().filter(|&value| is_finite(value)).collect();
        let count = finite.len() as f64;
        let mean = (count > 0.0).then(|| finite.iter().sum::<f64>() / count);
        let squares = mean.map(|mean| finite.iter().map(|value| (value - mean).powi(2)).sum::<f64>());
        // Not finite for a single value, which divides by 0, or if a square overflows.
        let deviation = squares.map(|sum| (sum / (count - 1.0)).sqrt()).filter(|deviation| deviation.is_finite());
        Self { mean, deviation, present: finite.len(), seeds: values.len() }
    }
}
