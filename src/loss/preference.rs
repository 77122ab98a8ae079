//! Losses of pairs of answers: the chosen one should become likelier than the rejected one.
//!
//! The rows of both answers are in one batch, told apart by their sequence; [`Pairs`] says which belong together. With the
//! weights `w` of the tokens, `l` their log-probabilities and `l_ref` those under a reference model:
//!
//! ```text
//! L = sum w l        D = sum w (l - l_ref)        over the rows of an answer; a bar: divided by sum |w|
//! ```
//!
//! Weights of 1 give the published losses. Other weights say which tokens matter, see
//! [`FigaWeights`](crate::FigaWeights) and the page [`losses`](crate::docs::losses).

mod forget;
mod pairs;
mod reference_free;
mod stats;
mod with_reference;

use tch::Tensor;

pub use forget::{Npo, SimNpo};
pub use pairs::Pairs;
pub use reference_free::{Cpo, Orpo, SimPo};
pub use stats::{PreferenceStats, PreferenceSummary};
pub use with_reference::{Dpo, Ipo, Tdpo};

use super::core::driver::run_groups;
use super::core::inputs::greater_than_0;
use super::core::odds::tiny;
use super::core::rows::Rows;
use super::core::scores::{Needs, Scores};
use super::core::source::ModelOutput;
use crate::error::{Error, Result};

/// What a preference loss is computed from.
///
/// ```
/// use figa_loss::{Dpo, IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, Rows, log_probs};
/// use figa_loss::tch::{Device, Kind, Tensor};
///
/// // The original answer, then the revised one.
/// let logits = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 2, 1]).reshape([2, 3]);
/// let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// let reference = log_probs(&logits, &rows)?;
/// let pairs = Pairs::alternating(1);
/// let batch = PreferenceBatch::new(&rows, &pairs).with_reference(&reference).with_denominators(1.0, 2.0);
/// let output = Dpo::new().on(&logits, batch)?;
/// // The model is its own reference.
/// assert!((output.loss.double_value(&[]) - 2f64.ln()).abs() < 1e-6);
/// output.loss.backward();
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct PreferenceBatch<'a> {
    rows: &'a Rows,
    pairs: &'a Pairs,
    reference: Option<&'a Tensor>,
    denominators: Option<(f64, f64)>,
    chunk_rows: Option<i64>,
}

impl<'a> PreferenceBatch<'a> {
    /// Rows and what belongs together. The loss is a mean over the pairs, and that of its likelihood term one over the tokens of
    /// the chosen answers, by their weights.
    pub const fn new(rows: &'a Rows, pairs: &'a Pairs) -> Self {
        Self { rows, pairs, reference: None, denominators: None, chunk_rows: None }
    }

    /// Sets the log-probabilities of the labels under the reference model, in the shape of the labels:
    /// [`log_probs`](crate::log_probs) computes them once.
    pub const fn with_reference(self, log_probs: &'a Tensor) -> Self {
        Self { reference: Some(log_probs), ..self }
    }

    /// Sets what the sum over pairs and the sum over the chosen answers' tokens are divided by: their numbers in all
    /// micro-batches and processes that make one step.
    pub const fn with_denominators(self, pairs: f64, tokens: f64) -> Self {
        Self { denominators: Some((pairs, tokens)), ..self }
    }

    /// Sets how many rows of logits are held at a time, see [`TokenLoss::with_chunk_rows`](crate::TokenLoss::with_chunk_rows).
    pub const fn with_chunk_rows(self, chunk_rows: i64) -> Self {
        Self { chunk_rows: Some(chunk_rows), ..self }
    }
}

/// The sums over the rows of one answer of each pair. All `[P]` for `P` pairs.
#[derive(Debug)]
#[non_exhaustive]
pub struct AnswerSums {
    /// `L = sum w l`.
    pub logp: Tensor,
    /// `D = sum w (l - l_ref)`; `L` where there is no reference.
    pub gain: Tensor,
    /// `sum |w|`, at least the least positive number, so that an answer without rows divides nothing.
    pub size: Tensor,
    /// `sum K`, the divergences from the reference, for losses that need them.
    pub divergence: Option<Tensor>,
}

impl AnswerSums {
    /// `L` divided by `sum |w|`.
    ///
    /// # Errors
    /// [`Error::Torch`] if libtorch fails.
    pub fn mean_logp(&self) -> Result<Tensor> {
        Ok(self.logp.f_div(&self.size)?)
    }

