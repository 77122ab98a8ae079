//! `figa label`: token ids, labels and weights of each record.

mod appender;
mod output;
mod rows;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Result, bail};
use figa_loss::{EncodedPair, RawRecord};
use serde::{Deserialize, Serialize};

use self::output::Output;
use self::rows::LabelledPair;
use crate::encoding::{EncodingArgs, encode};
use crate::records::{RecordArgs, progress_bar};

/// Write token ids, labels and signed weights of each record
#[derive(clap::Args, Serialize)]
#[command(after_help = "\
Each record becomes one row of these columns:
  record                                                 its number in the input, from 1
  original_input_ids, original_labels, original_weights  prompt, original answer and EOS
  revised_input_ids, revised_labels, revised_weights     prompt, revised answer and EOS
The lists have one entry per token. Labels are -100 in the prompt.

While the command runs, OUT.partial holds what is done. If the run is stopped, --resume continues it.

Examples:
  figa label pairs.jsonl --tokenizer MODEL --out labels.jsonl
  figa label 'part-*.jsonl.zst' --tokenizer MODEL --max-length 2048 --out labels.parquet
  figa label preferences.jsonl --instruction prompt --original rejected --revised chosen --tokenizer MODEL \\
      --out labels.parquet
  zcat pairs.gz | figa label - --tokenizer tokenizer.json --eos '</s>' --prompt plain --out labels.jsonl")]
pub struct LabelArgs {
    /// File to write, .jsonl or .parquet; must not exist yet
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    out: PathBuf,
    /// Write bad records to this file, byte for byte, instead of stopping at the first
    #[arg(long, value_name = "FILE")]
    skip_bad: Option<PathBuf>,
    /// Continue the run that OUT.partial holds, if there is one
    #[arg(long)]
    #[serde(skip)]
    resume: bool,
    /// Print the counts as JSON
    #[arg(long)]
    #[serde(skip)]
    json: bool,
    #[command(flatten)]
    records: RecordArgs,
    #[command(flatten)]
    encoding: EncodingArgs,
}

/// What has been read and written so far. A resumed run starts from the counts of the run before it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct LabelCounts {
    records: u64,
    labelled: u64,
    rejected: u64,
    blank_lines: u64,
    #[serde(flatten)]
    tokens: TokenCounts,
}

#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
struct TokenCounts {
    tokens: u64,
    active_tokens: u64,
    /// Rows that lost their end to `--max-length`.
    cut_rows: u64,
}

/// A record as a worker thread hands it over.
enum Outcome {
    Labelled(LabelledPair, TokenCounts),
    Bad(RawRecord, String),
}

pub fn run(args: &LabelArgs) -> Result<()> {
    let encoder = args.encoding.encoder()?;
    let mut reader = args.records.open()?;
    let inputs = [reader.files(), &[args.encoding.tokenizer_file()]].concat();
    let opened = Output::<LabelCounts>::open(
        &args.out,
        args.skip_bad.as_deref(),
        args.resume,
        serde_json::to_value(args)?,
        &inputs,
    )?;
    let Some(mut output) = opened else {
        writeln!(io::stdout(), "{} is complete", args.out.display())?;
        return Ok(());
    };
    let bar = progress_bar(&reader)?;
    for record in reader.by_ref().take(output.progress().records as usize) {
        record?;
    }
    let (fields, format) = (args.records.fields(), output.format());
    let label = |raw: RawRecord| match encode(&encoder, &fields, &raw) {
        Ok(pair) => {
            let counts = TokenCounts::of(&pair, encoder.eos_id());
            Outcome::Labelled(format.labelled(pair), counts)
        }
        Err(error) => Outcome::Bad(raw, error),
    };
    for outcome in reader.map_in_order(|raw| Ok(label(raw))) {
        add(&mut output, outcome?)?;
        if output.is_segment_full() {
            output.commit()?;
            bar.set_message(format!("{} records", output.progress().records));
        }
    }
    output.progress_mut().blank_lines = reader.blank_lines() as u64;
    let counts = output.finish()?;
    bar.finish_and_clear();
    let text = if args.json { serde_json::to_string(&counts)? } else { summary(args, &counts) };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

fn add(output: &mut Output<LabelCounts>, outcome: Outcome) -> Result<()> {
    output.progress_mut().records += 1;
    match outcome {
        Outcome::Labelled(pair, counts) => {
            output.push(output.progress().records, pair)?;
            let progress = output.progress_mut();
            progress.labelled += 1;
            progress.tokens.add(counts);
        }
        Outcome::Bad(mut raw, error) => {
            if !output.reject(&mut raw)? {
                bail!("{error}; fix it, or write bad records to a file with --skip-bad FILE");
            }
            output.progress_mut().rejected += 1;
        }
    }
    Ok(())
}

impl TokenCounts {
    fn of(pair: &EncodedPair, eos_id: u32) -> Self {
        let mut counts = Self::default();
        for row in pair.rows() {
            counts.tokens += row.len() as u64;
            counts.active_tokens += row.active().filter(|&active| active).count() as u64;
            counts.cut_rows += u64::from(row.input_ids().last() != Some(&eos_id));
        }
        counts
    }

    fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.active_tokens += other.active_tokens;
        self.cut_rows += other.cut_rows;
    }
}

fn summary(args: &LabelArgs, counts: &LabelCounts) -> String {
    let LabelCounts { records, labelled, rejected, blank_lines, tokens } = counts;
    let TokenCounts { tokens, active_tokens, cut_rows } = tokens;
    let rejects = args.skip_bad.as_ref().map(|path| format!(" (written to {})", path.display())).unwrap_or_default();
    let share = 100.0 * *active_tokens as f64 / (*tokens).max(1) as f64;
    format!(
        "{records} records and {blank_lines} blank lines read: {labelled} labelled, {rejected} rejected{rejects}\n\
         {}: {tokens} tokens, {share:.1} % of them active; {cut_rows} rows cut",
        args.out.display()
    )
}
