//! The interface between a loss and the core: what a row contributes, as a function of its log-odds and its weight.

use tch::Tensor;

use crate::error::Result;

/// What an objective may read about each row. All `[n]`, f32 or f64.
#[derive(Debug)]
pub(in crate::loss) struct Scores {
    /// `log (p / (1 - p))` for the probability `p` of the label.
    pub(in crate::loss) log_odds: Tensor,
    /// `-log p`, in nats.
    pub(in crate::loss) nll: Tensor,
}

/// What rows contribute. All `[n]`.
#[derive(Debug)]
pub(in crate::loss) struct Terms {
    pub(in crate::loss) nll: Tensor,
    /// Bool: false where the gate skips the row.
    pub(in crate::loss) counted: Tensor,
    /// What the row adds to the numerator; 0 where it does not count.
    pub(in crate::loss) value: Tensor,
    /// The derivative of `value` with respect to the log-odds; 0 where the row does not count.
    pub(in crate::loss) slope: Tensor,
}

/// A loss that is local to a row.
pub(in crate::loss) trait Objective {
    /// Whether a row of this weight may be skipped, depending on its scores.
    fn may_skip(&self, weight: f64) -> bool;

    /// The terms of rows with these scores and weights `[n]`.
    fn terms(&self, scores: Scores, weights: &Tensor) -> Result<Terms>;
}

impl Terms {
    /// Multiplies what each row contributes by a constant.
    pub(super) fn scale(&mut self, factors: &Tensor) -> Result<()> {
        self.value = self.value.f_mul(factors)?;
        self.slope = self.slope.f_mul(factors)?;
        Ok(())
    }

    /// The terms of the rows in a mask.
    pub(super) fn select(&self, mask: &Tensor) -> Result<Self> {
        self.map(|part| Ok(part.f_masked_select(mask)?))
    }

    fn map(&self, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { nll: of(&self.nll)?, counted: of(&self.counted)?, value: of(&self.value)?, slope: of(&self.slope)? })
    }

    pub(super) fn cat(parts: &[Self]) -> Result<Self> {
        let cat = |part: fn(&Self) -> &Tensor| Tensor::f_cat(&parts.iter().map(part).collect::<Vec<_>>(), 0);
        Ok(Self {
            nll: cat(|terms| &terms.nll)?,
            counted: cat(|terms| &terms.counted)?,
            value: cat(|terms| &terms.value)?,
            slope: cat(|terms| &terms.slope)?,
        })
    }
}
