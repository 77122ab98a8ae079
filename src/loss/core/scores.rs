//! What a loss may read about rows.

use tch::{Device, Kind, Tensor};

use super::divergence::Reference;
use super::inputs::check_columns;
use super::row_tensors::RowTensors;
use crate::error::{Error, Result};

/// The numbers of a row that a loss needs beside the log-probability of its label. Each costs something, so none of them
/// is computed unless a loss asks for it.
///
/// ```
/// use figa_loss::{Needs, Reference, tch::{Device, Kind, Tensor}};
///
/// let teacher = Tensor::zeros([1, 4, 8], (Kind::Float, Device::Cpu));
/// let columns = Tensor::zeros([1, 4, 3], (Kind::Int64, Device::Cpu));
/// let needs = Needs::new().with_entropy().with_top_entropy(20);
/// let needs = needs.with_columns(&columns).with_reference(Reference::new(&teacher));
/// assert!(needs.entropy && needs.top_entropy == Some(20) && needs.columns.is_some() && needs.reference.is_some());
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Needs<'a> {
    /// The entropy of the row's distribution, differentiable: [`Scores::entropy`].
    pub entropy: bool,
    /// The entropy of its `k` likeliest columns, renormalised, as a constant: [`Scores::top_entropy`].
    pub top_entropy: Option<i64>,
    /// The log-odds of further columns, `[B, S, K]` or `[N, K]`, int64: [`Scores::column_log_odds`]. Numbers that are no
    /// column, such as -1, fill short lists.
    pub columns: Option<&'a Tensor>,
    /// The divergence from a reference model: [`Scores::divergence`].
    pub reference: Option<Reference<'a>>,
}

impl<'a> Needs<'a> {
    /// None of them.
    pub const fn new() -> Self {
        Self { entropy: false, top_entropy: None, columns: None, reference: None }
    }

    /// Asks for the [`entropy`](Self::entropy).
    pub const fn with_entropy(self) -> Self {
        Self { entropy: true, ..self }
    }

    /// Asks for the [`top_entropy`](Self::top_entropy).
    pub const fn with_top_entropy(self, k: i64) -> Self {
        Self { top_entropy: Some(k), ..self }
    }

    /// Asks for [`columns`](Self::columns).
    pub const fn with_columns(self, columns: &'a Tensor) -> Self {
        Self { columns: Some(columns), ..self }
    }

    /// Asks for the divergence from a [`reference`](Self::reference).
    pub const fn with_reference(self, reference: Reference<'a>) -> Self {
        Self { reference: Some(reference), ..self }
    }

    pub(super) fn validate(&self, shape: &[i64]) -> Result<()> {
        match self.columns {
            Some(columns) => check_columns("columns", columns, shape),
            None => Ok(()),
        }
    }

    /// Whether more than the log-odds of the label has a gradient.
    pub(super) fn is_wide(&self) -> bool {
        self.entropy || self.columns.is_some() || self.reference.is_some()
    }
}

/// What is known of rows once their logits are. All `[n]` but for `columns`, f32 or f64.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) log_odds: Tensor,
    pub(super) entropy: Option<Tensor>,
    pub(super) top_entropy: Option<Tensor>,
    /// `[n, K]`.
    pub(super) columns: Option<Tensor>,
    pub(super) divergence: Option<Tensor>,
}

impl Stats {
    /// The rows of all parts, of which there is at least one.
    pub(super) fn cat(parts: &[Self]) -> Result<Self> {
        Ok(Self {
            log_odds: cat(parts, |part| Some(&part.log_odds))?.expect("log-odds"),
            entropy: cat(parts, |part| part.entropy.as_ref())?,
            top_entropy: cat(parts, |part| part.top_entropy.as_ref())?,
            columns: cat(parts, |part| part.columns.as_ref())?,
            divergence: cat(parts, |part| part.divergence.as_ref())?,
        })
    }
}

/// The tensors that all parts have, one after the other.
pub(super) fn cat<T>(parts: &[T], part: impl Fn(&T) -> Option<&Tensor>) -> Result<Option<Tensor>> {
    let tensors: Option<Vec<_>> = parts.iter().map(part).collect();
    Ok(tensors.map(|tensors| Tensor::f_cat(&tensors, 0)).transpose()?)
}

/// How a sum changes with what is known of each row. Shaped as in [`Stats`].
#[derive(Debug)]
pub(super) struct Slopes {
    pub(super) log_odds: Tensor,
    pub(super) entropy: Option<Tensor>,
    pub(super) columns: Option<Tensor>,
    pub(super) divergence: Option<Tensor>,
}

impl Slopes {
    fn all(&self) -> impl Iterator<Item = &Tensor> {
        [Some(&self.log_odds), self.entropy.as_ref(), self.columns.as_ref(), self.divergence.as_ref()]
            .into_iter()
            .flatten()
    }

