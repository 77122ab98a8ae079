//! Losses of answers to forget.

use tch::Tensor;

use super::{Answers, PreferenceLoss};
use crate::error::Result;
use crate::loss::core::inputs::{at_least_0, greater_than_0};

/// Negative preference optimisation: makes answers less likely than they are under the reference.
///
/// ```text
/// -(2 / beta) log sigmoid(-beta D_r)
/// ```
///
/// * **Default**: `beta` 0.1. Chosen answers are not read: [`Pairs::rejected`](crate::Pairs::rejected).
/// * **Bounded**: below by 0.
/// * **Cost**: one pass if each answer's logits fit into two chunks, else two.
/// * **Reference**: Zhang et al., arXiv 2404.05868.
/// * **See also**: [`SimNpo`] without a reference, [`Unlikelihood`](crate::Unlikelihood) for tokens.
///
/// ```
/// # use figa_loss::{IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, Rows, log_probs, tch::{Device, Kind, Tensor}};
/// use figa_loss::Npo;
/// # let logits = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 2, 1]).reshape([2, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let reference = log_probs(&logits, &rows)?;
/// let pairs = Pairs::rejected(2);
/// assert_eq!(Npo::new().beta, 0.1);
/// let output = Npo::new().on(&logits, PreferenceBatch::new(&rows, &pairs).with_reference(&reference))?;
/// assert!((output.loss.double_value(&[]) - 20.0 * 2f64.ln()).abs() < 1e-4);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Npo {
    /// How fast the penalty fades.
    pub beta: f64,
}

impl Default for Npo {
    fn default() -> Self {
        Self::new()
    }
}

impl Npo {
    /// The paper's loss.
    pub const fn new() -> Self {
        Self { beta: 0.1 }
    }
}

impl PreferenceLoss for Npo {
    fn uses_reference(&self) -> bool {
        true
    }

    fn is_paired(&self) -> bool {
        false
    }

    fn validate(&self) -> Result<()> {
        greater_than_0("beta", self.beta)
    }

    fn margin(&self, answers: &Answers) -> Result<Tensor> {
        Ok(answers.rejected.gain.f_mul_scalar(-self.beta)?)
    }

    fn losses(&self, answers: &Answers) -> Result<Tensor> {
        forget(&self.margin(answers)?, self.beta)
    }
}

/// Negative preference optimisation without a reference, by mean log-probabilities.
///
/// ```text
/// -(2 / beta) log sigmoid(beta (-Lbar_r - gamma))
/// ```
///
/// * **Default**: `beta` 0.1, `gamma` 0. As in the authors' code, `gamma` is in nats per token; the `gamma` of their paper, which is
///   outside of the parentheses, is `beta` times as much. Chosen answers are not read.
/// * **Bounded**: below by 0.
/// * **Cost**: one pass if each answer's logits fit into two chunks, else two.
/// * **Reference**: Fan et al., *Simplicity Prevails*, arXiv 2410.07163. Their experiments take a `beta` from 0.7 to 4.5.
/// * **See also**: [`Npo`].
///
/// ```
/// # use figa_loss::{IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, Rows, tch::{Device, Kind, Tensor}};
/// use figa_loss::SimNpo;
/// # let logits = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 2, 1]).reshape([2, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// let mut loss = SimNpo::new();
/// (loss.beta, loss.gamma) = (1.0, 4f64.ln());
/// let output = loss.on(&logits, PreferenceBatch::new(&rows, &Pairs::rejected(2)))?;
/// assert!((output.loss.double_value(&[]) - 2.0 * 2f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SimNpo {
    /// How fast the penalty fades.
    pub beta: f64,
    /// The margin, in nats per token.
    pub gamma: f64,
}

impl Default for SimNpo {
    fn default() -> Self {
        Self::new()
    }
}

impl SimNpo {
    /// Without a margin.
    pub const fn new() -> Self {
        Self { beta: 0.1, gamma: 0.0 }
    }
}

impl PreferenceLoss for SimNpo {
    fn is_paired(&self) -> bool {
        false
    }

    fn validate(&self) -> Result<()> {
        greater_than_0("beta", self.beta)?;
        at_least_0("gamma", self.gamma)
    }

    fn margin(&self, answers: &Answers) -> Result<Tensor> {
        Ok(answers.rejected.mean_logp()?.f_add_scalar(self.gamma)?.f_mul_scalar(-self.beta)?)
    }

    fn losses(&self, answers: &Answers) -> Result<Tensor> {
        forget(&self.margin(answers)?, self.beta)
    }
}

/// `-(2 / beta) log sigmoid(margin)`.
fn forget(margin: &Tensor, beta: f64) -> Result<Tensor> {
    Ok(margin.f_log_sigmoid()?.f_mul_scalar(-2.0 / beta)?)
}
