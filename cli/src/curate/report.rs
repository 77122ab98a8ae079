//! How many records each step dropped.

use std::fmt::Write;

use serde::{Serialize, Serializer};

/// Why a good record is dropped, in the order of the steps.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
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

/// `records` is the sum of `rejected`, all of `dropped`, and `kept`.
#[derive(Default, Serialize)]
pub struct CurateCounts {
    pub records: u64,
    pub blank_lines: u64,
    pub rejected: u64,
    /// One for each of [`DropReason::ALL`].
    #[serde(serialize_with = "by_reason")]
    pub dropped: [u64; DropReason::ALL.len()],
    pub kept: u64,
    /// Answers from commands in this run.
    pub asked: u64,
    /// Answers from earlier runs.
    pub recalled: u64,
}

impl DropReason {
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

    /// The reason, as it continues the option that drops the record.
    fn text(self) -> &'static str {
        match self {
            Self::TooShort => "an answer is shorter",
            Self::TooLong => "an answer is longer",
            Self::OriginalScore => "the original scores the same or more",
            Self::ReferenceScore => "the reference scores the same or less",
            Self::ScoreGap => "the gap between reference and original is the same or smaller",
            Self::EditRatioLow => "the share of changed words is smaller",
            Self::EditRatioHigh => "the share of changed words is larger",
            Self::EditKind => "the changes are of another kind",
            Self::Duplicate => "an earlier record has the same prompt and answers",
            Self::NearDuplicate => "an earlier record is at least this similar",
        }
    }
}

impl CurateCounts {
    /// A line for each step that was asked for: how many records it dropped, and how many remain after it. `rejected`
    /// and `kept` are the texts of the lines for bad and for kept records.
    pub fn table(&self, rejected: &str, kept: &str, option: impl Fn(DropReason) -> Option<String>) -> String {
        let mut remaining = self.records;
        let mut table = format!("{:>10} {:>10}\n", "dropped", "remaining");
        let mut line = |dropped: Option<u64>, remaining: u64, text: &str| {
            let dropped = dropped.map(|dropped| dropped.to_string()).unwrap_or_default();
            writeln!(table, "{dropped:>10} {remaining:>10}  {text}").expect("a string grows");
        };
        line(None, remaining, &format!("records and {} blank lines read", self.blank_lines));
        remaining -= self.rejected;
        line(Some(self.rejected), remaining, rejected);
        for (reason, dropped) in DropReason::ALL.into_iter().zip(self.dropped) {
            if let Some(option) = option(reason) {
                remaining -= dropped;
                line(Some(dropped), remaining, &format!("{option}: {}", reason.text()));
            }
        }
        line(None, self.kept, kept);
        let Self { asked, recalled, .. } = self;
        if asked + recalled > 0 {
            writeln!(table, "{asked} answers from commands, {recalled} from earlier runs").expect("a string grows");
        }
        table
    }
}

fn by_reason<S: Serializer>(dropped: &[u64; DropReason::ALL.len()], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(DropReason::ALL.iter().zip(dropped))
}
