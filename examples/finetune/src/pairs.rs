//! From records to rows: the prompt of the model, and what each method learns from a pair.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use figa_loss::{
    ChatTemplate, EncodedPair, Example, FigaLoss, Granularity, IGNORE_INDEX, PairEncoder, Penalty, PromptTemplate,
    SpaRecord,
};
use serde::{Deserialize, Serialize};

use super::llama::Config;

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prompt {
    /// The chat template of the model
    Chat,
    /// The prompt of Stanford Alpaca
    Alpaca,
    /// Instruction and input, each on lines of their own
    Plain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Both answers, weighted token by token
    Figa,
    /// Cross-entropy on the revised answers: all of their tokens weigh 1
    Sft,
    /// FIGA with rewards only: beta is 0
    NoPenalty,
    /// FIGA that goes on penalising what is unlikely already
    NoGate,
    /// FIGA that rewards kept tokens as well: gamma is 1
    Gamma1,
    /// FIGA with the penalty -log(1 - p)
    Unlikelihood,
    /// FIGA that marks whole words
    Word,
    /// FIGA that joins changes with at most two kept tokens between them
    Phrase,
}

impl Method {
    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().expect("no method is hidden").get_name().to_owned()
    }

    /// How the method weighs tokens.
    fn encoder(self, base: &PairEncoder) -> PairEncoder {
        let mut encoder = base.clone();
        match self {
            Self::NoPenalty => encoder.weights.beta = 0.0,
            Self::Gamma1 => encoder.weights.gamma = 1.0,
            Self::Word => encoder.granularity = Granularity::Word,
            Self::Phrase => encoder.granularity = Granularity::Phrase(2),
            Self::Figa | Self::Sft | Self::NoGate | Self::Unlikelihood => {}
        }
        encoder
    }

    pub fn loss(self) -> FigaLoss {
        match self {
            Self::Sft | Self::NoGate => FigaLoss::new().with_gate(None),
            Self::Unlikelihood => FigaLoss::new().with_penalty(Penalty::Unlikelihood),
            _ => FigaLoss::new(),
        }
    }

    /// The rows that it learns from. One without an active token would add nothing but time.
    fn rows(self, pair: EncodedPair) -> Vec<Example> {
        let mut rows = match self {
            Self::Sft => vec![all_weights_one(&pair.revised)],
            _ => vec![pair.original, pair.revised],
        };
        rows.retain(|row| row.active().any(|active| active));
        rows
    }
}

pub fn all_weights_one(example: &Example) -> Example {
    let weights = example.labels().iter().map(|&label| if label == IGNORE_INDEX { 0.0 } else { 1.0 }).collect();
    example.clone().with_weights(weights).expect("a weight for each token")
}

/// Reads and encodes pairs for a model.
pub struct Pairs {
    encoder: PairEncoder,
}

impl Pairs {
    /// Without `prompt` it is the model's chat template if there is one, and Alpaca's otherwise; without `eos`, the
    /// token that the model's folder names.
    pub fn new(
        folder: &Path,
        config: &Config,
        prompt: Option<Prompt>,
        eos: Option<&str>,
        max_length: usize,
    ) -> Result<Self> {
        let mut encoder = PairEncoder::read(folder, eos)?;
        let largest = encoder.tokenizer().get_vocab(true).into_values().max().unwrap_or(0);
        let vocab = config.vocab_size;
        ensure!(
            i64::from(largest) < vocab,
            "{}: has the token id {largest}, but the model's vocab_size is {vocab}: they are not of the same model",
            folder.join("tokenizer.json").display()
        );
        let context = config.max_position_embeddings;
        ensure!(max_length as i64 <= context, "--max-length {max_length}: the model knows {context} positions");

        encoder.max_length = Some(max_length);
        encoder.template = match prompt {
            Some(Prompt::Plain) => PromptTemplate::Plain,
            Some(Prompt::Alpaca) => PromptTemplate::Alpaca,
            Some(Prompt::Chat) => PromptTemplate::Chat(ChatTemplate::read(folder)?.with_context(|| {
                format!("--prompt chat: {} holds no chat template; take alpaca or plain", folder.display())
            })?),
            None => PromptTemplate::for_model(folder)?,
        };
        Ok(Self { encoder })
    }

    pub fn eos_id(&self) -> u32 {
        self.encoder.eos_id()
    }

    /// A text as token ids.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.encoder.tokenizer().encode(text, false).map_err(|error| anyhow!("{error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids as text, without special tokens.
    pub fn text(&self, ids: &[u32]) -> Result<String> {
        self.encoder.tokenizer().decode(ids, true).map_err(|error| anyhow!("{error}"))
    }

    /// How many rows have lost their end to `max_length`, EOS at least.
    pub fn cut(&self, pairs: &[EncodedPair]) -> usize {
        let rows = pairs.iter().flat_map(|pair| [&pair.original, &pair.revised]);
        rows.filter(|row| row.input_ids().last() != Some(&self.eos_id())).count()
    }

    /// The records of a file, and their rows with the labels of plain FIGA.
    pub fn read(&self, path: &Path) -> Result<(Vec<SpaRecord>, Vec<EncodedPair>)> {
        let records = SpaRecord::read(path)?;
        ensure!(!records.is_empty(), "{}: there are no records", path.display());
        let pairs = self.encode(&records, path, &self.encoder)?;
        Ok((records, pairs))
    }

    /// The rows that `method` learns from, pair by pair.
    pub fn rows(&self, records: &[SpaRecord], path: &Path, method: Method) -> Result<Vec<Vec<Example>>> {
        let pairs = self.encode(records, path, &method.encoder(&self.encoder))?;
        let rows: Vec<_> = pairs.into_iter().map(|pair| method.rows(pair)).collect();
        let learns = rows.iter().any(|rows| !rows.is_empty());
        ensure!(learns, "{}: no token of any record has a weight for --method {}", path.display(), method.name());
        Ok(rows)
    }

    fn encode(&self, records: &[SpaRecord], path: &Path, encoder: &PairEncoder) -> Result<Vec<EncodedPair>> {
        let encode = |(record, number): (&SpaRecord, usize)| {
            encoder.encode(record).with_context(|| format!("{}: record {number}", path.display()))
        };
        records.iter().zip(1..).map(encode).collect()
    }
}
