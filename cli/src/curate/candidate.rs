//! A good record on its way through the steps.

use std::borrow::Cow;

use anyhow::{Context, Result, ensure};
use figa_loss::{Error, Fields, RawRecord, SpaRecord};
use serde_json::Value;
use serde_json::value::to_raw_value;

use super::args::CurateArgs;
use super::command::excerpt;
use super::comparison::AnswerComparison;
use super::fields::RawFields;
use super::parse_finite;
use super::reviser_prompt::ReviserPrompt;
use crate::rejects::BadRecord;

pub struct Candidate {
    /// Where the record is, for errors.
    pub place: String,
    /// The record as it was read.
    pub raw: RawRecord,
    /// The record as it will be written, if it has been revised.
    revised: Option<RawRecord>,
    pub record: SpaRecord,
    /// The scores that fields of the record hold.
    pub original_score: Option<f64>,
    pub reference_score: Option<f64>,
    /// For the reviser; empty if there is none.
    pub prompt: String,
    /// `None` until there are two answers.
    pub comparison: Option<AnswerComparison>,
}

/// Reads candidates, on any thread.
pub struct CandidateReader<'a> {
    args: &'a CurateArgs,
    fields: Fields,
    prompt: Option<ReviserPrompt>,
}

impl<'a> CandidateReader<'a> {
    pub fn new(args: &'a CurateArgs) -> Result<Self> {
        let reviser = &args.reviser;
        let prompt = reviser.reviser.as_ref().map(|_| ReviserPrompt::new(reviser.reviser_prompt.as_deref()));
        Ok(Self { args, fields: args.records.fields(), prompt: prompt.transpose()? })
    }

    /// Gives a bad record back, together with what is wrong.
    pub fn read(&self, raw: &RawRecord) -> figa_loss::Result<Result<Candidate, (RawRecord, BadRecord)>> {
        let clone = || raw.try_clone().map_err(|reason| Error::Io { path: raw.path.to_path_buf(), reason });
        match self.candidate(raw, clone()?) {
            Ok(candidate) => Ok(Ok(candidate)),
            Err(error) => Ok(Err((clone()?, BadRecord::new(raw, error)))),
        }
    }

    fn candidate(&self, raw: &RawRecord, clone: RawRecord) -> Result<Candidate> {
        let CurateArgs { scores, filters, .. } = self.args;
        let mut fields = self.fields.clone();
        if self.prompt.is_some() {
            // The record may have no revised answer yet.
            fields.revised.clone_from(&fields.original);
        }
        let record = raw.parse(&fields)?;
        let place = raw.place();
        ensure!(
            scores.scorer.is_none() || !scores.needs_reference() || !record.output.is_empty(),
            "{place}: field `{}`: expected a reference answer to score, got nothing",
            fields.output
        );
        let json = text(raw);
        let mut candidate = Candidate {
            original_score: score(json, scores.score_original.as_deref(), &place)?,
            reference_score: score(json, scores.score_reference.as_deref(), &place)?,
            prompt: self.prompt.as_ref().map_or(Ok(String::new()), |prompt| prompt.render(&record, json))?,
            comparison: match self.prompt {
                None => Some(AnswerComparison::new(&record, filters, self.args.records.max_answer)?),
                Some(_) => None,
            },
            revised: None,
            raw: clone,
            place,
            record,
        };
        if self.prompt.is_some() {
            // Nobody should be asked about a record that is bad with any answer.
            candidate.revise("", &self.fields)?;
        }
        Ok(candidate)
    }
}

impl Candidate {
    /// The record as it will be written, in one line.
    pub fn json(&self) -> Cow<'_, str> {
        let json = text(self.revised.as_ref().unwrap_or(&self.raw));
        match json.contains('\n') {
            // Of an array. A line break in it is insignificant white space.
            true => json.trim().replace(['\r', '\n'], " ").into(),
            false => json.into(),
        }
    }

    /// Replaces the revised answer. The record is then what every command reads from its new text.
    pub fn revise(&mut self, revision: &str, names: &Fields) -> Result<()> {
        let revised = with_revision(text(&self.raw), &self.record, names, revision)?;
        let revised = self.raw.with_text(revised);
        self.record = revised.parse(names)?;
        self.revised = Some(revised);
        Ok(())
    }
}

/// The JSON of a record that has been parsed.
fn text(raw: &RawRecord) -> &str {
    let json = raw.bytes().and_then(|bytes| str::from_utf8(bytes).ok()).expect("a parsed record is a text in memory");
    json.strip_prefix('\u{feff}').unwrap_or(json)
}

/// The score in a field of the record.
fn score(json: &str, field: Option<&str>, place: &str) -> Result<Option<f64>> {
    let Some(field) = field else { return Ok(None) };
    let fields: RawFields = serde_json::from_str(json).with_context(|| place.to_owned())?;
    let value = fields.get(field);
    let score = value.and_then(parse_finite);
    let actual = || value.map_or("nothing".to_owned(), excerpt);
    ensure!(score.is_some(), "{place}: field `{field}`: expected a number, got {}", actual());
    Ok(score)
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
