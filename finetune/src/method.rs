//! The training methods: what each token weighs, and the loss.
//!
//! [`METHODS`] is the only list of them. The command line, `--compare` and the report follow from it. `settings` changes
//! the numbers of a method: `figa+gamma=0.1`. A run keeps what its tokens weigh, whatever a name stands for later.

mod settings;

use std::collections::BTreeMap;
use std::hash::Hasher;

use figa_loss::{
    Aligner, Asft, Dft, Dpo, Eaft, EditWeights, EncodedPair, Error, Example, FigaLoss, FigaWeights, Granularity,
    LossOutput, ModelOutput, Objective, Orpo, PairEncoder, Penalty, PreferenceBatch, PreferenceLoss, PreferenceOutput,
    Reduction, Reference, Result, Rows, Side, SimPo, TokenLabel, TokenLoss, WeightedNll,
};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use twox_hash::XxHash64;

pub use self::settings::MethodParser;
use crate::rows::Row;

/// A way to train on pairs: a line of the table, or one with other settings.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// The name on the command line, settings included.
    pub name: &'static str,
    help: &'static str,
    /// How changes are found.
    aligner: Aligner,
    /// What counts as one change.
    granularity: Granularity,
    /// Whether the labels of each answer are shuffled: a control that knows how many tokens changed, but not which.
    shuffled: bool,
    weights: Weights,
    /// What the loss needs of the base model.
    pub(crate) base: Base,
    pub(crate) loss: Loss,
}

/// What a token of an answer weighs.
#[derive(Debug, Clone, Copy)]
enum Weights {
    Figa(FigaWeights),
    /// 1 in the revised answer.
    Revised,
    /// In both answers.
    Edits(EditWeights),
}

impl Weights {
    fn weight(self, side: Side, label: TokenLabel) -> f32 {
        match self {
            Self::Figa(weights) => weights.weight(side, label),
            Self::Revised if side == Side::Original => 0.0,
            Self::Revised => equal(label),
            Self::Edits(weights) => weights.weight(label),
        }
    }

    /// By the names of the settings.
    fn numbers(self) -> BTreeMap<String, f32> {
        let numbers: &[(&str, f32)] = match self {
            Self::Figa(FigaWeights { alpha, beta, gamma, eos }) => {
                &[("alpha", alpha), ("beta", beta), ("gamma", gamma), ("eos", eos)]
            }
            Self::Revised => &[],
            Self::Edits(EditWeights { changed, kept }) => &[("changed", changed), ("kept", kept)],
        };
        numbers.iter().map(|&(name, number)| (name.to_owned(), number)).collect()
    }
}

/// What a loss needs of the base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Nothing,
    /// The log-probabilities of the answers, which are computed once.
    LogProbs,
    /// Whole distributions: the model stays in memory.
    Model,
}

/// What a method minimises.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss {
    /// FIGA.
    Figa(FigaLoss),
    /// FIGA, and this many times the mean divergence of kept tokens from the base model.
    Anchored(FigaLoss, f64),
    /// A sum over tokens, divided by the number of those that count.
    Tokens(fn(&Tokens<'_>) -> Result<LossOutput>),
    /// A mean over pairs, with the loss's `beta`.
    Pairs(OfPairs, f64),
}

/// A loss of pairs with this `beta`.
type OfPairs = fn(f64, ModelOutput<'_>, PreferenceBatch<'_>) -> Result<PreferenceOutput>;

/// What a loss of tokens is computed from.
pub(crate) struct Tokens<'a> {
    pub output: ModelOutput<'a>,
    pub rows: &'a Rows,
    pub base: Option<ModelOutput<'a>>,
}

impl Tokens<'_> {
    pub(crate) fn sum(&self, objective: impl Objective) -> Result<LossOutput> {
        TokenLoss::of(objective).with_reduction(Reduction::Sum).on(self.output, self.rows)
    }

    fn reference(&self) -> Result<Reference<'_>> {
        let missing = || Error::Value { argument: "base", expected: "the base model", actual: "none".into() };
        self.base.map(Reference::new).ok_or_else(missing)
    }
}

/// What the anchor of kept tokens is multiplied by.
const ANCHOR: f64 = 0.1;

const FIGA: Method = Method {
    name: "figa",
    help: "Both answers, weighted token by token",
    aligner: Aligner::Levenshtein,
    granularity: Granularity::Token,
    shuffled: false,
    weights: Weights::Figa(FigaWeights::new()),
    base: Base::Nothing,
    loss: Loss::Figa(FigaLoss::new()),
};

const SFT: Method = Method {
    name: "sft",
    help: "Cross-entropy on the revised answers: every token has weight 1",
    weights: Weights::Revised,
    loss: Loss::Tokens(|tokens| tokens.sum(WeightedNll::new())),
    ..FIGA
};

const DPO: Method = Method {
    name: "dpo",
    help: "DPO: the revised answer is preferred, relative to the base model",
    weights: Weights::Edits(EditWeights { changed: 1.0, kept: 1.0 }),
    base: Base::LogProbs,
    loss: Loss::Pairs(
        |beta, output, batch| with(Dpo::new(), |loss| loss.beta = beta).on(output, batch),
        Dpo::new().beta,
    ),
    ..FIGA
};