    /// `[n]`, bool: the rows with a slope other than 0.
    pub(super) fn steep(&self) -> Result<Tensor> {
        let mut steep = self.log_odds.f_ne(0)?;
        for slope in self.all().skip(1) {
            let slope = if slope.dim() == 2 { slope.f_ne(0)?.f_any_dim(1, false)? } else { slope.f_ne(0)? };
            steep = steep.f_logical_or(&slope)?;
        }
        Ok(steep)
    }

    pub(super) fn narrow(&self, start: i64, len: i64) -> Result<Self> {
        self.map(|part| Ok(part.f_narrow(0, start, len)?))
    }

    pub(super) fn index(&self, indices: &Tensor) -> Result<Self> {
        self.map(|part| Ok(part.f_index_select(0, indices)?))
    }

    fn map(&self, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let optional = |part: &Option<Tensor>| part.as_ref().map(&of).transpose();
        Ok(Self {
            log_odds: of(&self.log_odds)?,
            entropy: optional(&self.entropy)?,
            columns: optional(&self.columns)?,
            divergence: optional(&self.divergence)?,
        })
    }
}

/// What a loss knows of `n` rows. Ordinary tensors, f32 or f64: whatever a loss computes from them is differentiable with
/// respect to the model, except where a method says *constant*.
///
/// ```
/// use figa_loss::{IGNORE_INDEX, Needs, Rows, Scores, rows_loss, tch::{Device, Kind, Tensor}};
///
/// let logits = Tensor::zeros([1, 3, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 0, 1]).reshape([1, 3]);
/// let weights = Tensor::from_slice(&[0f32, 1.0, 2.0]).reshape([1, 3]);
/// let rows = Rows::of_batch(&labels, &weights, IGNORE_INDEX)?;
/// let columns = Tensor::zeros([1, 3, 1], (Kind::Int64, Device::Cpu));
/// let needs = Needs::new().with_entropy().with_top_entropy(1).with_columns(&columns);
/// let loss = rows_loss(&logits, &rows, needs, |scores: &Scores| {
///     assert_eq!((scores.labels().size(), scores.weights().size(), scores.sequences().size()), (vec![2], vec![2], vec![2]));
///     assert_eq!(scores.scatter(&scores.logp()?)?.size(), [1, 3]);
///     assert_eq!(scores.sequence_sums(scores.weights())?.size(), [1]);
///     assert_eq!(scores.column_log_odds()?.size(), [2, 1]);
///     assert_eq!(scores.take(&columns)?.size(), [2, 1]);
///     // All probabilities are 1/2: log-odds of 0, an entropy of ln 2, and 0 where only the likeliest column is left.
///     assert_eq!(scores.log_odds().abs().max().double_value(&[]), 0.0);
///     assert_eq!(scores.top_entropy()?.abs().max().double_value(&[]), 0.0);
///     Ok(scores.nll()?.f_add(scores.entropy()?)?.f_sum(Kind::Float)?)
/// })?;
/// assert!((loss.double_value(&[]) - 4.0 * 2f64.ln()).abs() < 1e-6);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug)]
pub struct Scores {
    rows: RowTensors,
    stats: Stats,
}

impl Scores {
    /// With leaf tensors if slopes are wanted of them.
    pub(super) fn new(rows: RowTensors, stats: Stats, is_tracked: bool) -> Self {
        let leaf = |part: &Tensor| part.detach().set_requires_grad(is_tracked);
        let optional = |part: &Option<Tensor>| part.as_ref().map(leaf);
        let stats = Stats {
            log_odds: leaf(&stats.log_odds),
            entropy: optional(&stats.entropy),
            top_entropy: stats.top_entropy,
            columns: optional(&stats.columns),
            divergence: optional(&stats.divergence),
        };
        Self { rows, stats }
    }

    /// `log (p / (1 - p))` for the probability `p` of the label: exact even where `p` is almost 0 or 1.
    pub fn log_odds(&self) -> &Tensor {
        &self.stats.log_odds
    }

    /// The log-probability of the label.
    ///
    /// # Errors
    /// [`Error::Torch`] if libtorch fails.
    pub fn logp(&self) -> Result<Tensor> {
        Ok(self.log_odds().f_log_sigmoid()?)
    }

    /// The negative log-probability of the label, in nats.
    ///
    /// # Errors
    /// [`Error::Torch`] if libtorch fails.
    pub fn nll(&self) -> Result<Tensor> {
        Ok(self.logp()?.f_neg()?)
    }

