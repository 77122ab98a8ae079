//! `figa curate`: keeps the pairs that are worth training on, as the FIGA paper builds its data.
//!
//! [`candidate`] reads records on all cores. [`sieve`] decides about one record after another, and asks the commands
//! for scores and revisions. [`report`] counts.

mod answers;
mod args;
mod candidate;
mod command;
mod comparison;
mod duplicates;
mod fields;
mod near_duplicates;
mod processes;
mod report;
mod requests;
mod reviser_prompt;
mod sieve;
mod sketch;
mod syncer;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use figa_loss::RecordReader;

use self::answers::Answers;
pub use self::args::CurateArgs;
use self::candidate::CandidateReader;
use self::report::CurateCounts;
use self::sieve::{Sieve, Verdict};
use crate::new_file::{NewFile, check_distinct};
use crate::records::progress_bar;
use crate::rejects::{BadRecords, reasons_path, rejected_paths};
use crate::stamp::FileStamp;
use crate::terminal::{one_line, printable};

pub fn run(args: &CurateArgs) -> Result<()> {
    args.check()?;
    let reader = args.records.open()?;
    let written = [args.out.clone(), Answers::path_of(&args.out)];
    check_distinct(reader.files(), &written, &rejected_paths(args.skip_bad.as_deref()))?;
    let prompt = Vec::from_iter(&args.reviser.reviser_prompt);
    let files = FileStamp::of_all(&prompt).context("--reviser-prompt")?;
    let answers = Answers::open(&args.out, files, args.resume)?;
    if args.resume && args.out.exists() && !answers.exist() {
        writeln!(io::stdout(), "{} is complete", one_line(&args.out.display().to_string()))?;
        return Ok(());
    }
    let counts = curate(args, reader, answers)?;
    let text = match args.json {
        true => serde_json::to_string(&counts)? + "\n",
        false => {
            let rejected = args.skip_bad.as_ref().map(|path| format!(", written to {}", path.display()));
            let rejected = format!("bad records{}", rejected.unwrap_or_default());
            let kept = format!("written to {}", args.out.display());
            printable(&counts.table(&rejected, &kept, |reason| args.option(reason)))
        }
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Writes the kept and the rejected records.
fn curate(args: &CurateArgs, mut reader: RecordReader, answers: Answers) -> Result<CurateCounts> {
    // A run that was killed at its end may have written some of its files.
    let new_file = if answers.exist() { NewFile::create_again } else { NewFile::create };
    let mut kept = new_file("--out", &args.out)?;
    let create = |path: &PathBuf| {
        let records = new_file("--skip-bad", path)?;
        anyhow::Ok((records, new_file("--skip-bad", &reasons_path(path))?))
    };
    let mut rejected = args.skip_bad.as_ref().map(create).transpose()?;
    let mut bad_records = BadRecords::default();
    let candidates = CandidateReader::new(args)?;
    let bar = progress_bar(&reader)?;
    let tell = |line: &str| bar.suspend(|| eprintln!("{}", one_line(line)));
    let mut sieve = Sieve::new(args, answers, &tell);
    let mut counts = CurateCounts::default();
    for candidate in reader.map_in_order(|raw| candidates.read(raw)) {
        bar.set_message(format!("{} of {} kept", counts.kept, counts.records));
        counts.records += 1;
        let (mut raw, bad) = match candidate? {
            Err(bad) => bad,
            Ok(mut candidate) => match sieve.verdict(&mut candidate)? {
                Verdict::Bad(bad) => (candidate.raw, bad),
                Verdict::Dropped(reason) => {
                    counts.dropped[reason as usize] += 1;
                    continue;
                }
                Verdict::Kept => {
                    writeln!(kept, "{}", candidate.json())?;
                    counts.kept += 1;
                    continue;
                }
            },
        };
        let Some((records, reasons)) = &mut rejected else {
            bail!("{bad}; fix it, or write bad records to a file with --skip-bad FILE");
        };
        raw.write_to(records)?;
        reasons.write_all(bad.json()?.as_bytes())?;
        bad_records.report(&bad, &bar);
        counts.rejected += 1;
    }
    counts.blank_lines = reader.blank_lines() as u64;
    let answers = sieve.finish()?;
    (counts.asked, counts.recalled) = (answers.asked, answers.recalled);
    if let Some((records, reasons)) = rejected {
        records.commit()?;
        reasons.commit()?;
    }
    kept.commit()?;
    answers.remove();
    bar.finish_and_clear();
    Ok(counts)
}

/// Parses a number that is neither infinite nor NaN.
fn parse_finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}
