//! `figa stats`: what the records hold, and what a maximum length would lose.

mod figure;
mod histogram;
mod measure;
mod text;
mod totals;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};

use self::measure::PairMeasure;
use self::totals::StatsTotals;
use crate::encoding::{EncodingArgs, encode};
use crate::new_file::NewFile;
use crate::records::{RecordArgs, progress_bar};
use crate::rejects::BadRecords;
use crate::reward::Reward;

/// Count edits, active tokens and lengths, and what --max-length would lose
#[derive(clap::Args)]
#[command(after_help = "\
Active tokens are those with a weight other than 0. Lengths and shares are of whole rows. Packed, a pair is one row: what
both answers begin with once, and nothing behind the last active token. The last table says what a maximum length would
lose; --max-length adds a line to it, marked *:
  rows cut        rows that lose their end
  tokens lost     tokens after the cut, and all tokens of pairs without room
  active lost     active tokens among them
  none active     pairs with room whose active tokens are all lost
  long prompts    pairs whose prompt leaves no room for an answer; they are lost as a whole

Examples:
  figa stats pairs.jsonl --tokenizer MODEL
  figa stats 'part-*.jsonl.zst' --tokenizer MODEL --max-length 1500 --svg lengths.svg
  figa stats pairs.jsonl --tokenizer MODEL --skip-bad --json | jq .truncation")]
pub struct StatsArgs {
    /// Count bad records and continue, instead of stopping at the first
    #[arg(long)]
    skip_bad: bool,
    /// Draw histograms into this file; must not exist yet
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    records: RecordArgs,
    #[command(flatten)]
    encoding: EncodingArgs,
}

/// Maximum lengths that are common in training.
const MAX_LENGTHS: [usize; 7] = [128, 256, 512, 1024, 2048, 4096, 8192];

pub fn run(args: &StatsArgs) -> Result<()> {
    let svg = args.svg.as_deref().map(|path| NewFile::create("--svg", path)).transpose()?;
    let totals = count(args)?;
    let StatsTotals { records, pairs, rejected, .. } = totals;
    ensure!(pairs > 0, "nothing to count: {records} records read, {rejected} of them bad");
    if let Some(mut svg) = svg {
        let figure = figure::draw(&format!("{pairs} pairs"), &totals.distributions)?;
        svg.write_all(figure.as_bytes())?;
        svg.commit()?;
    }
    let text = match args.json {
        true => serde_json::to_string(&totals)? + "\n",
        false => text::text(&totals, args.encoding.max_length),
    };
    io::stdout().write_all(text.as_bytes())?;
    totals.reward.iter().flat_map(Reward::warnings).for_each(|warning| eprintln!("{warning}"));
    Ok(())
}

fn count(args: &StatsArgs) -> Result<StatsTotals> {
    let mut encoder = args.encoding.encoder()?;
    encoder.max_answer_tokens = args.records.max_answer;
    let mut max_lengths = MAX_LENGTHS.to_vec();
    // The rows must be whole: they show what any length would lose.
    max_lengths.extend(encoder.max_length.take());
    max_lengths.sort_unstable();
    max_lengths.dedup();
    let mut totals = StatsTotals::new(&max_lengths);
    let mut reader = args.records.open()?;
    let bar = progress_bar(&reader)?;
    let (fields, mut bad_records) = (args.records.fields(), BadRecords::default());
    let measures =
        reader.map_in_order(|raw| Ok(encode(&encoder, &fields, raw).map(|pair| PairMeasure::new(&pair, &max_lengths))));
    for measure in measures {
        totals.records += 1;
        match measure? {
            Ok(measure) => totals.add(&measure),
            Err(bad) if args.skip_bad => {
                totals.rejected += 1;
                bad_records.report(&bad, &bar);
            }
            Err(bad) => bail!("{bad}; fix it, or skip bad records with --skip-bad"),
        }
        bar.set_message(format!("{} records", totals.records));
    }
    totals.blank_lines = reader.blank_lines() as u64;
    totals.reward = totals.changes.reward(totals.pairs, encoder.weights);
    bar.finish_and_clear();
    Ok(totals)
}
