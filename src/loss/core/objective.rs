//! The interface between a loss and the core: what a row contributes, as a function of what is known of it.

use tch::{Kind, Tensor};

use super::scores::{Needs, Scores, cat};
use crate::error::Result;

/// A loss that is a sum over rows. [`TokenLoss`](crate::TokenLoss) runs it, in one pass over the logits.
///
/// ```
/// use figa_loss::{IGNORE_INDEX, Objective, Result, Rows, Scores, Terms, TokenLoss};
/// use figa_loss::tch::{Device, Kind, Tensor};
///
/// /// The cross-entropy of what the model finds unlikely, and nothing of the rest.
/// struct Surprising;
///
/// impl Objective for Surprising {
///     fn terms(&self, scores: &Scores) -> Result<Terms> {
///         let nll = scores.nll()?;
///         let surprising = nll.detach().f_gt(0.5)?;
///         let value = nll.f_mul(scores.weights())?;
///         Ok(Terms::new(value.f_where_self(&surprising, &value.f_zeros_like()?)?).with_counted(surprising))
///     }
/// }
///
/// let logits = Tensor::zeros([1, 3, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 0, 1]).reshape([1, 3]);
/// let weights = Tensor::from_slice(&[0f32, 1.0, 1.0]).reshape([1, 3]);
/// let rows = Rows::of_batch(&labels, &weights, IGNORE_INDEX)?;
/// let output = TokenLoss::of(Surprising).on(&logits, &rows)?;
/// assert!((output.loss.double_value(&[]) - 2f64.ln()).abs() < 1e-6);
/// output.loss.backward();
/// # Ok::<(), figa_loss::Error>(())
/// ```
pub trait Objective {
    /// What it reads of the rows beside the log-odds of their labels.
    fn needs(&self) -> Needs<'_> {
        Needs::new()
    }

    /// Checks its configuration.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) for a number outside of its domain.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Whether a row of this weight may turn out not to count, see [`Terms::counted`]. Such rows are computed first where
    /// that saves memory, or where the denominator has to be known.
    fn may_skip(&self, _weight: f64) -> bool {
        false
    }

    /// Whether what a row contributes depends on other rows. All of them are then computed before [`terms`](Self::terms) is
    /// called once, and once more for the gradient.
    fn is_joint(&self) -> bool {
        false
    }

    /// What rows contribute, by ordinary operations on the tensors of `scores`. Their gradient is taken with respect to
    /// these.
    ///
    /// # Errors
    /// Those of the operations.
    fn terms(&self, scores: &Scores) -> Result<Terms>;
}

/// What `n` rows contribute.
///
/// ```
/// use figa_loss::{Terms, tch::{Device, Kind, Tensor}};
///
/// let value = Tensor::zeros([2], (Kind::Float, Device::Cpu));
/// let none = value.ne(0.0);
/// let terms = Terms::new(value.shallow_clone()).with_counted(none.shallow_clone()).with_clipped(none).with_kl(value);
/// assert!(terms.counted.is_some() && terms.clipped.is_some() && terms.kl.is_some() && terms.value.size() == [2]);
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Terms {
    /// `[n]`, differentiable: what each row adds to the numerator; 0 where it does not count.
    pub value: Tensor,
    /// `[n]`, bool: the rows that count; all of them if `None`. The others are neither in the sum nor in the denominator.
    pub counted: Option<Tensor>,
    /// `[n]`, bool, for the statistics: the rows that are clipped.
    pub clipped: Option<Tensor>,
    /// `[n]`, for the statistics: an estimate or the value of the divergence from the reference.
    pub kl: Option<Tensor>,
}

impl Terms {
    /// Rows that all count.
    pub const fn new(value: Tensor) -> Self {
        Self { value, counted: None, clipped: None, kl: None }
    }

    /// Sets the rows that count.
    pub fn with_counted(self, counted: Tensor) -> Self {
        Self { counted: Some(counted), ..self }
    }

    /// `[n]`, bool.
    pub(super) fn counted_mask(&self) -> Result<Tensor> {
        match &self.counted {
            Some(counted) => Ok(counted.shallow_clone()),
            None => Ok(self.value.f_detach()?.f_ones_like()?.f_to_kind(Kind::Bool)?),
        }
    }

    /// Sets the rows that are clipped.
    pub fn with_clipped(self, clipped: Tensor) -> Self {
        Self { clipped: Some(clipped), ..self }
    }

    /// Sets the divergence from the reference.
    pub fn with_kl(self, kl: Tensor) -> Self {
        Self { kl: Some(kl), ..self }
    }
}

/// The numbers of rows that sums and statistics are made of: constants, `[n]`.
#[derive(Debug)]
pub(in crate::loss) struct Numbers {
    pub(in crate::loss) value: Tensor,
    /// Bool.
    pub(in crate::loss) counted: Tensor,
    pub(in crate::loss) nll: Tensor,
    pub(in crate::loss) entropy: Option<Tensor>,
    /// Bool.
    pub(in crate::loss) clipped: Option<Tensor>,
    pub(in crate::loss) kl: Option<Tensor>,
}

impl Numbers {
    pub(super) fn new(scores: &Scores, terms: Terms) -> Result<Self> {
        let constant = |part: Option<&Tensor>| part.map(|part| part.f_detach()).transpose();
        let nll = scores.nll()?.f_detach()?;
        let stats = scores.stats();
        Ok(Self {
            value: terms.value.f_detach()?,
            counted: terms.counted_mask()?,
            nll,
            entropy: constant(stats.entropy.as_ref().or(stats.top_entropy.as_ref()))?,
            clipped: terms.clipped,
            kl: constant(terms.kl.as_ref().or(stats.divergence.as_ref()))?,
        })
    }

    /// The rows in a mask.
    pub(super) fn select(&self, mask: &Tensor) -> Result<Self> {
        let of = |part: &Tensor| part.f_masked_select(mask);
        let optional = |part: &Option<Tensor>| part.as_ref().map(of).transpose();
        Ok(Self {
            value: of(&self.value)?,
            counted: of(&self.counted)?,
            nll: of(&self.nll)?,
            entropy: optional(&self.entropy)?,
            clipped: optional(&self.clipped)?,
            kl: optional(&self.kl)?,
        })
    }

    /// The rows of all parts, of which there is at least one.
    pub(super) fn cat(parts: &[Self]) -> Result<Self> {
        let all = |part: fn(&Self) -> &Tensor| Ok::<_, crate::Error>(cat(parts, |p| Some(part(p)))?.expect("a part"));
        Ok(Self {
            value: all(|part| &part.value)?,
            counted: all(|part| &part.counted)?,
            nll: all(|part| &part.nll)?,
            entropy: cat(parts, |part| part.entropy.as_ref())?,
            clipped: cat(parts, |part| part.clipped.as_ref())?,
            kl: cat(parts, |part| part.kl.as_ref())?,
        })
    }
}
