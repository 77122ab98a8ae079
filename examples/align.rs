//! Two texts as a coloured diff, with the label and weight of each token. Needs no libtorch:
//!
//! ```text
//! cargo run --no-default-features --features data --example align -- "He go home." "He goes home now."
//! cargo run --no-default-features --features data --example align -- --file examples/data/spa_tiny.jsonl --record 3
//! ```
//!
//! Words and punctuation are the tokens, unless --tokenizer names a Hugging Face tokenizer.json.

use std::fmt::Write;
use std::path::PathBuf;

use anstream::println;
use anstyle::{AnsiColor, Effects, Style};
use anyhow::{Context, Error, Result};
use clap::{Parser, ValueEnum};
use figa_loss::tokenizers::pre_tokenizers::whitespace::Whitespace;
use figa_loss::tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};
use figa_loss::{Aligner, FigaWeights, Side, SpaRecord, TokenLabel, label_tokens};

const EOS: &str = "<eos>";
const REMOVED: Style = AnsiColor::Red.on_default().effects(Effects::STRIKETHROUGH);
const ADDED: Style = AnsiColor::Green.on_default().effects(Effects::BOLD);

/// Shows what a revision changed and what each token will weigh.
#[derive(Parser)]
struct Args {
    /// The original text
    #[arg(required_unless_present = "file", requires = "revised")]
    original: Option<String>,
    /// The revised text
    revised: Option<String>,
    /// Take the two answers from a file of SPA records (.json or .jsonl) instead
    #[arg(long, conflicts_with = "original")]
    file: Option<PathBuf>,
    /// Which record of the file, from 1 [default: 1]
    #[arg(long, requires = "file", conflicts_with = "original")]
    record: Option<usize>,
    /// A tokenizer.json; without it, words and punctuation are the tokens
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// How to find the changes
    #[arg(long, value_enum, default_value = "levenshtein")]
    aligner: Algorithm,
}

#[derive(Clone, Copy, ValueEnum)]
enum Algorithm {
    Levenshtein,
    Myers,
    Patience,
    Histogram,
    Hunt,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (original, revised) = texts(&args)?;
    let tokenizer = match &args.tokenizer {
        Some(path) => {
            Some(Tokenizer::from_file(path).map_err(Error::from_boxed).with_context(|| path.display().to_string())?)
        }
        None => None,
    };
    let tokens = |text| split(text, tokenizer.as_ref());
    let ((original, original_texts), (revised, revised_texts)) = (tokens(&original)?, tokens(&revised)?);
    let aligner = match args.aligner {
        Algorithm::Levenshtein => Aligner::Levenshtein,
        Algorithm::Myers => Aligner::Myers,
        Algorithm::Patience => Aligner::Patience,
        Algorithm::Histogram => Aligner::Histogram,
        Algorithm::Hunt => Aligner::Hunt,
    };
    let alignment = aligner.align(&original, &revised);

    let labels = |side, tokens| label_tokens(&alignment, side, tokens, &EOS.to_string());
    let (original_labels, revised_labels) = (labels(Side::Original, &original)?, labels(Side::Revised, &revised)?);
    let (mut diff, mut table) = (String::new(), String::new());
    let (mut i, mut j) = (0, 0);
    while i < original.len() || j < revised.len() {
        // Whatever was removed at this point comes first, then whatever was added, then what both sides keep.
        let (token, style, cells) = if alignment.removed().get(i) == Some(&true) {
            i += 1;
            (&original_texts[i - 1], REMOVED, [cell(Side::Original, original_labels[i - 1]), String::new()])
        } else if alignment.added().get(j) == Some(&true) {
            j += 1;
            (&revised_texts[j - 1], ADDED, [String::new(), cell(Side::Revised, revised_labels[j - 1])])
        } else {
            (i, j) = (i + 1, j + 1);
            let cells = [cell(Side::Original, original_labels[i - 1]), cell(Side::Revised, revised_labels[j - 1])];
            (&revised_texts[j - 1], Style::new(), cells)
        };
        write!(diff, "{style}{token}{style:#} ")?;
        writeln!(table, "{style}{token:<20}{style:#} {:<20} {:<20}", cells[0], cells[1])?;
    }
    println!("{diff}\n\n{:<20} {:<20} {:<20}\n{table}", "token", "original", "revised");
    Ok(())
}

fn texts(args: &Args) -> Result<(String, String)> {
    let Some(path) = &args.file else {
        return Ok((args.original.clone().unwrap_or_default(), args.revised.clone().unwrap_or_default()));
    };
    let mut records = SpaRecord::read(path)?;
    let count = records.len();
    let number = args.record.unwrap_or(1);
    let index = number.checked_sub(1).filter(|&index| index < count);
    let index =
        index.with_context(|| format!("--record {}: {} holds {count}, counted from 1", number, path.display()))?;
    let record = records.swap_remove(index);
    println!("{} {}\n", record.instruction, record.input);
    Ok((record.original_output, record.revised_output))
}

/// The tokens of a text with EOS: what they are called in the vocabulary, which is what gets aligned, and how the
/// text spells them.
fn split(text: &str, tokenizer: Option<&Tokenizer>) -> Result<(Vec<String>, Vec<String>)> {
    let (mut names, mut spans) = (vec![], vec![]);
    if let Some(tokenizer) = tokenizer {
        let encoding = tokenizer.encode(text, false).map_err(Error::from_boxed)?;
        names.extend_from_slice(encoding.get_tokens());
        spans.extend_from_slice(encoding.get_offsets());
    } else {
        let mut words = PreTokenizedString::from(text);
        Whitespace.pre_tokenize(&mut words).map_err(Error::from_boxed)?;
        for (word, span, _) in words.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            names.push(word.to_string());
            spans.push(span);
        }
    }
    let mut texts: Vec<String> = spans.into_iter().map(|(start, end)| text[start..end].to_string()).collect();
    names.push(EOS.to_string());
    texts.push(EOS.to_string());
    Ok((names, texts))
}

fn cell(side: Side, label: TokenLabel) -> String {
    let weight = FigaWeights::default().weight(side, label);
    format!("{:<12} {weight:>+5}", format!("{label:?}").to_lowercase())
}
