//! Losses that compare the model's distribution with that of another model, the teacher or a reference.

use tch::Tensor;

use super::core::divergence::{Reference, kl_terms};
use super::core::inputs::at_least_0;
use super::core::objective::{Objective, Terms};
use super::core::rows::Rows;
use super::core::scores::{Needs, Scores};
use super::core::source::ModelOutput;
use super::output::LossOutput;
use super::supervised::dft;
use super::token_loss::TokenLoss;
use crate::error::{Error, Result};

/// Distillation: a divergence from the teacher, at the positions of the rows.
///
/// ```text
/// w K          K: KL(t || p), KL(p || t) or JSD of softmax(logits / temperature), see Divergence
/// ```
///
/// * **Shapes**: the teacher's logits, or its hidden states and head, at the same positions. Only active rows of either
///   are computed, and the teacher gets no gradient.
/// * **Default**: forward, temperature 1. As in TRL, there is no factor `temperature^2`: multiply the loss by it where the size
///   of the gradient should not depend on the temperature.
/// * **Vocabularies** of different sizes: over the columns that both have, so no mass is on tokens that one of them lacks.
/// * **Bounded**: below by 0 for `w > 0`.
/// * **Cost**: one pass, and one product of the teacher; two more chunks in memory.
/// * **Reference**: Hinton et al., arXiv 1503.02531; Agarwal et al., arXiv 2306.13649; TRL's `chunked_divergence`.
/// * **See also**: [`TopKDistillation`]; [`Anchored`] for the divergence beside another loss.
///
/// ```
/// use figa_loss::{Distillation, Divergence, Reference, TokenLoss, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let teacher = Tensor::from_slice(&[0f32, 0.0, 0.0, 3f32.ln(), 0.0, 0.0, 0.0, 0.0]).reshape([1, 2, 4]);
/// let labels = Tensor::from_slice(&[-100i64, 2]).reshape([1, 2]);
/// let weights = Tensor::from_slice(&[0f32, 1.0]).reshape([1, 2]);
///
/// let mut loss = Distillation::new(Reference::new(&teacher));
/// loss.reference.divergence = Divergence::Reverse;
/// let output = TokenLoss::of(loss).forward(&logits, &labels, &weights)?;
/// // 1/4 log (6/4) for three columns, and 1/4 log (1/2) for the last one.
/// assert!((output.loss.double_value(&[]) - 0.25 * (3.0 * 1.5f64.ln() + 0.5f64.ln())).abs() < 1e-6);
/// assert!(output.stats.read()?.rewarded.mean_kl.is_some());
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Distillation<'a> {
    /// The teacher, the divergence and the temperature.
    pub reference: Reference<'a>,
}

impl<'a> Distillation<'a> {
    /// The divergence from this model.
    pub const fn new(reference: Reference<'a>) -> Self {
        Self { reference }
    }
}

impl Objective for Distillation<'_> {
    fn needs(&self) -> Needs<'_> {
        Needs::new().with_reference(self.reference)
    }

    fn terms(&self, scores: &Scores) -> Result<Terms> {
        Ok(Terms::new(scores.divergence()?.f_mul(scores.weights())?))
    }
}

/// What happens to the teacher's mass on the columns that are not among its likeliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Tail {
    /// All other columns are one bucket, for teacher and student.
    #[default]
    Bucket,
    /// Both distributions are renormalised over the teacher's columns.
    Renormalised,
    /// Ignored: the sum is over the teacher's columns alone, and may be negative.
    Ignored,
}

/// Distillation from the likeliest columns of a teacher, `KL(t || p)`.
///
/// ```text
/// w sum_k t_k (log t_k - log p_k)            over the teacher's columns, and its tail
/// ```
///
/// * **Shapes**: `columns [B, S, K]`, int64, and `log_probs [B, S, K]`. Numbers that are no column of the student, such as
///   -1, are left out.
/// * **Default**: [`Tail::Bucket`].
/// * **Bounded**: below by 0 for `w > 0`, except with [`Tail::Ignored`].
/// * **Cost**: one pass; a second chunk in memory.
/// * **See also**: [`Distillation`].
///
/// ```
/// use figa_loss::{Tail, TokenLoss, TopKDistillation, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2]).reshape([1, 2]);
/// let weights = Tensor::from_slice(&[0f32, 1.0]).reshape([1, 2]);
/// let columns = Tensor::from_slice(&[0i64, 0, 3, 1]).reshape([1, 2, 2]);
/// let log_probs = Tensor::from_slice(&[0f32, 0.0, 0.5f32.ln(), 0.25f32.ln()]).reshape([1, 2, 2]);
///
/// let mut loss = TopKDistillation::new(&columns, &log_probs);
/// assert_eq!((loss.tail, loss.columns.size(), loss.log_probs.size()), (Tail::Bucket, vec![1, 2, 2], vec![1, 2, 2]));
/// loss.tail = Tail::Ignored;
/// let output = TokenLoss::of(loss).forward(&logits, &labels, &weights)?;
/// assert!((output.loss.double_value(&[]) - 0.5 * 2f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct TopKDistillation<'a> {
    /// The teacher's likeliest columns at each position.
    pub columns: &'a Tensor,
    /// Their log-probabilities.
    pub log_probs: &'a Tensor,
    /// What happens to the rest.
    pub tail: Tail,
}

