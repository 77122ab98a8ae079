//! Losses of pairs without a reference.

use tch::Tensor;

use super::{AnswerSums, Answers, PreferenceLoss, check_smoothing, difference, smoothed};
use crate::error::Result;
use crate::loss::core::inputs::{at_least_0, greater_than_0};

/// Simple preference optimisation: no reference, mean log-probabilities, a margin.
///
/// ```text
/// -log sigmoid(beta (Lbar_c - Lbar_r) - gamma)           gamma = gamma_beta_ratio beta
/// ```
///
/// * **Default**: `beta` 2, `gamma_beta_ratio` 0.25, no label smoothing.
/// * **Bounded**: below by 0.
/// * **Cost**: one pass if each pair's logits fit into two chunks, else two.
/// * **Reference**: Meng et al., arXiv 2405.14734; Liger-Kernel's SimPO.
///
/// ```
/// # use figa_loss::{IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, Rows, tch::{Device, Kind, Tensor}};
/// use figa_loss::SimPo;
/// # let logits = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 2, 1]).reshape([2, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let pairs = Pairs::alternating(1);
/// assert_eq!((SimPo::new().beta, SimPo::new().gamma_beta_ratio, SimPo::new().label_smoothing), (2.0, 0.25, 0.0));
/// let output = SimPo::new().on(&logits, PreferenceBatch::new(&rows, &pairs).with_chunk_rows(8))?;
/// assert!((output.loss.double_value(&[]) - (1.0 + 0.5f64.exp()).ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SimPo {
    /// The scale of the difference.
    pub beta: f64,
    /// The margin, divided by `beta`.
    pub gamma_beta_ratio: f64,
    /// The share of pairs that may be labelled the wrong way round, less than 0.5.
    pub label_smoothing: f64,
}

impl Default for SimPo {
    fn default() -> Self {
        Self::new()
    }
}

impl SimPo {
    /// The paper's loss.
    pub const fn new() -> Self {
        Self { beta: 2.0, gamma_beta_ratio: 0.25, label_smoothing: 0.0 }
    }
}

impl PreferenceLoss for SimPo {
    fn validate(&self) -> Result<()> {
        greater_than_0("beta", self.beta)?;
        at_least_0("gamma_beta_ratio", self.gamma_beta_ratio)?;
        check_smoothing(self.label_smoothing)
    }

    fn margin(&self, answers: &Answers) -> Result<Tensor> {
        Ok(difference(|sums| sums.mean_logp(), answers)?.f_mul_scalar(self.beta)?)
    }

    fn losses(&self, answers: &Answers) -> Result<Tensor> {
        let z = self.margin(answers)?.f_sub_scalar(self.gamma_beta_ratio * self.beta)?;
        smoothed(&z, self.label_smoothing)
    }
}

/// Contrastive preference optimisation: no reference, and the likelihood of the chosen answer beside it.
///
/// ```text
/// -log sigmoid(beta (L_c - L_r)) + alpha nll_c           nll_c: mean over the tokens of all chosen answers
/// ```
///
/// * **Default**: `beta` 0.1, `alpha` 1, no label smoothing.
/// * **Bounded**: below by 0 for weights of at least 0.
/// * **Cost**: one pass if each pair's logits fit into two chunks, else two.
/// * **Reference**: Xu et al., arXiv 2401.08417; Liger-Kernel's CPO.
///
/// ```
/// # use figa_loss::{IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, Rows, tch::{Device, Kind, Tensor}};
/// use figa_loss::Cpo;
/// # let logits = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 2, 1]).reshape([2, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let pairs = Pairs::alternating(1);
/// assert_eq!((Cpo::new().beta, Cpo::new().alpha, Cpo::new().label_smoothing), (0.1, 1.0, 0.0));
/// let output = Cpo::new().on(&logits, PreferenceBatch::new(&rows, &pairs))?;
/// assert!((output.loss.double_value(&[]) - 2f64.ln() - 4f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Cpo {
    /// The scale of the difference.
    pub beta: f64,
    /// The factor of the chosen answers' nll.
    pub alpha: f64,
    /// The share of pairs that may be labelled the wrong way round, less than 0.5.
    pub label_smoothing: f64,
}

impl Default for Cpo {
    fn default() -> Self {
        Self::new()
    }
}

impl Cpo {
    /// The paper's loss.
    pub const fn new() -> Self {
        Self { beta: 0.1, alpha: 1.0, label_smoothing: 0.0 }
    }
}

impl PreferenceLoss for Cpo {
    fn nll_factor(&self) -> f64 {
        self.alpha
    }

    fn validate(&self) -> Result<()> {
        greater_than_0("beta", self.beta)?;
        at_least_0("alpha", self.alpha)?;
        check_smoothing(self.label_smoothing)
    }

    fn margin(&self, answers: &Answers) -> Result<Tensor> {
        Ok(answers.chosen.logp.f_sub(&answers.rejected.logp)?.f_mul_scalar(self.beta)?)
    }

    fn losses(&self, answers: &Answers) -> Result<Tensor> {
        smoothed(&self.margin(answers)?, self.label_smoothing)
    }
}

/// Odds-ratio preference optimisation: supervised learning on the chosen answer with a penalty by odds.
///
/// ```text
/// nll_c - lambda log sigmoid(logit(exp Lbar_c) - logit(exp Lbar_r))
/// ```
///
/// * **Default**: `lambda` 0.1.
/// * **Bounded**: below by 0 for weights of at least 0.
/// * **Cost**: one pass if each pair's logits fit into two chunks, else two.
/// * **Reference**: Hong et al., arXiv 2403.07691; Liger-Kernel's ORPO.
///
/// ```
/// # use figa_loss::{IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, Rows, tch::{Device, Kind, Tensor}};
/// use figa_loss::Orpo;
/// # let logits = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 2, 1]).reshape([2, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let pairs = Pairs::alternating(1);
/// assert_eq!(Orpo::new().lambda, 0.1);
/// let output = Orpo::new().on(&logits, PreferenceBatch::new(&rows, &pairs))?;
/// assert!((output.loss.double_value(&[]) - 4f64.ln() - 0.1 * 2f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Orpo {
    /// The factor of the odds ratio.
    pub lambda: f64,
}

impl Default for Orpo {
    fn default() -> Self {
        Self::new()
    }
}

impl Orpo {
    /// The paper's loss.
    pub const fn new() -> Self {
        Self { lambda: 0.1 }
    }
}

impl PreferenceLoss for Orpo {
    fn nll_factor(&self) -> f64 {
        1.0
    }

    fn validate(&self) -> Result<()> {
        at_least_0("lambda", self.lambda)
    }

    fn margin(&self, answers: &Answers) -> Result<Tensor> {
        let log_odds = |sums: &AnswerSums| {
            let mean = sums.mean_logp()?;
            // log (1 - p), exact where p is almost 1.
            let rest = mean.f_expm1()?.f_neg()?.f_log()?;
            Ok(mean.f_sub(&rest)?)
        };
        difference(log_odds, answers)
    }

    fn losses(&self, answers: &Answers) -> Result<Tensor> {
        Ok(self.margin(answers)?.f_log_sigmoid()?.f_mul_scalar(-self.lambda)?)
    }
}
