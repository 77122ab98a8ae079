//! The FIGA loss: signed, gated, token-weighted negative log-likelihood.

use tch::Tensor;

use super::core::driver::{Request, Source, run};
use super::core::head::LmHead;
use super::core::inputs::{check_hidden, check_logits, check_tokens};
use super::core::objective::{Objective, Scores, Terms};
use super::core::rows::Rows;
use super::output::LossOutput;
use super::reduction::Reduction;
use crate::error::{Error, Result};
use crate::weights::IGNORE_INDEX;

/// The FIGA loss with its default configuration: ignore index -100, gate at 0.6 nats, mean over the active tokens.
///
/// # Shapes
/// * `logits`: `[B, S, V]`, f16, bf16, f32 or f64, any strides
/// * `labels`: `[B, S]`, int64
/// * `weights`: `[B, S]`, a float type; taken as constants even if they require a gradient
/// * result: a scalar, f32 (f64 for f64 logits), differentiable with respect to `logits`
///
/// `labels` and `weights` are on the device of `logits` or on the CPU. If they are on the CPU, the call does not wait for
/// the GPU.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`], [`Error::Device`] for arguments that do not fit each other,
/// [`Error::LabelOutOfRange`] for a label that is neither a column of `logits` nor -100, [`Error::Value`] for an undefined
/// tensor, [`Error::Torch`] if libtorch fails.
///
/// # Memory
/// The active rows of `logits` in f32, and once more in `backward`, beside the gradient of `logits`. Logits whose first
/// two dimensions cannot be flattened into one without a copy are copied.
///
/// # Example
/// ```
/// use figa_loss::{figa_loss, tch::{Kind, Device, Tensor}};
///
/// let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// let weights = Tensor::from_slice(&[0f32, 1.0, -0.5]).reshape([1, 3]);
///
/// // Four equal logits: nll = ln 4 = 1.386 for both tokens. The second is gated, as 1.386 > 0.6, and leaves the mean.
/// let loss = figa_loss(&logits, &labels, &weights)?;
/// assert!((loss.double_value(&[]) - 4f64.ln()).abs() < 1e-6);
/// loss.backward();
/// # Ok::<(), figa_loss::Error>(())
/// ```
///
/// Source: Guo et al., *Beyond Imitation: Leveraging Fine-grained Quality Signals for Alignment*, arXiv 2311.04072.
pub fn figa_loss(logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<Tensor> {
    Ok(FigaLoss::new().forward(logits, labels, weights)?.loss)
}

/// The FIGA loss of `hidden @ lm_head^T` with its default configuration, without ever holding all logits.
///
/// Equal to `figa_loss(&hidden.matmul(&lm_head.tr()), labels, weights)`, value and gradients, at a fraction of its time
/// and memory.
///
/// # Shapes
/// * `hidden`: `[B, S, H]`, f16, bf16, f32 or f64, any strides
/// * `lm_head`: `[V, H]`, of the dtype of `hidden`: the weight of a linear layer, or the embedding that it is tied to
/// * `labels`: `[B, S]`, int64
/// * `weights`: `[B, S]`, a float type; taken as constants even if they require a gradient
/// * result: a scalar, f32 (f64 for f64), differentiable with respect to `hidden` and `lm_head`
///
/// `hidden` and `lm_head` are on one device; `labels` and `weights` there or on the CPU. If they are on the CPU, the
/// call does not wait for the GPU.
///
/// # Errors
/// Those of [`figa_loss`].
///
/// # Memory
/// Beyond the gradients of `hidden` and `lm_head`, the logits of one chunk of active rows, see
/// [`FigaLoss::with_chunk_rows`].
///
/// # Example
/// ```
/// use figa_loss::{fused_linear_figa_loss, tch::{Device, Kind, Tensor}};
///
/// let hidden = Tensor::ones([1, 3, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let lm_head = Tensor::zeros([4, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// let weights = Tensor::from_slice(&[0f32, 1.0, -0.5]).reshape([1, 3]);
///
/// // Four equal logits: nll = ln 4 = 1.386 for both tokens, and the second is gated.
/// let loss = fused_linear_figa_loss(&hidden, &lm_head, &labels, &weights)?;
/// assert!((loss.double_value(&[]) - 4f64.ln()).abs() < 1e-6);
/// loss.backward();
/// // p - 1 = -0.75 at the label, p = 0.25 elsewhere, times the hidden state.
/// let expected = Tensor::from_slice(&[0.25f32, 0.25, -0.75, 0.25]);
/// assert!(lm_head.grad().select(1, 0).allclose(&expected, 1e-6, 1e-6, false));
/// # Ok::<(), figa_loss::Error>(())
/// ```
pub fn fused_linear_figa_loss(hidden: &Tensor, lm_head: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<Tensor> {
    Ok(FigaLoss::new().forward_linear(hidden, lm_head, labels, weights)?.loss)
}

/// A token with a negative weight is penalised only while its nll in the current forward pass (nats, detached) is in this
/// range; otherwise it leaves both sum and denominator.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Gate {
    /// `nll <= limit`: the model still finds the token likely.
    AtMost(f64),
    /// `min <= nll <= max`.
    Band {
        /// Least nll that is penalised.
        min: f64,
        /// Greatest nll that is penalised.
        max: f64,
    },
}

/// The cost of a token with a negative weight, before it is multiplied by `|weight|`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Penalty {
    /// `-nll`, the paper's: not bounded below, so it needs a gate. The gradient is largest where the token is already
    /// unlikely.
    #[default]
    Nll,
    /// `-log(1 - p)`, unlikelihood: at least 0, with a gradient that fades with `p`, so it needs no gate. Exact even
    /// where `p` is almost 1.
    Unlikelihood,
}

