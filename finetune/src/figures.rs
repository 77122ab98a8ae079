//! The figures of a report: the curve of each method, for every metric and for the training loss.

use std::collections::BTreeMap;

use crate::metrics::{Better, Metric, Outcome};
use crate::plot::{Curve, Figure, Point};
use crate::summary::{Summary, by_method, measured};

/// The loss is averaged over windows, about this many in a run.
const LOSS_WINDOWS: usize = 20;

/// One figure for each measured metric, then the training loss.
pub fn figures(outcomes: &[Outcome]) -> Vec<Figure<'_>> {
    let mut figures: Vec<Figure> = measured(outcomes).map(|metric| metric_figure(outcomes, metric)).collect();
    figures.push(loss_figure(outcomes));
    figures.retain(|figure| !figure.curves.is_empty());
    figures
}

fn metric_figure<'a>(outcomes: &'a [Outcome], metric: &Metric) -> Figure<'a> {
    let direction = match metric.better {
        Better::Higher => "higher is better",
        Better::Lower => "lower is better",
    };
    let scores = |run: &Outcome| {
        let evaluations = run.evaluations.iter();
        evaluations.filter_map(|evaluation| Some((evaluation.step, (metric.score)(&evaluation.scores)?))).collect()
    };
    Figure {
        key: metric.key,
        title: metric.name,
        y_title: format!("{} ({direction})", metric.words()),
        curves: curves(outcomes, scores),
    }
}

fn loss_figure(outcomes: &[Outcome]) -> Figure<'_> {
    let steps = outcomes.iter().map(|run| run.losses.len()).max().unwrap_or(0);
    let window = steps.div_ceil(LOSS_WINDOWS).max(1);
    let smoothed = |run: &Outcome| {
        let windows = run.losses.chunks(window).enumerate();
        let mean = |losses: &[f64]| Summary::of(losses.iter().copied().map(Some)).mean;
        windows.filter_map(|(index, losses)| Some((index * window + losses.len(), mean(losses)?))).collect()
    };
    Figure {
        key: "loss",
        title: "training loss (levels are not comparable between methods)",
        y_title: if window == 1 { "loss".to_owned() } else { format!("loss, mean of {window} steps") },
        curves: curves(outcomes, smoothed),
    }
}

/// The curves of the methods that have a finite value at some step. `values` returns the steps of a run with a value.
fn curves(outcomes: &[Outcome], values: impl Fn(&Outcome) -> Vec<(usize, f64)>) -> Vec<Curve<'_>> {
    let mut curves = Vec::new();
    for (style, (method, runs)) in by_method(outcomes).into_iter().enumerate() {
        let mut steps: BTreeMap<usize, Vec<Option<f64>>> = BTreeMap::new();
        for (step, value) in runs.into_iter().flat_map(&values) {
            steps.entry(step).or_default().push(Some(value));
        }
        let summaries = steps.into_iter().map(|(step, values)| (step, Summary::of(values)));
        let points = summaries.filter_map(|(step, summary)| {
            Some(Point { step, mean: summary.mean?, deviation: summary.deviation.unwrap_or(0.0) })
        });
        curves.push(Curve { method, style, points: points.collect() });
    }
    curves.retain(|curve| !curve.points.is_empty());
    curves
}
