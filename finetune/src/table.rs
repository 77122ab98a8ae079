//! The table of scores: the base model, then each method after training.

use std::fmt;
use std::iter;

use serde::Serialize;

use crate::metrics::{Better, METRICS, Metric, Outcome, Scores};
use crate::summary::{Summary, by_method, measured};

/// The table as cells, for the terminal and the report. It displays as Markdown that is also readable as plain text.
#[derive(Serialize)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Serialize)]
struct Cell {
    text: String,
    /// Whether the method has the best value of the column.
    best: bool,
}

impl Cell {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), best: false }
    }
}

impl Table {
    /// With several seeds, values are means ± sample standard deviations.
    pub fn new(outcomes: &[Outcome]) -> Self {
        let methods = by_method(outcomes);
        let names = iter::once("baseline").chain(methods.iter().map(|(name, _)| *name));
        let mut table =
            Self { header: vec!["method".to_owned()], rows: names.map(|name| vec![Cell::plain(name)]).collect() };
        for metric in measured(outcomes) {
            // All methods start from the same model, so the runs of the first one provide the baseline.
            let first_runs = methods.iter().take(1).flat_map(|(_, runs)| runs);
            let baseline = Summary::of(first_runs.map(|run| baseline(run, metric)));
            let trained = methods.iter().map(|(_, runs)| Summary::of(runs.iter().map(|run| trained(run, metric))));
            table.add_column(heading(metric), Some(metric.better), &baseline, &trained.collect::<Vec<_>>());
        }
        let seconds = methods.iter().map(|(_, runs)| Summary::of(runs.iter().map(|run| Some(run.seconds))));
        table.add_column("seconds".to_owned(), None, &Summary::of([]), &seconds.collect::<Vec<_>>());
        table
    }

    /// The scores of one model.
    pub fn of_model(scores: &Scores) -> Self {
        let measured = METRICS.iter().filter_map(|metric| Some((metric, (metric.score)(scores)?)));
        let (header, cells) =
            measured.map(|(metric, score)| (heading(metric), Cell::plain(number(score, score)))).unzip();
        Self { header, rows: vec![cells] }
    }

    fn add_column(&mut self, heading: String, better: Option<Better>, baseline: &Summary, methods: &[Summary]) {
        self.header.push(heading);
        // A method without a competitor is not the best, nor is a mean that lacks a seed.
        let several = methods.len() > 1;
        let eligible = |summary: &Summary| summary.mean.filter(|_| several && summary.present == summary.seeds);
        let pick = match better {
            Some(Better::Higher) => f64::max,
            _ => f64::min,
        };
        // Compared as displayed: values that look equal are both marked.
        let displayed = |mean| number(mean, mean);
        let best = better.and(methods.iter().filter_map(eligible).reduce(pick)).map(displayed);
        let cells = methods.iter().map(|summary| Cell {
            text: text(summary),
            best: best.is_some() && eligible(summary).map(displayed) == best,
        });
        for (row, cell) in self.rows.iter_mut().zip(iter::once(Cell::plain(text(baseline))).chain(cells)) {
            row.push(cell);
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let markdown = |cell: &Cell| {
            if cell.best { format!("**{}**", cell.text) } else { cell.text.replace('|', "\\|") }
        };
        let mut lines = vec![self.header.clone()];
        lines.extend(self.rows.iter().map(|row| row.iter().map(markdown).collect()));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        lines.insert(1, widths.iter().map(|width| format!("{:->width$}", ":")).collect());
        for line in lines {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

fn baseline(run: &Outcome, metric: &Metric) -> Option<f64> {
    let evaluation = run.evaluations.iter().find(|evaluation| evaluation.step == 0)?;
    (metric.score)(&evaluation.scores)
}

fn trained(run: &Outcome, metric: &Metric) -> Option<f64> {
    (metric.score)(&run.evaluations.last()?.scores)
}

fn heading(metric: &Metric) -> String {
    let arrow = match metric.better {
        Better::Higher => "↑",
        Better::Lower => "↓",
    };
    format!("{} {arrow}", metric.words())
}

fn text(summary: &Summary) -> String {
    let Some(mean) = summary.mean else { return "–".to_owned() };
    let mut text = number(mean, mean);
    if let Some(deviation) = summary.deviation {
        text += &format!(" ± {}", number(deviation, mean));
    }
    if summary.present < summary.seeds {
        text += &format!(" ({} of {})", summary.present, summary.seeds);
    }
    text
}

/// The value with the decimals that give `scale` three or four significant digits.
fn number(value: f64, scale: f64) -> String {
    match if scale == 0.0 { 0 } else { scale.abs().log10().floor() as i32 } {
        exponent @ 0..5 => format!("{value:.*}", (3 - exponent).max(0) as usize),
        exponent @ -4..0 => format!("{value:.*}", (2 - exponent) as usize),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Evaluation;

    fn run(method: &str, seed: u64, p_added: Option<f64>, ppl_control: Option<f64>) -> Outcome {
        let baseline = Scores { p_added: Some(0.251), ppl_control: Some(49.25), ..Scores::default() };
        let trained = Scores { p_added, ppl_control, ..Scores::default() };
        Outcome {
            method: method.to_owned(),
            seed,
            evaluations: vec![Evaluation { step: 0, scores: baseline }, Evaluation { step: 60, scores: trained }],
            losses: vec![],
            answers: vec![],
            seconds: 250.0 + seed as f64,
        }
    }

    #[test]
    fn a_table_of_one_run_marks_no_best_value() {
        let table = Table::new(&[run("figa", 0, Some(0.35), Some(49.3))]);
        insta::assert_snapshot!("one_run", table);
    }

    #[test]
    fn a_table_of_several_seeds_shows_deviations_missing_values_and_the_best_complete_means() {
        let table = Table::new(&[
            run("figa", 0, Some(0.35), Some(49.3)),
            run("figa", 1, Some(0.36), Some(49.4)),
            run("sft", 0, Some(0.25), Some(1e-5)),
            run("sft", 1, Some(0.26), Some(f64::INFINITY)),
            run("gamma1", 0, Some(0.355), Some(123_456.0)),
            run("gamma1", 1, Some(0.355), Some(123_456.0)),
        ]);
        insta::assert_snapshot!("several_seeds", table);
    }
}
