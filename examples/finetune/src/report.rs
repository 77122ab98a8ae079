//! Shows what the program measured: as a table in plain text, and as figures and one HTML page in a folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, iter};

use anyhow::{Context, Result, ensure};
use minijinja::{Environment, value::Serde};
use serde::Serialize;
use serde_json::json;
use similar::{Algorithm, ChangeTag, utils::diff_unicode_words};

use super::aside;
use super::figures::{Curve, Figure};
use super::outcome::{Answer, Better, METRICS, Metric, Outcome};

/// A Markdown table that also reads well as plain text: the scores at the start, then each method's last ones. With
/// several seeds, these are means ± sample standard deviations.
pub fn table(outcomes: &[Outcome]) -> String {
    let Table { header, rows } = tabulate(outcomes);
    let bold = |cell: Cell| {
        if cell.best { format!("**{}**", cell.text) } else { cell.text.replace('|', "\\|") }
    };
    let mut lines = vec![header];
    lines.extend(rows.into_iter().map(|row| row.into_iter().map(bold).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let rule = widths.iter().map(|width| format!("{:->width$}", ":")).collect();
    lines.insert(1, rule);
    let pad = |(cell, width): (&String, &usize)| format!("{cell:>width$}");
    let join = |line: &Vec<String>| line.iter().zip(&widths).map(pad).collect::<Vec<_>>().join(" | ");
    lines.iter().map(|line| format!("| {} |\n", join(line))).collect()
}

/// Writes `report.html`, which needs no other file, and its figures as `figures/*.svg` and `figures/*.png` too.
pub fn write(folder: &Path, facts: &[(String, String)], outcomes: &[Outcome]) -> Result<()> {
    ensure!(!outcomes.is_empty(), "there is no outcome to report");
    fs::create_dir_all(folder.join("figures")).with_context(|| format!("making a folder in {}", folder.display()))?;
    let mut drawings = Vec::new();
    for figure in figures(outcomes) {
        let svg = figure.save(&folder.join("figures"))?;
        drawings.push(json!({ "title": figure.title, "svg": svg }));
    }
    let contents = Serde(json!({
        "facts": facts,
        "table": tabulate(outcomes),
        "several_seeds": methods(outcomes).iter().any(|(_, runs)| runs.len() > 1),
        "drawings": drawings,
        "examples": examples(outcomes),
    }));
    // The name ends in html, which is what has everything escaped.
    let page = Environment::new().render_named_str("report.html", include_str!("report.html.j2"), contents)?;
    aside::file(&folder.join("report.html"), |aside| Ok(fs::write(aside, &page)?))
}

/// Each method, in order of first appearance, with its runs: one a seed.
fn methods(outcomes: &[Outcome]) -> Vec<(&str, Vec<&Outcome>)> {
    let mut methods: Vec<(&str, Vec<&Outcome>)> = Vec::new();
    for outcome in outcomes {
        match methods.iter_mut().find(|(name, _)| *name == outcome.method) {
            Some((_, runs)) => runs.push(outcome),
            None => methods.push((&outcome.method, vec![outcome])),
        }
    }
    methods
}

/// The metrics that were measured at least once, each with its place in the scores.
fn measured(outcomes: &[Outcome]) -> impl Iterator<Item = (usize, &'static Metric)> {
    let finite = |score: Option<f64>| score.is_some_and(|score| score.abs() < LARGEST);
    let mut metrics: Vec<_> = METRICS.iter().enumerate().collect();
    metrics.retain(|(place, _)| {
        outcomes.iter().any(|run| run.evaluations.iter().any(|evaluation| finite(evaluation.scores[*place])))
    });
    metrics.into_iter()
}

/// The metric's key as words, an arrow to the better side, and the same as words.
fn labels(metric: &Metric) -> (String, &'static str, &'static str) {
    let (arrow, words) = match metric.better {
        Some(Better::Higher) => (" ↑", " (higher is better)"),
        Some(Better::Lower) => (" ↓", " (lower is better)"),
        None => ("", ""),
    };
    (metric.key.replace('_', " "), arrow, words)
}

/// Larger values, such as the perplexity of a broken model may take, count as infinite: their sums would overflow.
const LARGEST: f64 = 1e300;

/// A value over the seeds. What is not finite counts as missing.
struct Summary {
    mean: Option<f64>,
    /// The sample standard deviation, which takes two values.
    deviation: Option<f64>,
    present: usize,
    seeds: usize,
}

impl Summary {
    fn of(values: impl IntoIterator<Item = Option<f64>>) -> Self {
        let values: Vec<Option<f64>> = values.into_iter().collect();
        let finite: Vec<f64> = values.iter().flatten().copied().filter(|value| value.abs() < LARGEST).collect();
        let count = finite.len() as f64;
        let mean = (count > 0.0).then(|| finite.iter().sum::<f64>() / count);
        let squares = mean.map(|mean| finite.iter().map(|value| (value - mean).powi(2)).sum::<f64>());
        // A single value has none, for it divides by zero; and the square of a large value may overflow.
        let deviation = squares.map(|sum| (sum / (count - 1.0)).sqrt()).filter(|deviation| deviation.is_finite());
        Self { mean, deviation, present: finite.len(), seeds: values.len() }
    }

    fn text(&self) -> String {
        let Some(mean) = self.mean else { return "–".to_owned() };
        let deviation = self.deviation.map(|deviation| format!(" ± {}", number(deviation, mean)));
        let missing = (self.present < self.seeds).then(|| format!(" ({} of {})", self.present, self.seeds));
        number(mean, mean) + &deviation.unwrap_or_default() + &missing.unwrap_or_default()
    }
}

/// The value with the decimals that give `scale` three or four significant digits.
fn number(value: f64, scale: f64) -> String {
    match if scale == 0.0 { 0 } else { scale.abs().log10().floor() as i32 } {
        exponent @ 0..5 => format!("{value:.*}", (3 - exponent).max(0) as usize),
        exponent @ -4..0 => format!("{value:.*}", (2 - exponent) as usize),
        _ => format!("{value:.2e}"),
    }
}

/// What the Markdown and the HTML table show.
#[derive(Serialize)]
struct Table {
    header: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Serialize)]
struct Cell {
    text: String,
    best: bool,
}

fn tabulate(outcomes: &[Outcome]) -> Table {
    let methods = methods(outcomes);
    let names = iter::once("start").chain(methods.iter().map(|(name, _)| *name));
    let mut header = vec!["method".to_owned()];
    let mut rows: Vec<_> = names.map(|name| vec![Cell { text: name.to_owned(), best: false }]).collect();
    let mut add_column = |heading: String, better: Option<Better>, start: Summary, ends: Vec<Summary>| {
        header.push(heading);
        // Compared as shown, so that what looks equal is bold alike. A mean that lacks a seed is no fair winner, and a
        // method alone has nobody to win against.
        let eligible = |end: &Summary| end.mean.filter(|_| end.present == end.seeds && methods.len() > 1);
        let pick = if better == Some(Better::Higher) { f64::max } else { f64::min };
        let best = better.and(ends.iter().filter_map(eligible).reduce(pick)).map(|best| number(best, best));
        rows[0].push(Cell { text: start.text(), best: false });
        for (row, end) in rows[1..].iter_mut().zip(&ends) {
            let mean = eligible(end).map(|mean| number(mean, mean));
            row.push(Cell { text: end.text(), best: best.is_some() && mean == best });
        }
    };
    for (place, metric) in measured(outcomes) {
        // All methods start from the same model: the first one's runs stand for all.
        let runs = methods.iter().take(1).flat_map(|(_, runs)| runs);
        let start = runs.map(|run| run.evaluations.iter().find(|evaluation| evaluation.step == 0)?.scores[place]);
        let end = |run: &&Outcome| run.evaluations.last()?.scores[place];
        let ends = methods.iter().map(|(_, runs)| Summary::of(runs.iter().map(end))).collect();
        let (words, arrow, _) = labels(metric);
        add_column(words + arrow, metric.better, Summary::of(start), ends);
    }
    let seconds = methods.iter().map(|(_, runs)| Summary::of(runs.iter().map(|run| Some(run.seconds)))).collect();
    add_column("seconds".to_owned(), None, Summary::of([]), seconds);
    Table { header, rows }
}

/// An answer as pieces of text, each with whether it differs from the answer it is compared with.
#[derive(Serialize)]
struct Card {
    title: String,
    pieces: Vec<(bool, String)>,
}

fn card(title: &str, text: &str, other: &str) -> Card {
    let pieces = diff_unicode_words(Algorithm::Myers, other, text).into_iter();
    let pieces = pieces.filter(|(tag, _)| *tag != ChangeTag::Delete);
    let pieces = pieces.map(|(tag, piece)| (tag == ChangeTag::Insert, piece.to_owned())).collect();
    Card { title: title.to_owned(), pieces }
}

/// Each example's prompt with its answers, those after training from every method's first seed.
fn examples(outcomes: &[Outcome]) -> Vec<(&str, Vec<Card>)> {
    let mut examples: Vec<(&Answer, Vec<Card>)> = Vec::new();
    for (method, runs) in methods(outcomes) {
        for answer in &runs[0].answers {
            let same = |(known, _): &(&Answer, _)| {
                (&known.prompt, &known.original, &known.revised) == (&answer.prompt, &answer.original, &answer.revised)
            };
            let place = examples.iter().position(same).unwrap_or_else(|| {
                let original = card("original", &answer.original, &answer.revised);
                let revised = card("revised", &answer.revised, &answer.original);
                let before = card("greedy, before training", &answer.before, &answer.revised);
                examples.push((answer, vec![original, revised, before]));
                examples.len() - 1
            });
            examples[place].1.push(card(&format!("greedy, after {method}"), &answer.after, &answer.revised));
        }
    }
    examples.into_iter().map(|(answer, cards)| (answer.prompt.as_str(), cards)).collect()
}

/// One figure a metric, then the training loss.
fn figures(outcomes: &[Outcome]) -> Vec<Figure<'_>> {
    let mut figures = Vec::new();
    for (place, metric) in measured(outcomes) {
        let (words, _, direction) = labels(metric);
        let curves = curves(outcomes, |run| {
            run.evaluations.iter().filter_map(|evaluation| Some((evaluation.step, evaluation.scores[place]?))).collect()
        });
        figures.push(Figure { key: metric.key, title: metric.name.to_owned(), y_title: words + direction, curves });
    }
    let steps = outcomes.iter().map(|run| run.losses.len()).max().unwrap_or(0);
    let window = steps.div_ceil(20).max(1);
    let smoothed = curves(outcomes, |run| {
        let mean = |losses: &[f64]| Summary::of(losses.iter().copied().map(Some)).mean;
        let windows = run.losses.chunks(window).enumerate();
        windows.filter_map(|(index, losses)| Some((index * window + losses.len(), mean(losses)?))).collect()
    });
    figures.push(Figure {
        key: "loss",
        title: "training loss (levels are not comparable between methods)".to_owned(),
        y_title: if window == 1 { "loss".to_owned() } else { format!("loss, mean of {window} steps") },
        curves: smoothed,
    });
    figures.retain(|figure| !figure.curves.is_empty());
    figures
}

/// The curves of the methods that have a finite value at any step.
fn curves(outcomes: &[Outcome], values: impl Fn(&Outcome) -> Vec<(usize, f64)>) -> Vec<Curve<'_>> {
    let mut curves = Vec::new();
    for ((method, runs), look) in methods(outcomes).into_iter().zip(0..) {
        let mut steps: BTreeMap<usize, Vec<Option<f64>>> = BTreeMap::new();
        for (step, value) in runs.into_iter().flat_map(&values) {
            steps.entry(step).or_default().push(Some(value));
        }
        let summaries = steps.into_iter().map(|(step, values)| (step, Summary::of(values)));
        let points = summaries.filter_map(|(step, of)| Some((step, of.mean?, of.deviation.unwrap_or(0.0)))).collect();
        curves.push(Curve { method, look, points });
    }
    curves.retain(|curve| !curve.points.is_empty());
    curves
}
