//! What changed between the two answers of a record, and what it takes to find duplicates of it.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use figa_loss::{Aligner, EditTag, Side, SpaRecord};

use super::args::FilterArgs;
use super::duplicates::record_hash;
use super::sketch::Sketch;
use crate::records::message_text;

pub struct AnswerComparison {
    /// Share of the words of both answers that were removed or added.
    pub edit_ratio: f64,
    pub edit_kind: EditKind,
    pub hash: u64,
    /// Only if `--unique-within` needs it.
    pub sketch: Option<Box<Sketch>>,
}

/// The kind of all changes between two answers.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum EditKind {
    /// Words were added
    Insertion,
    /// Words were removed
    Deletion,
    /// Words were replaced
    Substitution,
    /// More than one kind of change
    Mixed,
    /// No word changed
    None,
}

impl AnswerComparison {
    /// Fails for an answer of more than `max_words` words.
    pub fn new(record: &SpaRecord, filters: &FilterArgs, max_words: usize) -> Result<Self> {
        let answers = [&record.original_output, &record.revised_output].map(message_text);
        let [original, revised] = answers.each_ref().map(|answer| answer.split_whitespace().collect::<Vec<_>>());
        for (side, words) in Side::ALL.into_iter().zip([original.len(), revised.len()]) {
            ensure!(
                words <= max_words,
                "the {side} answer has {words} words, more than the limit of one answer, {max_words}: raise it \
                 (--max-answer), or drop the record"
            );
        }
        let alignment = Aligner::Levenshtein.align(&original, &revised);
        let changed = Side::ALL.map(|side| alignment.changed(side)).concat();
        let edit_ratio = changed.iter().filter(|&&changed| changed).count() as f64 / changed.len().max(1) as f64;
        let kinds = alignment.spans().iter().map(|span| EditKind::from(span.tag));
        let edit_kind = kinds.reduce(|a, b| if a == b { a } else { EditKind::Mixed }).unwrap_or(EditKind::None);
        let sketch = filters.unique_within.map(|_| Box::new(Sketch::new(record)));
        Ok(Self { edit_ratio, edit_kind, hash: record_hash(record), sketch })
    }
}

impl From<EditTag> for EditKind {
    fn from(tag: EditTag) -> Self {
        match tag {
            EditTag::Insert => Self::Insertion,
            EditTag::Delete => Self::Deletion,
            EditTag::Replace => Self::Substitution,
        }
    }
}
