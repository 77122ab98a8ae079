//! Losses of single tokens: supervised fine-tuning and its relatives. All run as [`TokenLoss`](super::TokenLoss).

use tch::{Kind, Tensor};

use super::core::inputs::{at_least_0, greater_than_0};
use super::core::objective::{Objective, Terms};
use super::core::scores::{Needs, Scores};
use crate::error::{Error, Result};

/// Cross-entropy with signed weights.
///
/// ```text
/// w nll
/// ```
///
/// * **Default**: no setting. With all weights 1 and [`Reduction::ActiveTokens`](crate::Reduction::ActiveTokens) it is PyTorch's
///   `cross_entropy`.
/// * **Bounded**: below for weights > 0; not for weights < 0, which push a token's probability to 0 without end.
/// * **Cost**: one pass.
/// * **See also**: [`Figa`](crate::Figa) and [`Unlikelihood`] for negative weights.
///
/// ```
/// use figa_loss::{TokenLoss, WeightedNll, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// let weights = Tensor::from_slice(&[0f32, 1.0, -0.5]).reshape([1, 3]);
/// let output = TokenLoss::of(WeightedNll::new()).forward(&logits, &labels, &weights)?;
/// assert!((output.loss.double_value(&[]) - 0.25 * 4f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct WeightedNll;

impl WeightedNll {
    /// The loss.
    pub const fn new() -> Self {
        Self
    }
}

impl Objective for WeightedNll {
    fn terms(&self, scores: &Scores) -> Result<Terms> {
        Ok(Terms::new(scores.nll()?.f_mul(scores.weights())?))
    }
}

/// Unlikelihood: makes tokens less likely.
///
/// ```text
/// -w log(1 - p)
/// ```
///
/// * **Default**: no setting. Weights > 0 say how much a token is unwanted.
/// * **Bounded**: below by 0, and the gradient fades with `p`. Exact even where `p` is almost 1, where other
///   implementations clamp.
/// * **Cost**: one pass.
/// * **Reference**: Welleck et al., *Neural Text Generation with Unlikelihood Training*, arXiv 1908.04319.
/// * **See also**: [`CandidateUnlikelihood`] for columns other than the label;
///   [`Penalty::Unlikelihood`](crate::Penalty::Unlikelihood) for both signs in one loss.
///
/// ```
/// use figa_loss::{TokenLoss, Unlikelihood, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2]).reshape([1, 2]);
/// let weights = Tensor::from_slice(&[0f32, 1.0]).reshape([1, 2]);
/// let output = TokenLoss::of(Unlikelihood::new()).forward(&logits, &labels, &weights)?;
/// assert!((output.loss.double_value(&[]) + 0.75f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Unlikelihood;

impl Unlikelihood {
    /// The loss.
    pub const fn new() -> Self {
        Self
    }
}

impl Objective for Unlikelihood {
    fn terms(&self, scores: &Scores) -> Result<Terms> {
        Ok(Terms::new(log_rest(scores.log_odds())?.f_neg()?.f_mul(scores.weights())?))
    }
}

/// Unlikelihood of given tokens at each position, such as those that would repeat the context.
///
/// ```text
/// -w sum_k log(1 - p_k)                      each of the candidates once
/// ```
///
/// * **Shapes**: candidates `[B, S, K]` or `[N, K]`, int64; numbers that are no column, such as -1, fill short lists.
/// * **Default**: no setting. The label does not matter, except that tokens without one are no rows.
/// * **Bounded**: below by 0. Exact even where a candidate's `p` is almost 1, where the source clamps `1 - p` at 1e-5.
/// * **Cost**: one pass; the rows of the chunk once more in memory.
/// * **Reference**: as for [`Unlikelihood`]; the candidate penalty of its code.
///
/// ```
/// use figa_loss::{CandidateUnlikelihood, TokenLoss, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2]).reshape([1, 2]);
/// let weights = Tensor::from_slice(&[0f32, 1.0]).reshape([1, 2]);
/// // Position t predicts token t + 1; candidates have the positions of the labels.
/// let candidates = Tensor::from_slice(&[-1i64, -1, 0, 1]).reshape([1, 2, 2]);
/// let loss = CandidateUnlikelihood::new(&candidates);
/// assert_eq!(loss.candidates.size(), [1, 2, 2]);
/// let output = TokenLoss::of(loss).forward(&logits, &labels, &weights)?;
/// assert!((output.loss.double_value(&[]) + 2.0 * 0.75f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CandidateUnlikelihood<'a> {
    /// The tokens to make less likely.
    pub candidates: &'a Tensor,
}

