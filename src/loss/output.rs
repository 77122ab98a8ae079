//! What a call of a loss returns.

use tch::{Kind, Tensor};

use super::core::driver::Outcome;
use super::reduction::Reduction;
use crate::error::Result;

/// A loss and what went into it. The tensors stay on the device of the input, and nothing waits for it until a number
/// is read.
///
/// ```
/// use figa_loss::{FigaLoss, LossOutput, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 4, 2], (Kind::Float, Device::Cpu));
/// let labels = Tensor::from_slice(&[-100i64, 0, 1, 1]).reshape([1, 4]);
/// let weights = Tensor::from_slice(&[0f32, 1.0, -0.5, 0.0]).reshape([1, 4]);
/// let output: LossOutput = FigaLoss::new().forward(&logits, &labels, &weights)?;
///
/// // nll = ln 2 = 0.693 for all tokens, and the penalised one is gated.
/// assert_eq!(output.denominator.double_value(&[]), 1.0);
/// assert!((output.numerator.double_value(&[]) - 2f64.ln()).abs() < 1e-6);
/// let summary = output.stats.read()?;
/// assert_eq!((summary.rewarded.count, summary.penalised.count, summary.gated.count, summary.unweighted), (1, 0, 1, 1));
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct LossOutput {
    /// `numerator / denominator`, a scalar; with [`Reduction::None`] the loss of each token, in the shape of the labels.
    pub loss: Tensor,
    /// The sum of what the active tokens contribute, a differentiable scalar.
    pub numerator: Tensor,
    /// The denominator of the [`Reduction`], a constant f64 scalar; where it is 0, the loss is the numerator.
    ///
    /// Over micro-batches or processes that make one step, numerators and denominators add up, and their quotient is the
    /// loss of the step; except with [`Reduction::External`], where the denominator is that of the step already.
    pub denominator: Tensor,
    /// Counts and means by class of token.
    pub stats: LossStats,
}

/// Counts and sums by class of token, on the device of the loss.
///
/// ```
/// use figa_loss::{ClassSummary, FigaLoss, LossStats, LossSummary, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 3, 2], (Kind::Float, Device::Cpu));
/// let labels = Tensor::from_slice(&[-100i64, 0, 1]).reshape([1, 3]);
/// let weights = Tensor::from_slice(&[0f32, 1.0, 1.0]).reshape([1, 3]);
/// let loss = FigaLoss::new().with_eos_id(1);
/// // Add up micro-batches on the device, then read all numbers at once.
/// let mut stats: Option<LossStats> = None;
/// for _ in 0..2 {
///     let output = loss.forward(&logits, &labels, &weights)?;
///     stats = Some(match stats {
///         None => output.stats,
///         Some(sum) => sum.add(&output.stats)?,
///     });
/// }
/// let summary: LossSummary = stats.expect("two micro-batches").read()?;
/// let rewarded: ClassSummary = summary.rewarded;
/// assert_eq!((rewarded.count, summary.eos.count), (2, 2));
/// assert!((rewarded.mean_probability.expect("two tokens") - 0.5).abs() < 1e-6);
/// assert!((rewarded.mean_nll.expect("two tokens") - 2f64.ln()).abs() < 1e-6);
/// // FIGA has none of these.
/// assert_eq!((rewarded.mean_entropy, rewarded.mean_kl, rewarded.clipped), (None, None, None));
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug)]
pub struct LossStats {
    /// f64 `[4, 9]`: for rewarded, eos, penalised and skipped tokens, what [`LossStats::new`] lists.
    sums: Tensor,
    unweighted: i64,
}

/// The numbers of [`LossStats`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LossSummary {
    /// Tokens with a positive weight, except those in `eos`.
    pub rewarded: ClassSummary,
    /// Tokens with a positive weight whose label is the `eos_id` of the loss.
    pub eos: ClassSummary,
    /// Tokens with a negative weight that the gate lets pass.
    pub penalised: ClassSummary,
    /// Tokens that the loss does not count: those of FIGA with a negative weight that the gate skips.
    pub gated: ClassSummary,
    /// How many tokens have a label and the weight 0. Nothing else is computed for them.
    pub unweighted: i64,
}

