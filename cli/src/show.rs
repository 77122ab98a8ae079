//! `figa show`: what a revision changed, and what each token weighs.

mod page;
mod sample;
mod table;
mod tokens;

use std::io::Write;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use anstream::ColorChoice;
use anyhow::{Context, Result, bail, ensure};
use figa_loss::{LabelledTexts, PairEncoder, RawRecord, SpaRecord, TextComparer};

use self::sample::Sample;
use self::tokens::ShownTexts;
use crate::encoding::{LabellingArgs, PromptArgs};
use crate::new_file::NewFile;
use crate::records::{RecordArgs, message_text};
use crate::terminal::printable;

/// Show what a revision changed, with the label and weight of each token
#[derive(clap::Args)]
#[command(
    mut_arg("inputs", |arg| arg.value_name("TEXTS|FILES").help(
        "Two texts; or files of records (.jsonl, .ndjson or .json, also with .gz or .zst appended; .parquet), patterns, \
         or - for standard input"
    )),
    after_help = "\
Two arguments are an original and a revised text, unless --record or --html is given: then they are files. With
--tokenizer, a record is shown as the model sees it: the prompt, and the answers up to the end of their turn. Otherwise the
answers are shown alone, and end with <eos>.

Examples:
  figa show 'He go home.' 'He goes home now.'
  figa show pairs.jsonl --record 3 --tokenizer MODEL
  figa show 'part-*.jsonl.zst' --html page.html --sample 50
  zcat pairs.gz | figa show - --original rejected --revised chosen --html page.html"
)]
pub struct ShowArgs {
    /// Show this record of the files, counted from 1 [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "html")]
    record: Option<NonZeroU64>,
    /// Write a page that shows a sample of the records; must not exist yet
    #[arg(long, value_name = "PAGE")]
    html: Option<PathBuf>,
    /// Number of records on the page, evenly spaced over the input
    #[arg(long, value_name = "N", requires = "html", default_value = "20")]
    sample: NonZeroUsize,
    #[command(flatten)]
    records: RecordArgs,
    /// Folder of a model in Hugging Face layout, or its tokenizer.json [default: words and punctuation are tokens]
    #[arg(long, value_name = "PATH", help_heading = "Encoding")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    labelling: LabellingArgs,
}

/// How records are compared.
enum Comparison {
    /// As the model sees them.
    Rows(Box<PairEncoder>),
    /// Their answers alone.
    Answers(Box<TextComparer>),
}

pub fn run(args: &ShowArgs) -> Result<()> {
    match &args.html {
        Some(path) => write_page(args, path),
        None => print(args),
    }
}

impl Comparison {
    fn new(args: &ShowArgs) -> Result<Self> {
        let Some(path) = &args.tokenizer else {
            ensure!(
                !args.prompt.are_given(),
                "--prompt and its like: expected --tokenizer too, which shows whole rows"
            );
            return Ok(Self::Answers(comparer(args)?.into()));
        };
        let mut encoder = args.prompt.encoder("--tokenizer", path)?;
        args.labelling.configure(&mut encoder)?;
        encoder.max_answer_tokens = args.records.max_answer;
        Ok(Self::Rows(encoder.into()))
    }

    fn compare(&self, record: &SpaRecord) -> Result<LabelledTexts, figa_loss::Error> {
        match self {
            Self::Rows(encoder) => encoder.compare(record),
            Self::Answers(comparer) => {
                comparer.compare(&message_text(&record.original_output), &message_text(&record.revised_output))
            }
        }
    }
}

/// For two texts.
fn comparer(args: &ShowArgs) -> Result<TextComparer> {
    let mut comparer = match &args.tokenizer {
        Some(path) => TextComparer::with_tokenizer(path).context("--tokenizer")?,
        None => TextComparer::default(),
    };
    comparer.aligner = args.labelling.aligner;
    comparer.granularity = args.labelling.granularity;
    comparer.weights = args.labelling.weights()?;
    comparer.max_answer_tokens = args.records.max_answer;
    Ok(comparer)
}

fn print(args: &ShowArgs) -> Result<()> {
    let mut out = anstream::stdout().lock();
    let marks = out.current_choice() == ColorChoice::Never;
    let text = match (&args.records.inputs[..], args.record) {
        ([original, revised], None) => {
            ensure!(
                !(original.is_file() && revised.is_file()),
                "{} and {} are files: choose one of their records with --record N, or show a sample with --html PAGE",
                original.display(),
                revised.display()
            );
            ensure!(!args.prompt.are_given(), "--prompt and its like: expected records, not two texts");
            let text = |path: &Path| path.to_str().map(str::to_owned).context("the texts: expected UTF-8");
            table::text(&ShownTexts::new(comparer(args)?.compare(&text(original)?, &text(revised)?)?), marks)
        }
        (_, number) => {
            let comparison = Comparison::new(args)?;
            let (place, record) = nth_record(args, number.map_or(1, NonZeroU64::get))?;
            let texts = ShownTexts::new(comparison.compare(&record).context(place)?);
            let parts = prompt_parts(&record, &texts).into_iter().map(|(title, text)| format!("{title}: {text}\n"));
            format!("{}\n{}", printable(&parts.collect::<String>()), table::text(&texts, marks))
        }
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

fn write_page(args: &ShowArgs, path: &Path) -> Result<()> {
    let comparison = Comparison::new(args)?;
    let mut file = NewFile::create("--html", path)?;
    let (name, sample) = sample_records(args)?;
    let summary = format!("{}: {} of {} records\n", path.display(), sample.len(), sample.seen());
    let page = page::page(&comparison, &args.labelling, &args.records.fields(), &name, sample)?;
    file.write_all(page.as_bytes())?;
    file.commit()?;
    anstream::stdout().write_all(printable(&summary).as_bytes())?;
    Ok(())
}

/// The record with this number, from 1, and its place.
fn nth_record(args: &ShowArgs, number: u64) -> Result<(String, SpaRecord)> {
    let mut count = 0;
    for raw in args.records.open().context("expected two texts, or files of records")? {
        let raw = raw?;
        count += 1;
        if count == number {
            return Ok((raw.place(), raw.parse(&args.records.fields())?));
        }
    }
    bail!("--record {number}: expected at most {count}, the number of records")
}

/// The records to show, and the name of their source.
fn sample_records(args: &ShowArgs) -> Result<(String, Sample<RawRecord>)> {
    let reader = args.records.open()?;
    let name = match reader.files() {
        [file] if file == Path::new("-") => "standard input".into(),
        [file] => file.file_name().unwrap_or_default().display().to_string(),
        files => format!("{} files", files.len()),
    };
    let mut sample = Sample::new(args.sample.get());
    for raw in reader {
        sample.push(raw?);
    }
    ensure!(sample.seen() > 0, "{name}: no records");
    Ok((name, sample))
}

/// The parts of a record's prompt, each with a title; one part if it is shown as the model sees it.
fn prompt_parts(record: &SpaRecord, texts: &ShownTexts) -> Vec<(String, String)> {
    if !texts.prompt().is_empty() {
        return vec![("prompt".into(), texts.prompt().into())];
    }
    if !record.messages.is_empty() {
        return record.messages.iter().map(|message| (message.role().into(), message_text(message).into())).collect();
    }
    let mut parts = vec![("instruction".into(), record.instruction.clone())];
    if !record.input.is_empty() {
        parts.push(("input".into(), record.input.clone()));
    }
    parts
}
