//! What fell where.

use std::fmt::Write;

use serde::{Serialize, Serializer};

/// Why a good record is not kept; in the order in which it is asked.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    TooShort,
    TooLong,
    OriginalScore,
    ReferenceScore,
    ScoreGap,
    EditRatioLow,
    EditRatioHigh,
    EditKind,
    Duplicate,
    NearDuplicate,
}

impl Reason {
    pub const ALL: [Self; 10] = [
        Self::TooShort,
        Self::TooLong,
        Self::OriginalScore,
        Self::ReferenceScore,
        Self::ScoreGap,
        Self::EditRatioLow,
        Self::EditRatioHigh,
        Self::EditKind,
        Self::Duplicate,
        Self::NearDuplicate,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::TooShort => "an answer is shorter",
            Self::TooLong => "an answer is longer",
            Self::OriginalScore => "the original scores as much, or more",
            Self::ReferenceScore => "the reference scores as little, or less",
            Self::ScoreGap => "the reference scores no more above the original",
            Self::EditRatioLow => "a smaller share of the words is changed",
            Self::EditRatioHigh => "a larger share of the words is changed",
            Self::EditKind => "the changes are of another kind",
            Self::Duplicate => "the same prompt and answers came before",
            Self::NearDuplicate => "a record as similar came before",
        }
    }
}

/// `read` is the sum of `bad`, of all that `fell`, and of `kept`.
#[derive(Default, Serialize)]
pub struct Counts {
    pub read: u64,
    pub blank_lines: u64,
    pub bad: u64,
    #[serde(serialize_with = "by_reason")]
    pub fell: [u64; Reason::ALL.len()],
    pub kept: u64,
    /// Answers that commands gave in this run, and in those before it.
    pub asked: u64,
    pub recalled: u64,
}

fn by_reason<S: Serializer>(fell: &[u64; Reason::ALL.len()], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(Reason::ALL.iter().zip(fell))
}

impl Counts {
    /// A line for each step that was asked for, with how many fell there and how many were left.
    pub fn table(&self, bad: &str, kept: &str, asked_for: impl Fn(Reason) -> Option<String>) -> String {
        let mut left = self.read;
        let mut table = format!("{:>10} {:>10}\n", "fell", "left");
        let mut line = |fell: Option<u64>, left: u64, text: &str| {
            let fell = fell.map(|fell| fell.to_string()).unwrap_or_default();
            writeln!(table, "{fell:>10} {left:>10}  {text}").expect("a text has room");
        };
        line(None, left, &format!("records and {} blank lines read", self.blank_lines));
        left -= self.bad;
        line(Some(self.bad), left, bad);
        for (reason, fell) in Reason::ALL.into_iter().zip(self.fell) {
            if let Some(option) = asked_for(reason) {
                left -= fell;
                line(Some(fell), left, &format!("{option}: {}", reason.text()));
            }
        }
        line(None, self.kept, kept);
        table
    }
}
