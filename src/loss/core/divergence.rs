//! How far the distribution of a row is from that of a reference model.

use tch::Tensor;

use super::source::ModelOutput;
use crate::error::{Error, Result};

/// A distance between the model's distribution `p` and the reference's, `t`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Divergence {
    /// `KL(t || p)`, forward: `p` has to cover all that `t` finds likely. Not bounded.
    #[default]
    Forward,
    /// `KL(p || t)`, reverse: `p` has to stay where `t` finds it likely. Infinite where `t` is 0.
    Reverse,
    /// `b KL(t || m) + (1 - b) KL(p || m)` with `m = b t + (1 - b) p`, the generalised Jensen-Shannon divergence: at most
    /// `ln 2`. As in TRL, `b = 0` means `KL(t || p)` and `b = 1` means `KL(p || t)`.
    JensenShannon(f64),
}

/// The model whose distribution at the positions of the rows is the reference, and how to compare with it.
///
/// The reference gets no gradient, and only the positions of rows are computed. If the vocabularies differ in size, both
/// distributions are taken over the columns that both have, so no mass is on tokens that one of them lacks.
///
/// ```
/// use figa_loss::{Divergence, Reference, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 4, 8], (Kind::Float, Device::Cpu));
/// let mut reference = Reference::new(&logits);
/// assert_eq!((reference.divergence, reference.temperature), (Divergence::Forward, 1.0));
/// reference.divergence = Divergence::JensenShannon(0.5);
/// # let _ = reference.output;
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Reference<'a> {
    /// What the reference model gives at the same positions.
    pub output: ModelOutput<'a>,
    /// [`Divergence::Forward`] by default.
    pub divergence: Divergence,
    /// Both models' logits are divided by it; 1 by default.
    pub temperature: f64,
}

impl<'a> Reference<'a> {
    /// The forward divergence from this model, at temperature 1.
    pub fn new(output: impl Into<ModelOutput<'a>>) -> Self {
        Self { output: output.into(), divergence: Divergence::Forward, temperature: 1.0 }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let (expected, actual) = ("a number > 0", self.temperature.to_string());
            return Err(Error::Value { argument: "temperature", expected, actual });
        }
        match self.divergence {
            Divergence::JensenShannon(b) if !(0.0..=1.0).contains(&b) => {
                let (argument, expected) = ("divergence", "JensenShannon(a number from 0 to 1)");
                Err(Error::Value { argument, expected, actual: b.to_string() })
            }
            _ => Ok(()),
        }
    }
}

/// The logits of both models in the columns that both have, as log-probabilities.
#[derive(Debug)]
pub(super) struct Distributions {
    p: Tensor,
    t: Tensor,
    temperature: f64,
    divergence: Divergence,
}

impl Distributions {
    /// From rows of logits, or of logits that differ from them by a constant for each row. Neither is changed.
    pub(super) fn new(student: &Tensor, teacher: &Tensor, divergence: Divergence, temperature: f64) -> Result<Self> {
        let columns = student.size2()?.1.min(teacher.size2()?.1);
        let log_softmax = |logits: &Tensor| -> Result<Tensor> {
            let shared = logits.f_narrow(1, 0, columns)?;
            let shared = if temperature == 1.0 { shared } else { shared.f_div_scalar(temperature)? };
            Ok(shared.f_log_softmax(1, None)?)
        };
        let divergence = match divergence {
            Divergence::JensenShannon(0.0) => Divergence::Forward,
            Divergence::JensenShannon(1.0) => Divergence::Reverse,
            other => other,
        };
        Ok(Self { p: log_softmax(student)?, t: log_softmax(teacher)?, temperature, divergence })
    }

    /// `log m` for the Jensen-Shannon divergence.
    fn mixture(&self, b: f64) -> Result<Tensor> {
        Ok(self.p.f_add_scalar((1.0 - b).ln())?.f_logaddexp(&self.t.f_add_scalar(b.ln())?)?)
    }

    /// `[n]`.
    pub(super) fn value(&self) -> Result<Tensor> {
        match self.divergence {
            Divergence::Forward => kl(&self.t, &self.p),
            Divergence::Reverse => kl(&self.p, &self.t),
            Divergence::JensenShannon(b) => {
                let m = self.mixture(b)?;
                Ok(kl(&self.t, &m)?.f_mul_scalar(b)?.f_add(&kl(&self.p, &m)?.f_mul_scalar(1.0 - b)?)?)
            }
        }
    }

    /// `[n, columns]`: the derivative of the value with respect to the student's logits.
    pub(super) fn gradient(&self) -> Result<Tensor> {
        let p = self.p.f_exp()?;
        let gradient = match self.divergence {
            Divergence::Forward => p.f_sub(&self.t.f_exp()?)?,
            Divergence::Reverse => towards(&self.p, &p, &self.t)?,
            Divergence::JensenShannon(b) => towards(&self.p, &p, &self.mixture(b)?)?.f_mul_scalar(1.0 - b)?,
        };
        Ok(if self.temperature == 1.0 { gradient } else { gradient.f_div_scalar(self.temperature)? })
    }
}

/// `KL(a || b)` of log-probabilities, `[n]`. Columns where `a` is 0 add nothing, whatever `b` is.
fn kl(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(kl_terms(a, b)?.f_sum_dim_intlist(1, false, None)?)
}

/// What each column adds to `KL(a || b)`.
pub(in crate::loss) fn kl_terms(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(gap(a, b)?.f_mul_(&a.f_exp()?)?)
}

/// `p (log p / b - KL(p || b))`.
fn towards(log_p: &Tensor, p: &Tensor, b: &Tensor) -> Result<Tensor> {
    let gap = gap(log_p, b)?;
    let kl = gap.f_mul(p)?.f_sum_dim_intlist(1, true, None)?;
    Ok(gap.f_sub(&kl)?.f_mul_(p)?)
}

fn gap(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.f_sub(b)?.f_masked_fill_(&a.f_isneginf()?, 0.0)?)
}
