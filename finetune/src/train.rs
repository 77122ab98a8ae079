//! The training loop: from the base model, or the latest checkpoint of a run, to the trained model.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;

use crate::adamw::AdamW;
use crate::checkpoint::{self, Checkpoint, State};
use crate::decoder::Decoder;
use crate::experiment::{Baseline, Experiment};
use crate::log::Log;
use crate::loss::GradientAccumulator;
use crate::method::{Base, Method};
use crate::metrics::{Evaluation, Outcome, StepMetrics};
use crate::rows::Row;
use crate::{json, progress, schedule};

/// One method with one seed, in a folder of its own.
pub struct Run {
    pub method: Method,
    pub seed: u64,
    pub folder: PathBuf,
}

/// Trains a run to its end, from its latest checkpoint if it has one. Returns `None` if it was interrupted.
///
/// The first run takes the loaded `base_model`; later runs load it again.
pub fn train(
    experiment: &Experiment,
    run: &Run,
    base_model: &mut Option<Decoder>,
    interrupted: &dyn Fn() -> bool,
) -> Result<Option<Outcome>> {
    let (outcome, ranks) = (run.folder.join("outcome.json"), experiment.ranks);
    if let Some(result) = ranks.from_first(|| json::read_if_exists(&outcome))? {
        return Ok(Some(result));
    }
    let mut trainer = Trainer::start(experiment, run, base_model.take())?;
    while !trainer.is_finished() {
        trainer.step()?;
        let stop = !trainer.is_finished() && ranks.any(interrupted())?;
        if stop || trainer.is_checkpoint_due() {
            let latest = trainer.save_checkpoint()?;
            ranks.from_first(|| checkpoint::remove_others(&run.folder, Some(&latest)))?;
        }
        if stop {
            trainer.bar.abandon();
            return Ok(None);
        }
    }
    trainer.bar.finish_and_clear();
    let folder = run.folder.join("model");
    ranks.from_first(|| checkpoint::save_model(&folder, &experiment.base, &trainer.model, &experiment.base_kinds))?;
    let result = trainer.outcome()?;
    ranks.from_first(|| {
        json::write(&outcome, &result)?;
        checkpoint::remove_others(&run.folder, None)
    })?;
    Ok(Some(result))
}

/// A run in progress.
struct Trainer<'a> {
    experiment: &'a Experiment<'a>,
    run: &'a Run,
    model: Decoder,
    optimizer: AdamW<'a>,
    state: State,
    /// Present if there is an evaluator.
    baseline: Option<Baseline>,
    accumulator: GradientAccumulator<'a>,
    /// The rows to train on, grouped by pair.
    rows: Vec<Vec<Row>>,
    /// The number of steps of the whole run.
    steps: usize,
    log: Log,
    bar: ProgressBar,
}

impl<'a> Trainer<'a> {
    fn start(experiment: &'a Experiment<'a>, run: &'a Run, base_model: Option<Decoder>) -> Result<Self> {
        let (folder, ranks) = (&run.folder, experiment.ranks);
        let latest = ranks.from_first(|| {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            checkpoint::remove_partial(folder)?;
            checkpoint::latest(folder)
        })?;
        let model = match (&latest, base_model) {
            (Some((checkpoint, _)), _) => experiment.load(checkpoint)?,
            (None, Some(model)) => model,
            (None, None) => experiment.load(&experiment.base)?,
        };
        ranks.from_first(|| checkpoint::check_free_space(folder, &model))?;
        let sharing = experiment.args.zero1.then_some(ranks);
        let mut optimizer = AdamW::with_shared_moments(&model.parameters, sharing);
        let mut state = State::default();
        let log = Log::open(folder, latest.as_ref().map(|(checkpoint, _)| &**checkpoint), ranks.is_first())?;
        if let Some((checkpoint, saved)) = latest {
            checkpoint::restore(&checkpoint, &mut optimizer, &saved)?;
            state = saved;
        }
        let base_model = Some(&model).filter(|_| state.step == 0);
        let evaluator = experiment.evaluator.as_ref();
        let baseline = evaluator.map(|evaluator| experiment.baseline(evaluator, base_model)).transpose()?;
        let mut rows = experiment.encoder.rows(&experiment.data, run.method)?;
        let (all, useless) = (rows.len(), rows.iter().filter(|rows| !run.method.learns_from(rows)).count());
        if useless > 0 && ranks.is_first() {
            let (path, name) = (experiment.data.path.display(), run.method.name);
            println!("{path}: --method {name} learns nothing from {useless} of {all} pairs within --max-length");
        }
        if run.method.base == Base::LogProbs {
            experiment.add_reference(&mut rows, base_model)?;
        }
        let accumulator = experiment.accumulator(run.method)?;
        let steps = match experiment.args.budget {
            Some(budget) => steps_within(budget, &accumulator, |step| pairs_of_step(experiment, run, &rows, step).1)?,
            None => experiment.args.steps,
        };
        let name = format!("{} {}", run.method.name, run.seed);
        let bar = progress::bar(name, steps, &state, ranks.is_first())?;
        Ok(Self { experiment, run, model, optimizer, state, baseline, accumulator, rows, steps, log, bar })
    }

    fn is_finished(&self) -> bool {
        self.state.step >= self.steps
    }

