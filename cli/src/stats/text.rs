//! The statistics as tables to read.

use super::histogram::Quantiles;
use super::totals::{ComputedTokens, StatsTotals};

/// All tables; `max_length` is marked in the last one.
pub fn text(totals: &StatsTotals, max_length: Option<usize>) -> String {
    let StatsTotals { records, pairs, rejected, blank_lines, unchanged, active_tokens, .. } = totals;
    let reward = totals.reward.map(|reward| reward.text()).unwrap_or_default();
    let ComputedTokens { separate, packed, revised } = totals.computed;
    format!(
        "{records} records and {blank_lines} blank lines read: {pairs} pairs, {rejected} rejected\n\
         pairs without a change: {unchanged}; active: {} of {separate} tokens\n{reward}\n\
         tokens to compute: {separate} in two rows a pair, {packed} packed ({}), {revised} in the revised rows alone\n\n{}{}{}",
        share(*active_tokens, separate),
        share(packed, separate),
        distributions(totals),
        labels(totals),
        truncation(totals, max_length)
    )
}

fn distributions(totals: &StatsTotals) -> String {
    let mut rows = vec![["", "min", "5 %", "median", "mean", "95 %", "max"].map(String::from)];
    for histogram in &totals.distributions {
        let Quantiles { min, p5, median, mean, p95, max } = histogram.quantiles();
        let [min, p5, median, p95, max] = [min, p5, median, p95, max].map(|value| histogram.format(value));
        let title = format!("{} [{}]", histogram.quantity.title, histogram.quantity.unit);
        rows.push([title, min, p5, median, format!("{mean:.1}"), p95, max]);
    }
    table(&rows)
}

fn labels(totals: &StatsTotals) -> String {
    let mut rows = vec![["answer", "tokens", "share", "pairs affected", ""].map(String::from)];
    for total in &totals.labels {
        let same_answer = totals.labels.iter().filter(|other| other.answer == total.answer);
        rows.push([
            format!("{}, {}", total.answer, total.label),
            total.tokens.to_string(),
            share(total.tokens, same_answer.map(|other| other.tokens).sum()),
            total.pairs.to_string(),
            share(total.pairs, totals.pairs),
        ]);
    }
    table(&rows)
}

fn truncation(totals: &StatsTotals, max_length: Option<usize>) -> String {
    let titles = ["--max-length", "rows cut", "", "tokens lost", "", "active lost", "", "none active", "long prompts"];
    let mut rows = vec![titles.map(String::from)];
    for loss in &totals.truncation {
        let mark = if max_length == Some(loss.max_length) { " *" } else { "" };
        rows.push([
            format!("{}{mark}", loss.max_length),
            loss.rows_cut.to_string(),
            share(loss.rows_cut, 2 * totals.pairs),
            loss.tokens_lost.to_string(),
            share(loss.tokens_lost, totals.computed.separate),
            loss.active_tokens_lost.to_string(),
            share(loss.active_tokens_lost, totals.active_tokens),
            loss.pairs_without_active_tokens.to_string(),
            loss.prompts_too_long.to_string(),
        ]);
    }
    table(&rows)
}

fn share(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

/// Columns as wide as they need to be, and a blank line. All columns but the first are aligned to the right.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let mut line = format!("{:<1$}", row[0], width(0));
        for (column, cell) in row.iter().enumerate().skip(1) {
            line += &format!("  {cell:>0$}", width(column));
        }
        text += line.trim_end();
        text.push('\n');
    }
    text.push('\n');
    text
}
