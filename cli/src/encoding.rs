//! How a command encodes records: the tokenizer, the prompt, and what the changes weigh.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use figa_loss::{
    Aligner, ChatOptions, ChatTemplate, EncodedPair, Fields, FigaWeights, Granularity, PairEncoder, PromptTemplate,
    RawRecord,
};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use crate::rejects::BadRecord;

/// The arguments that say what counts as changed, and what it weighs.
#[derive(Args, Clone, Serialize)]
#[command(next_help_heading = "Encoding")]
pub struct LabellingArgs {
    /// Algorithm that finds the changes
    #[arg(long, value_parser = aligner_parser(), default_value = "levenshtein")]
    #[serde(serialize_with = "by_debug")]
    pub aligner: Aligner,
    /// Unit of change: token, word, or phrase:N, which joins changes with at most N kept tokens between them
    #[arg(long, default_value = "token")]
    #[serde(serialize_with = "by_debug")]
    pub granularity: Granularity,
    #[command(flatten)]
    #[serde(flatten)]
    weights: WeightArgs,
}

/// Weights of the changes: a name, and numbers in place of some of those that it stands for.
#[derive(Args, Clone)]
#[command(next_help_heading = "Encoding")]
struct WeightArgs {
    /// What the changes weigh
    #[arg(long, value_parser = weights_parser(), default_value = "default")]
    weights: FigaWeights,
    /// Reward of added tokens, in place of that of --weights
    #[arg(long)]
    alpha: Option<f32>,
    /// Penalty of removed tokens, in place of that of --weights
    #[arg(long)]
    beta: Option<f32>,
    /// Reward of the revised answer's kept tokens, in place of that of --weights
    #[arg(long)]
    gamma: Option<f32>,
    /// Reward of the revised answer's EOS, in place of that of --weights
    #[arg(long)]
    eos_weight: Option<f32>,
}

/// The arguments that say which text a model sees.
///
/// ```no_run
/// use std::path::Path;
///
/// use clap::Parser;
/// use figa_cli::PromptArgs;
///
/// #[derive(Parser)]
/// struct Args {
///     #[command(flatten)]
///     prompt: PromptArgs,
/// }
/// let args = Args::parse_from(["trainer", "--template-var", "enable_thinking=false"]);
/// let encoder = args.prompt.encoder("--model", Path::new("path/to/model"))?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Args, Debug, Clone, Serialize, Deserialize)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// Token that ends an answer where the chat template does not [default: the one that the model's folder names]
    #[arg(long, value_name = "TOKEN")]
    eos: Option<String>,
    /// Prompt in front of the answers [default: the model's chat template if its folder has one, otherwise alpaca]
    #[arg(long, value_enum)]
    prompt: Option<PromptChoice>,
    /// Which of the model's named chat templates to use [default: tool_use for records with tools if there is one, otherwise
    /// default]
    #[arg(long, value_name = "NAME")]
    template_name: Option<String>,
    /// Variable that the chat template sees, such as enable_thinking=false; its value is JSON, or else a string. May be repeated
    #[arg(long, value_name = "NAME=JSON", value_parser = parse_variable)]
    template_var: Vec<(String, Value)>,
    /// Date or time that the chat template sees if it asks for it, such as 2026-01-31 [default: now]
    #[arg(long, value_name = "DATE")]
    pub date: Option<String>,
    /// Accept answers whose reasoning the chat template drops
    #[arg(long)]
    drop_reasoning: bool,
}

/// The arguments that say how to turn a record into rows.
#[derive(Args, Clone, Serialize)]
#[command(next_help_heading = "Encoding")]
pub struct EncodingArgs {
    /// Folder of a model in Hugging Face layout, or its tokenizer.json
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    #[command(flatten)]
    #[serde(flatten)]
    pub prompt: PromptArgs,
    #[command(flatten)]
    #[serde(flatten)]
    labelling: LabellingArgs,
    /// Truncate rows to this many tokens, after the answers are aligned
    #[arg(long, value_name = "TOKENS", help_heading = "Encoding")]
    pub max_length: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize, Deserialize)]
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
    pub fn configure(&self, encoder: &mut PairEncoder) -> Result<()> {
        (encoder.aligner, encoder.granularity) = (self.aligner, self.granularity);
        encoder.weights = self.weights()?;
        Ok(())
    }

    pub fn weights(&self) -> Result<FigaWeights> {
        let weights = self.weights.numbers();
        weights.validate()?;
        Ok(weights)
    }
}

impl WeightArgs {
    fn numbers(&self) -> FigaWeights {
        let named = self.weights;
        FigaWeights {
            alpha: self.alpha.unwrap_or(named.alpha),
            beta: self.beta.unwrap_or(named.beta),
            gamma: self.gamma.unwrap_or(named.gamma),
            eos: self.eos_weight.unwrap_or(named.eos),
        }
    }
}

