//! `figa label`: token ids, labels and weights of every record.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use figa_loss::{EncodedPair, Fields, PairEncoder, RawRecord};
use serde::{Deserialize, Serialize};

use super::input::{Encoding, Input, encode, progress};
use super::output::{Output, Piece};

/// Write token ids, labels and signed weights of each record
#[derive(clap::Args, Serialize)]
#[command(after_help = "\
Each record becomes original_input_ids, original_labels, original_weights, the same three of the revised answer, and
record, its number among the records that were read, from 1. Labels are -100 in the prompt; all lists have the positions
of input_ids.

While it runs, OUT.partial holds what is done. A run that was killed leaves it there, and --resume goes on.

Examples:
  figa label pairs.jsonl --tokenizer MODEL --out labels.jsonl
  figa label 'part-*.jsonl.zst' --tokenizer MODEL --max-length 2048 --out labels.parquet
  figa label preferences.jsonl --instruction prompt --original rejected --revised chosen --tokenizer MODEL --out l.parquet
  zcat pairs.gz | figa label - --tokenizer tokenizer.json --eos '</s>' --prompt plain --out labels.jsonl")]
pub struct Args {
    /// The file to write, .jsonl or .parquet; must not be there yet
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    out: PathBuf,
    /// Set bad records aside in this file, byte for byte, instead of stopping at the first
    #[arg(long, value_name = "FILE")]
    skip_bad: Option<PathBuf>,
    /// Go on with the run that OUT.partial is left of, if there is one
    #[arg(long)]
    #[serde(skip)]
    resume: bool,
    /// Print the counts as JSON
    #[arg(long)]
    #[serde(skip)]
    json: bool,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    encoding: Encoding,
}

/// What has been read, and what became of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub records: u64,
    labelled: u64,
    set_aside: u64,
    blank_lines: u64,
    tokens: u64,
    /// With a weight other than 0 and a label.
    active_tokens: u64,
    /// Rows that have lost their end to --max-length.
    cut_rows: u64,
}

/// What became of a record.
enum Outcome {
    Labelled(Piece, Counts),
    Bad(RawRecord, String),
}

pub fn run(args: &Args) -> Result<()> {
    let encoder = args.encoding.encoder()?;
    let mut reader = args.input.open()?;
    let files = [reader.files(), &[args.encoding.file()]].concat();
    let Some((mut output, mut counts)) =
        Output::open(&args.out, args.skip_bad.as_deref(), args.resume, serde_json::to_value(args)?, &files)?
    else {
        writeln!(io::stdout(), "{} is complete", args.out.display())?;
        return Ok(());
    };
    let bar = progress(&reader)?;
    for _ in 0..counts.records {
        if let Some(record) = reader.next() {
            record?;
        }
    }
    let (fields, format) = (args.input.fields(), output.format());
    for outcome in reader.map_in_order(|raw| Ok(label(&encoder, &fields, raw, |pair| format.piece(pair)))) {
        counts.records += 1;
        match outcome? {
            Outcome::Labelled(mut piece, its) => {
                piece.number(counts.records);
                output.push(piece)?;
                counts.labelled += 1;
                counts.tokens += its.tokens;
                counts.active_tokens += its.active_tokens;
                counts.cut_rows += its.cut_rows;
            }
            Outcome::Bad(mut raw, error) => {
                let set_aside = output.set_aside(&mut raw)?;
                if !set_aside {
                    return Err(anyhow!("{error}; mend it, or set such records aside with --skip-bad FILE"));
                }
                counts.set_aside += 1;
            }
        }
        if output.is_full() {
            output.commit(&counts)?;
            bar.set_message(format!("{} records", counts.records));
        }
    }
    counts.blank_lines = reader.blank_lines() as u64;
    output.finish(&counts)?;
    bar.finish_and_clear();
    let text = if args.json { serde_json::to_string(&counts)? } else { summary(args, &counts) };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

fn label(encoder: &PairEncoder, fields: &Fields, raw: RawRecord, piece: impl Fn(EncodedPair) -> Piece) -> Outcome {
    match encode(encoder, fields, &raw) {
        Ok(pair) => {
            let counts = count(&pair, encoder.eos_id());
            Outcome::Labelled(piece(pair), counts)
        }
        Err(error) => Outcome::Bad(raw, error),
    }
}

fn count(pair: &EncodedPair, eos_id: u32) -> Counts {
    let mut counts = Counts::default();
    for row in [&pair.original, &pair.revised] {
        counts.tokens += row.input_ids().len() as u64;
        counts.active_tokens += row.active().filter(|&active| active).count() as u64;
        counts.cut_rows += u64::from(row.input_ids().last() != Some(&eos_id));
    }
    counts
}

fn summary(args: &Args, counts: &Counts) -> String {
    let Counts { records, labelled, set_aside, blank_lines, tokens, active_tokens, cut_rows } = counts;
    let bad = args.skip_bad.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default();
    let share = 100.0 * *active_tokens as f64 / (*tokens).max(1) as f64;
    format!(
        "{records} records and {blank_lines} blank lines read: {labelled} labelled, {set_aside} set aside{bad}\n\
         {}: {tokens} tokens, {share:.1} % of them active; {cut_rows} rows cut",
        args.out.display()
    )
}