    /// The entropy of the distribution, in nats.
    ///
    /// # Errors
    /// [`Error::Value`] if the [`Needs`] do not ask for it.
    pub fn entropy(&self) -> Result<&Tensor> {
        asked(&self.stats.entropy, "entropy")
    }

    /// The entropy of the likeliest columns, a constant.
    ///
    /// # Errors
    /// [`Error::Value`] if the [`Needs`] do not ask for it.
    pub fn top_entropy(&self) -> Result<&Tensor> {
        asked(&self.stats.top_entropy, "top_entropy")
    }

    /// `[n, K]`: the log-odds of further columns; minus infinity for numbers that are no column.
    ///
    /// # Errors
    /// [`Error::Value`] if the [`Needs`] do not ask for it.
    pub fn column_log_odds(&self) -> Result<&Tensor> {
        asked(&self.stats.columns, "columns")
    }

    /// The divergence from the reference model, in nats.
    ///
    /// # Errors
    /// [`Error::Value`] if the [`Needs`] do not ask for it.
    pub fn divergence(&self) -> Result<&Tensor> {
        asked(&self.stats.divergence, "reference")
    }

    /// The weights, never 0: constants.
    pub fn weights(&self) -> &Tensor {
        &self.rows.weights
    }

    /// The labels, int64.
    pub fn labels(&self) -> &Tensor {
        &self.rows.labels
    }

    /// The sequence of each row, int64.
    pub fn sequences(&self) -> &Tensor {
        &self.rows.sequences
    }

    /// What a tensor holds for the tokens of the rows: `[n]` of `[B, S]`, or `[n, K]` of `[B, S, K]`. On the device of the
    /// rows, and in their dtype if it holds floats.
    ///
    /// # Errors
    /// [`Error::Shape`] if it does not have the positions of the labels.
    pub fn take(&self, tokens: &Tensor) -> Result<Tensor> {
        let tokens = self.rows.take("tokens", tokens)?;
        Ok(if tokens.is_floating_point() { tokens.f_to_kind(self.log_odds().f_kind()?)? } else { tokens })
    }

    /// Values `[n]` in the shape of the labels, 0 elsewhere.
    ///
    /// # Errors
    /// [`Error::Torch`] if they are no `n` values.
    pub fn scatter(&self, values: &Tensor) -> Result<Tensor> {
        let tokens = self.rows.batch.shape.iter().product();
        Ok(zeros(values, tokens)?.f_index_add(0, &self.rows.tokens, values)?.f_reshape(&*self.rows.batch.shape)?)
    }

    /// The sum of values `[n]` over the rows of each sequence: one number a sequence, 0 for those without rows.
    ///
    /// # Errors
    /// [`Error::Torch`] if they are no `n` values.
    pub fn sequence_sums(&self, values: &Tensor) -> Result<Tensor> {
        Ok(zeros(values, self.rows.batch.sequences)?.f_index_add(0, &self.rows.sequences, values)?)
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    pub(super) fn rows(&self) -> &RowTensors {
        &self.rows
    }

    /// How a differentiable scalar changes with the leaf tensors.
    pub(super) fn slopes(&self, sum: &Tensor, keep_graph: bool) -> Result<Slopes> {
        let Stats { log_odds, entropy, columns, divergence, .. } = &self.stats;
        let leaves = [Some(log_odds), entropy.as_ref(), columns.as_ref(), divergence.as_ref()];
        let present: Vec<&Tensor> = leaves.into_iter().flatten().collect();
        let gradients = match sum.requires_grad() {
            true => Tensor::f_run_backward(&[sum], &present, keep_graph, false)?,
            false => present.iter().map(|leaf| leaf.f_zeros_like()).collect::<Result<_, _>>()?,
        };
        let mut gradients = gradients.into_iter().zip(present).map(|(gradient, leaf)| match gradient.defined() {
            true => Ok(gradient),
            // The sum does not depend on it.
            false => leaf.f_detach()?.f_zeros_like(),
        });
        let mut next = |is_present: bool| if is_present { gradients.next().transpose() } else { Ok(None) };
        Ok(Slopes {
            log_odds: next(true)?.expect("a gradient for each leaf"),
            entropy: next(entropy.is_some())?,
            columns: next(columns.is_some())?,
            divergence: next(divergence.is_some())?,
        })
    }
}

fn asked<'a>(stat: &'a Option<Tensor>, argument: &'static str) -> Result<&'a Tensor> {
    let expected = "to be asked for in the needs of the loss";
    stat.as_ref().ok_or_else(|| Error::Value { argument, expected, actual: "nothing".into() })
}

fn zeros(like: &Tensor, len: i64) -> Result<Tensor> {
    let (kind, device): (Kind, Device) = (like.f_kind()?, like.device());
    Ok(Tensor::f_zeros([len], (kind, device))?)
}
