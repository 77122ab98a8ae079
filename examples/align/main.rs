//! Two texts as a coloured diff, with the label and weight of each token; or records of a file as a page to look
//! through. Needs no libtorch:
//!
//! ```text
//! cargo run --no-default-features --features data --example align -- "He go home." "He goes home now."
//! cargo run --no-default-features --features data --example align -- --file examples/data/spa_tiny.jsonl --record 3
//! cargo run --no-default-features --features data --example align -- --file examples/data/spa_tiny.jsonl --html a.html
//! ```
//!
//! Words and punctuation are the tokens, unless --tokenizer names a Hugging Face tokenizer.json.

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fs, process};

use anstream::println;
use anstyle::{AnsiColor, Effects, Style};
use anyhow::{Context, Error, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use figa_loss::tokenizers::pre_tokenizers::whitespace::Whitespace;
use figa_loss::tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};
use figa_loss::{Aligner, Alignment, FigaWeights, Side, SpaRecord, TokenLabel, label_tokens};

const EOS: &str = "<eos>";
const REMOVED: Style = AnsiColor::Red.on_default().effects(Effects::STRIKETHROUGH);
const ADDED: Style = AnsiColor::Green.on_default().effects(Effects::BOLD);

/// On the page, a run of more kept tokens than this is folded, but for some context at both ends.
const LONG_RUN: usize = 12;
const CONTEXT: usize = 3;

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
    /// Write a page that shows a sample of the file's records instead
    #[arg(long, requires = "file", conflicts_with_all = ["original", "record"])]
    html: Option<PathBuf>,
    /// How many records the page shows, spread evenly over the file [default: 20]
    #[arg(long, requires = "html", conflicts_with_all = ["original", "record"])]
    sample: Option<NonZeroUsize>,
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
    let aligner = match args.aligner {
        Algorithm::Levenshtein => Aligner::Levenshtein,
        Algorithm::Myers => Aligner::Myers,
        Algorithm::Patience => Aligner::Patience,
        Algorithm::Histogram => Aligner::Histogram,
        Algorithm::Hunt => Aligner::Hunt,
    };
    let tokenizer = match &args.tokenizer {
        Some(path) => {
            Some(Tokenizer::from_file(path).map_err(Error::from_boxed).with_context(|| path.display().to_string())?)
        }
        None => None,
    };
    let comparer = Comparer { tokenizer, aligner };
    if let (Some(file), Some(html)) = (&args.file, &args.html) {
        let records = SpaRecord::read(file)?;
        ensure!(!records.is_empty(), "{}: no records", file.display());
        let shown = args.sample.map_or(20, NonZeroUsize::get).min(records.len());
        save(html, &page(&comparer, file, &records, shown)?)?;
        println!("{}: {shown} of {} records", html.display(), records.len());
    } else {
        let (original, revised) = texts(&args)?;
        show(comparer.compare(&original, &revised)?)?;
    }
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

struct Comparer {
    tokenizer: Option<Tokenizer>,
    aligner: Aligner,
}

/// An answer and its EOS as tokens.
struct Answer {
    side: Side,
    /// The text with EOS at its end.
    text: String,
    /// What the tokens are called in the vocabulary, which is what gets aligned.
    names: Vec<String>,
    /// Where the text spells them.
    spans: Vec<Range<usize>>,
    labels: Vec<TokenLabel>,
}

impl Comparer {
    fn compare(&self, original: &str, revised: &str) -> Result<(Alignment, [Answer; 2])> {
        let mut answers = [self.split(Side::Original, original)?, self.split(Side::Revised, revised)?];
        let alignment = self.aligner.align(&answers[0].names, &answers[1].names);
        for answer in &mut answers {
            answer.labels = label_tokens(&alignment, answer.side, &answer.names, &EOS.to_string())?;
        }
        Ok((alignment, answers))
    }

    fn split(&self, side: Side, text: &str) -> Result<Answer> {
        let (mut names, mut spans) = (vec![], vec![]);
        if let Some(tokenizer) = &self.tokenizer {
            let encoding = tokenizer.encode(text, false).map_err(Error::from_boxed)?;
            names.extend_from_slice(encoding.get_tokens());
            spans.extend(encoding.get_offsets().iter().map(|&(start, end)| start..end));
        } else {
            let mut words = PreTokenizedString::from(text);
            Whitespace.pre_tokenize(&mut words).map_err(Error::from_boxed)?;
            for (word, (start, end), _) in words.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                names.push(word.to_string());
                spans.push(start..end);
            }
        }
        names.push(EOS.to_string());
        spans.push(text.len()..text.len() + EOS.len());
        Ok(Answer { side, text: format!("{text}{EOS}"), names, spans, labels: vec![] })
    }
}

impl Answer {
    fn token(&self, i: usize) -> &str {
        &self.text[self.spans[i].clone()]
    }

    fn weight(&self, i: usize) -> f32 {
        FigaWeights::default().weight(self.side, self.labels[i])
    }

    fn label(&self, i: usize) -> String {
        format!("{:?}", self.labels[i]).to_lowercase()
    }

    fn cell(&self, i: usize) -> String {
        format!("{:<12} {:>+5}", self.label(i), self.weight(i))
    }

    /// How many tokens weigh something, and how many there are.
    fn active(&self) -> (usize, usize) {
        let count = self.labels.len();
        ((0..count).filter(|&i| self.weight(i) != 0.0).count(), count)
    }

