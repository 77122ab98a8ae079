//! The steps that a record passes, in order.

use std::time::Duration;

use anyhow::{Context, Result};
use figa_loss::{Fields, Message};

use super::answers::Answers;
use super::args::{CurateArgs, FilterArgs, ScoreArgs};
use super::candidate::Candidate;
use super::command::LineCommand;
use super::comparison::AnswerComparison;
use super::duplicates::Duplicates;
use super::near_duplicates::NearDuplicates;
use super::report::DropReason;
use super::requests::{RevisionRequest, ScoreRequest, parse_revision, parse_score};
use crate::records::message_text;
use crate::rejects::BadRecord;

/// Decides about one record after another, and remembers the kept ones.
pub struct Sieve<'a> {
    args: &'a CurateArgs,
    fields: Fields,
    answers: Answers,
    scorer: Option<LineCommand<'a>>,
    reviser: Option<LineCommand<'a>>,
    duplicates: Duplicates,
    near_duplicates: Option<NearDuplicates>,
}

/// What becomes of a record.
pub enum Verdict {
    Kept,
    Dropped(DropReason),
    Bad(BadRecord),
}

impl<'a> Sieve<'a> {
    /// `tell` gets a line for the user when a command takes long.
    pub fn new(args: &'a CurateArgs, answers: Answers, tell: &'a dyn Fn(&str)) -> Self {
        let timeout = args.command_timeout.map(|seconds| Duration::from_secs(seconds.get()));
        let command = |argument, line: &'a Option<String>| {
            line.as_ref().map(|line| LineCommand::new(argument, line, timeout, tell))
        };
        Self {
            args,
            fields: args.records.fields(),
            answers,
            scorer: command("--scorer", &args.scores.scorer),
            reviser: command("--reviser", &args.reviser.reviser),
            duplicates: Duplicates::default(),
            near_duplicates: args.filters.unique_within.map(NearDuplicates::new),
        }
    }

    /// Decides about a record. The errors are those of the commands, and of the file of their answers.
    pub fn verdict(&mut self, candidate: &mut Candidate) -> Result<Verdict> {
        let filters = &self.args.filters;
        let mut reason = length_reason(filters, &candidate.record.original_output);
        if self.reviser.is_none() {
            reason = reason.or_else(|| length_reason(filters, &candidate.record.revised_output));
        }
        if reason.is_none() {
            reason = self.score_reason(candidate)?;
        }
        if let (None, Some(reviser)) = (reason, &mut self.reviser) {
            let request = RevisionRequest::new(&candidate.record, &candidate.prompt);
            let revision = self.answers.answer(reviser, &request, &candidate.place, parse_revision)?;
            if let Err(error) = candidate.revise(&revision, &self.fields) {
                return Ok(Verdict::Bad(BadRecord::new(&candidate.raw, error)));
            }
            reason = length_reason(filters, &candidate.record.revised_output);
        }
        if reason.is_none() {
            let comparison = match candidate.comparison.take() {
                Some(comparison) => comparison,
                None => match AnswerComparison::new(&candidate.record, filters, self.args.records.max_answer) {
                    Ok(comparison) => comparison,
                    Err(error) => return Ok(Verdict::Bad(BadRecord::new(&candidate.raw, error))),
                },
            };
            reason = edit_reason(filters, &comparison).or_else(|| self.duplicate_reason(&comparison));
        }
        Ok(reason.map_or(Verdict::Kept, Verdict::Dropped))
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
        for command in [self.scorer, self.reviser].into_iter().flatten() {
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
