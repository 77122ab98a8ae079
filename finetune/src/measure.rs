//! The command `evaluate`: measures a model without training it.

use anyhow::Result;
use serde::Serialize;

use crate::args::EvaluateArgs;
use crate::decoder::{Config, Decoder, Load};
use crate::encode::Encoder;
use crate::evaluate::{Evaluator, prompt};
use crate::metrics::{AnswerScores, Scores};
use crate::ranks::Ranks;
use crate::table::Table;
use crate::{hub, json};

/// What `evaluate` writes.
#[derive(Serialize)]
struct Measured {
    scores: Scores,
    records: Vec<MeasuredRecord>,
}

#[derive(Serialize)]
struct MeasuredRecord {
    prompt: String,
    original: String,
    revised: String,
    /// The log-probability of the revised answer less that of the original one.
    margin: f64,
    /// Absent if it was not asked for.
    #[serde(flatten)]
    answer: Option<GivenAnswer>,
}

#[derive(Serialize)]
struct GivenAnswer {
    answer: String,
    #[serde(flatten)]
    scores: AnswerScores,
}

/// Measures a model, prints its scores and writes them if asked for.
///
/// # Errors
/// One line that names the argument or file, and what to do.
pub fn evaluate(args: &EvaluateArgs) -> Result<()> {
    args.measure.sampling.check()?;
    args.rows.check()?;
    let ranks = &Ranks::from_env()?;
    let device = args.rows.device(ranks)?;
    let base = hub::folder(&args.model)?;
    let encoder = Encoder::new(&base, &Config::read(&base)?, &args.rows)?;
    let evaluator = Evaluator::read(&args.eval, &encoder, args.seed, &args.measure, &args.rows)?;
    if ranks.is_first() {
        println!("{}", evaluator.summary(&encoder, &args.rows));
    }
    let kind = args.rows.kind();
    let load = Load { device, kind, weights: kind, freeze_below: 0 };
    let model = Decoder::load(&base, load)?.frozen();
    let (mut scores, margins) = evaluator.scores(&model, ranks)?;
    let answers = evaluator.answers(&model, ranks)?;
    let of_answers = evaluator.score_answers(&encoder, &answers, &mut scores)?;
    if !ranks.is_first() {
        return Ok(());
    }
    print!("{}", Table::of_model(&scores));
    if let Some(path) = &args.out {
        let given = answers.iter().zip(of_answers);
        let given = given.map(|(ids, scores)| Ok(GivenAnswer { answer: encoder.text(ids)?, scores }));
        let mut given = given.collect::<Result<Vec<_>>>()?.into_iter();
        let records = evaluator.records().iter().zip(margins).map(|(record, margin)| MeasuredRecord {
            prompt: prompt(record),
            original: record.original_output.text().into_owned(),
            revised: record.revised_output.text().into_owned(),
            margin,
            answer: given.next(),
        });
        json::write(path, &Measured { records: records.collect(), scores })?;
    }
    Ok(())
}