impl<'a> TopKDistillation<'a> {
    /// With the rest in one bucket.
    pub const fn new(columns: &'a Tensor, log_probs: &'a Tensor) -> Self {
        Self { columns, log_probs, tail: Tail::Bucket }
    }
}

impl Objective for TopKDistillation<'_> {
    fn needs(&self) -> Needs<'_> {
        Needs::new().with_columns(self.columns)
    }

    fn validate(&self) -> Result<()> {
        let actual = if self.log_probs.defined() { self.log_probs.size() } else { vec![] };
        // Columns that are no tensor are found by what the loss needs.
        if !self.columns.defined() || actual == self.columns.size() {
            return Ok(());
        }
        let (argument, expected) = ("log_probs", format!("{:?}, that of columns", self.columns.size()));
        Err(Error::Shape { argument, expected, actual })
    }

    fn terms(&self, scores: &Scores) -> Result<Terms> {
        let odds = scores.column_log_odds()?;
        let missing = odds.f_isneginf()?;
        let t = scores.take(self.log_probs)?.f_masked_fill(&missing, f64::NEG_INFINITY)?;
        // A column that is missing has no mass: any finite number stands for its log-probability.
        let p = odds.f_masked_fill(&missing, 0)?.f_log_sigmoid()?.f_masked_fill(&missing, f64::NEG_INFINITY)?;
        let sum = |values: &Tensor| values.f_sum_dim_intlist(1, false, None);
        let k = match self.tail {
            Tail::Ignored => sum(&kl_terms(&t, &p)?)?,
            Tail::Renormalised => sum(&kl_terms(&t.f_log_softmax(1, None)?, &p.f_log_softmax(1, None)?)?)?,
            Tail::Bucket => {
                // Rounding may leave a little less than nothing.
                let least = 1e-12;
                let rest = |log: &Tensor| sum(&log.f_exp()?)?.f_neg()?.f_add_scalar(1.0)?.f_clamp_min(least)?.f_log();
                sum(&kl_terms(&t, &p)?)?.f_add(&kl_terms(&rest(&t)?, &rest(&p)?)?)?
            }
        };
        Ok(Terms::new(k.f_mul(scores.weights())?).with_kl(k))
    }
}

/// Anchored supervised fine-tuning: [`Dft`](crate::Dft) with a divergence from the base model.
///
/// ```text
/// w (sg(p) nll + alpha KL(ref || p))
/// ```
///
/// * **Default**: `alpha` 0.1, as in LLaMA-Factory.
/// * **Bounded**: below by 0 for `w > 0`.
/// * **Cost**: one pass, and one product of the reference.
/// * **Reference**: *Anchored Supervised Fine-Tuning*, arXiv 2509.23753; `asft` of LLaMA-Factory.
/// * **See also**: [`Anchored`] for an anchor on other tokens than those of the loss.
///
/// ```
/// use figa_loss::{Asft, Reference, TokenLoss, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let base = logits.detach();
/// let labels = Tensor::from_slice(&[-100i64, 2]).reshape([1, 2]);
/// let weights = Tensor::from_slice(&[0f32, 1.0]).reshape([1, 2]);
/// let loss = Asft::new(Reference::new(&base));
/// assert_eq!((loss.alpha, loss.reference.temperature), (0.1, 1.0));
/// let output = TokenLoss::of(loss).forward(&logits, &labels, &weights)?;
/// assert!((output.loss.double_value(&[]) - 0.25 * 4f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Asft<'a> {
    /// The base model.
    pub reference: Reference<'a>,
    /// The factor of the divergence.
    pub alpha: f64,
}

