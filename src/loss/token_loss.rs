//! An objective with a denominator.

use tch::Tensor;

use super::core::driver::{Request, run};
use super::core::head::LmHead;
use super::core::objective::Objective;
use super::core::rows::Rows;
use super::core::source::ModelOutput;
use super::output::LossOutput;
use super::reduction::Reduction;
use crate::error::Result;
use crate::weights::IGNORE_INDEX;

/// A sum over rows, what it is divided by, and how it is computed.
///
/// ```
/// use figa_loss::{Dft, IGNORE_INDEX, Reduction, Rows, TokenLoss, tch::{Device, Kind, Tensor}};
///
/// const LOSS: TokenLoss<Dft> = TokenLoss::of(Dft::new()).with_reduction(Reduction::SequenceMeans);
/// let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// let weights = Tensor::from_slice(&[0f32, 1.0, 1.0]).reshape([1, 3]);
/// let output = LOSS.forward(&logits, &labels, &weights)?;
/// // The same for rows of your own.
/// let rows = Rows::of_batch(&labels, &weights, IGNORE_INDEX)?;
/// assert_eq!(LOSS.on(&logits, &rows)?.loss.double_value(&[]), output.loss.double_value(&[]));
/// // The same from hidden states and a head.
/// let (hidden, head) = (Tensor::zeros([1, 3, 2], (Kind::Float, Device::Cpu)), Tensor::zeros([4, 2], (Kind::Float, Device::Cpu)));
/// let fused = LOSS.forward_linear(&hidden, &head, &labels, &weights)?;
/// assert_eq!(fused.loss.double_value(&[]), output.loss.double_value(&[]));
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TokenLoss<O> {
    /// What a token costs.
    pub objective: O,
    /// The denominator; [`Reduction::ActiveTokens`] by default.
    pub reduction: Reduction,
    /// Positions with this label do not count; -100 by default. [`Rows`] have their own.
    pub ignore_index: i64,
    /// See [`with_chunk_rows`](Self::with_chunk_rows); `None` by default.
    pub chunk_rows: Option<i64>,
    /// The label with statistics of its own, in [`LossSummary::eos`](super::LossSummary::eos); `None` by default.
    pub eos_id: Option<i64>,
}

impl<O> TokenLoss<O> {
    /// The mean of an objective over the active tokens.
    pub const fn of(objective: O) -> Self {
        let (reduction, ignore_index) = (Reduction::ActiveTokens, IGNORE_INDEX);
        Self { objective, reduction, ignore_index, chunk_rows: None, eos_id: None }
    }

    /// Sets the denominator.
    pub const fn with_reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// Sets the label of positions that do not count.
    pub const fn with_ignore_index(mut self, ignore_index: i64) -> Self {
        self.ignore_index = ignore_index;
        self
    }

    /// Sets how many rows of logits are held at a time when they are computed from hidden states. By default it is as many
    /// as there are hidden dimensions, which takes the memory of the head's gradient, or 4 million logits if that
    /// is more. The number changes the result by no more than rounding.
    pub const fn with_chunk_rows(mut self, chunk_rows: i64) -> Self {
        self.chunk_rows = Some(chunk_rows);
        self
    }

    /// Sets the label with statistics of its own.
    pub const fn with_eos_id(mut self, eos_id: i64) -> Self {
        self.eos_id = Some(eos_id);
        self
    }
}

impl<O: Objective> TokenLoss<O> {
    /// The loss of `logits [B, S, V]`, `labels [B, S]` and `weights [B, S]`, which have the positions of `input_ids`; see
    /// [`figa_loss`](crate::figa_loss) for dtypes, memory and an example.
    ///
    /// First derivatives only: the gradient is a constant in the graph.
    ///
    /// # Errors
    /// Those of [`Rows::of_batch`] and of [`on`](Self::on).
    pub fn forward(&self, logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<LossOutput> {
        self.on(logits, &Rows::of_batch(labels, weights, self.ignore_index)?)
    }

    /// The loss of `hidden [B, S, H]` under a head `[V, H]`, `labels [B, S]` and `weights [B, S]`; see
    /// [`fused_linear_figa_loss`](crate::fused_linear_figa_loss) for dtypes and an example, and [`LmHead`] for bias, scale
    /// and soft-cap.
    ///
    /// Gradients go to `hidden`, the head's weight and its bias exactly where they require one. The head's gradient is
    /// accumulated in f32 for f16 and bf16. First derivatives only: the gradient is a constant in the graph.
    ///
    /// # Errors
    /// Those of [`Rows::of_batch`] and of [`on`](Self::on).
    ///
    /// # Memory
    /// Beyond the gradients of `hidden` and the head, the logits of one chunk of active rows (f32), a second chunk with
    /// a soft-cap, one of the reference's logits if the loss has a reference, and for f16 and bf16 the head's gradient in
    /// f32, on a CPU also the head. `backward` holds the head's gradient twice for a moment, when the chunk is gone. With
    /// [`Reduction::None`] and a head that requires a gradient, the logits of all active rows: the gradients of single
    /// tokens cannot be summed before `backward`.
    pub fn forward_linear<'a>(
        &self,
        hidden: &'a Tensor,
        lm_head: impl Into<LmHead<'a>>,
        labels: &Tensor,
        weights: &Tensor,
    ) -> Result<LossOutput> {
        self.on(ModelOutput::hidden(hidden, lm_head), &Rows::of_batch(labels, weights, self.ignore_index)?)
    }

    /// The loss of a model's output on rows.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape), [`Error::Dtype`](crate::Error::Dtype),
    /// [`Error::Device`](crate::Error::Device) for arguments that do not fit each other,
    /// [`Error::LabelOutOfRange`](crate::Error::LabelOutOfRange), [`Error::Value`](crate::Error::Value) for a configuration
    /// outside of its domain, [`Error::Torch`](crate::Error::Torch) if libtorch fails.
    pub fn on<'a>(&self, output: impl Into<ModelOutput<'a>>, rows: &Rows) -> Result<LossOutput> {
        self.objective.validate()?;
        self.reduction.validate()?;
        let factors = self.reduction.row_factors();
        let request = Request {
            factors: factors.as_ref().map(|factors| factors as _),
            per_row: self.reduction == Reduction::None,
            chunk_rows: self.chunk_rows,
        };
        let outcome = run(output.into(), rows, &self.objective, &request)?;
        LossOutput::new(&outcome, self.reduction, self.eos_id)
    }
}
