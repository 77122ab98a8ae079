//! `figa stats`: what the records hold, and what a maximum length would cost.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use figa_loss::{EncodedPair, Example, Side, TokenLabel};
use serde::Serialize;

use super::aside;
use super::histograms::{Histogram, Summary, draw};
use super::input::{Encoding, Input, encode, progress};

/// Count edits, active tokens and lengths, and what --max-length would lose
#[derive(clap::Args)]
#[command(after_help = "\
Lengths and shares are of whole rows. --max-length adds a line, marked *, to the table of what a length would lose:
  rows cut        rows that lose their end
  tokens lost     of the rows cut, and of pairs whose prompt leaves no room for an answer
  active lost     those among them that have a weight
  nothing left    pairs that keep tokens, but none that is active, though they had some
  no room         pairs whose prompt is too long; they are lost as a whole, and counted here and as tokens lost only

Examples:
  figa stats pairs.jsonl --tokenizer MODEL
  figa stats 'part-*.jsonl.zst' --tokenizer MODEL --max-length 1500 --svg lengths.svg
  figa stats pairs.jsonl --tokenizer MODEL --skip-bad --json | jq .truncation")]
pub struct Args {
    /// Count bad records and go on, instead of stopping at the first
    #[arg(long)]
    skip_bad: bool,
    /// Draw histograms into this file; must not be there yet
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    encoding: Encoding,
}

/// Where people cut.
const MAX_LENGTHS: [usize; 7] = [128, 256, 512, 1024, 2048, 4096, 8192];

const KINDS: [(Side, TokenLabel); 6] = [
    (Side::Original, TokenLabel::Kept),
    (Side::Original, TokenLabel::Substituted),
    (Side::Original, TokenLabel::Deleted),
    (Side::Revised, TokenLabel::Kept),
    (Side::Revised, TokenLabel::Substituted),
    (Side::Revised, TokenLabel::Inserted),
];

/// What the records hold.
#[derive(Serialize)]
struct Stats {
    /// Pairs and bad ones.
    records: u64,
    pairs: u64,
    bad: u64,
    blank_lines: u64,
    /// Pairs whose answers are the same.
    unchanged: u64,
    distributions: [Histogram; 6],
    /// As [`KINDS`].
    kinds: [Kind; 6],
    truncation: Vec<Loss>,
    #[serde(skip)]
    tokens: u64,
    #[serde(skip)]
    active_tokens: u64,
}

#[derive(Serialize)]
struct Kind {
    answer: String,
    label: String,
    tokens: u64,
    /// Those that have such a token.
    pairs: u64,
}

/// What is lost to a maximum length.
#[derive(Clone, Copy, Default, Serialize)]
struct Loss {
    max_length: usize,
    rows_cut: u64,
    tokens_lost: u64,
    active_tokens_lost: u64,
    pairs_without_active_tokens: u64,
    prompts_too_long: u64,
}

/// What one pair adds.
struct Measure {
    /// Of prompt, answer and whole row, of the original and the revised one.
    lengths: [[usize; 2]; 3],
    active_tokens: usize,
    kinds: [u64; 6],
    losses: Vec<Loss>,
}

