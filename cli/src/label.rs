//! `figa label`: token ids, labels and weights of each record.

mod appender;
mod consumed;
mod folder;
mod note;
mod output;
mod rows;
mod state;
mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail, ensure};
use figa_loss::{EncodedPair, RawRecord, RecordReader, model_files};
use serde::{Deserialize, Serialize};

use self::consumed::{Consumed, record_hash};
use self::folder::PartialFolder;
use self::output::{Output, Paths};
use self::rows::{LabelledPair, OutputFormat};
use self::state::Origin;
pub use self::table::RowTable;
use crate::encoding::EncodingArgs;
use crate::new_file::check_distinct;
use crate::records::{RecordArgs, progress_bar};
use crate::rejects::{BadRecord, BadRecords, rejected_paths};
use crate::reward::{ChangeCounts, Reward};
use crate::terminal::{one_line, printable};

/// Write token ids, labels and signed weights of each record
#[derive(clap::Args, Serialize)]
#[command(after_help = "\
Each record becomes one row of these columns:
  record                                                 its number in the input, from 1
  original_input_ids, original_labels, original_weights  prompt, original answer and EOS
  revised_input_ids, revised_labels, revised_weights     prompt, revised answer and EOS
The lists have one entry per token. Labels are -100 in the prompt.

With a chat template, a row is the template's rendering of the whole conversation, up to the end of the answer's turn.
Prompt and answers are texts, messages, or conversations that end with the answer, also those of ShareGPT.

While the command runs, OUT.partial holds what is done. If the run is stopped, --resume continues it.

Examples:
  figa label pairs.jsonl --tokenizer MODEL --out labels.jsonl
  figa label 'part-*.jsonl.zst' --tokenizer MODEL --max-length 2048 --out labels.parquet
  figa label preferences.parquet --instruction prompt --original rejected --revised chosen --tokenizer MODEL \\
      --out labels.parquet
  figa label sharegpt.json --instruction conversations --original rejected --revised chosen --tools tools \\
      --tokenizer MODEL --template-var enable_thinking=false --out labels.jsonl
  zcat pairs.gz | figa label - --tokenizer tokenizer.json --eos '</s>' --prompt plain --out labels.jsonl")]
pub struct LabelArgs {
    /// File to write, .jsonl or .parquet; must not exist yet
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    out: PathBuf,
    /// Write bad records to this file, byte for byte, and the reasons to FILE.why.jsonl, instead of stopping at the first
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
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
    #[serde(flatten)]
    records: RecordArgs,
    #[command(flatten)]
    #[serde(flatten)]
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
    #[serde(flatten)]
    changes: ChangeCounts,
    /// What the rows look like; empty until there is one.
    rows: String,
}

#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
struct TokenCounts {
    tokens: u64,
    active_tokens: u64,
    /// Rows that lost their end to `--max-length`.
    cut_rows: u64,
}

/// The output of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    counts: &'a LabelCounts,
    #[serde(flatten)]
    reward: Option<Reward>,
}

/// A record as a worker thread hands it over.
struct Outcome {
    /// The input and the hash of the record.
    path: Arc<Path>,
    hash: u64,
    result: Result<LabelledRecord, (RawRecord, BadRecord)>,
}

struct LabelledRecord {
    pair: LabelledPair,
    counts: TokenCounts,
    changes: ChangeCounts,
    note: Option<String>,
}

