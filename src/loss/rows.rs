//! The arithmetic of rows of logits: what each costs, and which way its gradient points.

use tch::{Device, Kind, Tensor};

use super::active::Active;
use super::{FigaLoss, Gate, Penalty};
use crate::error::Result;

/// How many rows to work on at a time: many on a GPU, where each step costs a launch, and few on a CPU, whose caches
/// should hold them, because its memory is slow.
pub(super) fn rows_at_a_time(device: Device, vocab: i64) -> i64 {
    const CACHED: i64 = 1 << 19;
    if device == Device::Cpu { (CACHED / vocab).max(1) } else { i64::MAX }
}

/// Pieces `(start, len)` of at most `step` rows. There is at least one.
pub(super) fn pieces(rows: i64, step: i64) -> impl Iterator<Item = (i64, i64)> {
    let step = step.min(rows.max(1));
    (0..rows.max(1)).step_by(step as usize).map(move |start| (start, step.min(rows - start)))
}

/// The label of each row against all other columns. With `q` the softmax over the others,
///
/// ```text
/// log_odds                = x[label] - logsumexp(x[others])      log (p / (1 - p))
/// d log_odds / d x        = e_label - q                          e_label: 1 at the label, 0 elsewhere
/// ```
///
/// Everything else is a function of `log_odds` alone, and exact also where `p` is almost 1.
#[derive(Debug)]
pub(super) struct Odds {
    /// `[n, 1]`.
    pub(super) log_odds: Tensor,
    /// `[n, 1]`: by what the rows that [`Odds::take`] left are greater than `q - e_label`.
    pub(super) total: Tensor,
}

impl Odds {
    /// Computes the odds of rows `x [n, V]`, f32 or f64, and leaves `total * (q - e_label)` in their place.
    pub(super) fn take(x: &mut Tensor, targets: &Tensor) -> Result<Self> {
        let (rows, vocab) = x.size2()?;
        let (mut log_odds, mut totals) = (vec![], vec![]);
        for (start, len) in pieces(rows, rows_at_a_time(x.device(), vocab)) {
            let mut x = x.f_narrow(0, start, len)?;
            let targets = targets.f_narrow(0, start, len)?.f_unsqueeze(1)?;
            let label = x.f_gather(1, &targets, false)?;
            // The label leaves by being the least number, not minus infinity: where all others are masked as well,
            // that makes p = 1 instead of NaN.
            let _ = x.f_scatter_value_(1, &targets, least(x.f_kind()?))?;
            let greatest = x.f_amax([1], true)?;
            let _ = x.f_sub_(&greatest)?.f_exp_()?;
            let total = x.f_sum_dim_intlist(1, true, None)?;
            let _ = x.f_scatter_add_(1, &targets, &total.f_neg()?)?;
            // A label of plus infinity is as wrong as any other column of that size.
            let label = label.f_where_self(&label.f_isposinf()?.f_logical_not()?, &label.f_full_like(f64::NAN)?)?;
            log_odds.push(label.f_sub(&greatest)?.f_sub(&total.f_log()?)?);
            totals.push(total);
        }
        Ok(Self { log_odds: Tensor::f_cat(&log_odds, 0)?, total: Tensor::f_cat(&totals, 0)? })
    }
}

fn least(kind: Kind) -> f64 {
    if kind == Kind::Double { f64::MIN } else { f64::from(f32::MIN) }
}

/// What rows contribute. All `[n]`.
#[derive(Debug)]
pub(super) struct Scores {
    /// In nats.
    pub(super) nll: Tensor,
    /// Whether the gate lets the row pass.
    pub(super) live: Tensor,
    /// What the row adds to the numerator.
    pub(super) value: Tensor,
    /// The derivative of `value` by `-log_odds`.
    pub(super) slope: Tensor,
}