/// What a token costs: the objective of [`FigaLoss`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Figa {
    /// The gate of negative weights; `Some(Gate::AtMost(0.6))` by default, `None` switches it off.
    pub gate: Option<Gate>,
    /// What negative weights do; [`Penalty::Nll`] by default.
    pub penalty: Penalty,
}

/// The FIGA loss with a configuration. Start from [`FigaLoss::new`] and change what you need.
///
/// ```
/// use figa_loss::{Figa, FigaLoss, Gate, Penalty, Reduction};
///
/// const BOUNDED: FigaLoss = FigaLoss::new().with_penalty(Penalty::Unlikelihood).with_gate(None);
/// assert_eq!((BOUNDED.ignore_index, BOUNDED.reduction), (-100, Reduction::ActiveTokens));
/// let small = FigaLoss::new().with_ignore_index(-1).with_chunk_rows(256);
/// assert_eq!((small.ignore_index, small.chunk_rows), (-1, Some(256)));
/// let Figa { gate, penalty, .. } = FigaLoss::default().objective;
/// assert_eq!((gate, penalty), (Some(Gate::AtMost(0.6)), Penalty::Nll));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct FigaLoss {
    /// What a token costs.
    pub objective: Figa,
    /// The denominator; [`Reduction::ActiveTokens`] by default.
    pub reduction: Reduction,
    /// Positions with this label do not count; -100 by default.
    pub ignore_index: i64,
    /// See [`with_chunk_rows`](Self::with_chunk_rows); `None` by default.
    pub chunk_rows: Option<i64>,
    /// The label with statistics of its own, in [`LossSummary::eos`](super::LossSummary::eos); `None` by default.
    pub eos_id: Option<i64>,
}

impl Default for FigaLoss {
    fn default() -> Self {
        Self::new()
    }
}

impl FigaLoss {
    /// The paper's loss.
    pub const fn new() -> Self {
        Self {
            objective: Figa { gate: Some(Gate::AtMost(0.6)), penalty: Penalty::Nll },
            reduction: Reduction::ActiveTokens,
            ignore_index: IGNORE_INDEX,
            chunk_rows: None,
            eos_id: None,
        }
    }

    /// Sets the gate of negative weights.
    pub const fn with_gate(mut self, gate: Option<Gate>) -> Self {
        self.objective.gate = gate;
        self
    }

    /// Sets what negative weights do.
    pub const fn with_penalty(mut self, penalty: Penalty) -> Self {
        self.objective.penalty = penalty;
        self
    }

    /// Sets the denominator.
    pub const fn with_reduction(self, reduction: Reduction) -> Self {
        Self { reduction, ..self }
    }

    /// Sets the label of positions that do not count.
    pub const fn with_ignore_index(self, ignore_index: i64) -> Self {
        Self { ignore_index, ..self }
    }

    /// Sets how many rows of logits [`forward_linear`](Self::forward_linear) holds at a time. By default it holds as
    /// many as there are hidden dimensions, which takes the memory of the head's gradient, or 4 million logits if that
    /// is more. The number changes the result by no more than rounding.
    pub const fn with_chunk_rows(self, chunk_rows: i64) -> Self {
        Self { chunk_rows: Some(chunk_rows), ..self }
    }

    /// Sets the label with statistics of its own.
    pub const fn with_eos_id(self, eos_id: i64) -> Self {
        Self { eos_id: Some(eos_id), ..self }
    }