impl<'a> CandidateUnlikelihood<'a> {
    /// The loss of these candidates.
    pub const fn new(candidates: &'a Tensor) -> Self {
        Self { candidates }
    }
}

impl Objective for CandidateUnlikelihood<'_> {
    fn needs(&self) -> Needs<'_> {
        Needs::new().with_columns(self.candidates)
    }

    fn terms(&self, scores: &Scores) -> Result<Terms> {
        let ids = scores.take(self.candidates)?;
        // A candidate is a repetition if it equals one in front of it.
        let equal = ids.f_unsqueeze(2)?.f_eq_tensor(&ids.f_unsqueeze(1)?)?;
        let repeats = equal.f_to_kind(Kind::Int64)?.f_tril(-1)?.f_sum_dim_intlist(2, false, None)?.f_gt(0)?;
        let penalties = log_rest(scores.column_log_odds()?)?.f_neg()?;
        let penalties = penalties.f_masked_fill(&repeats, 0)?.f_sum_dim_intlist(1, false, None)?;
        Ok(Terms::new(penalties.f_mul(scores.weights())?))
    }
}

/// Dynamic fine-tuning: cross-entropy, scaled by the probability that the model gives the token.
///
/// ```text
/// w sg(p) nll                                sg: a constant for the gradient
/// ```
///
/// * **Default**: no setting.
/// * **Bounded**: between 0 and 1/e for `w = 1`. Tokens that the model finds impossible are hardly learnt.
/// * **Cost**: one pass.
/// * **Reference**: Wu et al., *On the Generalization of SFT*, arXiv 2508.05629; `dft` of LLaMA-Factory and TRL.
/// * **See also**: [`Chord`], [`Eaft`], [`Asft`](crate::Asft).
///
/// ```
/// use figa_loss::{Dft, TokenLoss, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2]).reshape([1, 2]);
/// let weights = Tensor::from_slice(&[0f32, 1.0]).reshape([1, 2]);
/// let output = TokenLoss::of(Dft::new()).forward(&logits, &labels, &weights)?;
/// assert!((output.loss.double_value(&[]) - 0.25 * 4f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Dft;

impl Dft {
    /// The loss.
    pub const fn new() -> Self {
        Self
    }
}

impl Objective for Dft {
    fn terms(&self, scores: &Scores) -> Result<Terms> {
        Ok(Terms::new(dft(scores)?.f_mul(scores.weights())?))
    }
}

/// `sg(p) nll`.
pub(super) fn dft(scores: &Scores) -> Result<Tensor> {
    Ok(scores.nll()?.f_mul(&scores.log_odds().f_detach()?.f_sigmoid()?)?)
}

/// The weighting `phi` of CHORD: most for tokens of middling probability.
///
/// ```text
/// w sg(p (1 - p)) nll
/// ```
///
/// * **Default**: no setting.
/// * **Bounded**: between 0 and 0.23 for `w = 1`.
/// * **Cost**: one pass.
/// * **Reference**: Zhang et al., *On-Policy RL Meets Off-Policy Experts*, arXiv 2508.11408.
/// * **See also**: [`Dft`], [`Focal`].
///
/// ```
/// use figa_loss::{Chord, TokenLoss, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2]).reshape([1, 2]);
/// let weights = Tensor::from_slice(&[0f32, 1.0]).reshape([1, 2]);
/// let output = TokenLoss::of(Chord::new()).forward(&logits, &labels, &weights)?;
/// assert!((output.loss.double_value(&[]) - 0.25 * 0.75 * 4f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Chord;

impl Chord {
    /// The loss.
    pub const fn new() -> Self {
        Self
    }
}

impl Objective for Chord {
    fn terms(&self, scores: &Scores) -> Result<Terms> {
        let odds = scores.log_odds().f_detach()?;
        let phi = odds.f_sigmoid()?.f_mul(&odds.f_neg()?.f_sigmoid()?)?;
        Ok(Terms::new(scores.nll()?.f_mul(&phi)?.f_mul(scores.weights())?))
    }
}

