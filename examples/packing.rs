//! Draws what `pack` makes of a pair: rows of their own, the packed row, and its attention mask. Needs no libtorch:
//!
//! ```text
//! cargo run --no-default-features --features data --example packing > docs/figures/packing.svg
//! ```

use std::fmt::Write;

use anyhow::Result;
use clap::Parser;
use figa_loss::{
    Aligner, EncodedPair, Example, FigaWeights, IGNORE_INDEX, PackedBatch, Side, TokenLabel, label_tokens, pack,
};

/// Draws a pair whose words are its tokens.
#[derive(Parser)]
struct Args {
    #[arg(default_value = "Correct this:")]
    prompt: String,
    #[arg(default_value = "He has went to school by a bus every day")]
    original: String,
    #[arg(default_value = "He has gone to school by bus every day")]
    revised: String,
}

const EOS: &str = "</s>";
const PAD_ID: u32 = 0;

/// The width and height of a token, and the space around things.
const WIDTH: usize = 54;
const HEIGHT: usize = 22;
const SPACE: usize = 12;
/// The side of a square of the mask.
const SQUARE: usize = 14;

/// Ids are places in the list of words.
struct Words(Vec<String>);

impl Words {
    fn ids(&mut self, text: &str) -> Vec<u32> {
        let mut id = |word: &str| {
            let known = self.0.iter().position(|other| other == word);
            known.unwrap_or_else(|| {
                self.0.push(word.to_owned());
                self.0.len() - 1
            }) as u32
        };
        text.split_whitespace().map(&mut id).collect()
    }
}

fn main() -> Result<()> {
    let mut words = Words(vec![]);
    let Args { prompt, original, revised } = Args::parse();
    let [prompt, original, revised] = [prompt, original, revised].map(|text| words.ids(&text));
    let eos = words.ids(EOS)[0];
    let answers = [original, revised].map(|answer| [&answer[..], &[eos]].concat());
    let alignment = Aligner::Levenshtein.align(&answers[0], &answers[1]);
    let row = |side: Side, answer: &[u32]| -> Result<Example> {
        let token_labels = label_tokens(&alignment, side, answer, &eos)?;
        let weights = token_labels.iter().map(|&label| FigaWeights::default().weight(side, label));
        let weights = prompt.iter().map(|_| 0.0).chain(weights).collect();
        let labels = prompt.iter().map(|_| IGNORE_INDEX).chain(answer.iter().map(|&id| id.into())).collect();
        let token_labels = prompt.iter().map(|_| TokenLabel::Ignored).chain(token_labels.iter().copied()).collect();
        Ok(Example::new([&prompt[..], answer].concat(), labels, weights, token_labels)?)
    };
    let pair = EncodedPair::new(row(Side::Original, &answers[0])?, row(Side::Revised, &answers[1])?);
    let batch = pack([pair.rows()], PAD_ID, Example::is_active);
    println!("{}", draw(&words, &pair, &batch)?);
    Ok(())
}

