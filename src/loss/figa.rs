//! The FIGA loss: signed, gated, token-weighted negative log-likelihood.

use tch::Tensor;

use super::core::objective::{Objective, Terms};
use super::core::scores::Scores;
use super::token_loss::TokenLoss;
use crate::error::{Error, Result};

/// The FIGA loss with its default configuration: ignore index -100, gate at 0.6 nats, mean over the active tokens.
///
/// # Shapes
/// * `logits`: `[B, S, V]`, f16, bf16, f32 or f64, any strides
/// * `labels`: `[B, S]`, int64
/// * `weights`: `[B, S]`, a float type; taken as constants even if they require a gradient
/// * result: a scalar, f32 (f64 for f64 logits), differentiable with respect to `logits`
///
/// `labels` and `weights` are on any device. If they are on the CPU, the call does not wait for the GPU.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`], [`Error::Device`] for arguments that do not fit each other,
/// [`Error::LabelOutOfRange`] for a label that is neither a column of `logits` nor -100, [`Error::Value`] for an undefined
/// tensor and for a weight that is infinite or NaN, [`Error::Torch`] if libtorch fails.
///
/// # Memory
/// The active rows of `logits` in f32, and once more in `backward`, beside the gradient of `logits`; for f16 and bf16 also as they
/// are. Logits whose first
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
/// `hidden` and `lm_head` are on one device, `labels` and `weights` on any. If they are on the CPU, the call does not wait
/// for the GPU.
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
pub type FigaLoss = TokenLoss<Figa>;

impl Default for FigaLoss {
    fn default() -> Self {
        Self::new()
    }
}

impl FigaLoss {
    /// The paper's loss.
    pub const fn new() -> Self {
        Self::of(Figa { gate: Some(Gate::AtMost(0.6)), penalty: Penalty::Nll })
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
}

impl Objective for Figa {
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

    fn may_skip(&self, weight: f64) -> bool {
        self.gate.is_some() && weight < 0.0
    }

    fn terms(&self, scores: &Scores) -> Result<Terms> {
        let (weights, nll) = (scores.weights(), scores.nll()?);
        let penalised = weights.f_lt(0)?;
        let mut value = weights.f_mul(&nll)?;
        if self.penalty == Penalty::Unlikelihood {
            // w log(1 - p)
            let unlikelihood = weights.f_mul(&scores.log_odds().f_neg()?.f_log_sigmoid()?)?;
            value = unlikelihood.f_where_self(&penalised, &value)?;
        }
        let nll = nll.f_detach()?;
        let gated = match self.gate {
            None => return Ok(Terms::new(value)),
            Some(Gate::AtMost(limit)) => nll.f_gt(limit)?,
            Some(Gate::Band { min, max }) => nll.f_lt(min)?.f_logical_or(&nll.f_gt(max)?)?,
        };
        let counted = penalised.f_logical_and(&gated)?.f_logical_not()?;
        // Not by multiplying: a gated token may have an infinite nll, and 0 * inf is NaN.
        Ok(Terms::new(value.f_where_self(&counted, &nll.f_zeros_like()?)?).with_counted(counted))
    }
}
