//! `report.html` and the folder `figures`.

use std::path::Path;

use anyhow::{Context, Result};
use figa_atomic_file::write_folder;
use minijinja::{Environment, value::Serde};
use serde::Serialize;
use serde_json::json;
use similar::{Algorithm, ChangeTag, utils::diff_unicode_words};

use crate::figures::figures;
use crate::metrics::{Answer, Outcome};
use crate::summary::by_method;
use crate::table::Table;

/// Writes the report, which contains its figures, and the same figures as SVG and PNG files.
pub fn write(folder: &Path, facts: &[(&str, String)], outcomes: &[Outcome]) -> Result<()> {
    let mut drawings = vec![];
    let draw = |folder: &Path| {
        for figure in figures(outcomes) {
            let svg = figure.save(folder)?;
            drawings.push(json!({ "title": figure.title, "svg": svg }));
        }
        anyhow::Ok(())
    };
    let figures = folder.join("figures");
    write_folder(&figures, draw).with_context(|| format!("writing {}", figures.display()))?;
    let context = Serde(json!({
        "facts": facts,
        "table": Table::new(outcomes),
        "several_seeds": by_method(outcomes).iter().any(|(_, runs)| runs.len() > 1),
        "drawings": drawings,
        "examples": examples(outcomes),
    }));
    // minijinja escapes values because the name ends in .html.
    let page = Environment::new().render_named_str("report.html", include_str!("report.html.j2"), context)?;
    let path = folder.join("report.html");
    figa_atomic_file::write(&path, page).with_context(|| format!("writing {}", path.display()))
}

/// An answer in pieces, each with whether it differs from the answer that it is compared with.
#[derive(Serialize)]
struct Card {
    title: String,
    pieces: Vec<(bool, String)>,
}

impl Card {
    fn new(title: impl Into<String>, text: &str, reference: &str) -> Self {
        let pieces = diff_unicode_words(Algorithm::Myers, reference, text).into_iter();
        let pieces = pieces.filter(|(tag, _)| *tag != ChangeTag::Delete);
        let pieces = pieces.map(|(tag, piece)| (tag == ChangeTag::Insert, piece.to_owned()));
        Self { title: title.into(), pieces: pieces.collect() }
    }
}

/// Each prompt with its answers; those after training are from the first seed of each method.
fn examples(outcomes: &[Outcome]) -> Vec<(&str, Vec<Card>)> {
    let mut examples: Vec<(&Answer, Vec<Card>)> = vec![];
    for (method, runs) in by_method(outcomes) {
        for answer in &runs[0].answers {
            let same = |(known, _): &(&Answer, _)| {
                (&known.prompt, &known.original, &known.revised) == (&answer.prompt, &answer.original, &answer.revised)
            };
            let index = examples.iter().position(same).unwrap_or_else(|| {
                let original = Card::new("original", &answer.original, &answer.revised);
                let revised = Card::new("revised", &answer.revised, &answer.original);
                let before = Card::new("greedy, before training", &answer.before, &answer.revised);
                examples.push((answer, vec![original, revised, before]));
                examples.len() - 1
            });
            examples[index].1.push(Card::new(format!("greedy, after {method}"), &answer.after, &answer.revised));
        }
    }
    examples.into_iter().map(|(answer, cards)| (answer.prompt.as_str(), cards)).collect()
}