/// Focal loss: less for tokens that are likely already.
///
/// ```text
/// w (1 - p)^gamma nll
/// ```
///
/// * **Default**: `gamma` 2. With 0 it is [`WeightedNll`].
/// * **Bounded**: below by 0 for `w > 0`.
/// * **Cost**: one pass.
/// * **Reference**: Lin et al., *Focal Loss for Dense Object Detection*, arXiv 1708.02002.
/// * **See also**: [`Chord`], [`Dft`] for the opposite.
///
/// ```
/// use figa_loss::{Focal, TokenLoss, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2]).reshape([1, 2]);
/// let weights = Tensor::from_slice(&[0f32, 1.0]).reshape([1, 2]);
/// let mut focal = Focal::new();
/// focal.gamma = 1.0;
/// let output = TokenLoss::of(focal).forward(&logits, &labels, &weights)?;
/// assert!((output.loss.double_value(&[]) - 0.75 * 4f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Focal {
    /// At least 0; 2 by default.
    pub gamma: f64,
}

impl Default for Focal {
    fn default() -> Self {
        Self::new()
    }
}

impl Focal {
    /// The paper's loss.
    pub const fn new() -> Self {
        Self { gamma: 2.0 }
    }
}

impl Objective for Focal {
    fn validate(&self) -> Result<()> {
        at_least_0("gamma", self.gamma)
    }

    fn terms(&self, scores: &Scores) -> Result<Terms> {
        let rest = log_rest(scores.log_odds())?.f_mul_scalar(self.gamma)?.f_exp()?;
        Ok(Terms::new(scores.nll()?.f_mul(&rest)?.f_mul(scores.weights())?))
    }
}

/// Entropy-adaptive fine-tuning: cross-entropy, scaled by how undecided the model is.
///
/// ```text
/// w sg((H / scale)^alpha) nll                H: entropy of the k likeliest columns, renormalised
/// ```
///
/// * **Default**: [`llama_factory`](Self::llama_factory): `k` 20, `scale` 3, about the entropy of 20 equal columns, `alpha` 1.
///   [`axolotl`](Self::axolotl): `scale` 1.
/// * **Bounded**: below by 0 for `w > 0`. Tokens of which the model is certain are left as they are, right or wrong.
/// * **Cost**: one pass, and the selection of the likeliest columns.
/// * **Reference**: *Entropy-Adaptive Fine-Tuning*, arXiv 2601.02151; `eaft` of LLaMA-Factory.
/// * **See also**: [`Dft`].
///
/// ```
/// use figa_loss::{Eaft, TokenLoss, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2]).reshape([1, 2]);
/// let weights = Tensor::from_slice(&[0f32, 1.0]).reshape([1, 2]);
/// let mut loss = Eaft::axolotl();
/// assert_eq!((loss.top_k, loss.scale, Eaft::llama_factory().scale), (Some(20), 1.0, 3.0));
/// // All columns, and the square of their entropy.
/// (loss.top_k, loss.alpha) = (None, 2.0);
/// let output = TokenLoss::of(loss).forward(&logits, &labels, &weights)?;
/// assert!((output.loss.double_value(&[]) - 4f64.ln().powi(3)).abs() < 1e-5);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Eaft {
    /// How many of the likeliest columns the entropy is taken of; `None` for all.
    pub top_k: Option<i64>,
    /// At least 0; 1 by default.
    pub alpha: f64,
    /// Greater than 0.
    pub scale: f64,
}

impl Eaft {
    /// As in LLaMA-Factory.
    pub const fn llama_factory() -> Self {
        Self { top_k: Some(20), alpha: 1.0, scale: 3.0 }
    }

    /// As in axolotl.
    pub const fn axolotl() -> Self {
        Self { scale: 1.0, ..Self::llama_factory() }
    }
}

impl Default for Eaft {
    fn default() -> Self {
        Self::llama_factory()
    }
}

impl Objective for Eaft {
    fn needs(&self) -> Needs<'_> {
        Needs::new().with_top_entropy(self.top_k.unwrap_or(i64::MAX))
    }

    fn validate(&self) -> Result<()> {
        at_least_0("alpha", self.alpha)?;
        greater_than_0("scale", self.scale)?;
        match self.top_k {
            Some(k @ ..=0) => {
                Err(Error::Value { argument: "top_k", expected: "at least 1 column", actual: k.to_string() })
            }
            _ => Ok(()),
        }
    }

    fn terms(&self, scores: &Scores) -> Result<Terms> {
        let factor = scores.top_entropy()?.f_div_scalar(self.scale)?.f_pow_tensor_scalar(self.alpha)?;
        Ok(Terms::new(scores.nll()?.f_mul(&factor)?.f_mul(scores.weights())?))
    }
}

/// `log(1 - p)`.
fn log_rest(log_odds: &Tensor) -> Result<Tensor> {
    Ok(log_odds.f_neg()?.f_log_sigmoid()?)
}
