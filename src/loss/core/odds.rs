//! From rows of logits to the log-odds of their labels.

use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// How many logits a piece of rows has on a CPU: its caches should hold them, because its memory is slow.
const CACHED_LOGITS: i64 = 1 << 19;

/// How many rows to work on at a time: few on a CPU, all on a GPU, where each step costs a launch.
pub(super) fn rows_at_a_time(device: Device, vocab: i64) -> i64 {
    if device == Device::Cpu { (CACHED_LOGITS / vocab).max(1) } else { i64::MAX }
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
/// Everything else is a function of `log_odds` alone, and exact even where `p` is almost 1.
#[derive(Debug)]
pub(super) struct Odds {
    /// `[n]`.
    pub(super) log_odds: Tensor,
    /// `[n, 1]`: the factor by which the rows that [`Odds::take`] leaves exceed `q - e_label`.
    pub(super) total: Tensor,
}

impl Odds {
    /// Computes the odds of rows `x [n, V]`, f32 or f64, and overwrites the rows with `total * (q - e_label)`.
    pub(super) fn take(x: &Tensor, labels: &Tensor) -> Result<Self> {
        let (rows, vocab) = x.size2()?;
        let (mut log_odds, mut totals) = (vec![], vec![]);
        for (start, len) in pieces(rows, rows_at_a_time(x.device(), vocab)) {
            let mut x = x.f_narrow(0, start, len)?;
            let labels = labels.f_narrow(0, start, len)?.f_unsqueeze(1)?;
            let label = x.f_gather(1, &labels, false)?;
            let _ = x.f_scatter_value_(1, &labels, f64::NEG_INFINITY)?;
            // A finite number: where all others are masked as well, p is then 1 instead of NaN.
            let greatest = x.f_amax([1], true)?.f_clamp_min(least(x.f_kind()?))?;
            let _ = x.f_sub_(&greatest)?.f_exp_()?;
            let total = x.f_sum_dim_intlist(1, true, None)?;
            let _ = x.f_scatter_add_(1, &labels, &total.f_neg()?)?;
            // A label of plus infinity is as wrong as any other column of that size.
            let label = label.f_masked_fill(&label.f_isposinf()?, f64::NAN)?;
            log_odds.push(label.f_sub(&greatest)?.f_sub(&total.f_log()?)?.f_squeeze_dim(1)?);
            totals.push(total);
        }
        Ok(Self { log_odds: Tensor::f_cat(&log_odds, 0)?, total: Tensor::f_cat(&totals, 0)? })
    }
}

/// The least positive number.
pub(in crate::loss) fn tiny(kind: Kind) -> f64 {
    if kind == Kind::Double { f64::MIN_POSITIVE } else { f64::from(f32::MIN_POSITIVE) }
}

/// The least finite number.
pub(super) fn least(kind: Kind) -> f64 {
    if kind == Kind::Double { f64::MIN } else { f64::from(f32::MIN) }
}
