//! The loss: signed, gated, token-weighted negative log-likelihood.
//!
//! With `logits [B, S, V]`, `labels [B, S]` and `weights [B, S]`, where labels and weights have the positions of
//! `input_ids` and the shift by one happens inside (`logits[:, :-1]` against `labels[:, 1:]` and `weights[:, 1:]`):
//!
//! ```text
//! nll_t = -log softmax(logits_t)[label_t]            in f32, or f64 for f64 logits
//! w_t   = 0 where label_t = ignore_index
//! w_t   = 0 where w_t < 0 and nll_t > gate           the stop rule, 0.6 nats by default
//! loss  = sum_t w_t * nll_t / max(1, count_t(w_t != 0))
//! ```
//!
//! A token with a positive weight becomes likelier, one with a negative weight less likely, and one with weight 0 is
//! left alone: its logits may even be infinite or NaN. The gate stops a penalty once the model believes in the token
//! with less than `exp(-0.6) = 0.549`; without it the loss is unbounded below. Where nothing is active, the loss is 0
//! and its gradient is zero.
//!
//! [`figa_loss`] is this formula with its defaults; [`FigaLoss`] is the configuration behind it.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::weights::IGNORE_INDEX;

/// The FIGA loss with its default configuration: ignore index -100, gate at 0.6 nats, mean over the active tokens.
///
/// # Shapes
/// * `logits`: `[B, S, V]`, f16, bf16, f32 or f64, any strides
/// * `labels`: `[B, S]`, int64
/// * `weights`: `[B, S]`, a float type; taken as constants even if they require a gradient
/// * result: a scalar, f32 (f64 for f64 logits), connected to the graph of `logits`
///
/// All on one device.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`], [`Error::Device`] for arguments that do not fit, [`Error::LabelOutOfRange`]
/// for a label that is neither a column of `logits` nor -100.
///
/// # Example
/// ```
/// use figa_loss::{figa_loss, tch::{Kind, Device, Tensor}};
///
/// let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// let weights = Tensor::from_slice(&[0f32, 1.0, -0.5]).reshape([1, 3]);
///
/// // Four equal logits: nll = ln 4 = 1.386 for both tokens. The second is gated, for 1.386 > 0.6, and leaves the mean.
/// let loss = figa_loss(&logits, &labels, &weights)?;
/// assert!((loss.double_value(&[]) - 4f64.ln()).abs() < 1e-6);
/// loss.backward();
/// # Ok::<(), figa_loss::Error>(())
/// ```
///
/// Source: Guo et al., *Beyond Imitation: Leveraging Fine-grained Quality Signals for Alignment*, arXiv 2311.04072.
pub fn figa_loss(logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<Tensor> {
    Ok(FigaLoss::default().forward(logits, labels, weights)?.loss)
}

/// Which penalised tokens are still penalised, by their nll in the current forward pass (nats, detached).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Gate {
    /// Those with `nll <= limit`: the model still believes in them.
    AtMost(f64),
    /// Those with `min <= nll <= max`.
    Band {
        /// Least nll that is penalised.
        min: f64,
        /// Greatest nll that is penalised.
        max: f64,
    },
}

/// What the weighted sum of nll is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Reduction {
    /// The number of active tokens, at least 1: label not ignored, weight not 0, not gated.
    #[default]
    ActiveTokens,
    /// The number of tokens whose label is not ignored, at least 1; the gate and the weights do not matter.
    LabelledTokens,
    /// The sum of |weight| over the active tokens, or 1 if that is 0.
    AbsWeights,
    /// 1: the plain sum.
    Sum,
    /// A number of the caller's, greater than 0. Gradient accumulation and data parallel training need it: k
    /// micro-batches, each divided by the count of the whole batch, add up to the whole batch's gradient.
    External(f64),
}

/// Configuration of the loss. Plain fields: start from [`FigaLoss::default`] and change what you need.
///
/// ```
/// use figa_loss::{FigaLoss, Reduction};
///
/// let ungated_sum = FigaLoss { gate: None, reduction: Reduction::Sum, ..FigaLoss::default() };
/// assert_eq!(ungated_sum.ignore_index, -100);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FigaLoss {
    /// Positions with this label do not count; -100 by default.
    pub ignore_index: i64,
    /// The stop rule for negative weights; `Some(Gate::AtMost(0.6))` by default, `None` switches it off.
    pub gate: Option<Gate>,
    /// The denominator; [`Reduction::ActiveTokens`] by default.
    pub reduction: Reduction,
}