    /// `D` divided by `sum |w|`.
    ///
    /// # Errors
    /// [`Error::Torch`] if libtorch fails.
    pub fn mean_gain(&self) -> Result<Tensor> {
        Ok(self.gain.f_div(&self.size)?)
    }
}

/// Both answers of each pair.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answers {
    /// The better ones.
    pub chosen: AnswerSums,
    /// The worse ones.
    pub rejected: AnswerSums,
}

/// A loss of pairs of answers, which depends on both answers of a pair and not on other pairs.
///
/// ```
/// use figa_loss::{AnswerSums, Answers, IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, PreferenceOutput, Result, Rows};
/// use figa_loss::tch::{Device, Kind, Tensor};
///
/// /// A hinge on the difference of the mean log-probabilities (SLiC).
/// struct Hinge;
///
/// impl PreferenceLoss for Hinge {
///     fn margin(&self, answers: &Answers) -> Result<Tensor> {
///         let mean = |sums: &AnswerSums| sums.mean_logp();
///         // With a reference: `mean_gain()`, or the sum `gain`.
///         assert!(answers.chosen.gain.size() == answers.chosen.mean_gain()?.size());
///         Ok(mean(&answers.chosen)?.f_sub(&mean(&answers.rejected)?)?)
///     }
///
///     fn losses(&self, answers: &Answers) -> Result<Tensor> {
///         Ok(self.margin(answers)?.f_neg()?.f_add_scalar(1.0)?.f_relu()?)
///     }
/// }
///
/// let logits = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 2, 1]).reshape([2, 3]);
/// let rows = Rows::of_batch(&labels, &labels.ones_like().to_kind(Kind::Float), IGNORE_INDEX)?;
/// let output: PreferenceOutput = Hinge.on(&logits, PreferenceBatch::new(&rows, &Pairs::alternating(1)))?;
/// assert_eq!(output.loss.double_value(&[]), 1.0);
/// # Ok::<(), figa_loss::Error>(())
/// ```
pub trait PreferenceLoss {
    /// How much better the chosen answer does, `[P]`: for the statistics.
    ///
    /// # Errors
    /// Those of the operations.
    fn margin(&self, answers: &Answers) -> Result<Tensor>;

    /// The loss of each pair, `[P]`.
    ///
    /// # Errors
    /// Those of the operations.
    fn losses(&self, answers: &Answers) -> Result<Tensor>;

    /// What it reads of the rows beside the log-probabilities of their labels.
    fn needs(&self) -> Needs<'_> {
        Needs::new()
    }

    /// Whether it reads [`AnswerSums::gain`], which takes a reference.
    fn uses_reference(&self) -> bool {
        false
    }

    /// Whether it reads the chosen answers.
    fn is_paired(&self) -> bool {
        true
    }

    /// The factor of the chosen answers' mean nll, which is added to the loss.
    fn nll_factor(&self) -> f64 {
        0.0
    }

    /// Whether to leave out the rows that both answers of a pair begin with. Only right if the loss depends on the answers
    /// through the difference of their sums alone.
    fn skips_common_prefix(&self) -> bool {
        false
    }

    /// Checks its configuration.
    ///
    /// # Errors
    /// [`Error::Value`] for a number outside of its domain.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// The loss of a model's output.
    ///
    /// # Errors
    /// Those of [`TokenLoss::on`](crate::TokenLoss::on), and [`Error::Value`] for a missing reference and for pairs of sequences
    /// that the rows do not have.
    fn on<'a>(&self, output: impl Into<ModelOutput<'a>>, batch: PreferenceBatch<'_>) -> Result<PreferenceOutput>
    where
        Self: Sized,
    {
        run(self, output.into(), batch)
    }
}

/// A preference loss and what went into it.
#[derive(Debug)]
#[non_exhaustive]
pub struct PreferenceOutput {
    /// A scalar, differentiable.
    pub loss: Tensor,
    /// Counts and means over the pairs.
    pub stats: PreferenceStats,
}

