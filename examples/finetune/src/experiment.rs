//! What all runs share: the base model, the data and the evaluation.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use figa_loss::tch::{Device, Kind};
use figa_loss::{EncodedPair, model_files};
use serde::{Deserialize, Serialize};

use crate::args::Args;
use crate::encode::{Dataset, Encoder};
use crate::evaluate::Evaluator;
use crate::inputs::Inputs;
use crate::llama::{Config, Llama, shards};
use crate::loss::{GradientAccumulator, Logits};
use crate::method::{Base, Method};
use crate::metrics::Evaluation;
use crate::rows::Row;
use crate::{hub, json, reference};

/// The control text without `--text`.
const CONTROL_TEXT: &str = include_str!("control.txt");

/// What all runs share.
pub struct Experiment<'a> {
    pub args: &'a Args,
    /// The folder of the base model.
    pub base: PathBuf,
    /// The dtype of each parameter in the base model's files.
    pub base_kinds: BTreeMap<String, Kind>,
    pub device: Device,
    /// The dtype of the computation.
    pub kind: Kind,
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
    pub fn prepare(args: &'a Args) -> Result<(Self, Llama)> {
        let base = hub::folder(args.model()?)?;
        let device = if args.cpu { Device::Cpu } else { Device::cuda_if_available() };
        let kind = if args.bf16 { Kind::BFloat16 } else { Kind::Float };
        let encoder = Encoder::new(&base, &Config::read(&base)?, args)?;
        let mut inputs = Inputs::default();

        let fields = args.fields.fields();
        let data = Dataset::read(args.data()?, &fields)?;
        let pairs = encoder.pairs(&data)?;
        println!("{}; device {device:?}", summary(&data, &pairs, &encoder, args));
        inputs.add_pairs("--data", &pairs);
        let mut evaluator = None;
        if let Some(path) = &args.eval {
            let data = Dataset::read(path, &fields)?;
            let pairs = encoder.pairs(&data)?;
            println!("{}", summary(&data, &pairs, &encoder, args));
            let control = match &args.text {
                Some(path) => &fs::read_to_string(path).with_context(|| path.display().to_string())?,
                None => CONTROL_TEXT,
            };
            let control = encoder.ids(control)?;
            inputs.add_pairs("--eval", &pairs);
            inputs.add_ids("--text", &control);
            evaluator = Some(Evaluator::new(data, pairs, &control, &encoder, args));
        }
        let model = Llama::load(&base, device, kind, args.freeze_below)?;
        // A profile is never resumed.
        if !args.profile {
            inputs.add_files("--model", &[model_files(&base)?, shards(&base)?].concat())?;
        }
        let base_kinds = model.source_kinds.clone();
        Ok((Self { args, base, base_kinds, device, kind, encoder, data, evaluator, inputs }, model))
    }

    /// Loads the base model or a checkpoint.
    pub fn load(&self, folder: &Path) -> Result<Llama> {
        Llama::load(folder, self.device, self.kind, self.args.freeze_below)
    }

    /// Evaluates the base model, unless an earlier run has. `base_model` is loaded if it is `None`.
    pub fn baseline(&self, evaluator: &Evaluator, base_model: Option<&Llama>) -> Result<Baseline> {
        let path = self.args.out()?.join("baseline.json");
        if path.exists() {
            return json::read(&path);
        }
        let model = match base_model {
            Some(model) => model,
            None => &self.load(&self.base)?,
        };
        let mut scores = evaluator.scores(model)?;
        let answers = evaluator.answers(model);
        evaluator.score_answers(&answers, &mut scores);
        let baseline = Baseline { evaluation: Evaluation { step: 0, scores }, answers };
        json::write(&path, &baseline)?;
        Ok(baseline)
    }

    /// The gradient of a method's loss.
    pub fn accumulator(&self, method: Method) -> Result<GradientAccumulator> {
        let base = match method.base {
            Base::Model => Some(self.load(&self.base)?.frozen()),
            Base::Nothing | Base::LogProbs => None,
        };
        let (micro_batch, pad_id) = (self.args.micro_batch, self.encoder.eos_id());
        let layout = self.args.layout();
        Ok(GradientAccumulator { method, base, micro_batch, pad_id, layout, logits: Logits::Fused })
    }

    /// Gives the rows their log-probabilities under the base model, and computes those unless an earlier run has.
    /// `base_model` is loaded if it is `None`.
    pub fn add_reference(&self, rows: &mut [Vec<Row>], base_model: Option<&Llama>) -> Result<()> {
        let path = self.args.out()?.join(reference::FILE);
        if path.exists() {
            return reference::read(&path, rows);
        }
        let model = match base_model {
            Some(model) => model,
            None => &self.load(&self.base)?,
        };
        reference::compute(model, rows, self.args.micro_batch, self.args.layout(), self.encoder.eos_id())?;
        reference::write(&path, rows)
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
                format!("{} steps of {} pairs, rows of at most {} tokens", args.steps, args.batch, args.max_length),
            ),
            ("learning rate", format!("{:e}, warm-up over a tenth of the steps, then a cosine to 0", args.lr)),
            ("device", format!("{:?}, {:?}", self.device, self.kind)),
            ("figa-loss", env!("CARGO_PKG_VERSION").to_owned()),
        ]
    }
}

fn summary(data: &Dataset, pairs: &[EncodedPair], encoder: &Encoder, args: &Args) -> String {
    let (path, truncated) = (data.path.display(), encoder.truncated(pairs));
    format!("{path}: {} pairs, {truncated} rows truncated to {} tokens", pairs.len(), args.max_length)
}
