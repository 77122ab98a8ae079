//! Policy losses that are local to a token, and how each of them bounds the ratio.

use super::{Cost, OnRollout, Policy, Rollout, Sampled, clipped_surrogate};
use crate::error::Result;
use crate::loss::core::inputs::{at_least_0, greater_than_0};
use crate::loss::reduction::Reduction;
use crate::loss::token_loss::TokenLoss;

/// Binds a policy loss to a rollout, with the reduction of its paper.
macro_rules! on_rollout {
    ($loss:ident, $reduction:expr) => {
        impl $loss {
            /// The loss on sampled answers, with the denominator of its paper.
            pub const fn on_rollout(self, rollout: Rollout<'_>) -> TokenLoss<OnRollout<'_, Self>> {
                TokenLoss::of(OnRollout { loss: self, rollout }).with_reduction($reduction)
            }
        }
    };
}

on_rollout!(ImportanceSampling, Reduction::ActiveTokens);
on_rollout!(Grpo, Reduction::SequenceMeans);
on_rollout!(Cispo, Reduction::ActiveTokens);
on_rollout!(Sapo, Reduction::SequenceMeans);
on_rollout!(Dro, Reduction::ActiveTokens);

/// The plain policy gradient with importance sampling.
///
/// ```text
/// -w r A
/// ```
///
/// * **Default**: no setting.
/// * **Bounded**: no.
/// * **Cost**: one pass.
/// * **See also**: [`Grpo`], which clips.
///
/// ```
/// # use figa_loss::{IGNORE_INDEX, Rollout, Rows, log_probs, tch::{Device, Kind, Tensor}};
/// use figa_loss::ImportanceSampling;
/// # let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let (old, advantages) = (log_probs(&logits, &rows)?, Tensor::ones([1, 3], (Kind::Float, Device::Cpu)));
///
/// let output = ImportanceSampling::new().on_rollout(Rollout::new(&old, &advantages)).on(&logits, &rows)?;
/// assert_eq!(output.loss.double_value(&[]), -1.0);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct ImportanceSampling;

impl ImportanceSampling {
    /// The loss.
    pub const fn new() -> Self {
        Self
    }
}

impl Policy for ImportanceSampling {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn cost(&self, sampled: &Sampled) -> Result<Cost> {
        Ok((sampled.log_ratio.f_exp()?.f_mul(&sampled.advantages)?.f_neg()?, None))
    }
}

/// The clipped surrogate of PPO, as GRPO and its relatives use it.
///
/// ```text
/// -w min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
/// ```
///
/// * **Default**: `clip_low` and `clip_high` 0.2.
///   [`new`](Self::new) is for GRPO: the mean over each answer's tokens, then over the answers
///   ([`Reduction::SequenceMeans`]). [`dapo`](Self::dapo) has `clip_high` 0.28; divide it by all tokens
///   ([`Reduction::ActiveTokens`]). Dr. GRPO divides by a constant ([`Reduction::External`]). [`Ratio::Sequence`](crate::Ratio::Sequence) makes it GSPO.
/// * **Bounded**: below for `A > 0`.
/// * **Cost**: one pass; two with [`Ratio::Sequence`](crate::Ratio::Sequence).
/// * **Reference**: Schulman et al., arXiv 1707.06347; Shao et al., *DeepSeekMath*, arXiv 2402.03300; Yu et al., *DAPO*,
///   arXiv 2503.14476; Liu et al., arXiv 2503.20783; TRL's and Liger-Kernel's GRPO. With `A = 1` and
///   [`dapo`](Self::dapo)'s range it is proximal supervised fine-tuning (PSFT, arXiv 2508.17784).
/// * **See also**: [`Cispo`], [`Sapo`].
///
/// ```
/// use figa_loss::{Grpo, Reduction};
/// # use figa_loss::{IGNORE_INDEX, Rollout, Rows, log_probs, tch::{Device, Kind, Tensor}};
/// # let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let (old, advantages) = (log_probs(&logits, &rows)?, Tensor::ones([1, 3], (Kind::Float, Device::Cpu)));
///
/// assert_eq!((Grpo::new().clip_low, Grpo::dapo().clip_high), (0.2, 0.28));
/// let loss = Grpo::dapo().on_rollout(Rollout::new(&old, &advantages)).with_reduction(Reduction::ActiveTokens);
/// let output = loss.on(&logits, &rows)?;
/// assert_eq!(output.loss.double_value(&[]), -1.0);
/// assert_eq!(output.stats.read()?.rewarded.clipped, Some(0.0));
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Grpo {
    /// How far the ratio may fall below 1.
    pub clip_low: f64,
    /// How far the ratio may rise above 1.
    pub clip_high: f64,
}

impl Default for Grpo {
    fn default() -> Self {
        Self::new()
    }
}

impl Grpo {
    /// The clip range of PPO and GRPO.
    pub const fn new() -> Self {
        Self { clip_low: 0.2, clip_high: 0.2 }
    }

    /// The clip range of DAPO and PSFT.
    pub const fn dapo() -> Self {
        Self { clip_high: 0.28, ..Self::new() }
    }
}

impl Policy for Grpo {
    fn check(&self) -> Result<()> {
        at_least_0("clip_low", self.clip_low)?;
        at_least_0("clip_high", self.clip_high)
    }

    fn cost(&self, Sampled { log_ratio, advantages, .. }: &Sampled) -> Result<Cost> {
        let ratio = log_ratio.f_exp()?;
        let (low, high) = (1.0 - self.clip_low, 1.0 + self.clip_high);
        let too_low = ratio.f_lt(low)?.f_logical_and(&advantages.f_lt(0)?)?;
        let too_high = ratio.f_gt(high)?.f_logical_and(&advantages.f_gt(0)?)?;
        let value = clipped_surrogate(&ratio, advantages, [low, high])?.f_neg()?;
        Ok((value, Some(too_low.f_logical_or(&too_high)?)))
    }
}

/// Clips the weight of a token instead of its update, so that no token is left out.
///
/// ```text
/// -w sg(min(r, ratio_max)) A l               sg: a constant for the gradient
/// ```
///
/// * **Default**: `ratio_max` 5, the greatest ratio itself, as in TRL. Mean over all tokens.
/// * **Bounded**: no.
/// * **Cost**: one pass.
/// * **Reference**: MiniMax, *MiniMax-M1*, arXiv 2506.13585; TRL's `cispo`.
/// * **See also**: [`Grpo`].
///
/// ```
/// use figa_loss::Cispo;
/// # use figa_loss::{IGNORE_INDEX, Rollout, Rows, log_probs, tch::{Device, Kind, Tensor}};
/// # let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let (old, advantages) = (log_probs(&logits, &rows)?, Tensor::ones([1, 3], (Kind::Float, Device::Cpu)));
///
/// assert_eq!(Cispo::new().ratio_max, 5.0);
/// let output = Cispo::new().on_rollout(Rollout::new(&old, &advantages)).on(&logits, &rows)?;
/// assert!((output.loss.double_value(&[]) - 4f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Cispo {
    /// The greatest ratio.
    pub ratio_max: f64,
}

