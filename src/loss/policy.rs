//! Policy gradient losses on sampled answers.
//!
//! All of them read a [`Rollout`]: with `l` the log-probability of a token, `l_old` that under the policy that sampled it,
//! and `A` its advantage, the ratio is `r = exp(l - l_old)`. Weights are the mask of the answers' tokens: tokens of advantage
//! 0 and clipped tokens are rows too, so that they count in every denominator and the KL term acts on them.

mod clipped;
mod rlmec;

use tch::Tensor;

pub use clipped::{Cispo, Dro, Grpo, ImportanceSampling, Sapo};
pub use rlmec::{Rlmec, RlmecOnRollout};

use super::core::inputs::at_least_0;
use super::core::objective::{Objective, Terms};
use super::core::scores::Scores;
use crate::error::Result;

/// What is known of sampled answers. Tensors have the shape of the labels, and are constants.
///
/// ```
/// use figa_loss::{Grpo, IGNORE_INDEX, OnRollout, Ratio, TokenLoss, Rollout, Rows, log_probs, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// let mask = Tensor::from_slice(&[0f32, 1.0, 1.0]).reshape([1, 3]);
/// let rows = Rows::of_batch(&labels, &mask, IGNORE_INDEX)?;
/// let old = log_probs(&logits, &rows)?;
/// let advantages = Tensor::from_slice(&[0f32, 1.0, -0.5]).reshape([1, 3]);
///
/// let rollout = Rollout::new(&old, &advantages).with_reference(&old, 0.04).with_ratio(Ratio::Sequence);
/// assert!(rollout.reference.is_some() && rollout.ratio == Ratio::Sequence);
/// assert_eq!((rollout.old_log_probs.size(), rollout.advantages.size()), (vec![1, 3], vec![1, 3]));
/// let loss: TokenLoss<OnRollout<'_, Grpo>> = Grpo::new().on_rollout(rollout);
/// let output = loss.on(&logits, &rows)?;
/// // r = 1: the mean of -A.
/// assert!((output.loss.double_value(&[]) + 0.25).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Rollout<'a> {
    /// The log-probabilities under the policy that sampled, such as [`log_probs`](crate::log_probs) returns.
    pub old_log_probs: &'a Tensor,
    /// The advantage of each token.
    pub advantages: &'a Tensor,
    /// The log-probabilities under a reference model, and the weight `beta` of the KL term to it,
    /// `beta (exp(l_ref - l) - (l_ref - l) - 1)`; `None` by default.
    pub reference: Option<(&'a Tensor, f64)>,
    /// [`Ratio::Token`] by default.
    pub ratio: Ratio,
}

/// What the ratio is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Ratio {
    /// Each token.
    #[default]
    Token,
    /// Each answer, as in GSPO (arXiv 2507.18071): the geometric mean over its tokens, weighted by the mask. It takes
    /// one pass if all logits fit into two chunks, else two.
    Sequence,
}

impl<'a> Rollout<'a> {
    /// Without a reference, with a ratio for each token.
    pub const fn new(old_log_probs: &'a Tensor, advantages: &'a Tensor) -> Self {
        Self { old_log_probs, advantages, reference: None, ratio: Ratio::Token }
    }

    /// Sets the reference and the weight of the KL term.
    pub const fn with_reference(self, log_probs: &'a Tensor, beta: f64) -> Self {
        Self { reference: Some((log_probs, beta)), ..self }
    }

    /// Sets what the ratio is taken of.
    pub const fn with_ratio(self, ratio: Ratio) -> Self {
        Self { ratio, ..self }
    }
}

/// What a policy loss sees of rows. All `[n]`.
struct Sampled {
    logp: Tensor,
    /// `l - l_old`, of the token or of its answer.
    log_ratio: Tensor,
    advantages: Tensor,
}

/// The cost of each row, and whether it is clipped.
type Cost = (Tensor, Option<Tensor>);

/// `min(r A, clip(r, low, high) A)`.
fn clipped_surrogate(ratio: &Tensor, advantages: &Tensor, [low, high]: [f64; 2]) -> Result<Tensor> {
    Ok(ratio.f_mul(advantages)?.f_minimum(&ratio.f_clamp(low, high)?.f_mul(advantages)?)?)
}

/// A policy loss with what it is computed from: the objective that [`TokenLoss`](crate::TokenLoss) runs.
#[derive(Debug, Clone, Copy)]
pub struct OnRollout<'a, L> {
    loss: L,
    rollout: Rollout<'a>,
}

/// A policy loss.
trait Policy {
    fn check(&self) -> Result<()>;
    fn cost(&self, sampled: &Sampled) -> Result<Cost>;
}

impl<L: Policy> Objective for OnRollout<'_, L> {
    fn validate(&self) -> Result<()> {
        at_least_0("beta", self.rollout.reference.map_or(0.0, |(_, beta)| beta))?;
        self.loss.check()
    }

    fn is_joint(&self) -> bool {
        self.rollout.ratio == Ratio::Sequence
    }

    fn terms(&self, scores: &Scores) -> Result<Terms> {
        let logp = scores.logp()?;
        let mut log_ratio = logp.f_sub(&scores.take(self.rollout.old_log_probs)?)?;
        if self.rollout.ratio == Ratio::Sequence {
            let weights = scores.weights().f_abs()?;
            let sizes = scores.sequence_sums(&weights)?.f_index_select(0, scores.sequences())?;
            let sums = scores.sequence_sums(&log_ratio.f_mul(&weights)?)?;
            log_ratio = sums.f_index_select(0, scores.sequences())?.f_div(&sizes)?;
        }
        let advantages = scores.take(self.rollout.advantages)?;
        let (mut value, clipped) = self.loss.cost(&Sampled { logp: logp.shallow_clone(), log_ratio, advantages })?;
        let mut kl = None;
        if let Some((reference, beta)) = self.rollout.reference {
            let distance = logp.f_sub(&scores.take(reference)?)?;
            // exp(-d) + d - 1, exact near 0.
            let k3 = distance.f_neg()?.f_expm1()?.f_add(&distance)?;
            value = value.f_add(&k3.f_mul_scalar(beta)?)?;
            kl = Some(k3);
        }
        Ok(Terms { clipped, kl, ..Terms::new(value.f_mul(scores.weights())?) })
    }
}
