//! Losses of the difference of both answers, relative to a reference.

use tch::Tensor;

use super::{Answers, PreferenceLoss, check_smoothing, difference, smoothed};
use crate::error::{Error, Result};
use crate::loss::core::divergence::Reference;
use crate::loss::core::inputs::{at_least_0, greater_than_0};
use crate::loss::core::scores::Needs;

/// Direct preference optimisation, with token weights.
///
/// ```text
/// -log sigmoid(beta (D_c - D_r))             c: chosen, r: rejected
/// ```
///
/// * **Default**: `beta` 0.1, no label smoothing, sums.
/// * **Token weights**: the changed tokens of both answers at 3 (or 5) and the others at 1 is DDPO of RLHF-V, of which
///   [`average`](Self::average) is an option; see [`losses`](crate::docs::losses) for TIS-DPO, TGDPO and critical tokens.
/// * **Common prefix**: with sums, the rows that both answers begin with cancel exactly, value and gradient.
///   [`skip_common_prefix`](Self::skip_common_prefix) leaves them out. It takes answers to the same prompt, at the same
///   positions. Statistics of the log-probabilities then start at the first difference.
/// * **Bounded**: below by 0.
/// * **Cost**: one pass if each pair's logits fit into two chunks, else two.
/// * **Reference**: Rafailov et al., arXiv 2305.18290; Yu et al., *RLHF-V*, arXiv 2312.00849.
/// * **See also**: [`Ipo`], [`SimPo`](crate::SimPo) without a reference, [`Tdpo`].
///
/// ```
/// # use figa_loss::{IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, Rows, log_probs, tch::{Device, Kind, Tensor}};
/// use figa_loss::Dpo;
/// # let logits = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 2, 1]).reshape([2, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let (pairs, reference) = (Pairs::alternating(1), log_probs(&logits, &rows)?);
/// let mut dpo = Dpo::new();
/// assert_eq!((dpo.beta, dpo.label_smoothing, dpo.average), (0.1, 0.0, false));
/// dpo.skip_common_prefix = true;
/// let output = dpo.on(&logits, PreferenceBatch::new(&rows, &pairs).with_reference(&reference))?;
/// assert!((output.loss.double_value(&[]) - 2f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Dpo {
    /// How far the model may go from the reference: less for greater numbers.
    pub beta: f64,
    /// The share of pairs that may be labelled the wrong way round, less than 0.5.
    pub label_smoothing: f64,
    /// Divides `D` by the sum of the absolute weights.
    pub average: bool,
    /// Leaves out the rows that both answers begin with.
    pub skip_common_prefix: bool,
}

impl Default for Dpo {
    fn default() -> Self {
        Self::new()
    }
}

impl Dpo {
    /// The paper's loss.
    pub const fn new() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0, average: false, skip_common_prefix: false }
    }
}

fn check_prefix(skip_common_prefix: bool, average: bool) -> Result<()> {
    if skip_common_prefix && average {
        let (argument, expected) = ("skip_common_prefix", "sums: the rows of a common prefix count in averages");
        return Err(Error::Value { argument, expected, actual: "average".into() });
    }
    Ok(())
}

/// `D_c - D_r`, or the difference of their averages.
fn difference_of_gains(answers: &Answers, average: bool) -> Result<Tensor> {
    match average {
        true => difference(|sums| sums.mean_gain(), answers),
        false => Ok(answers.chosen.gain.f_sub(&answers.rejected.gain)?),
    }
}

impl PreferenceLoss for Dpo {
    fn uses_reference(&self) -> bool {
        true
    }

    fn skips_common_prefix(&self) -> bool {
        self.skip_common_prefix
    }

    fn validate(&self) -> Result<()> {
        greater_than_0("beta", self.beta)?;
        check_prefix(self.skip_common_prefix, self.average)?;
        check_smoothing(self.label_smoothing)
    }

    fn margin(&self, answers: &Answers) -> Result<Tensor> {
        Ok(difference_of_gains(answers, self.average)?.f_mul_scalar(self.beta)?)
    }

    fn losses(&self, answers: &Answers) -> Result<Tensor> {
        smoothed(&self.margin(answers)?, self.label_smoothing)
    }
}

/// Identity preference optimisation: a margin to reach, not to exceed.
///
/// ```text
/// (D_c - D_r - 1 / (2 beta))^2
/// ```
///
/// * **Default**: `beta` 0.1, sums as in the paper. TRL divides each `D` by the answer's tokens: [`average`](Self::average).
/// * **Common prefix**: as for [`Dpo`].
/// * **Bounded**: below by 0.
/// * **Cost**: one pass if each pair's logits fit into two chunks, else two.
/// * **Reference**: Azar et al., arXiv 2310.12036.
///
/// ```
/// # use figa_loss::{IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, Rows, log_probs, tch::{Device, Kind, Tensor}};
/// use figa_loss::Ipo;
/// # let logits = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 2, 1]).reshape([2, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let (pairs, reference) = (Pairs::alternating(1), log_probs(&logits, &rows)?);
/// let output = Ipo::new().on(&logits, PreferenceBatch::new(&rows, &pairs).with_reference(&reference))?;
/// assert!((output.loss.double_value(&[]) - 25.0).abs() < 1e-4);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Ipo {
    /// The margin is `1 / (2 beta)`.
    pub beta: f64,
    /// Divides `D` by the sum of the absolute weights.
    pub average: bool,
    /// Leaves out the rows that both answers begin with.
    pub skip_common_prefix: bool,
}

