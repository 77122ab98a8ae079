//! The loss of rows, and the gradient of a step.

use anyhow::{Context, Result};
use figa_loss::tch::{self, Device, Kind, Tensor};
use figa_loss::{
    Anchored, Distillation, Example, FigaLoss, LossOutput, LossStats, LossSummary, ModelOutput, PreferenceBatch,
    PreferenceStats, PreferenceSummary, Reduction, Reference, TokenLoss, log_probs,
};

use crate::adamw::AdamW;
use crate::clock::{Clock, Seconds};
use crate::llama::Llama;
use crate::method::{Base, Loss, Method, Tokens};
use crate::rows::{Batch, Layout, Row, rows_of};

/// Gradients with a larger norm are scaled down to it.
const MAX_GRAD_NORM: f64 = 1.0;

/// Whether the loss sees all logits at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// The loss computes those of the active tokens, in chunks.
    Fused,
    /// All logits are computed before the loss.
    Dense,
}

/// For each answer of some groups, the log-probability of each token that has a weight, and 0 for all others.
pub fn token_log_probs(model: &Llama, groups: &[Vec<Example>], layout: Layout, pad_id: u32) -> Result<Vec<Vec<f32>>> {
    let _no_grad = tch::no_grad_guard();
    let mut lists: Vec<Vec<f32>> = groups.iter().flatten().map(|answer| vec![0.0; answer.len()]).collect();
    let batch = layout.pack(groups, pad_id, Example::is_active);
    let tensors = batch.to_tensors(model.device())?;
    let rows = rows_of(&tensors, &tensors.weights)?;
    if rows.is_empty() {
        return Ok(lists);
    }
    let hidden = model.forward_packed(&tensors.inputs()?);
    let log_probs = log_probs((&hidden, &model.lm_head()), &rows)?.to_kind(Kind::Float).to_device(Device::Cpu);
    let places = batch.sequences.iter().zip(&batch.tokens);
    for (log_prob, (&sequence, &token)) in Vec::<f32>::try_from(log_probs)?.into_iter().zip(places) {
        if let Ok(token) = usize::try_from(token) {
            lists[sequence as usize][token] = log_prob;
        }
    }
    Ok(lists)
}

/// What a model gives for a batch.
struct Output {
    hidden: Tensor,
    head: Tensor,
    logits: Option<Tensor>,
}

impl Output {
    fn new(model: &Llama, hidden: Tensor, logits: Logits) -> Self {
        let head = model.lm_head();
        let logits = (logits == Logits::Dense).then(|| hidden.matmul(&head.tr()));
        Self { hidden, head, logits }
    }

    fn get(&self) -> ModelOutput<'_> {
        match &self.logits {
            Some(logits) => logits.into(),
            None => (&self.hidden, &self.head).into(),
        }
    }
}

/// What the sums of a step are divided by: numbers of the whole step, however many passes it takes.
struct Denominators {
    /// Of an anchored loss. That of other losses of tokens is known after the last pass.
    tokens: Reduction,
    anchor: Reduction,
    pairs: f64,
    /// Of the likelihood term of a loss of pairs.
    chosen: f64,
}

/// Counts and means of a step, as far as its loss has them.
#[derive(Default)]
struct Stats {
    /// See [`Gradient::computed`].
    computed: usize,
    tokens: Option<LossStats>,
    anchor: Option<LossStats>,
    pairs: Option<PreferenceStats>,
}

impl Stats {
    fn add(self, other: Self) -> Result<Self> {
        fn add<T>(one: Option<T>, other: Option<T>, sum: fn(&T, &T) -> figa_loss::Result<T>) -> Result<Option<T>> {
            Ok(match (one, other) {
                (Some(one), Some(other)) => Some(sum(&one, &other)?),
                (one, other) => one.or(other),
            })
        }
        Ok(Self {
            computed: self.computed + other.computed,
            tokens: add(self.tokens, other.tokens, LossStats::add)?,
            anchor: add(self.anchor, other.anchor, LossStats::add)?,
            pairs: add(self.pairs, other.pairs, PreferenceStats::add)?,
        })
    }
}

/// Computes the gradient of a step in as many forward passes as needed.
pub struct GradientAccumulator {
    pub method: Method,
    /// The base model, for a method that needs it in memory.
    pub base: Option<Llama>,
    /// Pairs per forward pass.
    pub micro_batch: usize,
    pub pad_id: u32,
    pub layout: Layout,
    pub logits: Logits,
}