    /// The text as HTML, each token an element.
    fn html(&self) -> Result<String> {
        let mut html = String::new();
        let (mut first, mut written) = (0, 0);
        for run in self.labels.chunk_by(|&a, &b| (a == TokenLabel::Kept) == (b == TokenLabel::Kept)) {
            let last = first + run.len();
            let fold = run[0] == TokenLabel::Kept && run.len() > LONG_RUN;
            let folded = if fold { first + CONTEXT..last - CONTEXT } else { 0..0 };
            for i in first..last {
                // Tokens that share a character overlap: the first one shows it, the others a placeholder.
                let start = self.spans[i].start.max(written);
                let end = self.spans[i].end.max(start);
                let text = if start < end { &self.text[start..end] } else { "▯" };
                html += &escape(&self.text[written..start]);
                written = end;
                let (tag, text) = match self.labels[i] {
                    TokenLabel::Kept | TokenLabel::Ignored => ("span", escape(text)),
                    TokenLabel::Eos => ("b", escape(text)),
                    // A line break that changed would not be seen.
                    _ => (if self.side == Side::Original { "del" } else { "ins" }, escape(text).replace('\n', "⏎\n")),
                };
                if fold && i == folded.start {
                    write!(html, "<details><summary>{} kept</summary>", folded.len())?;
                }
                let (name, label) = (escape(&self.names[i]), self.label(i));
                write!(html, "<{tag} title=\"{name}: {label}, weight {:+}\">{text}</{tag}>", self.weight(i))?;
                if fold && i + 1 == folded.end {
                    html += "</details>";
                }
            }
            first = last;
        }
        Ok(html)
    }
}

/// Prints the diff and a table of the tokens.
fn show((alignment, [original, revised]): (Alignment, [Answer; 2])) -> Result<()> {
    let (mut diff, mut table) = (String::new(), String::new());
    let (mut i, mut j) = (0, 0);
    while i < original.names.len() || j < revised.names.len() {
        // Whatever was removed at this point comes first, then whatever was added, then what both sides keep.
        let (token, style, cells) = if alignment.removed().get(i) == Some(&true) {
            i += 1;
            (original.token(i - 1), REMOVED, [original.cell(i - 1), String::new()])
        } else if alignment.added().get(j) == Some(&true) {
            j += 1;
            (revised.token(j - 1), ADDED, [String::new(), revised.cell(j - 1)])
        } else {
            (i, j) = (i + 1, j + 1);
            (revised.token(j - 1), Style::new(), [original.cell(i - 1), revised.cell(j - 1)])
        };
        write!(diff, "{style}{token}{style:#} ")?;
        writeln!(table, "{style}{token:<20}{style:#} {:<20} {:<20}", cells[0], cells[1])?;
    }
    println!("{diff}\n\n{:<20} {:<20} {:<20}\n{table}", "token", "original", "revised");
    Ok(())
}

/// A page of `shown` records, spread evenly over all.
fn page(comparer: &Comparer, file: &Path, records: &[SpaRecord], shown: usize) -> Result<String> {
    let (mut html, mut active, mut tokens) = (String::new(), 0, 0);
    for index in (0..shown).map(|i| i * records.len() / shown) {
        let (number, record) = (index + 1, &records[index]);
        writeln!(html, "<article id=\"record-{number}\">\n<h2><a href=\"#record-{number}\">Record {number}</a></h2>")?;
        section(&mut html, "Instruction", &escape(&record.instruction))?;
        if !record.input.is_empty() {
            section(&mut html, "Input", &escape(&record.input))?;
        }
        html += "<div class=\"answers\">\n";
        for answer in comparer.compare(&record.original_output, &record.revised_output)?.1 {
            let (its_active, its_tokens) = answer.active();
            (active, tokens) = (active + its_active, tokens + its_tokens);
            let title = format!("{:?} answer, {its_active} of {its_tokens} tokens active", answer.side);
            section(&mut html, &title, &answer.html()?)?;
        }
        html += "</div>\n</article>\n";
    }
    let weights = FigaWeights::default();
    Ok(format!(
        include_str!("page.html"),
        style = include_str!("page.css"),
        file = escape(&file.file_name().unwrap_or_default().to_string_lossy()),
        aligner = format!("{:?}", comparer.aligner).to_lowercase(),
        shown = shown,
        count = records.len(),
        active = format!("{:.1}%", 100.0 * active as f64 / tokens as f64),
        alpha = weights.alpha,
        beta = weights.beta,
        gamma = weights.gamma,
        eos = escape(EOS),
        records = html,
    ))
}

fn section(html: &mut String, title: &str, content: &str) -> Result<()> {
    writeln!(html, "<section>\n<h3>{title}</h3>\n<div class=\"text\" dir=\"auto\">{content}</div>\n</section>")?;
    Ok(())
}

/// Text for an element or a quoted attribute. HTML has no way to write most control characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' | '\r' | '\t' => escaped.push(character),
            _ if character.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Writes a file aside and renames it, so that there is never half a page.
fn save(path: &Path, content: &str) -> Result<()> {
    // A rename would put a file in the place of a device.
    ensure!(path.is_file() || !path.exists(), "cannot write {}: not a regular file", path.display());
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.tmp", process::id()));
    fs::write(&aside, content).and_then(|()| fs::rename(&aside, path)).map_err(|error| {
        fs::remove_file(&aside).ok();
        anyhow!("cannot write {}: {error}", path.display())
    })
}