impl<'a> Asft<'a> {
    /// The setting of LLaMA-Factory.
    pub const fn new(reference: Reference<'a>) -> Self {
        Self { reference, alpha: 0.1 }
    }
}

impl Objective for Asft<'_> {
    fn needs(&self) -> Needs<'_> {
        Needs::new().with_reference(self.reference)
    }

    fn validate(&self) -> Result<()> {
        at_least_0("alpha", self.alpha)
    }

    fn terms(&self, scores: &Scores) -> Result<Terms> {
        let value = dft(scores)?.f_add(&scores.divergence()?.f_mul_scalar(self.alpha)?)?;
        Ok(Terms::new(value.f_mul(scores.weights())?))
    }
}

/// Any loss of tokens with an anchor on others: the divergence from a reference model, with a denominator of its own.
///
/// ```text
/// loss + factor (sum v K / denominator)      v: the weights of the anchor's rows
/// ```
///
/// FIGA leaves kept tokens alone, and nothing in it keeps them as likely as they are. The anchor does: give it the kept tokens
/// of the revised answers as rows, which [`FigaWeights::anchor`](crate::FigaWeights::anchor) selects.
///
/// * **Default**: the anchor's own default denominator, its active tokens.
/// * **Cost**: that of both; no row is computed twice unless it is in both. The head's gradient is held once for each.
/// * **See also**: [`Asft`], [`docs::choosing`](crate::docs::choosing).
///
/// ```
/// use figa_loss::{Anchored, AnchoredOutput, Distillation, FigaLoss, FigaWeights, IGNORE_INDEX, Reference, Rows, Side, TokenLabel, TokenLoss};
/// use figa_loss::tch::{Device, Kind, Tensor};
///
/// // A revised answer of which the first token is kept and the second one is substituted.
/// let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let base = logits.detach();
/// let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// // Kept tokens are held by the anchor, not by a weight.
/// let weights = FigaWeights::paper();
/// let of = |weight: fn(&FigaWeights, Side, TokenLabel) -> f32| {
///     let tokens = [TokenLabel::Ignored, TokenLabel::Kept, TokenLabel::Substituted];
///     let weights = tokens.map(|token| weight(&weights, Side::Revised, token));
///     Rows::of_batch(&labels, &Tensor::from_slice(&weights).reshape([1, 3]), IGNORE_INDEX)
/// };
///
/// let anchor = TokenLoss::of(Distillation::new(Reference::new(&base)));
/// let loss = Anchored::new(FigaLoss::new(), anchor, 0.1);
/// let output: AnchoredOutput = loss.on(&logits, &of(FigaWeights::weight)?, &of(FigaWeights::anchor)?)?;
/// assert!((output.loss.double_value(&[]) - 4f64.ln()).abs() < 1e-6);
/// assert_eq!(output.anchor.stats.read()?.rewarded.mean_kl, Some(0.0));
/// assert_eq!(output.main.stats.read()?.rewarded.count, 1);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Anchored<'a, O> {
    /// The loss.
    pub loss: TokenLoss<O>,
    /// The divergence, and what its sum is divided by.
    pub anchor: TokenLoss<Distillation<'a>>,
    /// What the anchor is multiplied by.
    pub factor: f64,
}

/// What [`Anchored`] returns.
#[derive(Debug)]
#[non_exhaustive]
pub struct AnchoredOutput {
    /// A scalar, differentiable.
    pub loss: Tensor,
    /// The loss without the anchor.
    pub main: LossOutput,
    /// The anchor, before it is multiplied by its factor.
    pub anchor: LossOutput,
}

impl<'a, O> Anchored<'a, O> {
    /// A loss, an anchor and its factor.
    pub const fn new(loss: TokenLoss<O>, anchor: TokenLoss<Distillation<'a>>, factor: f64) -> Self {
        Self { loss, anchor, factor }
    }
}

impl<O: Objective> Anchored<'_, O> {
    /// The loss of a model's output on rows, and the anchor on others.
    ///
    /// # Errors
    /// Those of [`TokenLoss::on`].
    pub fn on<'b>(
        &self,
        output: impl Into<ModelOutput<'b>>,
        rows: &Rows,
        anchor_rows: &Rows,
    ) -> Result<AnchoredOutput> {
        at_least_0("factor", self.factor)?;
        let output = output.into();
        let (main, anchor) = (self.loss.on(output, rows)?, self.anchor.on(output, anchor_rows)?);
        let loss = main.loss.f_add(&anchor.loss.f_mul_scalar(self.factor)?)?;
        Ok(AnchoredOutput { loss, main, anchor })
    }
}
