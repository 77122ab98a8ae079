//! The steps that a record passes, in order.

use anyhow::{Context, Result};
use figa_loss::{Fields, Message, SpaRecord};
use serde_json::Value;
use serde_json::value::to_raw_value;

use super::answers::Answers;
use super::args::{CurateArgs, FilterArgs, ScoreArgs};
use super::candidate::Candidate;
use super::command::LineCommand;
use super::comparison::AnswerComparison;
use super::duplicates::Duplicates;
use super::fields::RawFields;
use super::near_duplicates::NearDuplicates;
use super::report::DropReason;
use super::requests::{RevisionRequest, ScoreRequest, parse_revision, parse_score};
use super::reviser_prompt::ReviserPrompt;
use crate::records::message_text;

/// Decides about one record after another, and remembers the kept ones.
pub struct Sieve<'a> {
    args: &'a CurateArgs,
    fields: Fields,
    answers: Answers,
    scorer: Option<LineCommand>,
    reviser: Option<(LineCommand, ReviserPrompt)>,
    duplicates: Duplicates,
    near_duplicates: Option<NearDuplicates>,
}

impl<'a> Sieve<'a> {
    pub fn new(args: &'a CurateArgs, answers: Answers) -> Result<Self> {
        let scorer = args.scores.scorer.as_ref().map(|line| LineCommand::new("--scorer", line));
        let reviser = args.reviser.reviser.as_ref().map(|line| {
            let prompt = ReviserPrompt::new(args.reviser.reviser_prompt.as_deref())?;
            anyhow::Ok((LineCommand::new("--reviser", line), prompt))
        });
        Ok(Self {
            args,
            fields: args.records.fields(),
            answers,
            scorer,
            reviser: reviser.transpose()?,
            duplicates: Duplicates::default(),
            near_duplicates: args.filters.unique_within.map(NearDuplicates::new),
        })
    }

    /// Why the record is dropped; `None` if it is kept.
    pub fn drop_reason(&mut self, candidate: &mut Candidate) -> Result<Option<DropReason>> {
        let filters = &self.args.filters;
        let mut reason = length_reason(filters, &candidate.record.original_output);
        if self.reviser.is_none() {
            reason = reason.or_else(|| length_reason(filters, &candidate.record.revised_output));
        }
        if reason.is_none() {
            reason = self.score_reason(candidate)?;
        }
        if reason.is_none() && self.revise(candidate)? {
            reason = length_reason(filters, &candidate.record.revised_output);
        }
        if reason.is_some() {
            return Ok(reason);
        }
        let comparison = match candidate.comparison.take() {
            Some(comparison) => comparison,
            None => AnswerComparison::new(&candidate.record, filters, self.args.records.max_answer)
                .with_context(|| candidate.place.clone())?,
        };
        Ok(edit_reason(filters, &comparison).or_else(|| self.duplicate_reason(&comparison)))
    }

    /// Asks for a score only if it still matters.
    fn score_reason(&mut self, candidate: &Candidate) -> Result<Option<DropReason>> {
        let args = self.args;
        let ScoreArgs { max_original, min_reference, min_gap, .. } = args.scores;
        let mut original = 0.0;
        if args.scores.needs_original() {
            original =
                self.score(candidate, candidate.original_score, &message_text(&candidate.record.original_output))?;
            if max_original.is_some_and(|max| original >= max) {
                return Ok(Some(DropReason::OriginalScore));
            }
        }
        if args.scores.needs_reference() {
            let reference = self.score(candidate, candidate.reference_score, &candidate.record.output)?;
            if min_reference.is_some_and(|min| reference <= min) {
                return Ok(Some(DropReason::ReferenceScore));
            }
            if min_gap.is_some_and(|min| reference - original <= min) {
                return Ok(Some(DropReason::ScoreGap));
            }
        }
        Ok(None)
    }