fn draw(words: &Words, pair: &EncodedPair, batch: &PackedBatch) -> Result<String> {
    let mut svg = String::new();
    let mut y = SPACE;
    for side in Side::ALL {
        let row = pair.row(side);
        text(&mut svg, SPACE, y + 15, &format!("{side} row: {} tokens", row.len()))?;
        y += HEIGHT;
        let last = row.active().collect::<Vec<_>>().iter().rposition(|&active| active).unwrap_or(0);
        for (at, &id) in row.input_ids().iter().enumerate() {
            // The last active token is a target, not an input.
            token(&mut svg, SPACE + at * WIDTH, y, &words.0[id as usize], colour(row, at), at >= last)?;
        }
        y += HEIGHT + SPACE;
    }
    text(&mut svg, SPACE, y + 15, &format!("packed row: {} tokens, with their positions", batch.seq_len))?;
    y += HEIGHT;
    for (column, (&id, position)) in batch.input_ids.iter().zip(&batch.position_ids).enumerate() {
        let x = SPACE + column * WIDTH;
        token(&mut svg, x, y, &words.0[id as usize], branch_colour(batch, column), false)?;
        text(&mut svg, x + WIDTH / 2 - 6, y + HEIGHT + 14, &position.to_string())?;
    }
    y += 2 * HEIGHT + SPACE;
    text(&mut svg, SPACE, y + 15, "attention mask: each token (a line) and what it attends to")?;
    y += HEIGHT;
    for query in 0..batch.seq_len {
        for key in 0..batch.seq_len {
            let visible = key <= query && (query as i64) < batch.visible_until[key];
            let fill = if visible { branch_colour(batch, key) } else { "white" };
            let (x, y) = (SPACE + key * SQUARE, y + query * SQUARE);
            writeln!(
                svg,
                r##"<rect x="{x}" y="{y}" width="{SQUARE}" height="{SQUARE}" fill="{fill}" stroke="#ccc"/>"##
            )?;
        }
        text(
            &mut svg,
            2 * SPACE + batch.seq_len * SQUARE,
            y + query * SQUARE + 12,
            &words.0[batch.input_ids[query] as usize],
        )?;
    }
    legend(&mut svg, 2 * SPACE + batch.seq_len * SQUARE + 120, y)?;
    let columns = pair.rows().map(Example::len).into_iter().chain([batch.seq_len]).max().unwrap_or(0);
    let (width, height) = (2 * SPACE + columns * WIDTH, y + batch.seq_len * SQUARE + SPACE);
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n{svg}</svg>"
    ))
}

const SHARED: &str = "#dddddd";
const FIRST: &str = "#a8d0e6";
const SECOND: &str = "#f6c9a0";
const REWARDED: &str = "#8fd19e";
const PENALISED: &str = "#f2a1a1";

/// By what the loss does to a token.
fn colour(row: &Example, at: usize) -> &'static str {
    match row.weights()[at] {
        weight if weight > 0.0 => REWARDED,
        weight if weight < 0.0 => PENALISED,
        _ => "white",
    }
}

/// By the branch that a column belongs to: what is seen until the end is shared, or ends the last branch.
fn branch_colour(batch: &PackedBatch, column: usize) -> &'static str {
    let first_branch = batch.visible_until.iter().position(|&end| end < batch.seq_len as i64);
    match first_branch.map(|first| (first, batch.visible_until[first] as usize)) {
        Some((first, end)) if (first..end).contains(&column) => FIRST,
        Some((_, end)) if column >= end => SECOND,
        _ => SHARED,
    }
}

fn legend(svg: &mut String, x: usize, y: usize) -> Result<()> {
    let entries = [
        (REWARDED, "rewarded target"),
        (PENALISED, "penalised target"),
        ("white", "faint: not computed when packed"),
        (SHARED, "computed once for both answers"),
        (FIRST, "branch of one answer"),
        (SECOND, "branch of the other"),
    ];
    for (line, (fill, meaning)) in entries.into_iter().enumerate() {
        let y = y + line * HEIGHT;
        writeln!(svg, r##"<rect x="{x}" y="{y}" width="16" height="16" fill="{fill}" stroke="#888"/>"##)?;
        text(svg, x + 24, y + 13, meaning)?;
    }
    Ok(())
}

fn token(svg: &mut String, x: usize, y: usize, word: &str, fill: &str, is_faint: bool) -> Result<()> {
    let opacity = if is_faint { 0.4 } else { 1.0 };
    let dash = if is_faint { "4 3" } else { "none" };
    let (width, middle, baseline) = (WIDTH - 4, x + WIDTH / 2 - 2, y + 15);
    let word = word.replace('<', "&lt;");
    writeln!(
        svg,
        r##"<g opacity="{opacity}"><rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="3" fill="{fill}" stroke="#888" stroke-dasharray="{dash}"/><text x="{middle}" y="{baseline}" text-anchor="middle">{word}</text></g>"##
    )?;
    Ok(())
}

fn text(svg: &mut String, x: usize, y: usize, text: &str) -> Result<()> {
    writeln!(svg, r#"<text x="{x}" y="{y}">{}</text>"#, text.replace('<', "&lt;"))?;
    Ok(())
}
