//! A sample of records as an HTML page.

use anyhow::{Context, Result};
use figa_loss::{Fields, RawRecord, Side, SpaRecord, TokenLabel};

use super::sample::Sample;
use super::tokens::{ShownTexts, ShownToken};
use super::{Comparison, prompt_parts};
use crate::encoding::LabellingArgs;
use crate::terminal::printable;

/// A run of more kept tokens than this is folded, except for some context at both ends.
const LONG_RUN: usize = 12;
const CONTEXT: usize = 3;

/// How many tokens have a weight other than 0, and how many there are.
#[derive(Default)]
struct TokenTally {
    active: usize,
    tokens: usize,
}

/// A page of the sample; `name` says where the records are from.
pub fn page(
    comparison: &Comparison,
    labelling: &LabellingArgs,
    fields: &Fields,
    name: &str,
    sample: Sample<RawRecord>,
) -> Result<String> {
    let weights = labelling.weights()?;
    let (shown, count) = (sample.len(), sample.seen());
    let (mut records, mut tally) = (String::new(), TokenTally::default());
    for (number, raw) in sample.into_numbered() {
        let record = raw.parse(fields)?;
        records += &article(comparison, number, &raw.place(), &record, &mut tally)?;
    }
    Ok(format!(
        include_str!("page.html"),
        style = include_str!("page.css"),
        name = escape(name),
        aligner = labelling.aligner,
        granularity = labelling.granularity,
        shown = shown,
        count = count,
        active = format!("{:.1}%", 100.0 * tally.active as f64 / tally.tokens as f64),
        alpha = weights.alpha,
        beta = weights.beta,
        gamma = weights.gamma,
        end = weights.weight(Side::Revised, TokenLabel::Eos),
        eos = match comparison {
            Comparison::Rows(_) => "end of turn",
            Comparison::Answers(_) => "&lt;eos&gt;",
        },
        records = records,
    ))
}

fn article(
    comparison: &Comparison,
    number: u64,
    place: &str,
    record: &SpaRecord,
    tally: &mut TokenTally,
) -> Result<String> {
    let texts = ShownTexts::new(comparison.compare(record).context(place.to_owned())?);
    let parts = prompt_parts(record, &texts).into_iter();
    let parts = parts.map(|(title, text)| section(&escape(&title), &escape(&text)));
    let answers = Side::ALL.map(|side| {
        let tokens = texts.tokens(side);
        let active = tokens.iter().filter(|shown| shown.token.weight != 0.0).count();
        tally.active += active;
        tally.tokens += tokens.len();
        let title = format!("{side} answer, {active} of {} tokens active", tokens.len());
        section(&title, &answer(side, tokens))
    });
    Ok(format!(
        "<article id=\"record-{number}\">\n\
         <h2><a href=\"#record-{number}\" title=\"{}\">Record {number}</a></h2>\n\
         {}<div class=\"answers\">\n{}</div>\n</article>\n",
        escape(place),
        parts.collect::<String>(),
        answers.concat()
    ))
}

fn section(title: &str, content: &str) -> String {
    format!("<section>\n<h3>{title}</h3>\n<div class=\"text\" dir=\"auto\">{content}</div>\n</section>\n")
}

/// An answer, each token an element.
fn answer(side: Side, tokens: &[ShownToken]) -> String {
    let mut html = String::new();
    for run in tokens.chunk_by(|a, b| a.is_kept() == b.is_kept()) {
        let context = if run[0].is_kept() && run.len() > LONG_RUN { CONTEXT } else { run.len() };
        let (before, rest) = run.split_at(context);
        let (folded, after) = rest.split_at(rest.len().saturating_sub(CONTEXT));
        html += &elements(side, before);
        if let Some(first) = folded.first() {
            // The gap stays outside of `<details>`, so that the spacing is right when it is folded.
            html += &escape(&first.gap);
            html += &format!("<details><summary>{} kept</summary>", folded.len());
            html += &element(side, first);
            html += &elements(side, &folded[1..]);
            html += "</details>";
        }
        html += &elements(side, after);
    }
    html
}

fn elements(side: Side, tokens: &[ShownToken]) -> String {
    tokens.iter().map(|shown| escape(&shown.gap) + &element(side, shown)).collect()
}

fn element(side: Side, shown: &ShownToken) -> String {
    let text = escape(&shown.text);
    let (tag, text) = match shown.token.label {
        TokenLabel::Kept | TokenLabel::Ignored => ("span", text),
        TokenLabel::Eos => ("b", text),
        _ => {
            let tag = match side {
                Side::Original => "del",
                Side::Revised => "ins",
            };
            // Make a changed line break visible.
            (tag, text.replace('\n', "⏎\n"))
        }
    };
    let (name, label, weight) = (escape(&shown.token.name), shown.label(), shown.token.weight);
    format!("<{tag} title=\"{name}: {label}, weight {weight:+}\">{text}</{tag}>")
}

/// A text for an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in printable(text).chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            _ => escaped.push(character),
        }
    }
    escaped
}
