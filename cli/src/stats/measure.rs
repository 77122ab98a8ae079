//! What one pair adds to the statistics.

use figa_loss::{EncodedPair, Example, Side, TokenLabel, pack};
use serde::Serialize;

use crate::reward::ChangeCounts;

/// What can happen to the tokens of each answer.
pub const ANSWER_LABELS: [(Side, TokenLabel); 6] = [
    (Side::Original, TokenLabel::Kept),
    (Side::Original, TokenLabel::Substituted),
    (Side::Original, TokenLabel::Deleted),
    (Side::Revised, TokenLabel::Kept),
    (Side::Revised, TokenLabel::Substituted),
    (Side::Revised, TokenLabel::Inserted),
];

pub struct PairMeasure {
    pub original: RowMeasure,
    pub revised: RowMeasure,
    /// How many tokens have each of [`ANSWER_LABELS`].
    pub labels: [u64; 6],
    pub changes: ChangeCounts,
    /// Tokens that a model computes if both rows are packed.
    pub packed: usize,
    /// One for each maximum length.
    pub truncation: Vec<TruncationLoss>,
}

/// Lengths in tokens.
pub struct RowMeasure {
    pub prompt: usize,
    /// Without EOS, which every answer has.
    pub answer: usize,
    /// Prompt, answer and EOS.
    pub row: usize,
    /// At each position, how many tokens are active from there to the end.
    active_from: Vec<usize>,
}

/// What is lost if rows are cut to a maximum length.
#[derive(Clone, Copy, Default, Serialize)]
pub struct TruncationLoss {
    pub max_length: usize,
    pub rows_cut: u64,
    pub tokens_lost: u64,
    pub active_tokens_lost: u64,
    pub pairs_without_active_tokens: u64,
    pub prompts_too_long: u64,
}

impl PairMeasure {
    /// Measures a pair of whole rows.
    pub fn new(pair: &EncodedPair, max_lengths: &[usize]) -> Self {
        let [original, revised] = pair.rows().map(RowMeasure::new);
        let labels = ANSWER_LABELS.map(|(side, label)| count(pair.row(side), label) as u64);
        const PAD_ID: u32 = 0;
        let packed = pack([pair.rows()], PAD_ID, Example::is_active).seq_len;
        let mut measure =
            Self { original, revised, labels, changes: ChangeCounts::of(pair), packed, truncation: vec![] };
        measure.truncation = max_lengths.iter().map(|&max_length| measure.truncated(max_length)).collect();
        measure
    }

    pub fn rows(&self) -> [&RowMeasure; 2] {
        [&self.original, &self.revised]
    }

    pub fn tokens(&self) -> usize {
        self.original.row + self.revised.row
    }

    pub fn active_tokens(&self) -> usize {
        self.original.active_after(0) + self.revised.active_after(0)
    }

    /// How many tokens of both answers changed.
    pub fn changed_tokens(&self) -> u64 {
        let labels = ANSWER_LABELS.iter().zip(&self.labels);
        labels.filter(|((_, label), _)| *label != TokenLabel::Kept).map(|(_, count)| count).sum()
    }

    fn truncated(&self, max_length: usize) -> TruncationLoss {
        let none = TruncationLoss { max_length, ..TruncationLoss::default() };
        let rows = self.rows();
        if rows.iter().any(|row| row.prompt >= max_length) {
            return TruncationLoss {
                tokens_lost: self.tokens() as u64,
                active_tokens_lost: self.active_tokens() as u64,
                prompts_too_long: 1,
                ..none
            };
        }
        let active_lost: usize = rows.iter().map(|row| row.active_after(max_length)).sum();
        TruncationLoss {
            rows_cut: rows.iter().filter(|row| row.row > max_length).count() as u64,
            tokens_lost: rows.iter().map(|row| row.row.saturating_sub(max_length) as u64).sum(),
            active_tokens_lost: active_lost as u64,
            pairs_without_active_tokens: u64::from(active_lost > 0 && active_lost == self.active_tokens()),
            ..none
        }
    }
}

impl RowMeasure {
    fn new(row: &Example) -> Self {
        let prompt = count(row, TokenLabel::Ignored);
        let mut active_from: Vec<usize> = row.active().map(usize::from).collect();
        for at in (1..active_from.len()).rev() {
            active_from[at - 1] += active_from[at];
        }
        Self { prompt, answer: row.len() - prompt - count(row, TokenLabel::Eos), row: row.len(), active_from }
    }

    /// How many active tokens are not among the first `length`.
    fn active_after(&self, length: usize) -> usize {
        self.active_from.get(length).copied().unwrap_or(0)
    }
}

impl TruncationLoss {
    pub fn add(&mut self, other: &Self) {
        self.rows_cut += other.rows_cut;
        self.tokens_lost += other.tokens_lost;
        self.active_tokens_lost += other.active_tokens_lost;
        self.pairs_without_active_tokens += other.pairs_without_active_tokens;
        self.prompts_too_long += other.prompts_too_long;
    }
}

fn count(row: &Example, label: TokenLabel) -> usize {
    row.token_labels().iter().filter(|&&other| other == label).count()
}