impl Default for Ipo {
    fn default() -> Self {
        Self::new()
    }
}

impl Ipo {
    /// The paper's loss.
    pub const fn new() -> Self {
        Self { beta: 0.1, average: false, skip_common_prefix: false }
    }
}

impl PreferenceLoss for Ipo {
    fn uses_reference(&self) -> bool {
        true
    }

    fn skips_common_prefix(&self) -> bool {
        self.skip_common_prefix
    }

    fn validate(&self) -> Result<()> {
        greater_than_0("beta", self.beta)?;
        check_prefix(self.skip_common_prefix, self.average)
    }

    fn margin(&self, answers: &Answers) -> Result<Tensor> {
        difference_of_gains(answers, self.average)
    }

    fn losses(&self, answers: &Answers) -> Result<Tensor> {
        Ok(self.margin(answers)?.f_sub_scalar(0.5 / self.beta)?.f_square()?)
    }
}

/// Token-level direct preference optimisation: DPO with the divergence of both answers from the reference.
///
/// ```text
/// -log sigmoid(beta (D_c - D_r - (K_r - K_c)))                   TDPO1
/// -log sigmoid(beta (D_c - D_r - alpha (K_r - sg K_c)))          TDPO2
/// K = sum KL(ref || p) over the rows of an answer, whatever they weigh; sg: a constant for the gradient
/// ```
///
/// * **Default**: `beta` 0.1; [`tdpo2`](Self::tdpo2) with `alpha` 0.5. The reference's logits are given here, its
///   log-probabilities to the batch.
/// * **Bounded**: below by 0.
/// * **Cost**: one pass if each pair's logits fit into a chunk, else two; over the reference's logits as well.
/// * **Reference**: Zeng et al., *Token-level Direct Preference Optimization*, arXiv 2404.11999.
/// * **See also**: [`Dpo`].
///
/// ```
/// # use figa_loss::{IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, Rows, log_probs, tch::{Device, Kind, Tensor}};
/// use figa_loss::{Reference, Tdpo};
/// # let logits = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 2, 1]).reshape([2, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let (pairs, log_probs) = (Pairs::alternating(1), log_probs(&logits, &rows)?);
/// let reference = logits.detach();
/// let reference = Reference::new(&reference);
/// let (first, second) = (Tdpo::tdpo1(reference), Tdpo::tdpo2(reference));
/// assert_eq!((first.alpha, second.alpha, second.beta, second.reference.temperature), (None, Some(0.5), 0.1, 1.0));
/// let output = second.on(&logits, PreferenceBatch::new(&rows, &pairs).with_reference(&log_probs))?;
/// assert!((output.loss.double_value(&[]) - 2f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Tdpo<'a> {
    /// The reference model's output at the positions of the rows.
    pub reference: Reference<'a>,
    /// How far the model may go from the reference: less for greater numbers.
    pub beta: f64,
    /// The factor of the divergences in TDPO2; `None` is TDPO1.
    pub alpha: Option<f64>,
}

impl<'a> Tdpo<'a> {
    /// TDPO1.
    pub const fn tdpo1(reference: Reference<'a>) -> Self {
        Self { reference, beta: 0.1, alpha: None }
    }

    /// TDPO2.
    pub const fn tdpo2(reference: Reference<'a>) -> Self {
        Self { reference, beta: 0.1, alpha: Some(0.5) }
    }
}

impl PreferenceLoss for Tdpo<'_> {
    fn needs(&self) -> Needs<'_> {
        Needs::new().with_reference(self.reference)
    }

    fn uses_reference(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<()> {
        greater_than_0("beta", self.beta)?;
        at_least_0("alpha", self.alpha.unwrap_or(0.0))
    }

    fn margin(&self, answers: &Answers) -> Result<Tensor> {
        let z = difference_of_gains(answers, false)?;
        let (Some(chosen), Some(rejected)) = (&answers.chosen.divergence, &answers.rejected.divergence) else {
            return Ok(z);
        };
        let further = match self.alpha {
            None => rejected.f_sub(chosen)?,
            Some(alpha) => rejected.f_sub(&chosen.f_detach()?)?.f_mul_scalar(alpha)?,
        };
        Ok(z.f_sub(&further)?.f_mul_scalar(self.beta)?)
    }

    fn losses(&self, answers: &Answers) -> Result<Tensor> {
        smoothed(&self.margin(answers)?, 0.0)
    }
}
