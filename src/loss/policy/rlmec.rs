//! RLMEC, which has two denominators.

use tch::{Kind, Tensor};

use super::{Rollout, clipped_surrogate};
use crate::error::Result;
use crate::loss::core::inputs::at_least_0;
use crate::loss::core::objective::{Objective, Terms};
use crate::loss::core::scores::Scores;
use crate::loss::reduction::Reduction;
use crate::loss::token_loss::TokenLoss;

/// Reinforcement learning with minimum editing: a token-level policy gradient beside supervised learning, each with its own
/// denominator.
///
/// ```text
/// -sum sg(min(r R, clip(r, clip_low, clip_high) R)) l / #(R != 0)  +  sum v nll / #(v != 0)
/// ```
///
/// * **Shapes**: the reward `R` is the rollout's advantage; `v`, the weight of supervised learning, has the shape of the
///   labels. Weights are the mask of the answers' tokens and multiply both terms. Text to learn that is not sampled, as in the
///   authors' code, is a sequence of its own, with rewards of 0; samples then have a `v` of 0.
/// * **Default**: ratios between 0.7 and 1.3. The loss has its denominators, so its reduction is
///   [`Reduction::Sum`]; micro-batches cannot share them.
/// * **Bounded**: no.
/// * **Cost**: one pass if all logits fit into two chunks, else two: the denominators have to be known.
/// * **Reference**: Chen et al., *Improving Large Language Models via Fine-grained Reinforcement Learning with Minimum Editing
///   Constraint*, arXiv 2401.06081, by the authors of FIGA.
/// * **See also**: [`FigaLoss`](crate::FigaLoss), [`Cispo`](crate::Cispo).
///
/// ```
/// use figa_loss::{Rlmec, RlmecOnRollout, TokenLoss};
/// # use figa_loss::{IGNORE_INDEX, Rollout, Rows, log_probs, tch::{Device, Kind, Tensor}};
/// # let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// # let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// # let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// # let (old, rewards) = (log_probs(&logits, &rows)?, Tensor::ones([1, 3], (Kind::Float, Device::Cpu)));
///
/// assert_eq!((Rlmec::new().clip_low, Rlmec::new().clip_high), (0.7, 1.3));
/// let supervised = rewards.ones_like();
/// let rollout = Rollout::new(&old, &rewards);
/// let loss: TokenLoss<RlmecOnRollout> = Rlmec::new().on_rollout(rollout, &supervised);
/// let output = loss.on(&logits, &rows)?;
/// assert!((output.loss.double_value(&[]) - 2.0 * 4f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Rlmec {
    /// The least ratio.
    pub clip_low: f64,
    /// The greatest ratio.
    pub clip_high: f64,
}

impl Default for Rlmec {
    fn default() -> Self {
        Self::new()
    }
}

impl Rlmec {
    /// The paper's setting.
    pub const fn new() -> Self {
        Self { clip_low: 0.7, clip_high: 1.3 }
    }

    /// The loss on sampled answers, with the weight of supervised learning of each token.
    pub const fn on_rollout<'a>(self, rollout: Rollout<'a>, supervised: &'a Tensor) -> TokenLoss<RlmecOnRollout<'a>> {
        TokenLoss::of(RlmecOnRollout { loss: self, rollout, supervised }).with_reduction(Reduction::Sum)
    }
}

/// [`Rlmec`] with what it is computed from: the objective that [`TokenLoss`] runs.
#[derive(Debug, Clone, Copy)]
pub struct RlmecOnRollout<'a> {
    loss: Rlmec,
    rollout: Rollout<'a>,
    supervised: &'a Tensor,
}

impl Objective for RlmecOnRollout<'_> {
    fn is_joint(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<()> {
        at_least_0("clip_low", self.loss.clip_low)?;
        at_least_0("clip_high", self.loss.clip_high)
    }

    fn terms(&self, scores: &Scores) -> Result<Terms> {
        let logp = scores.logp()?;
        let rewards = scores.take(self.rollout.advantages)?;
        let ratio = logp.f_detach()?.f_sub(&scores.take(self.rollout.old_log_probs)?)?.f_exp()?;
        let (low, high) = (self.loss.clip_low, self.loss.clip_high);
        let factor = clipped_surrogate(&ratio, &rewards, [low, high])?;
        let supervised = scores.take(self.supervised)?;
        let share = |factor: &Tensor, of: &Tensor| -> Result<Tensor> {
            let count = of.f_ne(0)?.f_sum(Kind::Int64)?.f_clamp_min(1)?.f_to_kind(factor.f_kind()?)?;
            Ok(factor.f_div(&count)?)
        };
        let factor = share(&factor, &rewards)?.f_add(&share(&supervised, &supervised)?)?;
        let outside = ratio.f_lt(low)?.f_logical_or(&ratio.f_gt(high)?)?;
        let value = logp.f_mul(&factor)?.f_neg()?.f_mul(scores.weights())?;
        Ok(Terms::new(value).with_clipped(outside.f_logical_and(&rewards.f_ne(0)?)?))
    }
}