    fn is_checkpoint_due(&self) -> bool {
        !self.is_finished() && self.state.step.is_multiple_of(self.experiment.args.save_every)
    }

    fn is_evaluation_due(&self) -> bool {
        let due = |every: usize| self.state.step.is_multiple_of(every);
        self.is_finished() || self.experiment.args.eval_every.is_some_and(due)
    }

    fn step(&mut self) -> Result<()> {
        let args = self.experiment.args;
        let (batch, pairs) = pairs_of_step(self.experiment, self.run, &self.rows, self.state.step);
        let lr = args.lr * schedule::lr_factor(self.state.step, self.steps);
        let mut gradient = self.accumulator.gradient(&self.model, &pairs)?;
        if let Some(quantity) = gradient.not_finite() {
            return self.fail(quantity, &batch);
        }
        gradient.apply(&mut self.optimizer, lr)?;
        self.state.step += 1;
        self.state.seconds += gradient.seconds.total();

        let metrics = StepMetrics {
            step: self.state.step,
            loss: gradient.loss,
            lr,
            grad_norm: gradient.norm,
            tokens: gradient.tokens,
            computed: gradient.computed,
            active: gradient.active,
            gated: gradient.gated,
            kl: gradient.kl,
            accuracy: gradient.accuracy,
            margin: gradient.margin,
            seconds: gradient.seconds,
            evaluation: self.evaluate()?,
        };
        if self.experiment.ranks.is_first() {
            progress::show(&self.bar, &metrics);
        }
        self.log.write(metrics)
    }

    fn evaluate(&self) -> Result<Option<Evaluation>> {
        match &self.experiment.evaluator {
            Some(evaluator) if self.is_evaluation_due() => Ok(Some(Evaluation {
                step: self.state.step,
                scores: evaluator.scores(&self.model, self.experiment.ranks)?.0,
            })),
            _ => Ok(None),
        }
    }

    fn save_checkpoint(&self) -> Result<PathBuf> {
        let Self { model, optimizer, state, log, .. } = self;
        let checkpoint = Checkpoint { model, optimizer, state, log };
        checkpoint.save(&self.run.folder, &self.experiment.base, self.experiment.ranks)
    }

    /// Saves the model before the step whose loss or gradient is not finite, and reports the records that cause it.
    fn fail(&self, quantity: &str, batch: &[usize]) -> Result<()> {
        let checkpoint = self.save_checkpoint()?;
        let mut pairs = self.pairs_without_finite_loss(batch)?;
        if pairs.is_empty() {
            // Each loss is finite on its own.
            pairs = batch.to_vec();
        }
        let records: Vec<String> = pairs.iter().map(|pair| (pair + 1).to_string()).collect();
        bail!(
            "step {}: {quantity} is not finite; check record(s) {} of {}, or lower --lr; the model before this step is \
             in {}",
            self.state.step + 1,
            records.join(", "),
            self.experiment.data.path.display(),
            checkpoint.display()
        )
    }

    fn pairs_without_finite_loss(&self, batch: &[usize]) -> Result<Vec<usize>> {
        let mut found = vec![];
        for &pair in batch.iter().filter(|&&pair| !self.rows[pair].is_empty()) {
            if !self.accumulator.loss_of(&self.model, &self.rows[pair])?.is_finite() {
                found.push(pair);
            }
        }
        Ok(found)
    }

    /// The results of a finished run.
    fn outcome(self) -> Result<Outcome> {
        let lines = &self.log.lines;
        let mut evaluations: Vec<Evaluation> = lines.iter().filter_map(|line| line.evaluation.clone()).collect();
        let mut answers = vec![];
        if let (Some(evaluator), Some(baseline)) = (&self.experiment.evaluator, self.baseline) {
            let trained = evaluator.answers(&self.model, self.experiment.ranks)?;
            if let Some(last) = evaluations.last_mut() {
                evaluator.score_answers(&self.experiment.encoder, &trained, &mut last.scores)?;
            }
            answers = evaluator.side_by_side(&self.experiment.encoder, &baseline.answers, &trained)?;
            evaluations.insert(0, baseline.evaluation);
        }
        let losses = lines.iter().map(|line| line.loss).collect();
        let Run { method, seed, .. } = self.run;
        Ok(Outcome {
            method: method.name.to_owned(),
            seed: *seed,
            evaluations,
            losses,
            answers,
            seconds: self.state.seconds,
        })
    }
}

/// The places of the pairs of a step, and their rows.
fn pairs_of_step<'a>(
    experiment: &Experiment,
    run: &Run,
    rows: &'a [Vec<Row>],
    step: usize,
) -> (Vec<usize>, Vec<&'a [Row]>) {
    let batch = schedule::batch(run.seed, rows.len(), step, experiment.args.batch);
    let pairs = batch.iter().map(|&pair| &rows[pair][..]).collect();
    (batch, pairs)
}

/// The least number of steps that compute this many tokens.
fn steps_within<'a>(
    budget: usize,
    accumulator: &GradientAccumulator<'_>,
    pairs: impl Fn(usize) -> Vec<&'a [Row]>,
) -> Result<usize> {
    let (mut steps, mut tokens) = (0, 0);
    while tokens < budget {
        tokens += accumulator.tokens_to_compute(&pairs(steps))?;
        steps += 1;
    }
    Ok(steps)
}
