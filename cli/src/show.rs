//! `figa show`: what a revision changed, and what each token will weigh.

use std::fmt::Write as _;
use std::io::Write as _;
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anstream::ColorChoice;
use anstyle::{AnsiColor, Effects, Style};
use anyhow::{Context, Error, Result, bail, ensure};
use figa_loss::tokenizers::pre_tokenizers::whitespace::Whitespace;
use figa_loss::tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};
use figa_loss::{Aligner, Alignment, FigaWeights, Granularity, RawRecord, Side, SpaRecord, TokenLabel, label_tokens};

use super::aside;
use super::input::{Input, Labelling, tokenizer_file};

const EOS: &str = "<eos>";
const REMOVED: Style = AnsiColor::Red.on_default().effects(Effects::STRIKETHROUGH);
const ADDED: Style = AnsiColor::Green.on_default().effects(Effects::BOLD);

/// On the page, a run of more kept tokens than this is folded, but for some context at both ends.
const LONG_RUN: usize = 12;
const CONTEXT: usize = 3;

/// Show what a revision changed, with the label and weight of each token
#[derive(clap::Args)]
#[command(
    mut_arg("inputs", |arg| arg.value_name("TEXTS|FILES").help(
        "Two texts; or files of records (.jsonl, .ndjson or .json, perhaps with .gz or .zst behind), patterns, or - \
         for standard input"
    )),
    after_help = "\
Two arguments are an original and a revised text, unless --record or --html says that they are files. The answers are
tokenized alone, without a prompt in front, and end in <eos>.

Examples:
  figa show 'He go home.' 'He goes home now.'
  figa show pairs.jsonl --record 3 --tokenizer MODEL
  figa show 'part-*.jsonl.zst' --html page.html --sample 50
  zcat pairs.gz | figa show - --original rejected --revised chosen --html page.html"
)]
pub struct Args {
    /// Show this record of the files, counted from 1 [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "html")]
    record: Option<NonZeroU64>,
    /// Write a page that shows a sample of the records; must not be there yet
    #[arg(long, value_name = "PAGE")]
    html: Option<PathBuf>,
    /// How many records the page shows, spread evenly over all
    #[arg(long, value_name = "N", requires = "html", default_value = "20")]
    sample: NonZeroUsize,
    #[command(flatten)]
    input: Input,
    /// The folder of a model in Hugging Face layout, or its tokenizer.json [default: words and punctuation are tokens]
    #[arg(long, value_name = "PATH", help_heading = "Encoding")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    labelling: Labelling,
}