/// Count and means of a class of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ClassSummary {
    /// Number of tokens.
    pub count: i64,
    /// Mean nll in nats; `None` for an empty class.
    pub mean_nll: Option<f64>,
    /// Mean probability; `None` for an empty class.
    pub mean_probability: Option<f64>,
    /// Mean entropy in nats, of all columns or of the likeliest, for losses that read it.
    pub mean_entropy: Option<f64>,
    /// Mean divergence from the reference in nats, for losses that have one.
    pub mean_kl: Option<f64>,
    /// Share of tokens that the loss clips, for losses that clip.
    pub clipped: Option<f64>,
}

const CLASSES: i64 = 4;
const NUMBERS: i64 = 9;

impl LossStats {
    fn new(outcome: &Outcome, eos_id: Option<i64>) -> Result<Self> {
        let Outcome { rows, numbers, .. } = outcome;
        // 0 rewarded, 1 eos, 2 penalised, 3 skipped.
        let penalised = rows.weights.f_lt(0)?.f_to_kind(Kind::Int64)?;
        let mut class = penalised.f_mul_scalar(2)?;
        if let Some(eos_id) = eos_id {
            let is_eos = rows.labels.f_eq(eos_id)?.f_logical_and(&class.f_eq(0)?)?;
            class = class.f_add(&is_eos.f_to_kind(Kind::Int64)?)?;
        }
        class = class.f_masked_fill(&numbers.counted.f_logical_not()?, 3)?;
        let nll = numbers.nll.f_to_kind(Kind::Double)?;
        let (ones, zeros) = (nll.f_ones_like()?, nll.f_zeros_like()?);
        let mut columns = vec![ones.shallow_clone(), nll.shallow_clone(), nll.f_neg()?.f_exp()?];
        // A number that not all losses have, and how many tokens have it.
        for number in [&numbers.entropy, &numbers.kl, &numbers.clipped] {
            columns.push(number.as_ref().map_or_else(|| Ok(zeros.shallow_clone()), |n| n.f_to_kind(Kind::Double))?);
            columns.push(if number.is_some() { ones.shallow_clone() } else { zeros.shallow_clone() });
        }
        // Row by row, not by multiplying with masks: 0 * inf is NaN.
        let sums = Tensor::f_zeros([CLASSES, NUMBERS], (Kind::Double, nll.device()))?;
        let unweighted = rows.batch.labelled - rows.tokens.size1()?;
        Ok(Self { sums: sums.f_index_add(0, &class, &Tensor::f_stack(&columns, 1)?)?, unweighted })
    }

    /// The sum of two, on the device and without waiting for it.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) if they are on different devices.
    pub fn add(&self, other: &Self) -> Result<Self> {
        Ok(Self { sums: self.sums.f_add(&other.sums)?, unweighted: self.unweighted + other.unweighted })
    }

    /// Reads all numbers. Waits for the device once.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) if the device fails.
    pub fn read(&self) -> Result<LossSummary> {
        let numbers = Vec::<f64>::try_from(self.sums.f_reshape([-1])?.f_to_device(tch::Device::Cpu)?)?;
        let mut classes = numbers.chunks_exact(NUMBERS as usize).map(|class| {
            let mean = |sum: usize, count: usize| (class[count] > 0.0).then(|| class[sum] / class[count]);
            ClassSummary {
                count: class[0] as i64,
                mean_nll: mean(1, 0),
                mean_probability: mean(2, 0),
                mean_entropy: mean(3, 4),
                mean_kl: mean(5, 6),
                clipped: mean(7, 8),
            }
        });
        let mut next = || classes.next().expect("four classes");
        Ok(LossSummary { rewarded: next(), eos: next(), penalised: next(), gated: next(), unweighted: self.unweighted })
    }
}

impl LossOutput {
    pub(super) fn new(outcome: &Outcome, reduction: Reduction, eos_id: Option<i64>) -> Result<Self> {
        let Outcome { rows, values, surrogate, .. } = outcome;
        let kind = values.f_kind()?;
        let numerator = values.f_sum(kind)?.f_add(surrogate)?;
        let denominator = reduction.denominator(outcome)?;
        let loss = if reduction == Reduction::None {
            let tokens = Tensor::f_zeros([rows.batch.shape.iter().product::<i64>()], (kind, values.device()))?;
            tokens.f_index_add(0, &rows.tokens, values)?.f_reshape(&*rows.batch.shape)?
        } else {
            // An empty sum is 0, not 0 / 0.
            let divisor = denominator.f_where_self(&denominator.f_ne(0)?, &denominator.f_ones_like()?)?;
            numerator.f_div(&divisor.f_to_kind(kind)?)?
        };
        Ok(Self { loss, numerator, denominator, stats: LossStats::new(outcome, eos_id)? })
    }
}
