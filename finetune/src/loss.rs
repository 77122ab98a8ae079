//! The loss of rows, and the gradient of a step.

use anyhow::{Context, Result};
use figa_loss::tch::{self, Device, Kind, Tensor};
use figa_loss::{
    Anchored, Distillation, Example, FigaLoss, LossOutput, ModelOutput, PreferenceBatch, Reduction, Reference,
    TokenLoss, log_probs,
};

use crate::adamw::AdamW;
use crate::clock::{Clock, Seconds};
use crate::decoder::{Decoder, Head};
use crate::gradients::Gradients;
use crate::method::{Base, Loss, Method, Tokens};
use crate::ranks::Ranks;
use crate::rows::{Batch, Layout, Row};
use crate::stats::{Stats, Totals};

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

impl Logits {
    /// The positions whose hidden states are needed; `None` for all of them.
    fn needed(self, batch: &Batch) -> Option<&Tensor> {
        (self == Self::Fused).then_some(&batch.needed)
    }
}

/// For each answer of some groups, the log-probability of each token that has a weight, and 0 for all others.
pub fn token_log_probs(model: &Decoder, groups: &[Vec<Example>], layout: Layout, pad_id: u32) -> Result<Vec<Vec<f32>>> {
    let _no_grad = tch::no_grad_guard();
    let mut lists: Vec<Vec<f32>> = groups.iter().flatten().map(|answer| vec![0.0; answer.len()]).collect();
    let packed = layout.pack(groups, pad_id, Example::is_active, model.device())?;
    let rows = packed.rows(&packed.tensors.weights)?;
    if rows.is_empty() {
        return Ok(lists);
    }
    let hidden = model.forward_packed(&packed.tensors, Some(&packed.needed))?;
    let head = model.head();
    let log_probs = log_probs((&hidden, head.lm_head()), &rows)?.to_kind(Kind::Float).to_device(Device::Cpu);
    let places = packed.batch.sequences.iter().zip(&packed.batch.tokens);
    for (log_prob, (&sequence, &token)) in Vec::<f32>::try_from(log_probs)?.into_iter().zip(places) {
        if let Ok(token) = usize::try_from(token) {
            lists[sequence as usize][token] = log_prob;
        }
    }
    Ok(lists)
}

/// What a model gives for a batch, at the positions that are needed.
struct Output<'a> {
    hidden: &'a Tensor,
    head: Head,
    logits: Option<Tensor>,
}

impl<'a> Output<'a> {
    /// From the hidden states at [`Logits::needed`].
    fn new(model: &Decoder, hidden: &'a Tensor, batch: &Batch, logits: Logits) -> Self {
        let head = model.head();
        let dense = || head.logits(hidden).flatten(0, 1).index_select(0, &batch.needed);
        let logits = (logits == Logits::Dense).then(dense);
        Self { hidden, head, logits }
    }

    fn get(&self) -> ModelOutput<'_> {
        match &self.logits {
            Some(logits) => logits.into(),
            None => (self.hidden, self.head.lm_head()).into(),
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

/// Computes the gradient of a step in as many forward passes as needed, on all processes.
pub struct GradientAccumulator<'a> {
    pub ranks: &'a Ranks,
    pub method: Method,
    /// The base model, for a method that needs it in memory.
    pub base: Option<Decoder>,
    /// Pairs per forward pass.
    pub micro_batch: usize,
    pub pad_id: u32,
    pub layout: Layout,
    pub logits: Logits,
    /// Compute layers once more in the backward pass, instead of keeping what they have computed.
    pub recompute: bool,
}

impl GradientAccumulator<'_> {
    /// The gradient of the loss, up to a divisor that is known only after the last pass. [`Gradient::apply`] divides by it.
    /// Each process computes a share of the pairs, and all return the same.
    pub fn gradient(&self, model: &Decoder, pairs: &[&[Row]]) -> Result<Gradient> {
        let device = model.device();
        let mut seconds = Seconds::default();
        let passes: Vec<&[&[Row]]> = self.passes(&pairs[self.ranks.share(pairs.len())]).collect();
        let denominators = self.denominators(model, pairs, &passes, self.ranks, &mut seconds)?;
        let mut gradients = Gradients::new(&model.parameters);
        let (mut loss, mut stats) = (0.0, Stats::default());
        for pairs in passes {
            let (sum, more) = self.pass(model, pairs, &denominators, &mut seconds, Some(&mut gradients))?;
            loss += sum;
            stats = stats.add(more)?;
        }
        let mut clock = Clock::start(device);
        gradients.sum_over(self.ranks)?;
        let Totals { loss, computed, gated, kl, accuracy, margin } = stats.totals(loss, self.ranks)?;
        clock.lap(&mut seconds.communication);
        let rows = || pairs.iter().copied().flatten();
        let active = count_active(rows());
        let divisor = match self.method.loss {
            Loss::Figa(_) | Loss::Tokens(_) => (active as i64 - gated).max(1) as f64,
            Loss::Anchored(..) | Loss::Pairs(..) => 1.0,
        };
        let norm = gradients.norm() / divisor;
        clock.lap(&mut seconds.optimizer);
        Ok(Gradient {
            loss: loss / divisor,
            norm,
            tokens: rows().map(|row| row.example.len()).sum(),
            computed,
            active,
            gated,
            kl,
            accuracy,
            margin,
            divisor,
            gradients,
            device,
            seconds,
        })
    }

