//! How a command encodes records: the tokenizer, the prompt, and what the changes weigh.

use std::fmt::Debug;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use figa_loss::{
    Aligner, ChatTemplate, EncodedPair, Error, Fields, FigaWeights, Granularity, PairEncoder, PromptTemplate, RawRecord,
};
use serde::Serialize;

use crate::records::place;

/// The arguments that say what counts as changed, and what it weighs.
#[derive(Args, Serialize)]
#[command(next_help_heading = "Encoding")]
pub struct LabellingArgs {
    /// Algorithm that finds the changes
    #[arg(long, value_parser = aligner_parser(), default_value = "levenshtein")]
    #[serde(serialize_with = "by_debug")]
    pub aligner: Aligner,
    /// Unit of change: token, word, or phrase:N, which joins changes with at most N kept tokens between them
    #[arg(long, value_parser = parse_granularity, default_value = "token")]
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

/// The arguments that say how to turn a record into rows.
#[derive(Args, Serialize)]
#[command(next_help_heading = "Encoding")]
pub struct EncodingArgs {
    /// Folder of a model in Hugging Face layout, or its tokenizer.json
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// Token that ends an answer [default: the eos_token that the model's folder names]
    #[arg(long, value_name = "TOKEN")]
    eos: Option<String>,
    /// Prompt in front of the answers [default: the model's chat template if its folder has one, otherwise alpaca]
    #[arg(long, value_enum)]
    prompt: Option<PromptChoice>,
    #[command(flatten)]
    #[serde(flatten)]
    labelling: LabellingArgs,
    /// Truncate rows to this many tokens, after the answers are aligned
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum, Serialize)]
enum PromptChoice {
    /// The chat template in the model's folder
    Chat,
    /// The prompt of Stanford Alpaca
    Alpaca,
    /// Instruction and input, each on its own lines
    Plain,
    /// Instruction and input unchanged, for prompts that are already rendered
    Verbatim,
}

impl LabellingArgs {
    pub fn weights(&self) -> Result<FigaWeights> {
        let weights = FigaWeights { alpha: self.alpha, beta: self.beta, gamma: self.gamma };
        weights.validate()?;
        Ok(weights)
    }
}

impl EncodingArgs {
    /// The file that `--tokenizer` means; the argument may also name its folder.
    pub fn tokenizer_file(&self) -> PathBuf {
        if self.tokenizer.is_dir() { self.tokenizer.join("tokenizer.json") } else { self.tokenizer.clone() }
    }

    pub fn encoder(&self) -> Result<PairEncoder> {
        let mut encoder = PairEncoder::read(&self.tokenizer, self.eos.as_deref())?;
        encoder.template = self.template()?;
        encoder.aligner = self.labelling.aligner;
        encoder.granularity = self.labelling.granularity;
        encoder.weights = self.labelling.weights()?;
        encoder.max_length = self.max_length;
        Ok(encoder)
    }

    fn template(&self) -> Result<PromptTemplate> {
        let file = self.tokenizer_file();
        let folder = file.parent().context("--tokenizer: expected a folder or a file")?;
        Ok(match self.prompt {
            None => PromptTemplate::for_model(folder)?,
            Some(PromptChoice::Chat) => {
                let template = ChatTemplate::read(folder)?.with_context(|| {
                    format!("--prompt chat: {} has no chat template; use alpaca or plain", folder.display())
                })?;
                PromptTemplate::Chat(template)
            }
            Some(PromptChoice::Alpaca) => PromptTemplate::Alpaca,
            Some(PromptChoice::Plain) => PromptTemplate::Plain,
            Some(PromptChoice::Verbatim) => PromptTemplate::Verbatim,
        })
    }
}

/// The rows of a record, or what is wrong with it and where.
pub fn encode(encoder: &PairEncoder, fields: &Fields, raw: &RawRecord) -> Result<EncodedPair, String> {
    raw.parse(fields).and_then(|record| encoder.encode(&record)).map_err(|error| match error {
        Error::Record { .. } => error.to_string(),
        error => format!("{}: {error}", place(raw)),
    })
}

/// The name of a library value in the arguments and in the output: `Levenshtein` is `levenshtein`.
pub fn lowercase(value: impl Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn by_debug<S: serde::Serializer>(value: &impl Debug, serializer: S) -> Result<S::Ok, S::Error> {
    format!("{value:?}").serialize(serializer)
}

fn aligner_parser() -> impl TypedValueParser<Value = Aligner> {
    let by_name = |name| *Aligner::ALL.iter().find(|&aligner| lowercase(aligner) == name).expect("one of the names");
    PossibleValuesParser::new(Aligner::ALL.iter().map(lowercase)).map(by_name)
}

/// A granularity as `--granularity` takes it.
pub fn granularity_name(granularity: Granularity) -> String {
    match granularity {
        Granularity::Phrase(gap) => format!("phrase:{gap}"),
        other => lowercase(other),
    }
}

fn parse_granularity(text: &str) -> Result<Granularity, String> {
    match text.split_once(':') {
        None if text == "token" => Ok(Granularity::Token),
        None if text == "word" => Ok(Granularity::Word),
        Some(("phrase", gap)) => {
            gap.parse().map(Granularity::Phrase).map_err(|_| format!("phrase:{gap}: expected a number"))
        }
        _ => Err("expected token, word or phrase:N".into()),
    }
}