impl Measure {
    fn of(pair: &EncodedPair, max_lengths: &[usize]) -> Self {
        let rows = [&pair.original, &pair.revised];
        let count = |row: &Example, label| row.token_labels().iter().filter(|&&its| its == label).count();
        let row = rows.map(|row| row.input_ids().len());
        let prompt = rows.map(|row| count(row, TokenLabel::Ignored));
        // Without EOS, which every answer ends in.
        let answer =
            rows.map(|row| row.input_ids().len() - count(row, TokenLabel::Ignored) - count(row, TokenLabel::Eos));
        let kinds = KINDS.map(|(side, label)| count(rows[side as usize], label) as u64);
        // How many tokens are active from each place of a row on.
        let active = rows.map(|row| {
            let mut active: Vec<usize> = row.active().map(usize::from).chain([0]).collect();
            for at in (1..active.len()).rev() {
                active[at - 1] += active[at];
            }
            active
        });
        let active_tokens = active[0][0] + active[1][0];
        let loss = |&max_length: &usize| {
            let loss = Loss { max_length, ..Loss::default() };
            if prompt.iter().any(|&prompt| prompt >= max_length) {
                let [tokens_lost, active_tokens_lost] = [row[0] + row[1], active_tokens].map(|count| count as u64);
                return Loss { tokens_lost, active_tokens_lost, prompts_too_long: 1, ..loss };
            }
            let lost: usize = (0..2).map(|side| active[side][max_length.min(row[side])]).sum();
            Loss {
                rows_cut: row.iter().filter(|&&row| row > max_length).count() as u64,
                tokens_lost: row.iter().map(|row| row.saturating_sub(max_length) as u64).sum(),
                active_tokens_lost: lost as u64,
                pairs_without_active_tokens: u64::from(lost > 0 && lost == active_tokens),
                ..loss
            }
        };
        Self { lengths: [prompt, answer, row], active_tokens, kinds, losses: max_lengths.iter().map(loss).collect() }
    }
}

impl Stats {
    fn new(max_lengths: &[usize]) -> Self {
        let tokens = |name, title, of| Histogram::new(name, title, "tokens", of, 1.0);
        // Finer than what is shown of it.
        let percent = |name, title| Histogram::new(name, title, "%", "pairs", 100.0);
        Self {
            records: 0,
            pairs: 0,
            bad: 0,
            blank_lines: 0,
            unchanged: 0,
            distributions: [
                tokens("prompt", "prompt", "rows"),
                tokens("original_answer", "original answer", "pairs"),
                tokens("revised_answer", "revised answer", "pairs"),
                tokens("row", "row: prompt, answer and EOS", "rows"),
                percent("changed", "changed, of both answers' tokens"),
                percent("active", "active, of both rows' tokens"),
            ],
            kinds: KINDS.map(|(side, label)| {
                let [answer, label] = [format!("{side:?}"), format!("{label:?}")].map(|name| name.to_lowercase());
                Kind { answer, label, tokens: 0, pairs: 0 }
            }),
            truncation: max_lengths.iter().map(|&max_length| Loss { max_length, ..Loss::default() }).collect(),
            tokens: 0,
            active_tokens: 0,
        }
    }