impl Scores {
    pub(super) fn new(config: &FigaLoss, odds: &Odds, weights: &Tensor) -> Result<Self> {
        let log_odds = odds.log_odds.f_squeeze_dim(1)?;
        let against = log_odds.f_neg()?;
        let nll = log_odds.f_log_sigmoid()?.f_neg()?;
        let penalised = weights.f_lt(0)?;
        let live = match config.gate {
            None => nll.f_ones_like()?.f_to_kind(Kind::Bool)?,
            Some(Gate::AtMost(limit)) => penalised.f_logical_and(&nll.f_gt(limit)?)?.f_logical_not()?,
            Some(Gate::Band { min, max }) => {
                penalised.f_logical_and(&nll.f_lt(min)?.f_logical_or(&nll.f_gt(max)?)?)?.f_logical_not()?
            }
        };
        let (mut value, mut slope) = (weights.f_mul(&nll)?, weights.f_mul(&against.f_sigmoid()?)?);
        if config.penalty == Penalty::Unlikelihood {
            // -w * -log(1 - p), and its slope.
            value = weights.f_mul(&against.f_log_sigmoid()?)?.f_where_self(&penalised, &value)?;
            slope = weights.f_mul(&log_odds.f_sigmoid()?)?.f_where_self(&penalised, &slope)?;
        }
        // Not by multiplying: a gated token may have infinite nll or weight, and 0 * inf is NaN.
        let zeros = nll.f_zeros_like()?;
        Ok(Self { value: value.f_where_self(&live, &zeros)?, slope: slope.f_where_self(&live, &zeros)?, nll, live })
    }

    /// Those of the rows with a negative weight, `step` at a time, before there are others to decide about; `logits` gives
    /// the logits of the rows at the given places of `active`, in memory of their own.
    pub(super) fn of_penalised(
        config: &FigaLoss,
        active: &Active,
        step: i64,
        logits: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut parts = vec![];
        for (start, len) in pieces(active.penalised.size1()?, step) {
            let at = active.penalised.f_narrow(0, start, len)?;
            let odds = Odds::take(&mut logits(&at)?, &active.targets.f_index_select(0, &at)?)?;
            parts.push(Self::new(config, &odds, &active.weights.f_index_select(0, &at)?)?);
        }
        Self::cat(&parts)
    }

    /// Multiplies what each row contributes.
    pub(super) fn scale(&mut self, factors: &Tensor) -> Result<()> {
        self.value = self.value.f_mul(factors)?;
        self.slope = self.slope.f_mul(factors)?;
        Ok(())
    }

    /// Those of some rows.
    pub(super) fn select(&self, mask: &Tensor) -> Result<Self> {
        let of = |part: &Tensor| part.f_masked_select(mask);
        Ok(Self { nll: of(&self.nll)?, live: of(&self.live)?, value: of(&self.value)?, slope: of(&self.slope)? })
    }

    pub(super) fn cat(parts: &[Self]) -> Result<Self> {
        let cat = |part: fn(&Self) -> &Tensor| Tensor::f_cat(&parts.iter().map(part).collect::<Vec<_>>(), 0);
        Ok(Self {
            nll: cat(|p| &p.nll)?,
            live: cat(|p| &p.live)?,
            value: cat(|p| &p.value)?,
            slope: cat(|p| &p.slope)?,
        })
    }
}

/// A scalar of value 0 whose gradient by `x` is `dx`.
///
/// libtorch's Rust bindings have no custom autograd functions. But the sum of `x * dx` has that gradient, whatever its
/// own value is, and nothing in the graph has saved that value: 0 can take its place.
pub(super) fn surrogate(x: &Tensor, dx: &Tensor) -> Result<Tensor> {
    // In the kind of dx, so that the outer gradient multiplies it before autograd rounds it to the kind of x.
    let x = x.f_to_kind(dx.f_kind()?)?;
    let sum = if x.numel() <= i32::MAX as usize {
        x.f_reshape([-1])?.f_dot(&dx.f_reshape([-1])?)?
    } else {
        // More than a dot product on a GPU can take, which needs no memory for the products.
        x.f_mul(dx)?.f_sum(None)?
    };
    let _ = sum.f_detach()?.f_zero_()?;
    Ok(sum)
}

/// The same for each row `[n, _]` of `x`: `[n]`.
pub(super) fn surrogate_of_rows(x: &Tensor, dx: &Tensor) -> Result<Tensor> {
    let sums = x.f_to_kind(dx.f_kind()?)?.f_mul(dx)?.f_sum_dim_intlist(1, false, None)?;
    let _ = sums.f_detach()?.f_zero_()?;
    Ok(sums)
}