pub fn run(args: &LabelArgs) -> Result<()> {
    let mut reader = args.records.open()?;
    let paths = args.paths(&reader)?;
    let mut encoding = args.encoding.clone();
    if args.resume && encoding.prompt.date.is_none() {
        // The clock of the run that is resumed.
        let arguments = folder::arguments(&args.out)?.unwrap_or_default();
        encoding.prompt.date = arguments["date"].as_str().map(str::to_owned);
    }
    let mut encoder = encoding.encoder()?;
    encoder.max_answer_tokens = args.records.max_answer;
    let mut arguments = serde_json::to_value(args)?;
    arguments["date"] = encoder.template.date().into();
    let origin = Origin::new(arguments, &model_files(encoding.tokenizer())?)?;
    let format = paths.format;
    let Some(mut output) = Output::<LabelCounts>::open(paths, args.resume, origin)? else {
        writeln!(io::stdout(), "{} is complete", one_line(&args.out.display().to_string()))?;
        return Ok(());
    };
    let bar = progress_bar(&reader)?;
    skip_consumed(&mut reader, &mut output)?;
    let fields = args.records.fields();
    let is_noted = AtomicBool::new(!output.progress().rows.is_empty());
    let label = |raw: &RawRecord| -> figa_loss::Result<Outcome> {
        let labelled = raw.parse(&fields).and_then(|record| {
            let rendered = encoder.render(&record)?;
            let pair = encoder.encode_rendered(&rendered)?;
            // The first one in the order of the input is printed.
            let note = match is_noted.load(Ordering::Relaxed) {
                false => Some(note::note(&encoder, encoding.tokenizer(), &fields, &record, &rendered, &pair)?),
                true => None,
            };
            let (counts, changes) = (TokenCounts::of(&pair), ChangeCounts::of(&pair));
            Ok(LabelledRecord { pair: format.labelled(pair), counts, changes, note })
        });
        let failed = |reason| figa_loss::Error::Io { path: raw.path.to_path_buf(), reason };
        let result = match labelled {
            Ok(labelled) => Ok(labelled),
            Err(error) => Err((raw.try_clone().map_err(failed)?, BadRecord::new(raw, error))),
        };
        Ok(Outcome { path: raw.path.clone(), hash: record_hash(raw).map_err(failed)?, result })
    };
    let mut bad_records = BadRecords::default();
    for outcome in reader.map_in_order(label) {
        let outcome = outcome?;
        match &outcome.result {
            Ok(LabelledRecord { note: Some(note), .. }) if output.progress().rows.is_empty() => {
                // On a terminal, before hours of work; everywhere, with the counts.
                bar.println(note);
                output.progress_mut().rows.clone_from(note);
                is_noted.store(true, Ordering::Relaxed);
            }
            Err((_, bad)) if args.skip_bad.is_some() => bad_records.report(bad, &bar),
            _ => {}
        }
        add(&mut output, outcome)?;
        if output.is_segment_full() {
            output.commit()?;
            bar.set_message(format!("{} records", output.progress().records));
        }
    }
    output.progress_mut().blank_lines = reader.blank_lines() as u64;
    let counts = output.finish()?;
    bar.finish_and_clear();
    let reward = counts.changes.reward(counts.labelled, encoder.weights);
    let text = match args.json {
        true => serde_json::to_string(&Report { counts: &counts, reward })?,
        false => printable(&summary(args, &counts, reward)),
    };
    writeln!(io::stdout(), "{text}")?;
    reward.iter().flat_map(Reward::warnings).for_each(|warning| eprintln!("{warning}"));
    Ok(())
}

impl LabelArgs {
    /// The files to write, none of which is to be read.
    fn paths(&self, reader: &RecordReader) -> Result<Paths> {
        let written = [self.out.clone(), PartialFolder::path_of(&self.out)];
        check_distinct(reader.files(), &written, &rejected_paths(self.skip_bad.as_deref()))?;
        let format = OutputFormat::of(&self.out)?;
        Ok(Paths { out: self.out.clone(), format, rejected: self.skip_bad.clone() })
    }
}

/// Skips the records that the run before has consumed, and checks that they are the same.
fn skip_consumed(reader: &mut RecordReader, output: &mut Output<LabelCounts>) -> Result<()> {
    let mut skipped = Consumed::default();
    for record in reader.take(output.progress().records as usize) {
        let record = record?;
        skipped.add(&record.path, record_hash(&record)?);
    }
    if let Some(path) = output.consumed().first_difference(&skipped) {
        bail!(
            "--resume: {path} has changed in front of where the run stopped: restore it, or remove {} to start again",
            output.folder().display()
        );
    }
    Ok(())
}

fn add(output: &mut Output<LabelCounts>, Outcome { path, hash, result }: Outcome) -> Result<()> {
    output.consumed_mut().add(&path, hash);
    output.progress_mut().records += 1;
    match result {
        Ok(LabelledRecord { pair, counts, changes, .. }) => {
            output.push(output.progress().records, pair)?;
            let progress = output.progress_mut();
            progress.labelled += 1;
            progress.tokens.add(counts);
            progress.changes.add(changes);
        }
        Err((mut raw, bad)) => {
            let resume = if output.is_resumable() { ", and continue with --resume" } else { "" };
            ensure!(
                output.reject(&mut raw, &bad)?,
                "{bad}; fix it, or write bad records to a file with --skip-bad FILE{resume}"
            );
            output.progress_mut().rejected += 1;
        }
    }
    Ok(())
}

impl TokenCounts {
    fn of(pair: &EncodedPair) -> Self {
        let mut counts = Self::default();
        for row in pair.rows() {
            counts.tokens += row.len() as u64;
            counts.active_tokens += row.active().filter(|&active| active).count() as u64;
            counts.cut_rows += u64::from(!row.is_complete());
        }
        counts
    }

    fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.active_tokens += other.active_tokens;
        self.cut_rows += other.cut_rows;
    }
}

fn summary(args: &LabelArgs, counts: &LabelCounts, reward: Option<Reward>) -> String {
    let LabelCounts { records, labelled, rejected, blank_lines, tokens, rows, .. } = counts;
    let TokenCounts { tokens, active_tokens, cut_rows } = tokens;
    let rejects = args.skip_bad.as_ref().map(|path| format!(" (written to {})", path.display())).unwrap_or_default();
    let reward = reward.map(|reward| format!("\n{}", reward.text())).unwrap_or_default();
    let share = 100.0 * *active_tokens as f64 / (*tokens).max(1) as f64;
    format!(
        "{rows}{}{records} records and {blank_lines} blank lines read: {labelled} labelled, {rejected} rejected{rejects}\n\
         {}: {tokens} tokens, {share:.1} % of them active; {cut_rows} rows cut{reward}",
        if rows.is_empty() { "" } else { "\n" },
        args.out.display()
    )
}
