//! What a call returns, and how rows become one number.

use tch::{Kind, Tensor};

use super::active::Active;
use super::rows::Scores;
use super::{FigaLoss, Reduction};
use crate::error::Result;

/// The loss and what went into it. The tensors stay on the device of the logits, and nothing waits for it until one of
/// them is read.
///
/// ```
/// use figa_loss::{FigaLoss, LossOutput, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 4, 2], (Kind::Float, Device::Cpu));
/// let labels = Tensor::from_slice(&[-100i64, 0, 1, 1]).reshape([1, 4]);
/// let weights = Tensor::from_slice(&[0f32, 1.0, -0.5, 0.0]).reshape([1, 4]);
/// let output: LossOutput = FigaLoss::default().forward(&logits, &labels, &weights)?;
///
/// // nll = ln 2 = 0.693 for all, and the penalised token is gated.
/// assert_eq!((output.added.count()?, output.removed.count()?, output.gated.count()?, output.kept), (1, 0, 1, 1));
/// assert_eq!(output.gated.mean_probability()?, Some(0.5));
/// assert_eq!(output.denominator.double_value(&[]), 1.0);
/// assert!((output.numerator.double_value(&[]) - 2f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug)]
pub struct LossOutput {
    /// `numerator / denominator`, a scalar; with [`Reduction::None`] the loss of each token, `[B, S]`.
    pub loss: Tensor,
    /// The sum of what the active tokens cost, a scalar connected to the graph.
    pub numerator: Tensor,
    /// What [`Reduction`] says; a scalar and a constant. Sum both over ranks to reduce across them.
    pub denominator: Tensor,
    /// The tokens with a positive weight, but for those in `eos`.
    pub added: ClassStats,
    /// The tokens with a positive weight whose label is [`FigaLoss::eos_id`].
    pub eos: ClassStats,
    /// The tokens with a negative weight that the gate lets pass.
    pub removed: ClassStats,
    /// The tokens with a negative weight that the gate spares.
    pub gated: ClassStats,
    /// How many tokens have a label and the weight 0. They are left alone, so that there is no more to say of them.
    pub kept: i64,
}

/// Count, nll and probability of a class of tokens.
#[derive(Debug)]
pub struct ClassStats {
    /// Count, sum of nll, sum of probabilities.
    sums: Tensor,
}

impl ClassStats {
    /// Number of tokens. Waits for the device.
    pub fn count(&self) -> Result<i64> {
        Ok(self.sums.f_double_value(&[0])? as i64)
    }

    /// Mean nll in nats, `None` for an empty class. Waits for the device.
    pub fn mean_nll(&self) -> Result<Option<f64>> {
        self.mean(1)
    }

    /// Mean probability, `None` for an empty class. Waits for the device.
    pub fn mean_probability(&self) -> Result<Option<f64>> {
        self.mean(2)
    }

    fn mean(&self, of: i64) -> Result<Option<f64>> {
        let count = self.count()?;
        Ok(if count == 0 { None } else { Some(self.sums.f_double_value(&[of])? / count as f64) })
    }
}

impl LossOutput {
    /// `contributions [n]` are the values of `scores`. Either they are connected to the graph, or all of them together
    /// by `connection`, a scalar of value 0.
    pub(super) fn new(
        config: &FigaLoss,
        active: &Active,
        scores: &Scores,
        contributions: &Tensor,
        connection: &Tensor,
    ) -> Result<Self> {
        let kind = contributions.f_kind()?;
        let constant = |number: f64| Tensor::f_full([], number, (kind, contributions.device()));
        let numerator = contributions.f_sum(kind)?.f_add(connection)?;
        let denominator = match config.reduction {
            Reduction::ActiveTokens => scores.live.f_sum(kind)?.f_clamp_min(1)?,
            Reduction::LabelledTokens => constant(active.labelled.max(1) as f64)?,
            Reduction::AbsWeights => {
                let live = active.weights.f_where_self(&scores.live, &active.weights.f_zeros_like()?)?;
                let sum = live.f_abs()?.f_sum(kind)?;
                sum.f_where_self(&sum.f_ne(0)?, &sum.f_ones_like()?)?
            }
            Reduction::SequenceMeans => constant(active.shape[0].max(1) as f64)?,
            Reduction::External(number) => constant(number)?,
            Reduction::Sum | Reduction::None => constant(1.0)?,
        };
        let loss = if config.reduction == Reduction::None {
            let [batch, seq] = active.shape;
            let tokens = Tensor::f_zeros([batch * seq], (kind, contributions.device()))?;
            tokens.f_index_add(0, &active.rows.f_add_scalar(1)?, contributions)?.f_reshape([batch, seq])?
        } else {
            numerator.f_div(&denominator)?
        };
        let [added, eos, removed, gated] = classes(config, active, scores)?;
        let kept = active.labelled - active.rows.size1()?;
        Ok(Self { loss, numerator, denominator, added, eos, removed, gated, kept })
    }
}

/// The statistics of the classes 0 to 3: added, eos, removed, gated.
fn classes(config: &FigaLoss, active: &Active, scores: &Scores) -> Result<[ClassStats; 4]> {
    let class = active.weights.f_lt(0)?.f_to_kind(Kind::Int64)?;
    let mut class = class.f_add(&class)?.f_add(&scores.live.f_logical_not()?.f_to_kind(Kind::Int64)?)?;
    if let Some(eos_id) = config.eos_id {
        let rewarded = class.f_eq(0)?;
        class = class.f_add(&active.targets.f_eq(eos_id)?.f_logical_and(&rewarded)?.f_to_kind(Kind::Int64)?)?;
    }
    let nll = scores.nll.f_detach()?;
    let rows = Tensor::f_stack(&[nll.f_ones_like()?, nll.shallow_clone(), nll.f_neg()?.f_exp()?], 1)?;
    // Adding up row by row, and not by multiplying with masks: 0 * inf is NaN.
    let sums = Tensor::f_zeros([4, 3], (nll.f_kind()?, nll.device()))?.f_index_add(0, &class, &rows)?;
    let of = |class| Ok::<_, crate::Error>(ClassStats { sums: sums.f_select(0, class)? });
    Ok([of(0)?, of(1)?, of(2)?, of(3)?])
}

impl FigaLoss {
    /// What [`Reduction`] multiplies each row's contribution with, if anything, given which rows are live.
    pub(super) fn row_factors(&self, active: &Active, live: &Tensor, kind: Kind) -> Result<Option<Tensor>> {
        if self.reduction != Reduction::SequenceMeans {
            return Ok(None);
        }
        let sequences = active.sequences()?;
        let counts = Tensor::f_zeros([active.shape[0]], (kind, live.device()))?;
        let counts = counts.f_index_add(0, &sequences, &live.f_to_kind(kind)?)?.f_clamp_min(1)?;
        Ok(Some(counts.f_reciprocal()?.f_index_select(0, &sequences)?))
    }
}
