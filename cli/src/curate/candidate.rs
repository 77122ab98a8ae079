//! A good record on its way through the steps.

use anyhow::{Context, Result, ensure};
use figa_loss::{Error, Fields, RawRecord, SpaRecord};

use super::args::CurateArgs;
use super::command::excerpt;
use super::comparison::AnswerComparison;
use super::fields::RawFields;
use super::parse_finite;
use crate::rejects::BadRecord;

pub struct Candidate {
    /// Where the record is, for errors.
    pub place: String,
    /// The record as it will be written.
    pub json: String,
    pub record: SpaRecord,
    /// The scores that fields of the record hold.
    pub original_score: Option<f64>,
    pub reference_score: Option<f64>,
    /// `None` until there are two answers.
    pub comparison: Option<AnswerComparison>,
}

/// Reads candidates, on any thread.
pub struct CandidateReader<'a> {
    args: &'a CurateArgs,
    fields: Fields,
}

impl<'a> CandidateReader<'a> {
    pub fn new(args: &'a CurateArgs) -> Self {
        let mut fields = args.records.fields();
        if args.reviser.reviser.is_some() {
            // The record may have no revised answer yet.
            fields.revised.clone_from(&fields.original);
        }
        Self { args, fields }
    }

    /// Gives a bad record back, together with what is wrong.
    pub fn read(&self, raw: &RawRecord) -> figa_loss::Result<Result<Candidate, (RawRecord, BadRecord)>> {
        self.candidate(raw).map(Ok).or_else(|error| {
            let bad = BadRecord::new(raw, &format!("{error:#}"));
            let raw = raw.try_clone().map_err(|reason| Error::Io { path: raw.path.to_path_buf(), reason })?;
            Ok(Err((raw, bad)))
        })
    }

    fn candidate(&self, raw: &RawRecord) -> Result<Candidate> {
        let record = raw.parse(&self.fields)?;
        let place = raw.place();
        let bytes = raw.bytes().context("a parsed record is in memory")?;
        let json = str::from_utf8(bytes).with_context(|| place.clone())?;
        let json = json.strip_prefix('\u{feff}').unwrap_or(json);
        let CurateArgs { records, scores, filters, reviser, .. } = self.args;
        ensure!(
            scores.scorer.is_none() || !scores.needs_reference() || !record.output.is_empty(),
            "{place}: field `{}`: expected a reference answer to score, got nothing",
            self.fields.output
        );
        Ok(Candidate {
            original_score: score(json, scores.score_original.as_deref(), &place)?,
            reference_score: score(json, scores.score_reference.as_deref(), &place)?,
            json: one_line(json),
            comparison: match reviser.reviser {
                None => {
                    Some(AnswerComparison::new(&record, filters, records.max_answer).with_context(|| place.clone())?)
                }
                Some(_) => None,
            },
            place,
            record,
        })
    }
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

/// In an array, a record may take several lines. Any line break in it is insignificant white space.
fn one_line(json: &str) -> String {
    match json.contains('\n') {
        true => json.trim().replace(['\r', '\n'], " "),
        false => json.to_owned(),
    }
}
