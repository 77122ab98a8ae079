//! A loss of one's own: any function of what is known of the rows.

use tch::{Kind, Tensor, no_grad_guard};

use super::core::driver::run_closure;
use super::core::head::LmHead;
use super::core::rows::Rows;
use super::core::scores::{Needs, Scores};
use super::core::source::ModelOutput;
use crate::error::Result;

/// Any loss of the log-probabilities of the rows' labels, from hidden states and a head: the closure computes it by
/// ordinary operations on [`Scores`], and the gradient reaches `hidden` and the head.
///
/// Logits of many rows are computed twice, in chunks: four matrix products on the rows, where a loss that is a sum over rows
/// takes three ([`TokenLoss`](crate::TokenLoss)). Rows on which the loss does not depend are left out the second time (on a
/// CPU). The memory is that of [`TokenLoss::forward_linear`](crate::TokenLoss::forward_linear).
///
/// ```
/// use figa_loss::{IGNORE_INDEX, Rows, linear_loss, tch::{Device, Kind, Tensor}};
///
/// let hidden = Tensor::ones([1, 4, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let head = Tensor::zeros([8, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 1, 2, 3]).reshape([1, 4]);
/// let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// // The likelihood of the whole answer, squared.
/// let loss = linear_loss(&hidden, &head, &rows, |scores| Ok(scores.logp()?.f_sum(Kind::Float)?.f_square()?))?;
/// assert!((loss.double_value(&[]) - (3.0 * 8f64.ln()).powi(2)).abs() < 1e-4);
/// loss.backward();
/// # Ok::<(), figa_loss::Error>(())
/// ```
///
/// # Errors
/// Those of [`TokenLoss::on`](crate::TokenLoss::on) and of the closure, and [`Error::Shape`](crate::Error::Shape) if it
/// returns more than one number.
pub fn linear_loss<'a>(
    hidden: &'a Tensor,
    head: impl Into<LmHead<'a>>,
    rows: &Rows,
    loss: impl FnOnce(&Scores) -> Result<Tensor>,
) -> Result<Tensor> {
    rows_loss(ModelOutput::hidden(hidden, head), rows, Needs::new(), loss)
}

/// [`linear_loss`] from logits.
///
/// ```
/// use figa_loss::{IGNORE_INDEX, Rows, logits_loss, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 3, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 1, 2]).reshape([1, 3]);
/// let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// let loss = logits_loss(&logits, &rows, |scores| Ok(scores.nll()?.f_max()?))?;
/// assert!((loss.double_value(&[]) - 8f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
///
/// # Errors
/// Those of [`linear_loss`].
pub fn logits_loss(logits: &Tensor, rows: &Rows, loss: impl FnOnce(&Scores) -> Result<Tensor>) -> Result<Tensor> {
    rows_loss(logits, rows, Needs::new(), loss)
}

/// [`linear_loss`] from whatever the model gives, with more than log-probabilities: see [`Scores`] for an example.
///
/// # Errors
/// Those of [`linear_loss`].
pub fn rows_loss<'a>(
    output: impl Into<ModelOutput<'a>>,
    rows: &Rows,
    needs: Needs<'_>,
    loss: impl FnOnce(&Scores) -> Result<Tensor>,
) -> Result<Tensor> {
    Ok(run_closure(output.into(), rows, &needs, |scores| Ok((loss(scores)?, ())))?.0)
}

/// The log-probabilities of the rows' labels under a model, in the shape of the labels and 0 elsewhere: what a loss wants to
/// know of a reference model or of the policy that sampled. Computed chunk by chunk and without a gradient.
///
/// ```
/// use figa_loss::{IGNORE_INDEX, Rows, log_probs, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 3, 8], (Kind::Float, Device::Cpu));
/// let labels = Tensor::from_slice(&[-100i64, 1, 2]).reshape([1, 3]);
/// let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// let reference = log_probs(&logits, &rows)?;
/// assert!(reference.size() == [1, 3] && (reference.double_value(&[0, 2]) + 8f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
///
/// # Errors
/// Those of [`linear_loss`].
pub fn log_probs<'a>(output: impl Into<ModelOutput<'a>>, rows: &Rows) -> Result<Tensor> {
    let _no_grad = no_grad_guard();
    let all = |scores: &Scores| {
        let log_probs = scores.scatter(&scores.logp()?)?;
        Ok((log_probs.f_sum(None::<Kind>)?, log_probs))
    };
    Ok(run_closure(output.into(), rows, &Needs::new(), all)?.1)
}