pub fn run(args: &Args) -> Result<()> {
    let comparer = Comparer::new(args)?;
    let mut out = anstream::stdout().lock();
    if let Some(html) = &args.html {
        aside::check_new("--html", html)?;
        let (name, sample) = sample(args)?;
        let summary = format!("{}: {} of {} records\n", html.display(), sample.shown(), sample.seen);
        let page = page(args, &comparer, &name, sample)?;
        aside::write(html, |mut file| Ok(file.write_all(page.as_bytes())?))?;
        out.write_all(summary.as_bytes())?;
        return Ok(());
    }
    let marks = out.current_choice() == ColorChoice::Never;
    let text = match (&args.input.inputs[..], args.record) {
        ([original, revised], None) => {
            ensure!(
                !(original.is_file() && revised.is_file()),
                "{} and {} are files: say which of their records with --record N, or take --html PAGE",
                original.display(),
                revised.display()
            );
            let text = |path: &Path| path.to_str().map(str::to_owned).context("the texts: expected UTF-8");
            comparer.compare(&text(original)?, &text(revised)?)?.text(marks)?
        }
        (_, number) => {
            let record = nth(args, number.map_or(1, NonZeroU64::get))?;
            let prompt: String =
                prompt(&record).into_iter().map(|(title, text)| format!("{title}: {text}\n")).collect();
            let pair = comparer.compare(&record.original_output, &record.revised_output)?;
            format!("{}\n{}", visible(&prompt), pair.text(marks)?)
        }
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

/// The record of that number, from 1.
fn nth(args: &Args, number: u64) -> Result<SpaRecord> {
    let mut count = 0;
    for raw in args.input.open().context("expected two texts, or files of records")? {
        let raw = raw?;
        count += 1;
        if count == number {
            return Ok(raw.parse(&args.input.fields())?);
        }
    }
    bail!("--record {number}: expected one of the {count} records that were read")
}

/// What a record asks, each part with its title.
fn prompt(record: &SpaRecord) -> Vec<(&str, &str)> {
    if !record.messages.is_empty() {
        return record.messages.iter().map(|message| (&*message.role, &*message.content)).collect();
    }
    let parts = [("instruction", &*record.instruction), ("input", &*record.input)];
    parts.into_iter().filter(|(title, text)| *title == "instruction" || !text.is_empty()).collect()
}

/// Items spread evenly over a stream of unknown length: every n-th is kept, and n doubles when they get too many.
struct Sample<T> {
    wanted: usize,
    every: u64,
    kept: Vec<T>,
    seen: u64,
}

impl<T> Sample<T> {
    fn new(wanted: usize) -> Self {
        Self { wanted, every: 1, kept: vec![], seen: 0 }
    }

    fn push(&mut self, item: T) {
        if self.seen.is_multiple_of(self.every) {
            self.kept.push(item);
        }
        self.seen += 1;
        // So many that each of those wanted has one near its place.
        if self.kept.len() >= self.wanted.saturating_mul(16) {
            let mut at = 0;
            self.kept.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.every *= 2;
        }
    }

    fn shown(&self) -> u64 {
        self.seen.min(self.wanted as u64)
    }

    /// Those wanted, each with its number from 1.
    fn finish(self) -> impl Iterator<Item = (u64, T)> {
        let (seen, shown, every) = (self.seen, self.shown(), self.every);
        let mut places = (0..shown).map(move |i| i * seen / shown / every).peekable();
        let kept = (0..).zip(self.kept).filter(move |(at, _)| places.next_if_eq(at).is_some());
        kept.map(move |(at, item)| (at * every + 1, item))
    }
}

/// The records to show, and the name of where they are from.
fn sample(args: &Args) -> Result<(String, Sample<RawRecord>)> {
    let reader = args.input.open()?;
    let name = match reader.files() {
        [file] if file == Path::new("-") => "standard input".into(),
        [file] => file.file_name().unwrap_or_default().display().to_string(),
        files => format!("{} files", files.len()),
    };
    let mut sample = Sample::new(args.sample.get());
    for raw in reader {
        sample.push(raw?);
    }
    ensure!(sample.seen > 0, "{name}: no records");
    Ok((name, sample))
}

struct Comparer {
    tokenizer: Option<Tokenizer>,
    aligner: Aligner,
    granularity: Granularity,
    weights: FigaWeights,
}

/// Two answers.
struct Pair {
    alignment: Alignment,
    original: Answer,
    revised: Answer,
}

/// An answer and its EOS as tokens.
struct Answer {
    tokens: Vec<Token>,
    /// A label and a weight for each of them.
    labels: Vec<(TokenLabel, f32)>,
    side: Side,
}

struct Token {
    /// What it is called in the vocabulary, which is what gets aligned.
    name: String,
    /// What stands between the token before and this one.
    gap: String,
    text: String,
    word: Option<u32>,
}

impl Comparer {
    fn new(args: &Args) -> Result<Self> {
        let tokenizer = args.tokenizer.as_ref().map(|path| {
            let file = tokenizer_file(path);
            let tokenizer = Tokenizer::from_file(&file).map_err(Error::from_boxed);
            let mut tokenizer = tokenizer.with_context(|| format!("--tokenizer: {}", file.display()))?;
            tokenizer.with_padding(None).with_truncation(None).map_err(Error::from_boxed)?;
            anyhow::Ok(tokenizer)
        });
        let Labelling { aligner, granularity, .. } = args.labelling;
        let weights = args.labelling.weights()?;
        Ok(Self { tokenizer: tokenizer.transpose()?, aligner, granularity, weights })
    }

    fn compare(&self, original: &str, revised: &str) -> Result<Pair> {
        let (original, revised) = (self.split(original)?, self.split(revised)?);
        let names = |tokens: &[Token]| tokens.iter().map(|token| token.name.clone()).collect::<Vec<_>>();
        let words = |tokens: &[Token]| tokens.iter().map(|token| token.word).collect::<Vec<_>>();
        let alignment = self.aligner.align(&names(&original), &names(&revised));
        let alignment = self.granularity.widen(alignment, &words(&original), &words(&revised))?;
        let answer = |side, tokens: Vec<Token>| {
            let labels = label_tokens(&alignment, side, &names(&tokens), &EOS.to_owned())?;
            let labels = labels.into_iter().map(|label| (label, self.weights.weight(side, label))).collect();
            anyhow::Ok(Answer { tokens, labels, side })
        };
        Ok(Pair { original: answer(Side::Original, original)?, revised: answer(Side::Revised, revised)?, alignment })
    }

    fn split(&self, text: &str) -> Result<Vec<Token>> {
        let mut found: Vec<(String, Range<usize>, Option<u32>)> = vec![];
        if let Some(tokenizer) = &self.tokenizer {
            let encoding = tokenizer.encode(text, false).map_err(Error::from_boxed)?;
            let spans = encoding.get_offsets().iter().map(|&(start, end)| start..end);
            let names = encoding.get_tokens().iter().cloned().zip(spans);
            found.extend(names.zip(encoding.get_word_ids()).map(|((name, span), &word)| (name, span, word)));
        } else {
            let mut words = PreTokenizedString::from(text);
            Whitespace.pre_tokenize(&mut words).map_err(Error::from_boxed)?;
            let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter().zip(0..);
            found.extend(words.map(|((name, (start, end), _), word)| (name.to_owned(), start..end, Some(word))));
        }
        let (mut tokens, mut written) = (vec![], 0);
        for (name, span, word) in found {
            // Tokens that share a character overlap: the first one shows it, the others a placeholder.
            let start = span.start.max(written);
            let gap = text.get(written..start).unwrap_or_default();
            written = span.end.max(start);
            let text = text.get(start..written).filter(|text| !text.is_empty()).unwrap_or("▯");
            // The space that many tokens begin with need not be seen to be changed.
            let shown = Some(text.trim_start_matches(' ')).filter(|text| !text.is_empty()).unwrap_or(text);
            let (gap, text) = (format!("{gap}{}", &text[..text.len() - shown.len()]), shown.to_owned());
            tokens.push(Token { name, gap, text, word });
        }
        let gap = text.get(written..).unwrap_or_default().to_owned();
        tokens.push(Token { name: EOS.into(), gap, text: EOS.into(), word: None });
        Ok(tokens)
    }
}

/// What the diff does at a place.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    Removed,
    Added,
    Kept,
}

impl Pair {
    /// The tokens in the order of a diff. Whatever was removed at a place comes first, then whatever was added, then
    /// what both sides keep.
    fn walk(&self) -> Vec<(Change, usize, usize)> {
        let (mut steps, mut i, mut j) = (vec![], 0, 0);
        while i < self.original.tokens.len() || j < self.revised.tokens.len() {
            let change = if self.alignment.removed().get(i) == Some(&true) {
                Change::Removed
            } else if self.alignment.added().get(j) == Some(&true) {
                Change::Added
            } else {
                Change::Kept
            };
            steps.push((change, i, j));
            i += usize::from(change != Change::Added);
            j += usize::from(change != Change::Removed);
        }
        steps
    }

    /// The diff and a table of the tokens. Without colours, `marks` tell what changed.
    fn text(&self, marks: bool) -> Result<String> {
        let (mut diff, mut table) = (String::new(), String::new());
        for run in self.walk().chunk_by(|(before, ..), (change, ..)| before == change) {
            let (style, [open, close]) = match run[0].0 {
                Change::Removed => (REMOVED, ["[-", "-]"]),
                Change::Added => (ADDED, ["{+", "+}"]),
                Change::Kept => (Style::new(), ["", ""]),
            };
            let [open, close] = if marks { [open, close] } else { ["", ""] };
            let mut changed = String::new();
            for (at, &(change, i, j)) in run.iter().enumerate() {
                let (original, revised) = (self.original.tokens.get(i), self.revised.tokens.get(j));
                let (token, cells) = match change {
                    Change::Removed => (original, [self.original.cell(i), String::new()]),
                    Change::Added => (revised, [String::new(), self.revised.cell(j)]),
                    Change::Kept => (revised, [self.original.cell(i), self.revised.cell(j)]),
                };
                let Some(Token { gap, text, .. }) = token else { continue };
                // Where the revision begins with this token, the original may not.
                let gap = match original {
                    Some(original) if change == Change::Kept && gap.is_empty() => &original.gap,
                    _ => gap,
                };
                let to = if at == 0 { &mut diff } else { &mut changed };
                *to += &visible(gap);
                changed += &visible(text);
                let text = visible(text).replace('\n', "⏎").replace('\t', "⇥");
                writeln!(table, "{style}{:<20} {:<20} {text}{style:#}", cells[0], cells[1])?;
            }
            if run[0].0 != Change::Kept {
                // A line break that changed would not be seen.
                changed = changed.replace('\n', "⏎\n");
            }
            write!(diff, "{style}{open}{changed}{close}{style:#}")?;
        }
        Ok(format!("{diff}\n\n{:<20} {:<20} token\n{table}", "original", "revised"))
    }
}

impl Answer {
    fn label(&self, at: usize) -> String {
        format!("{:?}", self.labels[at].0).to_lowercase()
    }

    fn cell(&self, at: usize) -> String {
        format!("{:<12} {:>+6}", self.label(at), self.labels[at].1)
    }

    /// How many tokens weigh something, and how many there are.
    fn active(&self) -> (usize, usize) {
        (self.labels.iter().filter(|(_, weight)| *weight != 0.0).count(), self.labels.len())
    }

    /// The text as HTML, each token an element.
    fn html(&self) -> Result<String> {
        let mut html = String::new();
        let mut first = 0;
        let is_kept = |label: TokenLabel| matches!(label, TokenLabel::Kept | TokenLabel::Ignored);
        for run in self.labels.chunk_by(|a, b| is_kept(a.0) == is_kept(b.0)) {
            let last = first + run.len();
            let fold = is_kept(run[0].0) && run.len() > LONG_RUN;
            let folded = if fold { first + CONTEXT..last - CONTEXT } else { 0..0 };
            for (at, token) in self.tokens.iter().enumerate().take(last).skip(first) {
                html += &escape(&token.gap);
                let (label, weight) = self.labels[at];
                let text = escape(&token.text);
                let (tag, text) = match label {
                    TokenLabel::Kept | TokenLabel::Ignored => ("span", text),
                    TokenLabel::Eos => ("b", text),
                    // A line break that changed would not be seen.
                    _ => (if self.side == Side::Original { "del" } else { "ins" }, text.replace('\n', "⏎\n")),
                };
                if fold && at == folded.start {
                    write!(html, "<details><summary>{} kept</summary>", folded.len())?;
                }
                let (name, label) = (escape(&token.name), self.label(at));
                write!(html, "<{tag} title=\"{name}: {label}, weight {weight:+}\">{text}</{tag}>")?;
                if fold && at + 1 == folded.end {
                    html += "</details>";
                }
            }
            first = last;
        }
        Ok(html)
    }
}

/// A page of the sample.
fn page(args: &Args, comparer: &Comparer, name: &str, sample: Sample<RawRecord>) -> Result<String> {
    let fields = args.input.fields();
    let (mut html, mut active, mut tokens) = (String::new(), 0, 0);
    let (shown, count) = (sample.shown(), sample.seen);
    for (number, raw) in sample.finish() {
        let record = raw.parse(&fields)?;
        let place = escape(&format!("{}:{}", raw.path.display(), raw.line));
        writeln!(
            html,
            "<article id=\"record-{number}\">\n\
             <h2><a href=\"#record-{number}\" title=\"{place}\">Record {number}</a></h2>"
        )?;
        for (title, text) in prompt(&record) {
            section(&mut html, &escape(title), &escape(text))?;
        }
        html += "<div class=\"answers\">\n";
        let pair = comparer.compare(&record.original_output, &record.revised_output)?;
        for (side, answer) in [("original", pair.original), ("revised", pair.revised)] {
            let (its_active, its_tokens) = answer.active();
            (active, tokens) = (active + its_active, tokens + its_tokens);
            let title = format!("{side} answer, {its_active} of {its_tokens} tokens active");
            section(&mut html, &title, &answer.html()?)?;
        }
        html += "</div>\n</article>\n";
    }
    let weights = comparer.weights;
    Ok(format!(
        include_str!("show/page.html"),
        style = include_str!("show/page.css"),
        name = escape(name),
        aligner = format!("{:?}", comparer.aligner).to_lowercase(),
        granularity = format!("{:?}", comparer.granularity).to_lowercase(),
        shown = shown,
        count = count,
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

/// Text for a terminal, to which most control characters are orders.
fn visible(text: &str) -> String {
    let replace = |character: char| match character {
        '\n' | '\t' => character,
        _ if character.is_control() => char::REPLACEMENT_CHARACTER,
        _ => character,
    };
    text.replace("\r\n", "\n").chars().map(replace).collect()
}

/// Text for an element or a quoted attribute. HTML has no way to write most control characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in visible(text).chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            _ => escaped.push(character),
        }
    }
    escaped
}
