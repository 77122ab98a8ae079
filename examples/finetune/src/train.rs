//! The loop: from a checkpoint and rows to the next checkpoint.

use std::cell::{OnceCell, RefCell};
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use figa_loss::tch::{Cuda, Device, Kind};
use figa_loss::{Example, FigaLoss, Reduction, SpaRecord, collate};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use super::Args;
use super::adamw::AdamW;
use super::aside;
use super::checkpoint::{self, State};
use super::evaluate::Evaluator;
use super::llama::{Llama, read_json};
use super::outcome::{Evaluation, Outcome};
use super::pairs::{Method, Pairs};

/// What the runs of a comparison share.
pub struct Setup<'a> {
    pub args: &'a Args,
    /// The folder of the checkpoint to start from.
    pub source: PathBuf,
    /// What has been read from it, until the first run takes it.
    pub model: RefCell<Option<Llama>>,
    pub device: Device,
    /// The kind to compute in.
    pub kind: Kind,
    /// The kind of the checkpoint to start from.
    pub source_kind: Kind,
    pub pairs: Pairs,
    pub records: Vec<SpaRecord>,
    pub data: PathBuf,
    pub evaluator: Option<Evaluator>,
    /// How the model does before it learns, and its greedy answers.
    pub start: OnceCell<(Evaluation, Vec<Vec<u32>>)>,
    /// Whether to stop after the current step.
    pub interrupted: &'a dyn Fn() -> bool,
}

impl Setup<'_> {
    pub fn load(&self, folder: &Path) -> Result<Llama> {
        Llama::load(folder, self.device, self.kind, self.args.freeze_below)
    }
}

/// A line of `metrics.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
pub struct StepMetrics {
    pub step: usize,
    /// The sum over the live tokens divided by their number.
    pub loss: f64,
    pub lr: f64,
    /// Before it is clipped.
    pub grad_norm: f64,
    /// Tokens in the rows, padding not counted.
    pub tokens: usize,
    /// Those with a weight.
    pub active: usize,
    /// Those of the active ones that the gate spares.
    pub gated: i64,
    pub seconds: Seconds,
    /// Where the step was one to evaluate after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
}

/// Where the time of a step goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// From token ids to hidden states.
    pub forward: f64,
    /// The head, the loss, and what the loss computes of its gradient already.
    pub loss: f64,
    pub backward: f64,
    pub optimizer: f64,
}

impl Seconds {
    pub fn total(&self) -> f64 {
        self.forward + self.loss + self.backward + self.optimizer
    }
}

/// Gradients of a larger norm are scaled down to it.
const MAX_GRAD_NORM: f64 = 1.0;

/// Trains by one method from one seed, or goes on with it, in a folder of its own. `None` if it was interrupted.
pub fn train(setup: &Setup, method: Method, seed: u64, run: &Path) -> Result<Option<Outcome>> {
    let outcome = run.join("outcome.json");
    if outcome.exists() {
        return Ok(Some(read_json(&outcome)?));
    }
    fs::create_dir_all(run).with_context(|| run.display().to_string())?;
    let args = setup.args;
    let found = checkpoint::latest(run)?;
    let model = match (&found, setup.model.take()) {
        (None, Some(model)) => model,
        (None, None) => setup.load(&setup.source)?,
        (Some((folder, _)), _) => setup.load(folder)?,
    };
    checkpoint::check_room(run, &model)?;
    let mut optimizer = AdamW::new(&model.parameters);
    let mut state = State { step: 0, seconds: 0.0 };
    if let Some((folder, found)) = found {
        checkpoint::restore(&folder, &mut optimizer, &found)?;
        state = found;
    }
    if let Some(evaluator) = &setup.evaluator
        && setup.start.get().is_none()
    {
        let _ = setup.start.set(start(setup, evaluator, &model, state.step)?);
    }
    let rows = setup.pairs.rows(&setup.records, &setup.data, method)?;
    let mut log = Log::open(&run.join("metrics.jsonl"), state.step)?;
    let bar = progress_bar(args.steps, &state)?.with_prefix(format!("{} {seed}", method.name()));

    while state.step < args.steps {
        let batch = batch(seed, rows.len(), state.step, args.batch);
        let pairs: Vec<&[Example]> = batch.iter().map(|&pair| &rows[pair][..]).collect();
        let lr = args.lr * schedule(state.step, args.steps);
        let mut metrics = match step(setup, &model, &mut optimizer, method.loss(), &pairs, lr, false)? {
            Ok(metrics) => metrics,
            Err(NotFinite(which)) => {
                checkpoint::save(&checkpoint::path(run, state.step), &setup.source, &model, &optimizer, &state)?;
                bail!(
                    "step {}: {which} is not a finite number, in record(s) {} of {}; the model before this step is in {}",
                    state.step + 1,
                    culprits(setup, &model, method.loss(), &batch, &rows)?,
                    setup.data.display(),
                    checkpoint::path(run, state.step).display()
                );
            }
        };
        state.step += 1;
        state.seconds += metrics.seconds.total();
        metrics.step = state.step;
        if let Some(evaluator) = &setup.evaluator
            && (state.step == args.steps || args.eval_every.is_some_and(|every| state.step.is_multiple_of(every)))
        {
            metrics.evaluation = Some(evaluator.scores(&model, state.step)?);
        }
        show(&bar, &metrics);
        log.write(metrics)?;
        let last = state.step == args.steps;
        let interrupted = !last && (setup.interrupted)();
        if interrupted || (!last && state.step.is_multiple_of(args.save_every)) {
            checkpoint::save(&checkpoint::path(run, state.step), &setup.source, &model, &optimizer, &state)?;
            checkpoint::remove_but(run, Some(state.step))?;
        }
        if interrupted {
            bar.abandon();
            return Ok(None);
        }
    }
    bar.finish_and_clear();

    let mut evaluations: Vec<Evaluation> = log.lines.iter().filter_map(|line| line.evaluation.clone()).collect();
    let mut answers = vec![];
    if let (Some(evaluator), Some((before, earlier))) = (&setup.evaluator, setup.start.get()) {
        let eos = setup.pairs.eos_id();
        let now = evaluator.answer(&model, eos);
        if let Some(last) = evaluations.last_mut() {
            evaluator.score_answers(&now, eos, last);
        }
        evaluations.insert(0, before.clone());
        answers = evaluator.side_by_side(&setup.pairs, earlier, &now)?;
    }
    let losses = log.lines.iter().map(|line| line.loss).collect();
    let result = Outcome { method: method.name(), seed, evaluations, losses, answers, seconds: state.seconds };
    checkpoint::save_model(&run.join("model"), &setup.source, &model, setup.source_kind)?;
    aside::json(&outcome, &result)?;
    checkpoint::remove_but(run, None)?;
    Ok(Some(result))
}

