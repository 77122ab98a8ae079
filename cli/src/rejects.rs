//! Bad records: where each is and what is wrong with it, for the terminal and for a file.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use figa_loss::RawRecord;
use indicatif::ProgressBar;
use serde::Serialize;

use crate::new_file::with_suffix;
use crate::terminal::one_line;

/// How many of them a run reports on standard error.
const REPORTED: usize = 3;

/// Why a record is rejected.
#[derive(Debug, Serialize)]
pub struct BadRecord {
    place: String,
    reason: String,
}

/// The bad records of a run, of which the first are reported.
#[derive(Default)]
pub struct BadRecords {
    reported: usize,
}

impl BadRecord {
    /// A record and its error, whose message may begin with the place.
    pub fn new(raw: &RawRecord, error: impl Into<anyhow::Error>) -> Self {
        let error = crate::error_message(&error.into());
        let (mut place, mut reason) = (raw.place(), &*error);
        if let Some(rest) = error.strip_prefix(&format!("{place}: ")) {
            reason = rest;
        } else if let Some((line, rest)) = error.strip_prefix(&raw.path.display().to_string()).and_then(split_place) {
            // With a column.
            place = format!("{}{line}", raw.path.display());
            reason = rest;
        }
        Self { place, reason: reason.to_owned() }
    }

    /// The record as a line of the file of reasons.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

/// `:3:7: what is wrong` into its two parts.
fn split_place(text: &str) -> Option<(&str, &str)> {
    let (place, reason) = text.split_once(": ")?;
    place.chars().all(|c| c == ':' || c.is_ascii_digit()).then_some((place, reason))
}

impl fmt::Display for BadRecord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.reason)
    }
}

impl BadRecords {
    /// Reports one of the first bad records, above the progress bar.
    pub fn report(&mut self, bad: &BadRecord, bar: &ProgressBar) {
        if self.reported < REPORTED {
            self.reported += 1;
            bar.suspend(|| eprintln!("rejected: {}", one_line(&bad.to_string())));
        }
    }
}

/// What `--skip-bad` makes a run write: the records, and the reasons.
pub fn rejected_paths(rejected: Option<&Path>) -> Vec<PathBuf> {
    rejected.into_iter().flat_map(|path| [path.to_owned(), reasons_path(path)]).collect()
}

/// The file with the reasons, beside that of the records.
pub fn reasons_path(rejected: &Path) -> PathBuf {
    with_suffix(rejected, ".why.jsonl")
}