impl Default for FigaLoss {
    fn default() -> Self {
        Self { ignore_index: IGNORE_INDEX, gate: Some(Gate::AtMost(0.6)), reduction: Reduction::default() }
    }
}

/// The loss and what went into it. All tensors are scalars on the device of the logits, and stay there until they are
/// read.
#[derive(Debug)]
pub struct LossOutput {
    /// `numerator / denominator`.
    pub loss: Tensor,
    /// The weighted sum of nll, connected to the graph.
    pub numerator: Tensor,
    /// What [`Reduction`] says; a constant. Sum both over ranks to reduce across them.
    pub denominator: Tensor,
    /// The tokens with a positive weight.
    pub added: ClassStats,
    /// The tokens with a negative weight that the gate lets pass.
    pub removed: ClassStats,
    /// The tokens with a negative weight that the gate spares.
    pub gated: ClassStats,
}

/// Count and nll of a class of tokens.
#[derive(Debug)]
pub struct ClassStats {
    count: Tensor,
    nll_sum: Tensor,
}

impl ClassStats {
    fn new(nll: &Tensor, class: &Tensor) -> Result<Self> {
        let nll_sum = nll.f_where_self(class, &nll.f_zeros_like()?)?.f_sum(None)?;
        Ok(Self { count: class.f_sum(Kind::Int64)?, nll_sum })
    }

    /// Number of tokens. Waits for the device.
    pub fn count(&self) -> Result<i64> {
        Ok(self.count.f_int64_value(&[])?)
    }

    /// Mean nll in nats, `None` for an empty class. Waits for the device.
    pub fn mean_nll(&self) -> Result<Option<f64>> {
        let count = self.count()?;
        Ok(if count == 0 { None } else { Some(self.nll_sum.f_double_value(&[])? / count as f64) })
    }
}

impl FigaLoss {
    /// The loss of `logits [B, S, V]`, `labels [B, S]` and `weights [B, S]`; see the [module](crate::loss) for the
    /// formula and [`figa_loss`] for dtypes and an example.
    ///
    /// # Errors
    /// Those of [`figa_loss`], and [`Error::Value`] for a gate or a denominator that is no number.
    ///
    /// # Memory
    /// The rows of `logits` that are active are copied and computed in f32; the gradient is as large as `logits`.
    pub fn forward(&self, logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<LossOutput> {
        self.validate()?;
        let [batch, seq, vocab] = check(logits, labels, weights)?;
        let kind = if logits.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float };

        // Position t predicts token t + 1.
        let (first, steps) = (seq.min(1), (seq - 1).max(0));
        let targets = labels.f_narrow(1, first, steps)?;
        let weights = weights.f_detach()?.f_narrow(1, first, steps)?.f_to_kind(kind)?;
        let labelled = targets.f_ne(self.ignore_index)?;
        self.check_labels(&targets, &labelled, vocab)?;

        // From here on only the active rows exist, so that nothing in the others can matter.
        let active = labelled.f_logical_and(&weights.f_ne(0)?)?;
        let rows = active.f_constant_pad_nd([0, seq - steps])?.f_reshape([-1])?.f_nonzero()?.f_squeeze_dim(1)?;
        let targets = targets.f_masked_select(&active)?;
        let weights = weights.f_masked_select(&active)?;
        let logits = logits.f_reshape([batch * seq, vocab])?.f_index_select(0, &rows)?.f_to_kind(kind)?;
        let nll = logits.f_cross_entropy_loss::<Tensor>(&targets, None, tch::Reduction::None, IGNORE_INDEX, 0.0)?;

        let known = nll.f_detach()?;
        let penalised = weights.f_lt(0)?;
        let gated = match self.gate {
            None => penalised.f_zeros_like()?,
            Some(Gate::AtMost(limit)) => penalised.f_logical_and(&known.f_gt(limit)?)?,
            Some(Gate::Band { min, max }) => {
                penalised.f_logical_and(&known.f_lt(min)?.f_logical_or(&known.f_gt(max)?)?)?
            }
        };
        let live = gated.f_logical_not()?;
        // Not `nll * live`: a gated token may have infinite nll or weight, and 0 * inf is NaN.
        let zeros = weights.f_zeros_like()?;
        let live_weights = weights.f_where_self(&live, &zeros)?;
        let numerator = nll.f_where_self(&live, &zeros)?.f_mul(&live_weights)?.f_sum(None)?;
        let denominator = self.denominator(&labelled, &live_weights, &live, kind)?;
        Ok(LossOutput {
            loss: numerator.f_div(&denominator)?,
            numerator,
            denominator,
            added: ClassStats::new(&known, &weights.f_gt(0)?)?,
            removed: ClassStats::new(&known, &penalised.f_logical_and(&live)?)?,
            gated: ClassStats::new(&known, &gated)?,
        })
    }