/// The scores and answers before training, from the file that an earlier start has left if there is one.
fn start(setup: &Setup, evaluator: &Evaluator, model: &Llama, step: usize) -> Result<(Evaluation, Vec<Vec<u32>>)> {
    let path = setup.args.out()?.join("start.json");
    if path.exists() {
        return read_json(&path);
    }
    let unlearnt;
    let model = if step == 0 {
        model
    } else {
        unlearnt = setup.load(&setup.source)?;
        &unlearnt
    };
    let mut evaluation = evaluator.scores(model, 0)?;
    let answers = evaluator.answer(model, setup.pairs.eos_id());
    evaluator.score_answers(&answers, setup.pairs.eos_id(), &mut evaluation);
    let start = (evaluation, answers);
    aside::json(&path, &start)?;
    Ok(start)
}

/// What was not a finite number, so that the step was not taken.
pub struct NotFinite(&'static str);

/// One step of the optimizer along the gradient of `sum / live tokens` over all of `pairs`, in as many forward passes
/// as it takes. `dense` computes all logits before the loss, as one would without [`FigaLoss::forward_linear`].
pub fn step(
    setup: &Setup,
    model: &Llama,
    optimizer: &mut AdamW,
    loss: FigaLoss,
    pairs: &[&[Example]],
    lr: f64,
    dense: bool,
) -> Result<Result<StepMetrics, NotFinite>> {
    // Sums add up over forward passes; what they are divided by is known only after the last.
    let loss = loss.with_reduction(Reduction::Sum);
    let (mut sum, mut gated, mut seconds) = (0.0, 0, Seconds::default());
    optimizer.zero_grad();
    for pairs in pairs.chunks(setup.args.micro_batch) {
        let rows = pairs.iter().copied().flatten();
        if rows.clone().next().is_none() {
            continue;
        }
        let batch = collate(rows, setup.pairs.eos_id()).to_tensors(setup.device)?;
        let clock = Clock::start(setup.device);
        let hidden = model.forward(&batch.input_ids);
        let clock = clock.lap(&mut seconds.forward);
        let head = model.lm_head();
        let output = if dense {
            loss.forward(&hidden.matmul(&head.tr()), &batch.labels, &batch.weights)?
        } else {
            loss.forward_linear(&hidden, &head, &batch.labels, &batch.weights)?
        };
        let clock = clock.lap(&mut seconds.loss);
        output.loss.backward();
        clock.lap(&mut seconds.backward);
        sum += output.loss.double_value(&[]);
        gated += output.stats.read()?.gated.count;
    }
    let all = pairs.iter().copied().flatten();
    let active = all.clone().flat_map(Example::active).filter(|&active| active).count();
    let live = (active as i64 - gated).max(1) as f64;
    let clock = Clock::start(setup.device);
    let grad_norm = optimizer.grad_norm() / live;
    if !sum.is_finite() {
        return Ok(Err(NotFinite("the loss")));
    }
    if !grad_norm.is_finite() {
        return Ok(Err(NotFinite("the gradient")));
    }
    optimizer.step(lr, (MAX_GRAD_NORM / grad_norm).min(1.0) / live);
    clock.lap(&mut seconds.optimizer);
    let tokens = all.map(|row| row.input_ids().len()).sum();
    let loss = sum / live;
    Ok(Ok(StepMetrics { step: 0, loss, lr, grad_norm, tokens, active, gated, seconds, evaluation: None }))
}

/// The records, counted from 1, that have a loss which is not finite on their own, or all if none has.
fn culprits(setup: &Setup, model: &Llama, loss: FigaLoss, batch: &[usize], rows: &[Vec<Example>]) -> Result<String> {
    let _no_grad = figa_loss::tch::no_grad_guard();
    let mut found = vec![];
    for &pair in batch.iter().filter(|&&pair| !rows[pair].is_empty()) {
        let tensors = collate(&rows[pair], setup.pairs.eos_id()).to_tensors(setup.device)?;
        let hidden = model.forward(&tensors.input_ids);
        let output = loss.forward_linear(&hidden, &model.lm_head(), &tensors.labels, &tensors.weights)?;
        if !output.loss.double_value(&[]).is_finite() {
            found.push(pair);
        }
    }
    let names: Vec<String> =
        if found.is_empty() { batch } else { &found }.iter().map(|pair| (pair + 1).to_string()).collect();
    Ok(names.join(", "))
}

/// The pairs of a step. Each epoch is a shuffle of its own, so that seed and step tell all there is to know.
pub fn batch(seed: u64, pairs: usize, step: usize, size: usize) -> Vec<usize> {
    let mut order: (usize, Vec<usize>) = (usize::MAX, vec![]);
    let of_place = |place: usize| {
        let epoch = place / pairs;
        if order.0 != epoch {
            order = (epoch, (0..pairs).collect());
            order.1.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add((epoch as u64) << 32)));
        }
        order.1[place % pairs]
    };
    (step * size..(step + 1) * size).map(of_place).collect()
}

