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
//! [`figa_loss`] is this formula with its defaults, and [`fused_linear_figa_loss`] the same without the logits: it takes
//! hidden states and the head. [`FigaLoss`] is the configuration behind both.
//!
//! Only the active rows are computed, those with a label and a weight. They are selected on the host. Where labels and
//! weights lie there, as a [`Batch`](crate::Batch) has them, no call waits for the device; where they do not, they are
//! copied first.

mod active;
mod linear;
mod output;
mod rows;

use tch::{Device, Kind, Tensor, no_grad_guard};

use active::Active;
use rows::{Odds, Scores, rows_at_a_time, surrogate, surrogate_of_rows};

pub use linear::{LmHead, fused_linear_figa_loss};
pub use output::{ClassStats, LossOutput};

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
/// `labels` and `weights` on the device of `logits` or on the CPU. On the CPU they cost no wait for the device.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`], [`Error::Device`] for arguments that do not fit, [`Error::LabelOutOfRange`]
/// for a label that is neither a column of `logits` nor -100.
///
/// # Memory
/// The active rows of `logits` in f32, and once more in `backward`, beside the gradient of `logits`. Logits whose first
/// two dimensions cannot be seen as one are copied.
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

/// What a token with a negative weight costs, `|weight|` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Penalty {
    /// `-nll`, the paper's: not bounded below, so that it wants a gate. The gradient is greatest where the token is
    /// already unlikely.
    #[default]
    Nll,
    /// `-log(1 - p)`, unlikelihood: at least 0, with a gradient that fades with `p`, so that it can do without a gate.
    /// Exact also where `p` is almost 1.
    Unlikelihood,
}

/// What the sum over the tokens is divided by.
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
    /// The mean over each sequence's active tokens, then the mean over the `B` sequences; one without an active token
    /// counts as 0. The numerator is the sum of the sequences' means, the denominator `B`.
    SequenceMeans,
    /// Nothing: the loss of every token, `[B, S]`, in the positions of `labels`, and 0 where nothing is active. Numerator
    /// and denominator are those of [`Reduction::Sum`].
    None,
    /// A number of the caller's, greater than 0. Gradient accumulation and data parallel training need it: k
    /// micro-batches, each divided by the count of the whole batch, add up to the whole batch's gradient.
    External(f64),
}

/// Configuration of the loss. Plain fields: start from [`FigaLoss::default`] and change what you need.
///
/// ```
/// use figa_loss::{FigaLoss, Penalty, Reduction};
///
/// let bounded = FigaLoss { penalty: Penalty::Unlikelihood, gate: None, ..FigaLoss::default() };
/// assert_eq!((bounded.ignore_index, bounded.reduction), (-100, Reduction::ActiveTokens));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FigaLoss {
    /// Positions with this label do not count; -100 by default.
    pub ignore_index: i64,
    /// What negative weights do; [`Penalty::Nll`] by default.
    pub penalty: Penalty,
    /// The stop rule for negative weights; `Some(Gate::AtMost(0.6))` by default, `None` switches it off.
    pub gate: Option<Gate>,
    /// The denominator; [`Reduction::ActiveTokens`] by default.
    pub reduction: Reduction,
    /// How many rows of logits [`FigaLoss::forward_linear`] holds at a time. By default as many as there are hidden
    /// dimensions, which takes the memory of the head's gradient, or 4 million logits if that is more. The number
    /// changes the result by no more than rounding.
    pub chunk: Option<i64>,
    /// The label whose statistics are kept apart, in [`LossOutput::eos`]; none by default.
    pub eos_id: Option<i64>,
}

impl Default for FigaLoss {
    fn default() -> Self {
        Self {
            ignore_index: IGNORE_INDEX,
            penalty: Penalty::default(),
            gate: Some(Gate::AtMost(0.6)),
            reduction: Reduction::default(),
            chunk: None,
            eos_id: None,
        }
    }
}