/// All methods.
pub const METHODS: [Method; 11] = [
    FIGA,
    SFT,
    Method {
        name: "unlikelihood",
        help: "FIGA with the penalty -log(1 - p)",
        loss: Loss::Figa(FigaLoss::new().with_penalty(Penalty::Unlikelihood)),
        ..FIGA
    },
    Method {
        name: "figa-kl",
        help: "FIGA with the paper's weights, and 0.1 times the KL divergence of kept tokens from the base model, which stays in memory, with its size",
        // The anchor holds the kept tokens.
        weights: Weights::Figa(FigaWeights::paper()),
        base: Base::Model,
        loss: Loss::Anchored(FigaLoss::new(), ANCHOR),
        ..FIGA
    },
    Method {
        name: "dft",
        help: "SFT that scales each token by its probability: unlikely ones teach little",
        loss: Loss::Tokens(|tokens| tokens.sum(Dft::new())),
        ..SFT
    },
    Method {
        name: "eaft",
        help: "SFT that scales each token by the entropy: where the model is certain, it learns little",
        loss: Loss::Tokens(|tokens| tokens.sum(Eaft::llama_factory())),
        ..SFT
    },
    Method {
        name: "asft",
        help: "DFT, and 0.1 times the KL divergence from the base model, which stays in memory, with its size",
        base: Base::Model,
        loss: Loss::Tokens(|tokens| tokens.sum(Asft::new(tokens.reference()?))),
        ..SFT
    },
    DPO,
    Method {
        name: "ddpo",
        help: "DPO in which changed tokens weigh 3 and kept ones 1",
        weights: Weights::Edits(EditWeights::ddpo()),
        ..DPO
    },
    Method {
        name: "simpo",
        help: "SimPO: the revised answer is preferred by its mean log-probability",
        base: Base::Nothing,
        loss: Loss::Pairs(
            |beta, output, batch| with(SimPo::new(), |loss| loss.beta = beta).on(output, batch),
            SimPo::new().beta,
        ),
        ..DPO
    },
    Method {
        name: "orpo",
        help: "ORPO: SFT, and the revised answer is preferred by its odds",
        base: Base::Nothing,
        loss: Loss::Pairs(
            |lambda, output, batch| with(Orpo::new(), |loss| loss.lambda = lambda).on(output, batch),
            Orpo::new().lambda,
        ),
        ..DPO
    },
];

/// A loss with another setting.
fn with<L>(mut loss: L, set: impl FnOnce(&mut L)) -> L {
    set(&mut loss);
    loss
}

/// 1 for a token of an answer, 0 for one of the prompt.
fn equal(label: TokenLabel) -> f32 {
    f32::from(label != TokenLabel::Ignored)
}

impl Method {
    /// An encoder that labels tokens as this method does.
    pub(crate) fn encoder(self, base: &PairEncoder) -> PairEncoder {
        let mut encoder = base.clone();
        (encoder.aligner, encoder.granularity) = (self.aligner, self.granularity);
        encoder
    }

    /// The rows of a pair to train on: both for a loss of pairs, otherwise those with a token that matters. A row without
    /// one has no gradient.
    pub(crate) fn rows(self, pair: &EncodedPair) -> Vec<Row> {
        let mut rows = Side::ALL.map(|side| self.row(side, pair.row(side))).to_vec();
        if !matches!(self.loss, Loss::Pairs(..)) {
            rows.retain(Row::matters);
        }
        rows
    }

    fn row(self, side: Side, row: &Example) -> Row {
        let labels = if self.shuffled { shuffled_labels(row) } else { row.token_labels().to_vec() };
        let weights = labels.iter().map(|&label| self.weights.weight(side, label)).collect();
        let anchor = match self.loss {
            Loss::Anchored(..) => labels.iter().map(|&label| FigaWeights::default().anchor(side, label)).collect(),
            Loss::Figa(_) | Loss::Tokens(_) | Loss::Pairs(..) => vec![],
        };
        Row { example: row.clone().with_weights(weights).expect("one weight per token"), anchor, reference: vec![] }
    }

    /// Whether the method learns anything from the rows of a pair.
    pub(crate) fn learns_from(self, rows: &[Row]) -> bool {
        match (self.loss, rows) {
            (Loss::Pairs(..), [original, revised]) => original.example.input_ids() != revised.example.input_ids(),
            _ => !rows.is_empty(),
        }
    }
}

/// The labels of an answer in an order that only its tokens decide, those of prompt and EOS in their place.
fn shuffled_labels(row: &Example) -> Vec<TokenLabel> {
    let mut labels = row.token_labels().to_vec();
    let is_edit = |label: TokenLabel| !matches!(label, TokenLabel::Ignored | TokenLabel::Eos);
    let mut of_answer: Vec<TokenLabel> = labels.iter().copied().filter(|&label| is_edit(label)).collect();
    let mut hasher = XxHash64::with_seed(0);
    row.input_ids().iter().for_each(|&id| hasher.write_u32(id));
    of_answer.shuffle(&mut StdRng::seed_from_u64(hasher.finish()));
    labels.iter_mut().filter(|label| is_edit(**label)).zip(of_answer).for_each(|(label, other)| *label = other);
    labels
}

/// The row with weight 1 for every token of the answer.
pub(crate) fn with_equal_weights(row: &Example) -> Example {
    let weights = row.token_labels().iter().map(|&label| equal(label)).collect();
    row.clone().with_weights(weights).expect("one weight per token")
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// A method in the arguments that a run keeps.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Saved {
    Weighed {
        name: String,
        /// By the names of the settings.
        weights: BTreeMap<String, f32>,
    },
    /// Without weights, as older versions did.
    Named(String),
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        Saved::Weighed { name: self.name.to_owned(), weights: self.weights.numbers() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Saved::deserialize(deserializer)? {
            Saved::Weighed { name, weights } => Self::with_weights(&name, &weights).map_err(D::Error::custom),
            Saved::Named(name) => Err(D::Error::custom(format!(
                "the run does not say what the tokens of {name} weigh, as those of older versions: start a new run"
            ))),
        }
    }
}