/// The numbers, whatever names and arguments they come from: what a name stands for may change.
impl Serialize for WeightArgs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let FigaWeights { alpha, beta, gamma, eos } = self.numbers();
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("weights", &json!({ "alpha": alpha, "beta": beta, "gamma": gamma, "eos": eos }))?;
        map.end()
    }
}

impl PromptArgs {
    /// Whether any of them is given.
    pub(crate) fn are_given(&self) -> bool {
        self.eos.is_some() || self.prompt.is_some() || self.only_for_chat().is_some()
    }

    /// An encoder for a model, with the default labels and weights. `flag` is the argument that names the model.
    ///
    /// # Errors
    /// If a file of the model cannot be read, or an argument does not fit the model.
    pub fn encoder(&self, flag: &'static str, model: &Path) -> Result<PairEncoder> {
        let mut encoder = PairEncoder::read(model, self.eos.as_deref()).context(flag)?;
        encoder.template = self.template(model)?;
        if let (false, Some(flag)) = (matches!(encoder.template, PromptTemplate::Chat(_)), self.only_for_chat()) {
            bail!("{flag}: expected a chat template, but the prompt is {}", lowercase(&encoder.template));
        }
        encoder.drop_reasoning = self.drop_reasoning;
        Ok(encoder)
    }

    /// The flag of a setting of the library ([`figa_loss::Error::setting`](figa_loss::Error)), if it is one of these.
    pub fn flag(setting: &str) -> Option<&'static str> {
        match setting {
            "drop_reasoning" => Some("--drop-reasoning"),
            "eos_token" => Some("--eos"),
            "name" => Some("--template-name"),
            _ => None,
        }
    }

    /// The first given argument that only a chat template heeds.
    fn only_for_chat(&self) -> Option<&'static str> {
        let given = [
            ("--template-name", self.template_name.is_some()),
            ("--template-var", !self.template_var.is_empty()),
            ("--date", self.date.is_some()),
            ("--drop-reasoning", self.drop_reasoning),
        ];
        given.into_iter().find_map(|(flag, is_given)| is_given.then_some(flag))
    }

    fn template(&self, tokenizer: &Path) -> Result<PromptTemplate> {
        let mut options = ChatOptions::default();
        options.name.clone_from(&self.template_name);
        options.variables = self.template_var.iter().cloned().collect();
        options.date.clone_from(&self.date);
        Ok(match self.prompt {
            None => PromptTemplate::for_model(tokenizer, &options)?,
            Some(PromptChoice::Chat) => {
                let template = ChatTemplate::read(tokenizer, &options)?.with_context(|| {
                    format!("--prompt chat: {} has no chat template; use alpaca or plain", tokenizer.display())
                })?;
                PromptTemplate::Chat(template)
            }
            Some(PromptChoice::Alpaca) => PromptTemplate::Alpaca,
            Some(PromptChoice::Plain) => PromptTemplate::Plain,
            Some(PromptChoice::Verbatim) => PromptTemplate::Verbatim,
        })
    }
}

impl EncodingArgs {
    pub fn tokenizer(&self) -> &Path {
        &self.tokenizer
    }

    pub fn encoder(&self) -> Result<PairEncoder> {
        let mut encoder = self.prompt.encoder("--tokenizer", &self.tokenizer)?;
        self.labelling.configure(&mut encoder)?;
        encoder.max_length = self.max_length;
        Ok(encoder)
    }
}

/// The rows of a record, or what is wrong with it.
pub fn encode(encoder: &PairEncoder, fields: &Fields, raw: &RawRecord) -> Result<EncodedPair, BadRecord> {
    let pair = raw.parse(fields).and_then(|record| encoder.encode(&record));
    pair.map_err(|error| BadRecord::new(raw, error))
}

/// The name of a library value in the arguments and in the output: `Levenshtein` is `levenshtein`.
pub fn lowercase(value: impl Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn by_debug<S: Serializer>(value: &impl Debug, serializer: S) -> Result<S::Ok, S::Error> {
    format!("{value:?}").serialize(serializer)
}

fn aligner_parser() -> impl TypedValueParser<Value = Aligner> {
    PossibleValuesParser::new(Aligner::ALL.iter().map(Aligner::to_string)).try_map(|name| name.parse::<Aligner>())
}

/// A name of weights; the help lists the names with their numbers.
fn weights_parser() -> impl TypedValueParser<Value = FigaWeights> {
    let names = FigaWeights::NAMED.map(|(name, weights)| PossibleValue::new(name).help(weights.to_string()));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<FigaWeights>())
}

/// `NAME=JSON`; what is no JSON is a string.
fn parse_variable(text: &str) -> Result<(String, Value), String> {
    let (name, json) = text.split_once('=').ok_or("expected NAME=JSON, such as enable_thinking=false")?;
    Ok((name.to_owned(), serde_json::from_str(json).unwrap_or_else(|_| json.into())))
}
