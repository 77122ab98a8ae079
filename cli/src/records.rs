//! Which records a command reads, and how far it has come.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use figa_loss::{Fields, Message, RecordReader, TextComparer};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

/// How often the progress bar is drawn.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// The arguments that name the fields of a record.
///
/// ```
/// use clap::Parser;
/// use figa_cli::FieldArgs;
///
/// #[derive(Parser)]
/// struct Args {
///     #[command(flatten)]
///     fields: FieldArgs,
/// }
/// let args = Args::parse_from(["trainer", "--original", "rejected", "--revised", "chosen"]);
/// assert_eq!(args.fields.fields().revised, "chosen");
/// ```
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
#[command(next_help_heading = "Records")]
pub struct FieldArgs {
    /// Field with the instruction, or with the messages before the answer
    #[arg(long, value_name = "FIELD", default_value = "instruction")]
    instruction: String,
    /// Field with the material that the instruction is about; may be absent
    #[arg(long, value_name = "FIELD", default_value = "input")]
    input: String,
    /// Field with the reference answer; may be absent
    #[arg(long, value_name = "FIELD", default_value = "output")]
    output: String,
    /// Field with the original answer, its message, or a conversation that ends with it
    #[arg(long, value_name = "FIELD", default_value = "original_output")]
    original: String,
    /// Field with the revised answer, its message, or a conversation that ends with it
    #[arg(long, value_name = "FIELD", default_value = "revised_output")]
    revised: String,
    /// Field with the system message
    #[arg(long, value_name = "FIELD")]
    system: Option<String>,
    /// Field with the tools that the chat template shows: a list of objects, or its JSON
    #[arg(long, value_name = "FIELD")]
    tools: Option<String>,
    /// Field with the documents that the chat template shows: a list of objects, or its JSON
    #[arg(long, value_name = "FIELD")]
    documents: Option<String>,
}

/// The arguments that say which records to read.
#[derive(Args, Serialize)]
#[command(next_help_heading = "Records")]
pub struct RecordArgs {
    /// Files of records (.jsonl, .ndjson or .json, also with .gz or .zst appended; .parquet), patterns, or - for standard input
    #[arg(required = true, help_heading = None, value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub inputs: Vec<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    fields: FieldArgs,
    /// Treat a record of more than this many MiB as bad, 1 to 4095
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..4096))]
    #[serde(skip)]
    max_record: u32,
    /// Treat a record with an answer of more than this many tokens, or words where there is no tokenizer, as bad
    #[arg(long, value_name = "TOKENS", default_value_t = TextComparer::default().max_answer_tokens)]
    #[serde(skip)]
    pub max_answer: usize,
}

impl FieldArgs {
    /// The names for the library.
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.instruction.clone_from(&self.instruction);
        fields.input.clone_from(&self.input);
        fields.output.clone_from(&self.output);
        fields.original.clone_from(&self.original);
        fields.revised.clone_from(&self.revised);
        fields.system.clone_from(&self.system);
        fields.tools.clone_from(&self.tools);
        fields.documents.clone_from(&self.documents);
        fields
    }

    /// The flag of a setting of the library ([`figa_loss::Error::setting`](figa_loss::Error)), if it is one of these.
    pub fn flag(setting: &str) -> Option<&'static str> {
        match setting {
            "documents" => Some("--documents"),
            "system" => Some("--system"),
            "tools" => Some("--tools"),
            _ => None,
        }
    }
}

impl RecordArgs {
    /// The flag of a setting of the library, if it is one of these.
    pub fn flag(setting: &str) -> Option<&'static str> {
        match setting {
            "max_answer_tokens" => Some("--max-answer"),
            "max_bytes" => Some("--max-record"),
            _ => FieldArgs::flag(setting),
        }
    }

    pub fn fields(&self) -> Fields {
        self.fields.fields()
    }

    pub fn open(&self) -> Result<RecordReader> {
        let mut paths = vec![];
        for input in &self.inputs {
            paths.extend(files(input)?);
        }
        let mut reader = RecordReader::open(paths)?;
        reader.max_bytes = (self.max_record as usize) << 20;
        Ok(reader)
    }
}

/// The files that an argument names: itself, or those that match it as a pattern, in the order of their names.
fn files(input: &Path) -> Result<Vec<PathBuf>> {
    let pattern = input.to_str().filter(|pattern| pattern.contains(['*', '?', '[']) && !input.exists());
    let Some(pattern) = pattern else { return Ok(vec![input.into()]) };
    let found = glob::glob(pattern).with_context(|| format!("inputs: {pattern} is not a valid pattern"))?;
    let found = found.collect::<Result<Vec<_>, _>>()?;
    ensure!(!found.is_empty(), "inputs: expected a file, or a pattern that matches at least one, got {pattern}");
    Ok(found)
}

/// The text of a message; a message that holds more than its text, such as a call of a tool, as JSON.
pub fn message_text(message: &Message) -> Cow<'_, str> {
    if message.is_text() {
        return message.text();
    }
    serde_json::to_string(message).expect("a message has a JSON form").into()
}

/// Shows on a terminal how much of the files has been read.
pub fn progress_bar(reader: &RecordReader) -> Result<ProgressBar> {
    let sizes = reader.files().iter().map(|file| Some(file.metadata().ok()?.len()));
    // Standard input has no size.
    let (template, bar) = match sizes.sum::<Option<u64>>() {
        Some(size) => ("{wide_bar} {bytes}/{total_bytes}  eta {eta}  {msg}", ProgressBar::new(size)),
        None => ("{spinner} {bytes}  {msg}", ProgressBar::new_spinner()),
    };
    bar.set_style(ProgressStyle::with_template(template)?);
    bar.enable_steady_tick(PROGRESS_INTERVAL);
    let (position, weak) = (reader.position(), bar.downgrade());
    thread::spawn(move || {
        while let Some(bar) = weak.upgrade().filter(|bar| !bar.is_finished()) {
            bar.set_position(position.load(Ordering::Relaxed));
            thread::sleep(PROGRESS_INTERVAL);
        }
    });
    Ok(bar)
}