    /// The pairs of each forward pass. Pairs without rows need none.
    fn passes<'a>(&self, pairs: &'a [&'a [Row]]) -> impl Iterator<Item = &'a [&'a [Row]]> {
        pairs.chunks(self.micro_batch).filter(|pairs| pairs.iter().any(|rows| !rows.is_empty()))
    }

    /// The number of tokens that the model computes in a step, padding included.
    pub fn tokens_to_compute(&self, pairs: &[&[Row]]) -> Result<usize> {
        self.passes(pairs).map(|pairs| Ok(Batch::new(pairs, self.layout, self.pad_id, Device::Cpu)?.computed)).sum()
    }

    /// The loss of a pair by itself.
    pub fn loss_of(&self, model: &Decoder, pair: &[Row]) -> Result<f64> {
        let _no_grad = tch::no_grad_guard();
        let mut seconds = Seconds::default();
        let denominators = self.denominators(model, &[pair], &[&[pair]], &Ranks::ALONE, &mut seconds)?;
        Ok(self.pass(model, &[pair], &denominators, &mut seconds, None)?.0)
    }

    /// Those of all `pairs`, of which this process computes some in `passes`.
    fn denominators(
        &self,
        model: &Decoder,
        pairs: &[&[Row]],
        passes: &[&[&[Row]]],
        ranks: &Ranks,
        seconds: &mut Seconds,
    ) -> Result<Denominators> {
        let (mut tokens, mut anchor) = (Reduction::ActiveTokens, Reduction::ActiveTokens);
        let rows = || pairs.iter().copied().flatten();
        if let Loss::Anchored(figa, _) = self.method.loss
            && (passes.len() > 1 || ranks.count() > 1)
        {
            let external = |count: usize| Reduction::External(count.max(1) as f64);
            let mut gated = [self.count_gated(model, figa, passes, seconds)? as f64];
            ranks.sum(&mut gated)?;
            tokens = external(count_active(rows()) - gated[0] as usize);
            anchor = external(rows().map(|row| row.anchored().count()).sum());
        }
        let all = pairs.iter().filter(|rows| !rows.is_empty()).count();
        let revised = pairs.iter().filter_map(|rows| rows.get(1));
        let weights = revised.flat_map(|row| row.example.weights().iter().map(|&weight| f64::from(weight.abs())));
        Ok(Denominators { tokens, anchor, pairs: all as f64, chosen: weights.sum() })
    }

    /// The number of tokens that the gate skips. Two sums with denominators of their own cannot wait for it until the last
    /// pass, as their gradients are added up in the same place.
    fn count_gated(
        &self,
        model: &Decoder,
        figa: FigaLoss,
        passes: &[&[&[Row]]],
        seconds: &mut Seconds,
    ) -> Result<usize> {
        let _no_grad = tch::no_grad_guard();
        let mut clock = Clock::start(model.device());
        let mut gated = 0;
        for pairs in passes {
            let batch = Batch::new(pairs, self.layout, self.pad_id, model.device())?;
            let hidden = model.forward_packed(&batch.tensors, self.logits.needed(&batch))?;
            let output = Output::new(model, &hidden, &batch, self.logits);
            gated += figa.on(output.get(), &batch.rows)?.stats.read()?.gated.count as usize;
        }
        clock.lap(&mut seconds.forward);
        Ok(gated)
    }

    /// The part of some pairs in the loss of a step. Its gradient is added to `gradients`, if there are some.
    fn pass(
        &self,
        model: &Decoder,
        pairs: &[&[Row]],
        denominators: &Denominators,
        seconds: &mut Seconds,
        gradients: Option<&mut Gradients>,
    ) -> Result<(f64, Stats)> {
        let mut clock = Clock::start(model.device());
        let batch = Batch::new(pairs, self.layout, self.pad_id, model.device())?;
        let needed = self.logits.needed(&batch);
        let recomputed = match self.recompute && gradients.is_some() {
            true => Some(model.forward_recomputed(&batch.tensors, needed)?),
            false => None,
        };
        let hidden = match &recomputed {
            Some(recomputed) => recomputed.hidden.shallow_clone(),
            None => model.forward_packed(&batch.tensors, needed)?,
        };
        // The parameters of the base model require no gradient, so it leaves no graph.
        let base_hidden = self.base.as_ref().map(|base| base.forward_packed(&batch.tensors, needed)).transpose()?;
        clock.lap(&mut seconds.forward);
        let output = Output::new(model, &hidden, &batch, self.logits);
        let base = self.base.as_ref().zip(base_hidden.as_ref());
        let base = base.map(|(base, hidden)| Output::new(base, hidden, &batch, self.logits));
        let (loss, stats) = self.apply(&output, base.as_ref(), &batch, denominators)?;
        clock.lap(&mut seconds.loss);
        match (recomputed, gradients) {
            (Some(recomputed), Some(gradients)) => recomputed.backward(&loss, gradients),
            (None, Some(gradients)) => gradients.add_all(&loss),
            (_, None) => {}
        }
        clock.lap(&mut seconds.backward);
        Ok((loss.double_value(&[]), Stats { computed: batch.computed, ..stats }))
    }

    /// Applies the loss of the method.
    fn apply(
        &self,
        output: &Output<'_>,
        base: Option<&Output<'_>>,
        batch: &Batch,
        denominators: &Denominators,
    ) -> Result<(Tensor, Stats)> {
        let (output, base) = (output.get(), base.map(Output::get));
        let tokens = Tokens { output, rows: &batch.rows, base };
        let of_tokens = |LossOutput { loss, stats, .. }| (loss, Stats { tokens: Some(stats), ..Stats::default() });
        match self.method.loss {
            Loss::Figa(figa) => Ok(of_tokens(tokens.sum(figa.objective)?)),
            Loss::Tokens(loss) => Ok(of_tokens(loss(&tokens)?)),
            Loss::Anchored(figa, factor) => {
                let reference = Reference::new(base.context("an anchor needs the base model")?);
                let anchor = TokenLoss::of(Distillation::new(reference)).with_reduction(denominators.anchor);
                let loss = Anchored::new(figa.with_reduction(denominators.tokens), anchor, factor);
                let output = loss.on(output, &batch.rows, &batch.anchor)?;
                let (tokens, anchor) = (Some(output.main.stats), Some(output.anchor.stats));
                Ok((output.loss, Stats { tokens, anchor, ..Stats::default() }))
            }
            Loss::Pairs(loss, beta) => {
                let mut pairs = PreferenceBatch::new(&batch.rows, &batch.pairs)
                    .with_denominators(denominators.pairs, denominators.chosen);
                if self.method.base == Base::LogProbs {
                    pairs = pairs.with_reference(&batch.reference);
                }
                let output = loss(beta, output, pairs)?;
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
    /// What the gradients have to be divided by.
    divisor: f64,
    gradients: Gradients,
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
    pub fn apply(&mut self, optimizer: &mut AdamW, lr: f64) -> Result<()> {
        let mut clock = Clock::start(self.device);
        let scale = (MAX_GRAD_NORM / self.norm).min(1.0) / self.divisor;
        optimizer.step(&mut self.gradients, lr, scale)?;
        clock.lap(&mut self.seconds.optimizer);
        Ok(())
    }
}
