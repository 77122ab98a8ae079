//! The loss of rows, and the gradient of a step.

use anyhow::Result;
use figa_loss::tch::{Device, Tensor};
use figa_loss::{BatchTensors, Example, FigaLoss, LossOutput, LossStats, Reduction, collate};

use crate::adamw::AdamW;
use crate::clock::{Clock, Seconds};
use crate::llama::Llama;

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

/// The loss of some rows.
pub fn loss_of(model: &Llama, loss: FigaLoss, rows: &[Example], pad_id: u32) -> Result<LossOutput> {
    let batch = collate(rows, pad_id).to_tensors(model.device())?;
    apply(model, loss, &model.forward(&batch.input_ids), &batch, Logits::Fused)
}

fn apply(model: &Llama, loss: FigaLoss, hidden: &Tensor, batch: &BatchTensors, logits: Logits) -> Result<LossOutput> {
    let head = model.lm_head();
    Ok(match logits {
        Logits::Fused => loss.forward_linear(hidden, &head, &batch.labels, &batch.weights)?,
        Logits::Dense => loss.forward(&hidden.matmul(&head.tr()), &batch.labels, &batch.weights)?,
    })
}

/// Computes the gradient of a step in as many forward passes as needed.
pub struct GradientAccumulator {
    pub loss: FigaLoss,
    /// Pairs per forward pass.
    pub micro_batch: usize,
    pub pad_id: u32,
    pub logits: Logits,
}

impl GradientAccumulator {
    /// Leaves the gradient of the summed loss in the parameters. [`Gradient::apply`] divides it by the
    /// number of ungated tokens, which is known only after the last pass.
    pub fn gradient(&self, model: &Llama, optimizer: &mut AdamW, pairs: &[&[Example]]) -> Result<Gradient> {
        let device = model.device();
        let mut sum = 0.0;
        let mut stats: Option<LossStats> = None;
        let mut seconds = Seconds::default();
        optimizer.zero_grad();
        for pairs in pairs.chunks(self.micro_batch).filter(|pairs| pairs.iter().any(|rows| !rows.is_empty())) {
            let output = self.pass(model, pairs, &mut seconds)?;
            sum += output.loss.double_value(&[]);
            stats = Some(match stats {
                None => output.stats,
                Some(stats) => stats.add(&output.stats)?,
            });
        }
        let gated = stats.map_or(Ok(0), |stats| stats.read().map(|summary| summary.gated.count))?;
        let rows = || pairs.iter().copied().flatten();
        let active = rows().flat_map(Example::active).filter(|&active| active).count();
        let ungated = (active as i64 - gated).max(1) as f64;
        let mut clock = Clock::start(device);
        let norm = optimizer.grad_norm() / ungated;
        clock.lap(&mut seconds.optimizer);
        let tokens = rows().map(Example::len).sum();
        Ok(Gradient { loss: sum / ungated, norm, tokens, active, gated, ungated, device, seconds })
    }

    /// A forward and backward pass.
    fn pass(&self, model: &Llama, pairs: &[&[Example]], seconds: &mut Seconds) -> Result<LossOutput> {
        let batch = collate(pairs.iter().copied().flatten(), self.pad_id).to_tensors(model.device())?;
        let mut clock = Clock::start(model.device());
        let hidden = model.forward(&batch.input_ids);
        clock.lap(&mut seconds.forward);
        let output = apply(model, self.loss.with_reduction(Reduction::Sum), &hidden, &batch, self.logits)?;
        clock.lap(&mut seconds.loss);
        output.loss.backward();
        clock.lap(&mut seconds.backward);
        Ok(output)
    }
}

/// What is known of a step before the optimizer takes it.
pub struct Gradient {
    /// The mean over the ungated tokens.
    pub loss: f64,
    /// The norm of the gradient of `loss`, before clipping.
    pub norm: f64,
    /// Tokens in the rows.
    pub tokens: usize,
    /// Tokens with a weight.
    pub active: usize,
    /// Active tokens that the gate skips.
    pub gated: i64,
    /// The denominator of the loss, at least 1.
    ungated: f64,
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
        optimizer.step(lr, (MAX_GRAD_NORM / self.norm).min(1.0) / self.ungated);
        clock.lap(&mut self.seconds.optimizer);
    }
}
