//! The training methods: the weights of the tokens, the rows and the loss.

use clap::ValueEnum;
use figa_loss::{EncodedPair, Example, FigaLoss, Granularity, IGNORE_INDEX, PairEncoder, Penalty};
use serde::{Deserialize, Serialize};

/// A way to train on pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Both answers, weighted token by token
    Figa,
    /// Cross-entropy on the revised answers: every token has weight 1
    Sft,
    /// FIGA with rewards only: beta is 0
    NoPenalty,
    /// FIGA without the gate: unlikely tokens are still penalised
    NoGate,
    /// FIGA that also rewards kept tokens: gamma is 1
    Gamma1,
    /// FIGA with the penalty -log(1 - p)
    Unlikelihood,
    /// FIGA that marks whole words
    Word,
    /// FIGA that joins changes with at most two kept tokens between them
    Phrase,
}

/// Changes with at most this many kept tokens between them form a phrase.
const PHRASE_GAP: usize = 2;

impl Method {
    /// The name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().expect("no method is hidden").get_name().to_owned()
    }

    /// The loss that the method minimises.
    pub fn loss(self) -> FigaLoss {
        match self {
            Self::Sft | Self::NoGate => FigaLoss::new().with_gate(None),
            Self::Unlikelihood => FigaLoss::new().with_penalty(Penalty::Unlikelihood),
            Self::Figa | Self::NoPenalty | Self::Gamma1 | Self::Word | Self::Phrase => FigaLoss::new(),
        }
    }

    /// An encoder that weighs tokens by this method.
    pub(crate) fn encoder(self, base: &PairEncoder) -> PairEncoder {
        let mut encoder = base.clone();
        match self {
            Self::NoPenalty => encoder.weights.beta = 0.0,
            Self::Gamma1 => encoder.weights.gamma = 1.0,
            Self::Word => encoder.granularity = Granularity::Word,
            Self::Phrase => encoder.granularity = Granularity::Phrase(PHRASE_GAP),
            Self::Figa | Self::Sft | Self::NoGate | Self::Unlikelihood => {}
        }
        encoder
    }

    /// The rows of a pair to train on. A row without an active token has no gradient and is dropped.
    pub(crate) fn rows(self, pair: EncodedPair) -> Vec<Example> {
        let mut rows = match self {
            Self::Sft => vec![with_equal_weights(&pair.revised)],
            _ => vec![pair.original, pair.revised],
        };
        rows.retain(|row| row.active().any(|active| active));
        rows
    }
}

/// The row with weight 1 for every token of the answer.
pub(crate) fn with_equal_weights(row: &Example) -> Example {
    let weights = row.labels().iter().map(|&label| if label == IGNORE_INDEX { 0.0 } else { 1.0 }).collect();
    row.clone().with_weights(weights).expect("one weight per token")
}