fn run(loss: &impl PreferenceLoss, output: ModelOutput<'_>, batch: PreferenceBatch<'_>) -> Result<PreferenceOutput> {
    loss.validate()?;
    let PreferenceBatch { rows, pairs, reference, denominators, chunk_rows } = batch;
    pairs.check(rows.sequences(), loss.is_paired())?;
    if loss.uses_reference() && reference.is_none() {
        let expected = "the log-probabilities under a reference model";
        return Err(Error::Value { argument: "reference", expected, actual: "none".into() });
    }
    if let Some((pairs, tokens)) = denominators {
        greater_than_0("denominators", pairs)?;
        greater_than_0("denominators", tokens)?;
    }
    let remaining = loss.skips_common_prefix().then(|| pairs.without_common_prefix(rows));
    let rows = remaining.as_ref().unwrap_or(rows);
    let sizes = rows.sizes();
    let (pairs_of_step, tokens_of_step) = denominators.unwrap_or_else(|| pairs.denominators(&sizes));
    let group_of = pairs.groups(sizes.len(), loss.is_paired());
    let (sum, stats) = run_groups(output, rows, &loss.needs(), chunk_rows, &group_of, &mut |groups, scores| {
        let sums = Sums::new(scores, reference)?;
        let pairs = pairs.of_groups(&group_of, &groups);
        let (chosen, rejected) = pairs.to_device(scores.weights().device())?;
        let answers = Answers { chosen: sums.of(&chosen)?, rejected: sums.of(&rejected)? };
        let losses = loss.losses(&answers)?;
        let kind = losses.f_kind()?;
        let mut sum = losses.f_sum(kind)?.f_div_scalar(pairs_of_step)?;
        if loss.nll_factor() != 0.0 {
            let nll = answers.chosen.logp.f_sum(kind)?.f_neg()?.f_div_scalar(tokens_of_step)?;
            sum = sum.f_add(&nll.f_mul_scalar(loss.nll_factor())?)?;
        }
        Ok((sum, PreferenceStats::new(&loss.margin(&answers)?, &answers)?))
    })?;
    Ok(PreferenceOutput { loss: sum, stats: PreferenceStats::sum(&stats)? })
}

/// The sums over each sequence.
struct Sums {
    logp: Tensor,
    gain: Tensor,
    size: Tensor,
    divergence: Option<Tensor>,
}

impl Sums {
    fn new(scores: &Scores, reference: Option<&Tensor>) -> Result<Self> {
        let (weights, logp) = (scores.weights(), scores.logp()?);
        let weighted = |values: &Tensor| scores.sequence_sums(&values.f_mul(weights)?);
        let gain = match reference {
            Some(reference) => weighted(&logp.f_sub(&scores.take(reference)?)?)?,
            None => weighted(&logp)?,
        };
        let divergence = scores.divergence().ok().map(|divergence| scores.sequence_sums(divergence)).transpose()?;
        let size = scores.sequence_sums(&weights.f_abs()?)?.f_clamp_min(tiny(weights.f_kind()?))?;
        Ok(Self { logp: weighted(&logp)?, gain, size, divergence })
    }

    fn of(&self, sequences: &Tensor) -> Result<AnswerSums> {
        let of = |sums: &Tensor| sums.f_index_select(0, sequences);
        Ok(AnswerSums {
            logp: of(&self.logp)?,
            gain: of(&self.gain)?,
            size: of(&self.size)?,
            divergence: self.divergence.as_ref().map(of).transpose()?,
        })
    }
}

/// `-(1 - s) log sigmoid(z) - s log sigmoid(-z)`.
fn smoothed(z: &Tensor, smoothing: f64) -> Result<Tensor> {
    let loss = z.f_log_sigmoid()?.f_neg()?;
    if smoothing == 0.0 {
        return Ok(loss);
    }
    let other = z.f_neg()?.f_log_sigmoid()?.f_neg()?;
    Ok(loss.f_mul_scalar(1.0 - smoothing)?.f_add(&other.f_mul_scalar(smoothing)?)?)
}

fn check_smoothing(smoothing: f64) -> Result<()> {
    match (0.0..0.5).contains(&smoothing) {
        true => Ok(()),
        false => {
            let (argument, expected) = ("label_smoothing", "0 <= label_smoothing < 0.5");
            Err(Error::Value { argument, expected, actual: smoothing.to_string() })
        }
    }
}

fn difference(of: impl Fn(&AnswerSums) -> Result<Tensor>, answers: &Answers) -> Result<Tensor> {
    Ok(of(&answers.chosen)?.f_sub(&of(&answers.rejected)?)?)
}