impl Default for Cispo {
    fn default() -> Self {
        Self::new()
    }
}

impl Cispo {
    /// The setting of TRL.
    pub const fn new() -> Self {
        Self { ratio_max: 5.0 }
    }
}

impl Policy for Cispo {
    fn check(&self) -> Result<()> {
        greater_than_0("ratio_max", self.ratio_max)
    }

    fn cost(&self, Sampled { logp, log_ratio, advantages }: &Sampled) -> Result<Cost> {
        let ratio = log_ratio.f_detach()?.f_exp()?;
        let clipped = ratio.f_gt(self.ratio_max)?.f_logical_and(&advantages.f_gt(0)?)?;
        let factor = ratio.f_clamp_max(self.ratio_max)?.f_mul(advantages)?.f_neg()?;
        Ok((logp.f_mul(&factor)?, Some(clipped)))
    }
}

/// A smooth gate in place of the clip range.
///
/// ```text
/// -w (4 / tau) sigmoid(tau (r - 1)) A        tau: tau_positive where A > 0, tau_negative elsewhere
/// ```
///
/// * **Default**: `tau_positive` 1, `tau_negative` 1.05. The mean over each answer's tokens, then over the answers.
/// * **Bounded**: yes.
/// * **Cost**: one pass.
/// * **Reference**: *Soft Adaptive Policy Optimization*, arXiv 2511.20347; TRL's and Liger-Kernel's `sapo`.
/// * **See also**: [`Grpo`].
///
/// ```
/// use figa_loss::Sapo;
/// # use figa_loss::{IGNORE_INDEX, Rollout, Rows, log_probs, tch::{Device, Kind, Tensor}};
/// # let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let (old, advantages) = (log_probs(&logits, &rows)?, Tensor::ones([1, 3], (Kind::Float, Device::Cpu)));
///
/// assert_eq!((Sapo::new().tau_positive, Sapo::new().tau_negative), (1.0, 1.05));
/// let output = Sapo::new().on_rollout(Rollout::new(&old, &advantages)).on(&logits, &rows)?;
/// assert_eq!(output.loss.double_value(&[]), -2.0);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Sapo {
    /// The steepness of the gate for positive advantages.
    pub tau_positive: f64,
    /// The steepness of the gate for the others.
    pub tau_negative: f64,
}

