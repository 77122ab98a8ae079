//! What there is to know of pairs.

use tch::{Kind, Tensor};

use super::Answers;
use crate::error::Result;

/// Counts and sums over pairs, on the device of the loss.
///
/// ```
/// use figa_loss::{IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, PreferenceStats, PreferenceSummary, Rows, SimPo};
/// use figa_loss::tch::{Device, Kind, Tensor};
///
/// let logits = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 2, 1]).reshape([2, 3]);
/// let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// let pairs = Pairs::alternating(1);
/// let stats: PreferenceStats = SimPo::new().on(&logits, PreferenceBatch::new(&rows, &pairs))?.stats;
/// // Add up micro-batches on the device, then read all numbers at once.
/// let summary: PreferenceSummary = stats.add(&stats)?.read()?;
/// assert_eq!((summary.pairs, summary.accuracy, summary.mean_margin), (2, Some(0.0), Some(0.0)));
/// let chosen = summary.chosen_logp.expect("two pairs");
/// assert!((chosen + 2.0 * 4f64.ln()).abs() < 1e-6 && summary.rejected_logp == Some(chosen));
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug)]
pub struct PreferenceStats {
    /// f64 `[5]`: pairs, pairs with a positive margin, margins, chosen and rejected `L`.
    sums: Tensor,
}

/// The numbers of [`PreferenceStats`]; means are `None` where there is no pair.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PreferenceSummary {
    /// How many pairs.
    pub pairs: i64,
    /// The share of pairs whose chosen answer does better: a margin greater than 0.
    pub accuracy: Option<f64>,
    /// The mean margin.
    pub mean_margin: Option<f64>,
    /// The mean weighted log-probability of the chosen answers, of the rows that are computed.
    pub chosen_logp: Option<f64>,
    /// The mean weighted log-probability of the rejected answers, of the rows that are computed.
    pub rejected_logp: Option<f64>,
}

impl PreferenceStats {
    pub(super) fn new(margin: &Tensor, answers: &Answers) -> Result<Self> {
        let double = |tensor: &Tensor| tensor.f_detach()?.f_to_kind(Kind::Double)?.f_sum(Kind::Double);
        let pairs = margin.f_detach()?.f_ones_like()?;
        let correct = margin.f_detach()?.f_gt(0)?;
        let numbers = [&pairs, &correct, margin, &answers.chosen.logp, &answers.rejected.logp].map(double);
        let numbers = numbers.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Self { sums: Tensor::f_stack(&numbers, 0)? })
    }

    /// The sum of all parts, of which there is at least one.
    pub(super) fn sum(parts: &[Self]) -> Result<Self> {
        let sums: Vec<&Tensor> = parts.iter().map(|part| &part.sums).collect();
        Ok(Self { sums: Tensor::f_stack(&sums, 0)?.f_sum_dim_intlist(0, false, None)? })
    }

    /// The sum of two, on the device and without waiting for it.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) if they are on different devices.
    pub fn add(&self, other: &Self) -> Result<Self> {
        Ok(Self { sums: self.sums.f_add(&other.sums)? })
    }

    /// Reads all numbers. Waits for the device once.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) if the device fails.
    pub fn read(&self) -> Result<PreferenceSummary> {
        let sums = Vec::<f64>::try_from(self.sums.f_to_device(tch::Device::Cpu)?)?;
        let mean = |sum: f64| (sums[0] > 0.0).then(|| sum / sums[0]);
        Ok(PreferenceSummary {
            pairs: sums[0] as i64,
            accuracy: mean(sums[1]),
            mean_margin: mean(sums[2]),
            chosen_logp: mean(sums[3]),
            rejected_logp: mean(sums[4]),
        })
    }
}
