//! What all runs share: the base model, the data and the evaluation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use figa_loss::model_files;
use figa_loss::tch::Kind;
use serde::{Deserialize, Serialize};

use crate::args::Args;
use crate::decoder::{Config, Decoder, Load, shards};
use crate::encode::{Dataset, Encoder};
use crate::evaluate::Evaluator;
use crate::inputs::Inputs;
use crate::loss::{GradientAccumulator, Logits};
use crate::method::{Base, Method};
use crate::metrics::Evaluation;
use crate::ranks::Ranks;
use crate::rows::Row;
use crate::{hub, json, reference};

/// What all runs share.
pub struct Experiment<'a> {
    pub args: &'a Args,
    pub ranks: &'a Ranks,
    /// The folder of the base model.
    pub base: PathBuf,
    /// The dtype of each parameter in the base model's files.
    pub base_kinds: BTreeMap<String, Kind>,
    load: Load,
    pub encoder: Encoder,
    pub data: Dataset,
    /// Present with `--eval`.
    pub evaluator: Option<Evaluator>,
    /// What a resumed run must find unchanged.
    pub inputs: Inputs,
}

/// Scores and answers of the base model: the contents of `baseline.json`.
#[derive(Serialize, Deserialize)]
pub struct Baseline {
    pub evaluation: Evaluation,
    /// Greedy answers, as token ids.
    pub answers: Vec<Vec<u32>>,
}

impl<'a> Experiment<'a> {
    /// Reads all inputs, so that errors in them show before any computation. Also returns the base model.
    pub fn prepare(args: &'a Args, ranks: &'a Ranks) -> Result<(Self, Decoder)> {
        let device = args.rows.device(ranks)?;
        let base = hub::folder(args.model()?)?;
        let encoder = Encoder::new(&base, &Config::read(&base)?, &args.rows)?;
        let mut inputs = Inputs::default();

        let data = Dataset::read(args.data()?, &args.rows.fields.fields())?;
        let pairs = encoder.pairs(&data)?;
        let mut summary = format!("{}; device {device:?}", data.summary(&pairs, &encoder, &args.rows));
        if ranks.count() > 1 {
            summary += &format!("; {} processes", ranks.count());
        }
        inputs.add_pairs("--data", &pairs);
        let mut evaluator = None;
        if let Some(path) = &args.eval {
            let of_eval = Evaluator::read(path, &encoder, args.seed, &args.measure, &args.rows)?;
            inputs.add_pairs("--eval", of_eval.pairs());
            inputs.add_ids("--text", of_eval.control());
            summary = format!("{summary}\n{}", of_eval.summary(&encoder, &args.rows));
            evaluator = Some(of_eval);
        }
        if ranks.is_first() {
            println!("{summary}");
        }
        let kind = args.rows.kind();
        let load = Load {
            device,
            kind,
            weights: if args.bf16_weights { kind } else { Kind::Float },
            freeze_below: args.freeze_below,
        };
        let model = Decoder::load(&base, load)?;
        // A profile is never resumed.
        if !args.profile {
            inputs.add_files("--model", &[model_files(&base)?, shards(&base)?].concat())?;
        }
        ranks.check_same("model and records", &serde_json::to_string(&inputs)?)?;
        let base_kinds = model.source_kinds.clone();
        Ok((Self { args, ranks, base, base_kinds, load, encoder, data, evaluator, inputs }, model))
    }

    /// Loads the base model or a checkpoint.
    pub fn load(&self, folder: &Path) -> Result<Decoder> {
        Decoder::load(folder, self.load)
    }

    /// Evaluates the base model, unless an earlier run has. `base_model` is loaded if it is `None`.
    pub fn baseline(&self, evaluator: &Evaluator, base_model: Option<&Decoder>) -> Result<Baseline> {
        let path = self.args.out()?.join("baseline.json");
        if let Some(baseline) = self.ranks.from_first(|| json::read_if_exists(&path))? {
            return Ok(baseline);
        }
        let model = match base_model {
            Some(model) => model,
            None => &self.load(&self.base)?,
        };
        let (mut scores, _) = evaluator.scores(model, self.ranks)?;
        let answers = evaluator.answers(model, self.ranks)?;
        evaluator.score_answers(&self.encoder, &answers, &mut scores)?;
        let baseline = Baseline { evaluation: Evaluation { step: 0, scores }, answers };
        self.ranks.from_first(|| json::write(&path, &baseline))?;
        Ok(baseline)
    }

    /// The gradient of a method's loss.
    pub fn accumulator(&self, method: Method) -> Result<GradientAccumulator<'a>> {
        let base = match method.base {
            Base::Model => Some(self.load(&self.base)?.frozen()),
            Base::Nothing | Base::LogProbs => None,
        };
        let (micro_batch, pad_id) = (self.args.rows.micro_batch, self.encoder.eos_id());
        let layout = self.args.rows.layout();
        let recompute = self.args.checkpoint_activations;
        let ranks = self.ranks;
        Ok(GradientAccumulator { ranks, method, base, micro_batch, pad_id, layout, logits: Logits::Fused, recompute })
    }

    /// Gives the rows their log-probabilities under the base model, and computes those unless an earlier run has.
    /// `base_model` is loaded if it is `None`.
    pub fn add_reference(&self, rows: &mut [Vec<Row>], base_model: Option<&Decoder>) -> Result<()> {
        let path = self.args.out()?.join(reference::FILE);
        if self.ranks.from_first(|| Ok(path.exists()))? {
            return reference::read(&path, rows);
        }
        let model = match base_model {
            Some(model) => model,
            None => &self.load(&self.base)?,
        };
        let (batch, layout) = (self.args.rows.micro_batch, self.args.rows.layout());
        let share = self.ranks.share(rows.len());
        reference::compute(model, &mut rows[share.clone()], batch, layout, self.encoder.eos_id())?;
        reference::join(rows, share, self.ranks)?;
        self.ranks.from_first(|| reference::write(&path, rows))
    }

    /// The facts at the top of the report.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let args = self.args;
        vec![
            ("model", args.model.clone().unwrap_or_default()),
            ("data", format!("{}, {} pairs", self.data.path.display(), self.data.records.len())),
            ("held out", args.eval.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
            (
                "budget",
                format!(
                    "{} steps of {} pairs, rows of at most {} tokens",
                    args.budget.map_or(args.steps.to_string(), |tokens| format!("{tokens} tokens, in")),
                    args.batch,
                    args.rows.max_length
                ),
            ),
            ("learning rate", format!("{:e}, warm-up over a tenth of the steps, then a cosine to 0", args.lr)),
            ("device", format!("{:?}, {:?}", self.load.device, self.load.kind)),
            ("figa-loss", env!("CARGO_PKG_VERSION").to_owned()),
        ]
    }
}