impl GradientAccumulator {
    /// Leaves the gradient of the loss in the parameters, up to a divisor that is known only after the last pass.
    /// [`Gradient::apply`] divides by it.
    pub fn gradient(&self, model: &Llama, optimizer: &mut AdamW, pairs: &[&[Row]]) -> Result<Gradient> {
        let device = model.device();
        let mut seconds = Seconds::default();
        let passes = pairs.chunks(self.micro_batch).filter(|pairs| pairs.iter().any(|rows| !rows.is_empty()));
        let passes: Vec<&[&[Row]]> = passes.collect();
        let denominators = self.denominators(model, &passes, &mut seconds)?;
        optimizer.zero_grad();
        let (mut loss, mut stats) = (0.0, Stats::default());
        for pairs in passes {
            let mut clock = Clock::start(device);
            let (sum, more) = self.forward(model, pairs, &denominators, &mut clock, &mut seconds)?;
            sum.backward();
            clock.lap(&mut seconds.backward);
            loss += sum.double_value(&[]);
            stats = stats.add(more)?;
        }
        let tokens: Option<LossSummary> = stats.tokens.map(|stats| stats.read()).transpose()?;
        let anchor: Option<LossSummary> = stats.anchor.map(|stats| stats.read()).transpose()?;
        let preferences: Option<PreferenceSummary> = stats.pairs.map(|stats| stats.read()).transpose()?;
        let rows = || pairs.iter().copied().flatten();
        let (active, gated) = (count_active(rows()), tokens.map_or(0, |tokens| tokens.gated.count));
        let divisor = match self.method.loss {
            Loss::Tokens(_) => (active as i64 - gated).max(1) as f64,
            Loss::Anchored(..) | Loss::Pairs(_) => 1.0,
        };
        let mut clock = Clock::start(device);
        let norm = optimizer.grad_norm() / divisor;
        clock.lap(&mut seconds.optimizer);
        Ok(Gradient {
            loss: loss / divisor,
            norm,
            tokens: rows().map(|row| row.example.len()).sum(),
            computed: stats.computed,
            active,
            gated,
            kl: anchor.or(tokens).and_then(|tokens| tokens.rewarded.mean_kl),
            accuracy: preferences.and_then(|pairs| pairs.accuracy),
            margin: preferences.and_then(|pairs| pairs.mean_margin),
            divisor,
            device,
            seconds,
        })
    }

    /// The loss of a pair by itself.
    pub fn loss_of(&self, model: &Llama, pair: &[Row]) -> Result<f64> {
        let _no_grad = tch::no_grad_guard();
        let mut seconds = Seconds::default();
        let denominators = self.denominators(model, &[&[pair]], &mut seconds)?;
        let mut clock = Clock::start(model.device());
        Ok(self.forward(model, &[pair], &denominators, &mut clock, &mut seconds)?.0.double_value(&[]))
    }

    fn denominators(&self, model: &Llama, passes: &[&[&[Row]]], seconds: &mut Seconds) -> Result<Denominators> {
        let pairs = || passes.iter().copied().flatten();
        let (mut tokens, mut anchor) = (Reduction::ActiveTokens, Reduction::ActiveTokens);
        let rows = || pairs().copied().flatten();
        if let (Loss::Anchored(figa, _), 2..) = (self.method.loss, passes.len()) {
            let external = |count: usize| Reduction::External(count.max(1) as f64);
            tokens = external(count_active(rows()) - self.count_gated(model, figa, passes, seconds)?);
            anchor = external(rows().map(|row| row.anchored().count()).sum());
        }
        let revised = pairs().filter_map(|rows| rows.get(1));
        let weights = revised.flat_map(|row| row.example.weights().iter().map(|&weight| f64::from(weight.abs())));
        Ok(Denominators { tokens, anchor, pairs: pairs().count() as f64, chosen: weights.sum() })
    }

    /// The number of tokens that the gate skips. Two sums with denominators of their own cannot wait for it until the last
    /// pass, as their gradients are added up in the same place.
    fn count_gated(&self, model: &Llama, figa: FigaLoss, passes: &[&[&[Row]]], seconds: &mut Seconds) -> Result<usize> {
        let _no_grad = tch::no_grad_guard();
        let mut clock = Clock::start(model.device());
        let mut gated = 0;
        for pairs in passes {
            let batch = Batch::new(pairs, self.layout, self.pad_id, model.device())?;
            let output = Output::new(model, model.forward_packed(&batch.inputs), self.logits);
            gated += figa.on(output.get(), &batch.rows)?.stats.read()?.gated.count as usize;
        }
        clock.lap(&mut seconds.forward);
        Ok(gated)
    }