    /// The score from the scorer, or else from a field of the record.
    fn score(&mut self, candidate: &Candidate, field: Option<f64>, answer: &str) -> Result<f64> {
        match &mut self.scorer {
            Some(scorer) => {
                let request = ScoreRequest::new(&candidate.record, answer);
                self.answers.answer(scorer, &request, &candidate.place, parse_score)
            }
            None => field.context("the arguments name no scores"),
        }
    }

    /// Replaces the revised answer, in the record and in its JSON. Returns false if there is no reviser.
    fn revise(&mut self, candidate: &mut Candidate) -> Result<bool> {
        let Some((reviser, prompt)) = &mut self.reviser else { return Ok(false) };
        let prompt = prompt.render(candidate)?;
        let request = RevisionRequest::new(&candidate.record, &prompt);
        let revision = self.answers.answer(reviser, &request, &candidate.place, parse_revision)?;
        candidate.json = with_revision(&candidate.json, &candidate.record, &self.fields, &revision)?;
        candidate.record.revised_output = Message::new("assistant", revision);
        Ok(true)
    }

    fn duplicate_reason(&mut self, comparison: &AnswerComparison) -> Option<DropReason> {
        if self.args.filters.unique && !self.duplicates.insert(comparison.hash) {
            return Some(DropReason::Duplicate);
        }
        let (near_duplicates, sketch) = self.near_duplicates.as_mut().zip(comparison.sketch.as_deref())?;
        (!near_duplicates.insert(sketch)).then_some(DropReason::NearDuplicate)
    }

    /// Ends the commands.
    pub fn finish(mut self) -> Result<Answers> {
        self.answers.check_end()?;
        let reviser = self.reviser.map(|(command, _)| command);
        for command in [self.scorer, reviser].into_iter().flatten() {
            command.finish()?;
        }
        Ok(self.answers)
    }
}

fn length_reason(filters: &FilterArgs, answer: &Message) -> Option<DropReason> {
    let words = message_text(answer).split_whitespace().count();
    if filters.min_words.is_some_and(|min| words < min) {
        return Some(DropReason::TooShort);
    }
    filters.max_words.is_some_and(|max| words > max).then_some(DropReason::TooLong)
}

fn edit_reason(filters: &FilterArgs, comparison: &AnswerComparison) -> Option<DropReason> {
    let &AnswerComparison { edit_ratio, edit_kind, .. } = comparison;
    if filters.min_edit_ratio.is_some_and(|min| edit_ratio < min) {
        Some(DropReason::EditRatioLow)
    } else if filters.max_edit_ratio.is_some_and(|max| edit_ratio > max) {
        Some(DropReason::EditRatioHigh)
    } else if !filters.edits.is_empty() && !filters.edits.contains(&edit_kind) {
        Some(DropReason::EditKind)
    } else {
        None
    }
}

/// A record with another revised answer, in the shape of the original one: a text, a message, a list of messages that
/// ends in it, or a dialogue in one text.
fn with_revision(json: &str, record: &SpaRecord, names: &Fields, revision: &str) -> Result<String> {
    let mut fields: RawFields = serde_json::from_str(json)?;
    let answer = |original: &Value| {
        let mut answer = original.clone();
        let text = if original.get("value").is_some() { "value" } else { "content" };
        if let Some(fields) = answer.as_object_mut() {
            fields.retain(|name, _| ["role", "from"].contains(&&**name));
            fields.insert(text.into(), revision.into());
        }
        answer
    };
    let value = match fields.get_path(&names.original)? {
        Some(Value::Array(mut messages)) => {
            if let Some(last) = messages.last_mut() {
                *last = answer(last);
            }
            Value::Array(messages)
        }
        Some(message @ Value::Object(_)) => answer(&message),
        _ if !record.messages.is_empty() => format!("{}{revision}", record.instruction).into(),
        _ => revision.into(),
    };
    fields.set(&names.revised, to_raw_value(&value)?);
    Ok(serde_json::to_string(&fields)?)
}