impl FigaLoss {
    /// The loss of `logits [B, S, V]`, `labels [B, S]` and `weights [B, S]`; see the [module](crate::loss) for the
    /// formula and [`figa_loss`] for dtypes, memory and an example.
    ///
    /// First derivatives only: the gradient is a constant in the graph.
    ///
    /// # Errors
    /// Those of [`figa_loss`], and [`Error::Value`] for a gate, denominator or chunk outside of its domain.
    pub fn forward(&self, logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<LossOutput> {
        self.validate()?;
        check_defined("logits", logits)?;
        let vocab = match *logits.size() {
            [_, _, vocab] if vocab > 0 => vocab,
            _ => {
                let expected = "[B, S, V] with V > 0".into();
                return Err(Error::Shape { argument: "logits", expected, actual: logits.size() });
            }
        };
        check_kind("logits", logits, "f16, bf16, f32 or f64", is_float)?;
        check_tokens(logits, labels, weights)?;
        let kind = compute_kind(logits)?;
        let active = Active::select(labels, weights, self.ignore_index, vocab, kind, logits.device())?;
        // From here on only the active rows exist, so that nothing in the others can matter.
        let logits = logits.f_flatten(0, 1)?;
        let rows = |active: &Active, n| Ok::<_, Error>(logits.f_index_select(0, &active.rows.f_narrow(0, 0, n)?)?);
        let gates = self.gate.is_some() && self.reduction != Reduction::None && logits.requires_grad();
        if gates && logits.device() == Device::Cpu {
            let (active, spared) = self.spare(&logits, &active, kind)?;
            return self.of_rows(&rows(&active, active.rows.size1()? - spared.nll.size1()?)?, &active, Some(spared));
        }
        self.of_rows(&rows(&active, active.rows.size1()?)?, &active, None)
    }

    /// Puts the rows that the gate spares last, and gives their scores. They have no gradient, and it is cheaper to learn
    /// that first than to make room for one. (Only on a CPU: a GPU would have to be waited for.)
    fn spare(&self, logits: &Tensor, active: &Active, kind: Kind) -> Result<(Active, Scores)> {
        let _no_grad = no_grad_guard();
        let step = rows_at_a_time(logits.device(), logits.size()[1]);
        let scores = Scores::of_penalised(self, active, step, |at| {
            Ok(logits.f_index_select(0, &active.rows.f_index_select(0, at)?)?.f_to_kind(kind)?)
        })?;
        let gated = scores.live.f_logical_not()?;
        let last = active.penalised.f_masked_select(&gated)?;
        let first = active.rows.f_ones_like()?.f_index_fill(0, &last, 0)?.f_nonzero()?.f_squeeze_dim(1)?;
        Ok((active.reordered(&Tensor::f_cat(&[first, last], 0)?)?, scores.select(&gated)?))
    }

    /// The loss of the active rows `[n, V]`, whose memory is the callee's to use, whatever autograd has to do with them;
    /// without those that were scored before, the last ones in `active`.
    fn of_rows(&self, rows: &Tensor, active: &Active, scored: Option<Scores>) -> Result<LossOutput> {
        let kind = compute_kind(rows)?;
        let no_grad = no_grad_guard();
        let mut x = rows.f_detach()?.f_to_kind(kind)?;
        let n = rows.size()[0];
        let odds = Odds::take(&mut x, &active.targets.f_narrow(0, 0, n)?)?;
        let mut scores = Scores::new(self, &odds, &active.weights.f_narrow(0, 0, n)?)?;
        if let Some(scored) = scored {
            scores = Scores::cat(&[scores, scored])?;
        }
        if let Some(factors) = self.row_factors(active, &scores.live, kind)? {
            scores.scale(&factors)?;
        }
        let mut contributions = scores.value.shallow_clone();
        let mut connection = Tensor::f_zeros([], (kind, rows.device()))?;
        if rows.requires_grad() {
            let slopes = scores.slope.f_narrow(0, 0, n)?.f_unsqueeze(1)?;
            // In f32 and f64 the gradient takes the place of the logits, which are not needed any more.
            let dx = x.f_mul_(&slopes.f_div(&odds.total)?)?;
            drop(no_grad);
            if self.reduction == Reduction::None {
                contributions = contributions.f_add(&surrogate_of_rows(rows, &dx)?)?;
            } else {
                connection = surrogate(rows, &dx)?;
            }
        }
        LossOutput::new(self, active, &scores, &contributions, &connection)
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
        if let Some(chunk) = self.chunk
            && chunk < 1
        {
            return Err(Error::Value { argument: "chunk", expected: "at least 1 row", actual: chunk.to_string() });
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
}

/// Losses are computed in f32 at least.
fn compute_kind(input: &Tensor) -> Result<Kind> {
    Ok(if input.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float })
}

/// Do labels and weights fit the positions of `input [B, S, _]`?
fn check_tokens(input: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<()> {
    let (batch, seq, expected) = (input.size()[0], input.size()[1], input.device());
    for (argument, tensor) in [("labels", labels), ("weights", weights)] {
        check_defined(argument, tensor)?;
        if tensor.size() != [batch, seq] {
            let expected = format!("[B, S] = [{batch}, {seq}]");
            return Err(Error::Shape { argument, expected, actual: tensor.size() });
        }
        let actual = tensor.device();
        if actual != expected && actual != Device::Cpu {
            return Err(Error::Device { argument, expected, actual });
        }
    }
    check_kind("labels", labels, "int64", |kind| kind == Kind::Int64)?;
    check_kind("weights", weights, "f16, bf16, f32 or f64", is_float)
}

fn check_defined(argument: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.defined() {
        return Ok(());
    }
    Err(Error::Value { argument, expected: "a tensor", actual: "an undefined tensor".into() })
}

fn check_kind(
    argument: &'static str,
    tensor: &Tensor,
    expected: &'static str,
    fits: impl Fn(Kind) -> bool,
) -> Result<()> {
    match tensor.f_kind()? {
        kind if fits(kind) => Ok(()),
        actual => Err(Error::Dtype { argument, expected, actual }),
    }
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
}
