//! The statistics of all pairs.

use figa_loss::{Side, TokenLabel};
use serde::Serialize;

use super::histogram::{Histogram, Quantity};
use super::measure::{ANSWER_LABELS, PairMeasure, TruncationLoss};
use crate::encoding::lowercase;
use crate::reward::{ChangeCounts, Reward};

const QUANTITIES: [Quantity; 6] = [
    tokens("prompt", "prompt", "rows"),
    tokens("original_answer", "original answer", "pairs"),
    tokens("revised_answer", "revised answer", "pairs"),
    tokens("row", "row: prompt, answer and EOS", "rows"),
    percent("changed", "changed, of both answers' tokens"),
    percent("active", "active, of both rows' tokens"),
];

const fn tokens(name: &'static str, title: &'static str, of: &'static str) -> Quantity {
    Quantity { name, title, unit: "tokens", of, parts: 1.0 }
}

/// Rounded more finely than it is shown.
const fn percent(name: &'static str, title: &'static str) -> Quantity {
    Quantity { name, title, unit: "%", of: "pairs", parts: 100.0 }
}

#[derive(Serialize)]
pub struct StatsTotals {
    /// Pairs and rejected records.
    pub records: u64,
    pub pairs: u64,
    pub rejected: u64,
    pub blank_lines: u64,
    /// Pairs whose answers have the same tokens.
    pub unchanged: u64,
    /// One for each of [`QUANTITIES`].
    pub distributions: [Histogram; 6],
    /// One for each of [`ANSWER_LABELS`].
    pub labels: [AnswerLabelTotal; 6],
    pub truncation: Vec<TruncationLoss>,
    pub computed: ComputedTokens,
    /// Once all pairs are counted.
    #[serde(flatten)]
    pub reward: Option<Reward>,
    #[serde(skip)]
    pub changes: ChangeCounts,
    #[serde(skip)]
    pub active_tokens: u64,
}

/// How many tokens a model computes.
#[derive(Default, Serialize)]
pub struct ComputedTokens {
    /// Two rows a pair.
    pub separate: u64,
    /// One row a pair: what both answers begin with once, and nothing behind the last active token.
    pub packed: u64,
    /// The revised rows alone, as for cross-entropy.
    pub revised: u64,
}

/// What happened to the tokens of one answer.
#[derive(Serialize)]
pub struct AnswerLabelTotal {
    pub answer: String,
    pub label: String,
    pub tokens: u64,
    /// Pairs with at least one such token.
    pub pairs: u64,
}

impl StatsTotals {
    pub fn new(max_lengths: &[usize]) -> Self {
        let label = |(side, label): (Side, TokenLabel)| AnswerLabelTotal {
            answer: side.to_string(),
            label: lowercase(label),
            tokens: 0,
            pairs: 0,
        };
        let loss = |&max_length| TruncationLoss { max_length, ..TruncationLoss::default() };
        Self {
            records: 0,
            pairs: 0,
            rejected: 0,
            blank_lines: 0,
            unchanged: 0,
            distributions: QUANTITIES.map(Histogram::new),
            labels: ANSWER_LABELS.map(label),
            truncation: max_lengths.iter().map(loss).collect(),
            computed: ComputedTokens::default(),
            reward: None,
            changes: ChangeCounts::default(),
            active_tokens: 0,
        }
    }

    pub fn add(&mut self, pair: &PairMeasure) {
        self.pairs += 1;
        self.unchanged += u64::from(pair.changed_tokens() == 0);
        self.changes.add(pair.changes);
        self.active_tokens += pair.active_tokens() as u64;
        self.computed.separate += pair.tokens() as u64;
        self.computed.packed += pair.packed as u64;
        self.computed.revised += pair.revised.row as u64;
        for (histogram, values) in self.distributions.iter_mut().zip(distribution_values(pair)) {
            values.into_iter().for_each(|value| histogram.add(value));
        }
        for (total, &tokens) in self.labels.iter_mut().zip(&pair.labels) {
            total.tokens += tokens;
            total.pairs += u64::from(tokens > 0);
        }
        for (total, loss) in self.truncation.iter_mut().zip(&pair.truncation) {
            total.add(loss);
        }
    }
}

/// The values of a pair, for each of [`QUANTITIES`]: two where both rows have one.
fn distribution_values(pair: &PairMeasure) -> [Vec<f64>; 6] {
    let share = |part: f64, whole: usize| 100.0 * part / whole.max(1) as f64;
    let answers = pair.original.answer + pair.revised.answer;
    [
        pair.rows().map(|row| row.prompt as f64).into(),
        vec![pair.original.answer as f64],
        vec![pair.revised.answer as f64],
        pair.rows().map(|row| row.row as f64).into(),
        vec![share(pair.changed_tokens() as f64, answers)],
        vec![share(pair.active_tokens() as f64, pair.tokens())],
    ]
}
