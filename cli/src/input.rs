//! What the commands have in common: which records to read, and how to encode them.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use figa_loss::{
    Aligner, ChatTemplate, EncodedPair, Error, Fields, FigaWeights, Granularity, PairEncoder, PromptTemplate,
    RawRecord, RecordReader,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Which records.
#[derive(Args, Serialize)]
#[command(next_help_heading = "Records")]
pub struct Input {
    /// Files of records (.jsonl, .ndjson or .json, perhaps with .gz or .zst behind), patterns, or - for standard input
    #[arg(required = true, value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub inputs: Vec<PathBuf>,
    /// Field with the instruction, or with the messages before the answer
    #[arg(long, value_name = "FIELD", default_value = "instruction")]
    instruction: String,
    /// Field with the material of the instruction
    #[arg(long, value_name = "FIELD", default_value = "input")]
    input: String,
    /// Field with the ground truth
    #[arg(long, value_name = "FIELD", default_value = "output")]
    output: String,
    /// Field with the original answer, or with a conversation that ends in it
    #[arg(long, value_name = "FIELD", default_value = "original_output")]
    original: String,
    /// Field with the revised answer, or with a conversation that ends in it
    #[arg(long, value_name = "FIELD", default_value = "revised_output")]
    revised: String,
    /// A record of more MiB than this is a bad one
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..4096))]
    max_record: u32,
}

impl Input {
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.instruction.clone_from(&self.instruction);
        fields.input.clone_from(&self.input);
        fields.output.clone_from(&self.output);
        fields.original.clone_from(&self.original);
        fields.revised.clone_from(&self.revised);
        fields
    }

    pub fn open(&self) -> Result<RecordReader> {
        let mut reader = RecordReader::open(&self.inputs)?;
        reader.max_bytes = (self.max_record as usize) << 20;
        Ok(reader)
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
pub enum Prompt {
    /// The chat template of the model's folder
    Chat,
    /// The prompt of Stanford Alpaca
    Alpaca,
    /// Instruction and input, each on lines of their own
    Plain,
    /// Instruction and input as they are: for prompts that are rendered already
    Verbatim,
}

/// What counts as changed, and what it weighs.
#[derive(Args, Serialize)]
#[command(next_help_heading = "Encoding")]
pub struct Labelling {
    /// How to find the changes
    #[arg(long, value_parser = aligner(), default_value = "levenshtein")]
    #[serde(serialize_with = "by_debug")]
    pub aligner: Aligner,
    /// What counts as changed together: token, word, or phrase:N for changes with at most N kept tokens between them
    #[arg(long, value_parser = granularity, default_value = "token")]
    #[serde(serialize_with = "by_debug")]
    pub granularity: Granularity,
    /// Reward of added tokens and of the revised answer's EOS
    #[arg(long, default_value_t = FigaWeights::default().alpha)]
    alpha: f32,
    /// Penalty of removed tokens
    #[arg(long, default_value_t = FigaWeights::default().beta)]
    beta: f32,
    /// Reward of the revised answer's kept tokens
    #[arg(long, default_value_t = FigaWeights::default().gamma)]
    gamma: f32,
}

impl Labelling {
    pub fn weights(&self) -> Result<FigaWeights> {
        let weights = FigaWeights { alpha: self.alpha, beta: self.beta, gamma: self.gamma };
        weights.validate()?;
        Ok(weights)
    }
}

/// How to encode them.
#[derive(Args, Serialize)]
#[command(next_help_heading = "Encoding")]
pub struct Encoding {
    /// The folder of a model in Hugging Face layout, or its tokenizer.json
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// The token that ends an answer [default: the eos_token that the model's folder names]
    #[arg(long, value_name = "TOKEN")]
    eos: Option<String>,
    /// How the model is asked [default: its chat template if the folder has one, else alpaca]
    #[arg(long, value_enum)]
    prompt: Option<Prompt>,
    #[command(flatten)]
    #[serde(flatten)]
    labelling: Labelling,
    /// Cut rows after so many tokens; they are aligned before
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<usize>,
}

fn by_debug<S: serde::Serializer>(value: &impl Debug, serializer: S) -> Result<S::Ok, S::Error> {
    format!("{value:?}").serialize(serializer)
}

fn aligner() -> impl TypedValueParser<Value = Aligner> {
    let name = |aligner: &Aligner| format!("{aligner:?}").to_lowercase();
    let named = move |text| *Aligner::ALL.iter().find(|aligner| name(aligner) == text).expect("one of the names");
    PossibleValuesParser::new(Aligner::ALL.iter().map(name)).map(named)
}

fn granularity(text: &str) -> Result<Granularity, String> {
    match text.split_once(':') {
        None if text == "token" => Ok(Granularity::Token),
        None if text == "word" => Ok(Granularity::Word),
        Some(("phrase", gap)) => gap.parse().map(Granularity::Phrase).map_err(|error| format!("phrase:{gap}: {error}")),
        _ => Err("expected token, word or phrase:N".into()),
    }
}

impl Encoding {
    /// What the rows depend on besides the records.
    pub fn file(&self) -> PathBuf {
        tokenizer_file(&self.tokenizer)
    }

    pub fn encoder(&self) -> Result<PairEncoder> {
        let file = self.file();
        let mut encoder = PairEncoder::read(&file, self.eos.as_deref())?;
        let folder = file.parent().context("--tokenizer: expected a folder or a file")?;
        encoder.template = match self.prompt {
            Some(Prompt::Alpaca) => PromptTemplate::Alpaca,
            Some(Prompt::Plain) => PromptTemplate::Plain,
            Some(Prompt::Verbatim) => PromptTemplate::Verbatim,
            Some(Prompt::Chat) => PromptTemplate::Chat(ChatTemplate::read(folder)?.with_context(|| {
                format!("--prompt chat: {} holds no chat template; take alpaca or plain", folder.display())
            })?),
            None => PromptTemplate::for_model(folder)?,
        };
        encoder.aligner = self.labelling.aligner;
        encoder.granularity = self.labelling.granularity;
        encoder.weights = self.labelling.weights()?;
        encoder.max_length = self.max_length;
        Ok(encoder)
    }
}

/// The file that `--tokenizer` means: it may be named by its folder.
pub fn tokenizer_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("tokenizer.json") } else { path.into() }
}

/// The rows of a record, or what is wrong with it and where.
pub fn encode(encoder: &PairEncoder, fields: &Fields, raw: &RawRecord) -> Result<EncodedPair, String> {
    raw.parse(fields).and_then(|record| encoder.encode(&record)).map_err(|error| match error {
        Error::Record { .. } => error.to_string(),
        error => format!("{}:{}: {error}", raw.path.display(), raw.line),
    })
}

/// Shows how much of the files has been read, on a terminal.
pub fn progress(reader: &RecordReader) -> Result<ProgressBar> {
    let sizes = reader.files().iter().map(|file| Some(file.metadata().ok()?.len()));
    // Without a size (standard input), there is no end to show.
    let (template, bar) = match sizes.sum::<Option<u64>>() {
        Some(size) => ("{wide_bar} {bytes}/{total_bytes}  eta {eta}  {msg}", ProgressBar::new(size)),
        None => ("{spinner} {bytes}  {msg}", ProgressBar::new_spinner()),
    };
    bar.set_style(ProgressStyle::with_template(template)?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let (position, weak) = (reader.position(), bar.downgrade());
    std::thread::spawn(move || {
        while let Some(bar) = weak.upgrade().filter(|bar| !bar.is_finished()) {
            bar.set_position(position.load(Ordering::Relaxed));
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    Ok(bar)
}
