//! What the commands are asked, and what they answer.

use std::borrow::Cow;

use anyhow::{Result, anyhow};
use figa_loss::{Message, SpaRecord};
use serde::{Deserialize, Serialize};

use super::command::excerpt;
use super::parse_finite;
use crate::records::message_text;

/// A line for `--scorer`.
#[derive(Serialize)]
pub struct ScoreRequest<'a> {
    instruction: &'a str,
    input: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    messages: &'a [Message],
    answer: &'a str,
}

/// A line for `--reviser`.
#[derive(Serialize)]
pub struct RevisionRequest<'a> {
    instruction: &'a str,
    input: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    messages: &'a [Message],
    output: &'a str,
    original_output: Cow<'a, str>,
    prompt: &'a str,
}

impl<'a> ScoreRequest<'a> {
    pub fn new(record: &'a SpaRecord, answer: &'a str) -> Self {
        let SpaRecord { instruction, input, messages, .. } = record;
        Self { instruction, input, messages, answer }
    }
}

impl<'a> RevisionRequest<'a> {
    pub fn new(record: &'a SpaRecord, prompt: &'a str) -> Self {
        let SpaRecord { instruction, input, messages, output, original_output, .. } = record;
        Self { instruction, input, messages, output, original_output: message_text(original_output), prompt }
    }
}

/// The score in a line of the scorer.
pub fn parse_score(line: &str) -> Result<f64> {
    parse_finite(line).ok_or_else(|| anyhow!("expected a line with a number, got {}", excerpt(line)))
}

/// The revised answer in a line of the reviser.
pub fn parse_revision(line: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Revision {
        revised_output: String,
    }
    let revision: Revision = serde_json::from_str(line)
        .map_err(|_| anyhow!("expected a line {{\"revised_output\": \"...\"}}, got {}", excerpt(line)))?;
    Ok(revision.revised_output)
}