    /// The part of some pairs in the loss of a step.
    fn forward(
        &self,
        model: &Llama,
        pairs: &[&[Row]],
        denominators: &Denominators,
        clock: &mut Clock,
        seconds: &mut Seconds,
    ) -> Result<(Tensor, Stats)> {
        let batch = Batch::new(pairs, self.layout, self.pad_id, model.device())?;
        let hidden = model.forward_packed(&batch.inputs);
        // The parameters of the base model require no gradient, so it leaves no graph.
        let base = self.base.as_ref().map(|base| (base, base.forward_packed(&batch.inputs)));
        clock.lap(&mut seconds.forward);
        let output = Output::new(model, hidden, self.logits);
        let base = base.map(|(base, hidden)| Output::new(base, hidden, self.logits));
        let (loss, stats) = self.apply(&output, base.as_ref(), &batch, denominators)?;
        clock.lap(&mut seconds.loss);
        Ok((loss, Stats { computed: batch.computed, ..stats }))
    }

    /// Applies the loss of the method.
    fn apply(
        &self,
        output: &Output,
        base: Option<&Output>,
        batch: &Batch,
        denominators: &Denominators,
    ) -> Result<(Tensor, Stats)> {
        let (output, base) = (output.get(), base.map(Output::get));
        match self.method.loss {
            Loss::Tokens(loss) => {
                let LossOutput { loss, stats, .. } = loss(&Tokens { output, rows: &batch.rows, base })?;
                Ok((loss, Stats { tokens: Some(stats), ..Stats::default() }))
            }
            Loss::Anchored(figa, factor) => {
                let reference = Reference::new(base.context("an anchor needs the base model")?);
                let anchor = TokenLoss::of(Distillation::new(reference)).with_reduction(denominators.anchor);
                let loss = Anchored::new(figa.with_reduction(denominators.tokens), anchor, factor);
                let output = loss.on(output, &batch.rows, &batch.anchor)?;
                let (tokens, anchor) = (Some(output.main.stats), Some(output.anchor.stats));
                Ok((output.loss, Stats { tokens, anchor, ..Stats::default() }))
            }
            Loss::Pairs(loss) => {
                let mut pairs = PreferenceBatch::new(&batch.rows, &batch.pairs)
                    .with_denominators(denominators.pairs, denominators.chosen);
                if self.method.base == Base::LogProbs {
                    pairs = pairs.with_reference(&batch.reference);
                }
                let output = loss(output, pairs)?;
                Ok((output.loss, Stats { pairs: Some(output.stats), ..Stats::default() }))
            }
        }
    }
}

fn count_active<'a>(rows: impl Iterator<Item = &'a Row>) -> usize {
    rows.flat_map(|row| row.example.active()).filter(|&active| active).count()
}

/// What is known of a step before the optimizer takes it.
pub struct Gradient {
    /// The loss of the step.
    pub loss: f64,
    /// The norm of the gradient of `loss`, before clipping.
    pub norm: f64,
    /// Tokens in the rows.
    pub tokens: usize,
    /// Tokens that the model computes, padding included.
    pub computed: usize,
    /// Tokens with a weight.
    pub active: usize,
    /// Active tokens that the gate skips.
    pub gated: i64,
    /// The mean divergence from the base model, of the tokens that a loss holds close to it.
    pub kl: Option<f64>,
    /// The share of pairs whose revised answer is ahead, by a loss of pairs.
    pub accuracy: Option<f64>,
    /// By how much it is ahead, on average.
    pub margin: Option<f64>,
    /// What the gradient in the parameters has to be divided by.
    divisor: f64,
    device: Device,
    pub seconds: Seconds,
}

impl Gradient {
    /// Names the quantity that is infinite or NaN, if there is one.
    pub fn not_finite(&self) -> Option<&'static str> {
        let quantities = [("the loss", self.loss), ("the gradient", self.norm)];
        quantities.into_iter().find(|(_, value)| !value.is_finite()).map(|(name, _)| name)
    }

    /// Clips the gradient and takes a step along it.
    pub fn apply(&mut self, optimizer: &mut AdamW, lr: f64) {
        let mut clock = Clock::start(self.device);
        optimizer.step(lr, (MAX_GRAD_NORM / self.norm).min(1.0) / self.divisor);
        clock.lap(&mut self.seconds.optimizer);
    }
}