/// Linear warm-up over a tenth of the steps, then a cosine to 0.
fn schedule(step: usize, steps: usize) -> f64 {
    let warm_up = steps.div_ceil(10);
    if step < warm_up {
        return (step + 1) as f64 / warm_up as f64;
    }
    let done = (step - warm_up) as f64 / (steps - warm_up) as f64;
    0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

/// Measures what the device does, not only what it was told.
struct Clock {
    device: Device,
    start: Instant,
}

impl Clock {
    fn start(device: Device) -> Self {
        Self::synchronize(device);
        Self { device, start: Instant::now() }
    }

    /// Adds the time since the start, or the last lap.
    fn lap(self, seconds: &mut f64) -> Self {
        Self::synchronize(self.device);
        let now = Instant::now();
        *seconds += now.duration_since(self.start).as_secs_f64();
        Self { start: now, ..self }
    }

    fn synchronize(device: Device) {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    }
}

/// `metrics.jsonl`, a line a step.
struct Log {
    path: PathBuf,
    file: File,
    lines: Vec<StepMetrics>,
}

impl Log {
    /// Keeps the lines of the first `steps` steps: a run that was killed may have gone on after its last checkpoint.
    fn open(path: &Path, steps: usize) -> Result<Self> {
        let text = if path.exists() { fs::read_to_string(path) } else { Ok(String::new()) };
        let text = text.with_context(|| path.display().to_string())?;
        let kept: Vec<&str> = text.lines().take(steps).collect();
        let lines = kept.iter().map(|line| serde_json::from_str(line)).collect::<Result<Vec<StepMetrics>, _>>();
        let lines = lines.with_context(|| path.display().to_string())?;
        ensure!(lines.len() == steps, "{}: has {} lines, but the checkpoint {steps}", path.display(), lines.len());
        aside::file(path, |aside| {
            Ok(fs::write(aside, kept.iter().map(|line| format!("{line}\n")).collect::<String>())?)
        })?;
        let file = File::options().append(true).open(path).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.into(), file, lines })
    }

    fn write(&mut self, line: StepMetrics) -> Result<()> {
        let text = serde_json::to_string(&line)? + "\n";
        self.file.write_all(text.as_bytes()).with_context(|| format!("writing {}", self.path.display()))?;
        self.lines.push(line);
        Ok(())
    }
}

fn progress_bar(steps: usize, state: &State) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}  eta {eta}  {msg}")?;
    let bar = ProgressBar::new(steps as u64).with_style(style).with_elapsed(Duration::from_secs_f64(state.seconds));
    bar.set_position(state.step as u64);
    Ok(bar)
}

/// On the bar of a terminal, on lines elsewhere.
fn show(bar: &ProgressBar, metrics: &StepMetrics) {
    let StepMetrics { step, loss, tokens, active, gated, seconds, .. } = metrics;
    let share = |part: f64, of: usize| 100.0 * part / of.max(1) as f64;
    let text = format!(
        "loss {loss:.4}  {:.0} tokens/s  active {:.0} %  gated {:.0} %",
        *tokens as f64 / seconds.total(),
        share(*active as f64, *tokens),
        share(*gated as f64, *active)
    );
    if std::io::stderr().is_terminal() {
        bar.set_message(text);
        bar.set_position(*step as u64);
    } else {
        eprintln!("{} step {step}  {text}", bar.prefix());
    }
}
