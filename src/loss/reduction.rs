//! How the terms of the rows become one number.

use tch::{Kind, Tensor};

use super::core::driver::Outcome;
use super::core::objective::Numbers;
use super::core::row_tensors::RowTensors;
use crate::error::{Error, Result};

/// What the sum over the tokens is divided by. A denominator of 0, where no token counts, divides nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Reduction {
    /// The number of active tokens that are not gated: label not ignored, weight not 0.
    #[default]
    ActiveTokens,
    /// The number of tokens whose label is not ignored, whatever their weights and the gate.
    LabelledTokens,
    /// The sum of |weight| over the active tokens that are not gated.
    AbsWeights,
    /// 1: the plain sum.
    Sum,
    /// The mean over each sequence's active tokens that are not gated, then the mean over the `B` sequences; one without
    /// an active token counts as 0. The numerator is the sum of the sequences' means, the denominator `B`.
    SequenceMeans,
    /// Nothing: the loss of every token, `[B, S]`, in the positions of `labels`, and 0 where nothing is active. Numerator
    /// and denominator are those of [`Reduction::Sum`].
    None,
    /// A number of the caller's, greater than 0. Gradient accumulation and data parallel training need it: k
    /// micro-batches, each divided by the count of the whole batch, add up to the whole batch's gradient.
    External(f64),
}

impl Reduction {
    pub(super) fn validate(self) -> Result<()> {
        match self {
            Self::External(number) if !((number as f32).is_finite() && number as f32 > 0.0) => Err(Error::Value {
                argument: "reduction",
                expected: "External(a number > 0 within the range of f32)",
                actual: number.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// The factor of each row, given which rows count; `None` if it is 1.
    pub(super) fn row_factors(self) -> Option<fn(&RowTensors, &Tensor) -> Result<Tensor>> {
        match self {
            Self::SequenceMeans => Some(reciprocal_counts),
            _ => None,
        }
    }

    /// The denominator, an f64 scalar: exact for every count.
    pub(super) fn denominator(self, outcome: &Outcome) -> Result<Tensor> {
        let Outcome { rows, numbers: Numbers { counted, .. }, .. } = outcome;
        let constant = |number: f64| Ok(Tensor::f_full([], number, (Kind::Double, counted.device()))?);
        match self {
            Self::ActiveTokens => Ok(counted.f_sum(Kind::Int64)?.f_to_kind(Kind::Double)?),
            Self::LabelledTokens => constant(rows.batch.labelled as f64),
            Self::AbsWeights => {
                let counted = rows.weights.f_where_self(counted, &rows.weights.f_zeros_like()?)?;
                Ok(counted.f_abs()?.f_sum(Kind::Double)?)
            }
            Self::SequenceMeans => constant(rows.batch.sequences as f64),
            Self::External(number) => constant(number),
            Self::Sum | Self::None => constant(1.0),
        }
    }
}

fn reciprocal_counts(rows: &RowTensors, counted: &Tensor) -> Result<Tensor> {
    let kind = rows.weights.f_kind()?;
    let counts = Tensor::f_zeros([rows.batch.sequences], (Kind::Int64, counted.device()))?;
    let counts = counts.f_index_add(0, &rows.sequences, &counted.f_to_kind(Kind::Int64)?)?.f_clamp_min(1)?;
    Ok(counts.f_to_kind(kind)?.f_reciprocal()?.f_index_select(0, &rows.sequences)?)
}