    /// The loss of `logits [B, S, V]`, `labels [B, S]` and `weights [B, S]`; see the [module](crate::loss) for the
    /// formula and [`figa_loss`] for dtypes, memory and an example.
    ///
    /// First derivatives only: the gradient is a constant in the graph.
    ///
    /// # Errors
    /// Those of [`figa_loss`], and [`Error::Value`] for a gate, denominator or number of rows outside of its domain.
    pub fn forward(&self, logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<LossOutput> {
        self.validate()?;
        let vocab = check_logits(logits)?;
        check_tokens(logits, labels, weights)?;
        self.run(&Source::logits(logits)?, labels, weights, vocab)
    }

    /// The loss of `hidden [B, S, H]` under a head `[V, H]`, `labels [B, S]` and `weights [B, S]`; see
    /// [`fused_linear_figa_loss`] for dtypes and an example, and [`LmHead`] for bias, scale and soft-cap.
    ///
    /// Gradients go to `hidden`, the head's weight and its bias exactly where they require one. The head's gradient is
    /// accumulated in f32 for f16 and bf16. First derivatives only: the gradient is a constant in the graph.
    ///
    /// # Errors
    /// Those of [`figa_loss`], and [`Error::Value`] for a gate, denominator, number of rows, scale or soft-cap outside
    /// of its domain.
    ///
    /// # Memory
    /// Beyond the gradients of `hidden` and the head, the logits of one chunk of active rows (f32), a second chunk with
    /// a soft-cap, and for f16 and bf16 the head's gradient in f32, on a CPU also the head. `backward` holds the head's
    /// gradient twice for a moment, when the chunk is gone. With [`Reduction::None`] and a head that requires a
    /// gradient, the logits of all active rows: the gradients of single tokens cannot be summed before `backward`.
    pub fn forward_linear<'a>(
        &self,
        hidden: &Tensor,
        lm_head: impl Into<LmHead<'a>>,
        labels: &Tensor,
        weights: &Tensor,
    ) -> Result<LossOutput> {
        let head = lm_head.into();
        self.validate()?;
        let vocab = check_hidden(hidden, &head)?;
        check_tokens(hidden, labels, weights)?;
        self.run(&Source::hidden(hidden, head)?, labels, weights, vocab)
    }

    fn run(&self, source: &Source<'_>, labels: &Tensor, weights: &Tensor, vocab: i64) -> Result<LossOutput> {
        let rows = Rows::of_batch(labels, weights, self.ignore_index, vocab)?;
        let factors = self.reduction.row_factors();
        let request = Request {
            factors: factors.as_ref().map(|factors| factors as _),
            per_row: self.reduction == Reduction::None,
            chunk_rows: self.chunk_rows,
        };
        let outcome = run(source, &rows, &self.objective, &request)?;
        LossOutput::new(&outcome, self.reduction, self.eos_id)
    }

    fn validate(&self) -> Result<()> {
        self.objective.validate()?;
        self.reduction.validate()?;
        match self.chunk_rows {
            Some(rows) if rows < 1 => {
                Err(Error::Value { argument: "chunk_rows", expected: "at least 1 row", actual: rows.to_string() })
            }
            _ => Ok(()),
        }
    }
}

impl Figa {
    fn validate(&self) -> Result<()> {
        let is_valid = match self.gate {
            None => true,
            Some(Gate::AtMost(limit)) => !limit.is_nan(),
            Some(Gate::Band { min, max }) => min <= max,
        };
        if is_valid {
            return Ok(());
        }
        let expected = "AtMost(a number) or Band with min <= max";
        Err(Error::Value { argument: "gate", expected, actual: format!("{:?}", self.gate) })
    }
}

impl Objective for Figa {
    fn may_skip(&self, weight: f64) -> bool {
        self.gate.is_some() && weight < 0.0
    }

    fn terms(&self, Scores { log_odds, nll }: Scores, weights: &Tensor) -> Result<Terms> {
        let penalised = weights.f_lt(0)?;
        let counted = match self.gate {
            None => nll.f_ones_like()?.f_to_kind(tch::Kind::Bool)?,
            Some(Gate::AtMost(limit)) => penalised.f_logical_and(&nll.f_gt(limit)?)?.f_logical_not()?,
            Some(Gate::Band { min, max }) => {
                penalised.f_logical_and(&nll.f_lt(min)?.f_logical_or(&nll.f_gt(max)?)?)?.f_logical_not()?
            }
        };
        // w * nll, whose slope is -w * (1 - p).
        let against = log_odds.f_neg()?;
        let (mut value, mut slope) = (weights.f_mul(&nll)?, weights.f_mul(&against.f_sigmoid()?)?.f_neg()?);
        if self.penalty == Penalty::Unlikelihood {
            // w * log(1 - p), whose slope is -w * p.
            value = weights.f_mul(&against.f_log_sigmoid()?)?.f_where_self(&penalised, &value)?;
            slope = weights.f_mul(&log_odds.f_sigmoid()?)?.f_neg()?.f_where_self(&penalised, &slope)?;
        }
        // Not by multiplying: a gated token may have an infinite nll or weight, and 0 * inf is NaN.
        let zeros = nll.f_zeros_like()?;
        Ok(Terms {
            value: value.f_where_self(&counted, &zeros)?,
            slope: slope.f_where_self(&counted, &zeros)?,
            nll,
            counted,
        })
    }
}