impl Default for Sapo {
    fn default() -> Self {
        Self::new()
    }
}

impl Sapo {
    /// The paper's setting.
    pub const fn new() -> Self {
        Self { tau_positive: 1.0, tau_negative: 1.05 }
    }
}

impl Policy for Sapo {
    fn check(&self) -> Result<()> {
        greater_than_0("tau_positive", self.tau_positive)?;
        greater_than_0("tau_negative", self.tau_negative)
    }

    fn cost(&self, Sampled { log_ratio, advantages, .. }: &Sampled) -> Result<Cost> {
        let tau = |tau: f64| advantages.f_full_like(tau);
        let tau = tau(self.tau_positive)?.f_where_self(&advantages.f_gt(0)?, &tau(self.tau_negative)?)?;
        // r - 1, exact near 1.
        let gate = log_ratio.f_expm1()?.f_mul(&tau)?.f_sigmoid()?;
        let factor = advantages.f_div(&tau)?.f_mul_scalar(-4.0)?;
        Ok((gate.f_mul(&factor)?, None))
    }
}

/// The policy gradient with a quadratic penalty on the ratio, for data from any policy.
///
/// ```text
/// -w (l A - beta / 2 (l - l_old)^2)
/// ```
///
/// * **Default**: `beta` 0.05. Mean over all tokens.
/// * **Bounded**: below for `w > 0` and `beta > 0`.
/// * **Cost**: one pass.
/// * **Reference**: Richemond et al., *Offline Regularised Reinforcement Learning for LLM Alignment*, arXiv 2405.19107.
/// * **See also**: [`Cispo`].
///
/// ```
/// use figa_loss::Dro;
/// # use figa_loss::{IGNORE_INDEX, Rollout, Rows, log_probs, tch::{Device, Kind, Tensor}};
/// # let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let (old, advantages) = (log_probs(&logits, &rows)?, Tensor::ones([1, 3], (Kind::Float, Device::Cpu)));
///
/// assert_eq!(Dro::new().beta, 0.05);
/// let output = Dro::new().on_rollout(Rollout::new(&old, &advantages)).on(&logits, &rows)?;
/// assert!((output.loss.double_value(&[]) - 4f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Dro {
    /// The weight of the penalty.
    pub beta: f64,
}

impl Default for Dro {
    fn default() -> Self {
        Self::new()
    }
}

impl Dro {
    /// With the default penalty.
    pub const fn new() -> Self {
        Self { beta: 0.05 }
    }
}

impl Policy for Dro {
    fn check(&self) -> Result<()> {
        at_least_0("beta", self.beta)
    }

    fn cost(&self, Sampled { logp, log_ratio, advantages }: &Sampled) -> Result<Cost> {
        let penalty = log_ratio.f_square()?.f_mul_scalar(self.beta / 2.0)?;
        Ok((penalty.f_sub(&logp.f_mul(advantages)?)?, None))
    }
}
