//! How the aligners differ on your data. Needs no libtorch:
//!
//! ```text
//! cargo run --release --no-default-features --features data --example aligners -- [FILE]
//! ```
//!
//! Words and punctuation are the tokens. For each aligner: the share of tokens it marks as changed, the share it
//! labels differently from Levenshtein, the time of a pair, and the tokens it marks where the first 30 paragraphs of
//! a text (the revised answers of 60 records) trade places with the others.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Error, Result, ensure};
use clap::Parser;
use figa_loss::tokenizers::pre_tokenizers::whitespace::Whitespace;
use figa_loss::tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
use figa_loss::{Aligner, Alignment, SpaRecord};

/// Compares the aligners on a file of records.
#[derive(Parser)]
struct Args {
    /// SPA records (.jsonl or .json, also compressed)
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/spa_tiny.jsonl"), hide_default_value = true)]
    file: PathBuf,
}

fn main() -> Result<()> {
    print!("{}", compare(&Args::parse().file)?);
    Ok(())
}

/// The table.
pub fn compare(path: &Path) -> Result<String> {
    let records = SpaRecord::read(path)?;
    ensure!(!records.is_empty(), "{} holds no records", path.display());
    let pair = |record: &SpaRecord| Ok((words(&record.original_output.text())?, words(&record.revised_output.text())?));
    let pairs = records.iter().map(pair).collect::<Result<Vec<_>>>()?;
    let tokens: usize = pairs.iter().map(|(original, revised)| original.len() + revised.len()).sum();

    let paragraphs: Vec<&[String]> = pairs.iter().take(60).map(|(_, revised)| &**revised).collect();
    let (front, back) = paragraphs.split_at(paragraphs.len() / 2);
    let (text, moved) = ([front, back].concat().concat(), [back, front].concat().concat());
    let mut table = String::new();
    writeln!(table, "{}: {} pairs, {tokens} tokens", path.display(), pairs.len())?;
    writeln!(table, "a text of {} tokens, of which the first {} move to the end\n", text.len(), front.concat().len())?;

    table += "aligner        changed    differ from default   per pair       moved half\n";
    let reference: Vec<Alignment> = pairs.iter().map(|(a, b)| Aligner::Levenshtein.align(a, b)).collect();
    let share = |count: usize| 100.0 * count as f64 / tokens as f64;
    for &aligner in Aligner::ALL {
        let (mut changed, mut different) = (0, 0);
        for ((original, revised), reference) in pairs.iter().zip(&reference) {
            let alignment = aligner.align(original, revised);
            changed += marked(&alignment);
            let masks = |alignment: &Alignment| [alignment.removed(), alignment.added()].concat();
            different +=
                masks(&alignment).iter().zip(masks(reference)).filter(|(mark, other)| **mark != *other).count();
        }
        let begin = Instant::now();
        for (original, revised) in &pairs {
            std::hint::black_box(aligner.align(original, revised));
        }
        let micros = begin.elapsed().as_secs_f64() * 1e6 / pairs.len() as f64;
        let moved = marked(&aligner.align(&text, &moved));
        writeln!(
            table,
            "{:<12} {:>7.2} % {:>19.2} % {micros:>6.2} us {moved:>16}",
            format!("{aligner:?}"),
            share(changed),
            share(different)
        )?;
    }
    Ok(table)
}

/// How many tokens the alignment marks.
fn marked(alignment: &Alignment) -> usize {
    alignment.removed().iter().chain(alignment.added()).filter(|&&changed| changed).count()
}

fn words(text: &str) -> Result<Vec<String>> {
    let mut words = PreTokenizedString::from(text);
    Whitespace.pre_tokenize(&mut words).map_err(Error::from_boxed)?;
    let splits = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(splits.into_iter().map(|(word, _, _)| word.to_string()).collect())
}