    fn add(&mut self, measure: &Measure) {
        let Measure { lengths: [prompt, answer, row], active_tokens, kinds, losses } = measure;
        let tokens = row[0] + row[1];
        let changed: u64 =
            KINDS.iter().zip(kinds).filter(|((_, label), _)| *label != TokenLabel::Kept).map(|(_, n)| n).sum();
        self.pairs += 1;
        self.unchanged += u64::from(changed == 0);
        self.tokens += tokens as u64;
        self.active_tokens += *active_tokens as u64;
        let share = |part: f64, whole: usize| 100.0 * part / whole.max(1) as f64;
        let values: [&[f64]; 6] = [
            &prompt.map(|length| length as f64),
            &[answer[0] as f64],
            &[answer[1] as f64],
            &row.map(|length| length as f64),
            &[share(changed as f64, answer[0] + answer[1])],
            &[share(*active_tokens as f64, tokens)],
        ];
        for (histogram, values) in self.distributions.iter_mut().zip(values) {
            values.iter().for_each(|&value| histogram.push(value));
        }
        for (kind, &tokens) in self.kinds.iter_mut().zip(kinds) {
            kind.tokens += tokens;
            kind.pairs += u64::from(tokens > 0);
        }
        for (sum, loss) in self.truncation.iter_mut().zip(losses) {
            sum.rows_cut += loss.rows_cut;
            sum.tokens_lost += loss.tokens_lost;
            sum.active_tokens_lost += loss.active_tokens_lost;
            sum.pairs_without_active_tokens += loss.pairs_without_active_tokens;
            sum.prompts_too_long += loss.prompts_too_long;
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    if let Some(svg) = &args.svg {
        aside::check_new("--svg", svg)?;
    }
    let mut encoder = args.encoding.encoder()?;
    let mut max_lengths = MAX_LENGTHS.to_vec();
    // Whole rows tell what any length would cost.
    max_lengths.extend(encoder.max_length.take());
    max_lengths.sort_unstable();
    max_lengths.dedup();
    let mut stats = Stats::new(&max_lengths);
    let mut reader = args.input.open()?;
    let bar = progress(&reader)?;
    let fields = args.input.fields();
    for measure in
        reader.map_in_order(|raw| Ok(encode(&encoder, &fields, &raw).map(|pair| Measure::of(&pair, &max_lengths))))
    {
        stats.records += 1;
        match measure? {
            Ok(measure) => stats.add(&measure),
            Err(_) if args.skip_bad => stats.bad += 1,
            Err(error) => return Err(anyhow!("{error}; mend it, or go on without such records with --skip-bad")),
        }
        bar.set_message(format!("{} records", stats.records));
    }
    stats.blank_lines = reader.blank_lines() as u64;
    bar.finish_and_clear();
    let Stats { records, pairs, bad, .. } = stats;
    ensure!(pairs > 0, "nothing to count: {records} records were read, and {bad} of them are bad");
    if let Some(svg) = &args.svg {
        let title = format!("{pairs} pairs");
        let figure = draw(&title, &stats.distributions)?;
        aside::write(svg, |mut file| Ok(file.write_all(figure.as_bytes())?))?;
    }
    let text = match args.json {
        true => serde_json::to_string(&stats)? + "\n",
        false => stats.text(args.encoding.max_length)?,
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

impl Stats {
    fn text(&self, max_length: Option<usize>) -> Result<String> {
        let Self { records, pairs, bad, blank_lines, unchanged, tokens, active_tokens, .. } = self;
        let share = |part: u64, whole: u64| format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64);
        let mut text = String::new();
        writeln!(text, "{records} records and {blank_lines} blank lines read: {pairs} pairs, {bad} bad")?;
        writeln!(
            text,
            "pairs without a change: {unchanged}; active: {} of {tokens} tokens\n",
            share(*active_tokens, *tokens)
        )?;

        let mut rows = vec![["", "min", "5 %", "median", "mean", "95 %", "max"].map(String::from)];
        for histogram in &self.distributions {
            let Summary { min, p5, median, mean, p95, max } = histogram.summary();
            let [min, p5, median, p95, max] = [min, p5, median, p95, max].map(|value| histogram.show(value));
            let title = format!("{} [{}]", histogram.title, histogram.unit);
            rows.push([title, min, p5, median, format!("{mean:.1}"), p95, max]);
        }
        text += &table(&rows);

        let mut rows = vec![["answer", "tokens", "", "share", "pairs with such", ""].map(String::from)];
        for kind in &self.kinds {
            let of_answer =
                self.kinds.iter().filter(|other| other.answer == kind.answer).map(|other| other.tokens).sum();
            rows.push([
                format!("{}, {}", kind.answer, kind.label),
                kind.tokens.to_string(),
                String::new(),
                share(kind.tokens, of_answer),
                kind.pairs.to_string(),
                share(kind.pairs, *pairs),
            ]);
        }
        text += &table(&rows);

        let titles = ["--max-length", "rows cut", "", "tokens lost", "", "active lost", "", "nothing left", "no room"];
        let mut rows = vec![titles.map(String::from)];
        for loss in &self.truncation {
            rows.push([
                format!("{}{}", loss.max_length, if max_length == Some(loss.max_length) { " *" } else { "" }),
                loss.rows_cut.to_string(),
                share(loss.rows_cut, 2 * pairs),
                loss.tokens_lost.to_string(),
                share(loss.tokens_lost, *tokens),
                loss.active_tokens_lost.to_string(),
                share(loss.active_tokens_lost, *active_tokens),
                loss.pairs_without_active_tokens.to_string(),
                loss.prompts_too_long.to_string(),
            ]);
        }
        text += &table(&rows);
        Ok(text)
    }
}

/// Columns as wide as they need to be; all but the first end at the right.
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