    fn denominator(&self, labelled: &Tensor, weights: &Tensor, live: &Tensor, kind: Kind) -> Result<Tensor> {
        Ok(match self.reduction {
            Reduction::ActiveTokens => live.f_sum(Kind::Int64)?.f_clamp_min(1)?.f_to_kind(kind)?,
            Reduction::LabelledTokens => labelled.f_sum(Kind::Int64)?.f_clamp_min(1)?.f_to_kind(kind)?,
            Reduction::AbsWeights => {
                let sum = weights.f_abs()?.f_sum(kind)?;
                sum.f_where_self(&sum.f_ne(0)?, &sum.f_ones_like()?)?
            }
            Reduction::Sum => Tensor::f_ones([], (kind, weights.device()))?,
            Reduction::External(number) => Tensor::f_full([], number, (kind, weights.device()))?,
        })
    }

    fn validate(&self) -> Result<()> {
        let gate_is_sound = match self.gate {
            None => true,
            Some(Gate::AtMost(limit)) => !limit.is_nan(),
            Some(Gate::Band { min, max }) => min <= max,
        };
        if !gate_is_sound {
            let expected = "AtMost(a number) or Band with min <= max";
            return Err(Error::Value { argument: "gate", expected, actual: format!("{:?}", self.gate) });
        }
        match self.reduction {
            Reduction::External(number) if !((number as f32).is_finite() && number as f32 > 0.0) => Err(Error::Value {
                argument: "reduction",
                expected: "External(a number > 0 within the range of f32)",
                actual: number.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// A label outside of the vocabulary must not reach a kernel: on CUDA it would be a device assert, which no
    /// program survives.
    fn check_labels(&self, targets: &Tensor, labelled: &Tensor, vocab: i64) -> Result<()> {
        let outside = targets.f_lt(0)?.f_logical_or(&targets.f_ge(vocab)?)?.f_logical_and(labelled)?;
        if outside.f_any()?.f_int64_value(&[])? == 0 {
            return Ok(());
        }
        let at = outside.f_nonzero()?;
        let (row, step) = (at.f_int64_value(&[0, 0])?, at.f_int64_value(&[0, 1])?);
        let label = targets.f_int64_value(&[row, step])?;
        Err(Error::LabelOutOfRange { row, position: step + 1, label, vocab, ignore_index: self.ignore_index })
    }
}

/// `[B, S, V]`, if the three arguments fit each other.
fn check(logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<[i64; 3]> {
    let arguments = [("logits", logits), ("labels", labels), ("weights", weights)];
    for (argument, tensor) in arguments {
        if !tensor.defined() {
            return Err(Error::Value { argument, expected: "a tensor", actual: "an undefined tensor".into() });
        }
    }
    let (batch, seq, vocab) = match *logits.size() {
        [batch, seq, vocab] if vocab > 0 => (batch, seq, vocab),
        _ => {
            return Err(Error::Shape {
                argument: "logits",
                expected: "[B, S, V] with V > 0".into(),
                actual: logits.size(),
            });
        }
    };
    for (argument, tensor) in &arguments[1..] {
        if tensor.size() != [batch, seq] {
            return Err(Error::Shape {
                argument,
                expected: format!("[B, S] = [{batch}, {seq}]"),
                actual: tensor.size(),
            });
        }
    }
    check_kind("logits", logits, "f16, bf16, f32 or f64", is_float)?;
    check_kind("labels", labels, "int64", |kind| kind == Kind::Int64)?;
    check_kind("weights", weights, "f16, bf16, f32 or f64", is_float)?;
    let expected: Device = logits.device();
    for (argument, tensor) in &arguments[1..] {
        if tensor.device() != expected {
            return Err(Error::Device { argument, expected, actual: tensor.device() });
        }
    }
    Ok([batch, seq, vocab])
}

fn check_kind(argument: &'static str, tensor: &Tensor, expected: &'static str, fits: fn(Kind) -> bool) -> Result<()> {
    match tensor.f_kind()? {
        kind if fits(kind) => Ok(()),
        actual => Err(Error::Dtype { argument, expected, actual }),
    }
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
}
