//! The training methods: what each token weighs, and the loss.
//!
//! [`METHODS`] is the only list of them. The command line, `--compare` and the report follow from it.

use clap::ValueEnum;
use clap::builder::PossibleValue;
use figa_loss::{
    Asft, Dft, Dpo, Eaft, EditWeights, EncodedPair, Error, Example, FigaLoss, FigaWeights, Granularity, LossOutput,
    ModelOutput, Objective, Orpo, PairEncoder, Penalty, PreferenceBatch, PreferenceLoss, PreferenceOutput, Reduction,
    Reference, Result, Rows, Side, SimPo, TokenLabel, TokenLoss, WeightedNll,
};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rows::Row;

/// A way to train on pairs: a line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// The name on the command line.
    pub name: &'static str,
    help: &'static str,
    /// What counts as one change.
    granularity: Granularity,
    /// What a token of an answer weighs.
    weight: fn(Side, TokenLabel) -> f32,
    /// What the loss needs of the base model.
    pub(crate) base: Base,
    pub(crate) loss: Loss,
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
    /// A sum over tokens, divided by the number of those that count.
    Tokens(fn(&Tokens<'_>) -> Result<LossOutput>),
    /// FIGA, and this many times the mean divergence of kept tokens from the base model.
    Anchored(FigaLoss, f64),
    /// A mean over pairs.
    Pairs(fn(ModelOutput<'_>, PreferenceBatch<'_>) -> Result<PreferenceOutput>),
}

/// What a loss of tokens is computed from.
pub(crate) struct Tokens<'a> {
    pub output: ModelOutput<'a>,
    pub rows: &'a Rows,
    pub base: Option<ModelOutput<'a>>,
}

impl Tokens<'_> {
    fn sum(&self, objective: impl Objective) -> Result<LossOutput> {
        TokenLoss::of(objective).with_reduction(Reduction::Sum).on(self.output, self.rows)
    }

    fn reference(&self) -> Result<Reference<'_>> {
        let missing = || Error::Value { argument: "base", expected: "the base model", actual: "none".into() };
        self.base.map(Reference::new).ok_or_else(missing)
    }
}

/// Changes with at most this many kept tokens between them form a phrase.
const PHRASE_GAP: usize = 2;

/// What the anchor of kept tokens is multiplied by.
const ANCHOR: f64 = 0.1;

const FIGA: Method = Method {
    name: "figa",
    help: "Both answers, weighted token by token",
    granularity: Granularity::Token,
    weight: |side, label| FigaWeights::default().weight(side, label),
    base: Base::Nothing,
    loss: Loss::Tokens(|tokens| tokens.sum(FigaLoss::new().objective)),
};

const SFT: Method = Method {
    name: "sft",
    help: "Cross-entropy on the revised answers: every token has weight 1",
    weight: |side, label| if side == Side::Revised { equal(label) } else { 0.0 },
    loss: Loss::Tokens(|tokens| tokens.sum(WeightedNll::new())),
    ..FIGA
};

const DPO: Method = Method {
    name: "dpo",
    help: "DPO: the revised answer is preferred, relative to the base model",
    weight: |_, label| equal(label),
    base: Base::LogProbs,
    loss: Loss::Pairs(|output, batch| Dpo::new().on(output, batch)),
    ..FIGA
};

/// All methods.
pub const METHODS: [Method; 16] = [
    FIGA,
    SFT,
    Method {
        name: "no-penalty",
        help: "FIGA with rewards only: beta is 0",
        weight: |side, label| FigaWeights { beta: 0.0, ..FigaWeights::default() }.weight(side, label),
        ..FIGA
    },
    Method {
        name: "no-gate",
        help: "FIGA without the gate: unlikely tokens are still penalised",
        loss: Loss::Tokens(|tokens| tokens.sum(FigaLoss::new().with_gate(None).objective)),
        ..FIGA
    },
    Method {
        name: "gamma1",
        help: "FIGA that also rewards kept tokens: gamma is 1",
        weight: |side, label| FigaWeights { gamma: 1.0, ..FigaWeights::default() }.weight(side, label),
        ..FIGA
    },
    Method {
        name: "unlikelihood",
        help: "FIGA with the penalty -log(1 - p)",
        loss: Loss::Tokens(|tokens| tokens.sum(FigaLoss::new().with_penalty(Penalty::Unlikelihood).objective)),
        ..FIGA
    },
    Method { name: "word", help: "FIGA that marks whole words", granularity: Granularity::Word, ..FIGA },
    Method {
        name: "phrase",
        help: "FIGA that joins changes with at most two kept tokens between them",
        granularity: Granularity::Phrase(PHRASE_GAP),
        ..FIGA
    },
    Method {
        name: "figa-kl",
        help: "FIGA, and 0.1 times the KL divergence of kept tokens from the base model, which stays in memory, with its size",
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
        weight: |_, label| EditWeights::ddpo().weight(label),
        ..DPO
    },
    Method {
        name: "simpo",
        help: "SimPO: the revised answer is preferred by its mean log-probability",
        base: Base::Nothing,
        loss: Loss::Pairs(|output, batch| SimPo::new().on(output, batch)),
        ..DPO
    },
    Method {
        name: "orpo",
        help: "ORPO: SFT, and the revised answer is preferred by its odds",
        base: Base::Nothing,
        loss: Loss::Pairs(|output, batch| Orpo::new().on(output, batch)),
        ..DPO
    },
];

/// 1 for a token of an answer, 0 for one of the prompt.
fn equal(label: TokenLabel) -> f32 {
    f32::from(label != TokenLabel::Ignored)
}

impl Method {
    /// An encoder that labels tokens as this method does.
    pub(crate) fn encoder(self, base: &PairEncoder) -> PairEncoder {
        let mut encoder = base.clone();
        encoder.granularity = self.granularity;
        encoder
    }

    /// The rows of a pair to train on: both for a loss of pairs, otherwise those with a token that matters. A row without
    /// one has no gradient.
    pub(crate) fn rows(self, pair: &EncodedPair) -> Vec<Row> {
        let mut rows = Side::ALL.map(|side| self.row(side, pair.row(side))).to_vec();
        if !matches!(self.loss, Loss::Pairs(_)) {
            rows.retain(Row::matters);
        }
        rows
    }

    fn row(self, side: Side, row: &Example) -> Row {
        let labels = || row.token_labels().iter();
        let weights = labels().map(|&label| (self.weight)(side, label)).collect();
        let anchor = match self.loss {
            Loss::Anchored(..) => labels().map(|&label| FigaWeights::default().anchor(side, label)).collect(),
            Loss::Tokens(_) | Loss::Pairs(_) => vec![],
        };
        Row { example: row.clone().with_weights(weights).expect("one weight per token"), anchor, reference: vec![] }
    }

    /// Whether the method learns anything from the rows of a pair.
    pub(crate) fn learns_from(self, rows: &[Row]) -> bool {
        match (self.loss, rows) {
            (Loss::Pairs(_), [original, revised]) => original.example.input_ids() != revised.example.input_ids(),
            _ => !rows.is_empty(),
        }
    }
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

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Self::from_str(&String::deserialize(deserializer)?, false).map_err(D::Error::custom)
    }
}

impl ValueEnum for Method {
    fn value_variants<'a>() -> &'a [Self] {
        &METHODS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name).help(self.help))
    }
}
