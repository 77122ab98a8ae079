//! From rows of logits to what a loss wants to know, and from its slopes back to the gradient of the logits.
//!
//! With `q` the softmax over the other columns, `H` the entropy and `K` the divergence:
//!
//! ```text
//! d log_odds_k / dx = e_k - q                       e_k: 1 at column k, 0 elsewhere
//! d H / dx          = -p (log p + H)
//! d K / dx          : see `divergence`
//! ```
//!
//! For the log-odds of the label alone, the logits are overwritten with `q - e_k` at once. Whatever else is asked for needs
//! the log-probabilities, and the gradient takes their place.

use tch::Tensor;

use super::divergence::{Distributions, Reference};
use super::odds::{Odds, least, pieces, rows_at_a_time};
use super::scores::{Slopes, Stats};
use crate::error::{Error, Result};

/// What is asked of some rows.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) entropy: bool,
    pub(super) top_entropy: Option<i64>,
    /// `[n, K]`.
    pub(super) columns: Option<Tensor>,
    /// The reference's logits `[n, _]`.
    pub(super) reference: Option<(Tensor, Reference<'a>)>,
}

/// Rows that have been measured, ready for their gradient.
#[derive(Debug)]
pub(super) struct Measured<'a> {
    x: Tensor,
    state: State<'a>,
}

#[derive(Debug)]
enum State<'a> {
    /// `x` holds `total * (q - e_label)`.
    Odds { total: Tensor },
    /// `x` holds log-probabilities.
    Wide(Wide<'a>),
}

#[derive(Debug)]
struct Wide<'a> {
    /// `[n, 1 + K]`: the label and the further columns; 0 where a number is no column.
    ids: Tensor,
    /// Bool: those that are columns.
    valid: Tensor,
    /// Their log-odds.
    log_odds: Tensor,
    /// `[n, 1]`: the likeliest column.
    greatest: Tensor,
    wanted: Wanted<'a>,
}

/// A gradient with respect to logits: rows `x [n, V]`, each times its factors.
#[derive(Debug)]
pub(super) struct Gradient {
    pub(super) x: Tensor,
    /// `[n, 1]`; 1 if `None`.
    pub(super) factors: Option<Factors>,
}

/// Two factors of a row: with the first, its entries are at most 1.
#[derive(Debug)]
pub(super) struct Factors {
    pub(super) normal: Tensor,
    pub(super) slope: Tensor,
}

impl Factors {
    pub(super) fn product(&self) -> Result<Tensor> {
        Ok(self.normal.f_mul(&self.slope)?)
    }
}

impl Gradient {
    /// The factors of some of the rows.
    pub(super) fn index_factors(&self, indices: &Tensor) -> Result<Option<Factors>> {
        let index = |part: &Tensor| part.f_index_select(0, indices);
        let both = |Factors { normal, slope }: &Factors| {
            Ok::<_, Error>(Factors { normal: index(normal)?, slope: index(slope)? })
        };
        self.factors.as_ref().map(both).transpose()
    }
}

impl<'a> Measured<'a> {
    /// Measures rows of logits `x [n, V]`, f32 or f64, which are overwritten.
    pub(super) fn new(x: Tensor, labels: &Tensor, wanted: Wanted<'a>) -> Result<(Self, Stats)> {
        let top_entropy = wanted.top_entropy.map(|k| top_entropy(&x, k)).transpose()?;
        if !wanted.entropy && wanted.columns.is_none() && wanted.reference.is_none() {
            let Odds { log_odds, total } = Odds::take(&x, labels)?;
            let stats = Stats { log_odds, top_entropy, entropy: None, columns: None, divergence: None };
            return Ok((Self { x, state: State::Odds { total } }, stats));
        }
        let (wide, stats) = Wide::new(&x, labels, wanted)?;
        Ok((Self { x, state: State::Wide(wide) }, Stats { top_entropy, ..stats }))
    }

    /// The gradient of a sum that changes with the rows as the slopes say.
    pub(super) fn gradient(self, slopes: &Slopes) -> Result<Gradient> {
        let Self { x, state } = self;
        match state {
            State::Odds { total } => {
                // Total is at least 1, but for a row whose other columns are all masked.
                let normal = total.f_clamp_min(1.0)?.f_reciprocal()?;
                let slope = slopes.log_odds.f_neg()?.f_unsqueeze(1)?;
                Ok(Gradient { x, factors: Some(Factors { normal, slope }) })
            }
            State::Wide(wide) => {
                wide.write_gradient(&x, slopes)?;
                Ok(Gradient { x, factors: None })
            }
        }
    }
}

impl<'a> Wide<'a> {
    /// Overwrites logits with log-probabilities.
    fn new(x: &Tensor, labels: &Tensor, wanted: Wanted<'a>) -> Result<(Self, Stats)> {
        let (rows, vocab) = x.size2()?;
        let labels = labels.f_unsqueeze(1)?;
        let given = match &wanted.columns {
            Some(columns) => Tensor::f_cat(&[&labels, columns], 1)?,
            None => labels,
        };
        let valid = given.f_ge(0)?.f_logical_and(&given.f_lt(vocab)?)?;
        let ids = given.f_masked_fill(&valid.f_logical_not()?, 0)?;
        let (mut log_odds, mut greatest, mut entropy, mut divergence) = (vec![], vec![], vec![], vec![]);
        for (start, len) in pieces(rows, rows_at_a_time(x.device(), vocab)) {
            let x = x.f_narrow(0, start, len)?;
            let (odds, column) = log_probabilities(&x, &ids.f_narrow(0, start, len)?)?;
            log_odds.push(odds);
            greatest.push(column);
            if let Some((teacher, reference)) = &wanted.reference {
                let teacher = teacher.f_narrow(0, start, len)?;
                let both = Distributions::new(&x, &teacher, reference.divergence, reference.temperature)?;
                divergence.push(both.value()?);
            }
            if wanted.entropy {
                let p = x.f_exp()?;
                let sum = x.f_clamp_min(least(x.f_kind()?))?.f_mul_(&p)?.f_sum_dim_intlist(1, false, None)?;
                entropy.push(sum.f_neg()?);
            }
        }
        let all = Tensor::f_cat(&log_odds, 0)?.f_masked_fill(&valid.f_logical_not()?, f64::NEG_INFINITY)?;
        let some = |parts: Vec<Tensor>| (!parts.is_empty()).then(|| Tensor::f_cat(&parts, 0)).transpose();
        let columns = all.size2()?.1 - 1;
        let stats = Stats {
            log_odds: all.f_select(1, 0)?,
            columns: wanted.columns.is_some().then(|| all.f_narrow(1, 1, columns)).transpose()?,
            entropy: some(entropy)?,
            divergence: some(divergence)?,
            top_entropy: None,
        };
        Ok((Self { ids, valid, log_odds: all, greatest: Tensor::f_cat(&greatest, 0)?, wanted }, stats))
    }

    /// Overwrites log-probabilities with the gradient.
    fn write_gradient(&self, x: &Tensor, slopes: &Slopes) -> Result<()> {
        let by_label = slopes.log_odds.f_unsqueeze(1)?;
        let by_column = match &slopes.columns {
            Some(columns) => Tensor::f_cat(&[&by_label, columns], 1)?,
            None => by_label,
        };
        let by_column = by_column.f_masked_fill(&self.valid.f_logical_not()?, 0)?;
        let (rows, vocab) = x.size2()?;
        for (start, len) in pieces(rows, rows_at_a_time(x.device(), vocab)) {
            let part = |tensor: &Tensor| tensor.f_narrow(0, start, len);
            let mut x = part(x)?;
            let slope = |slope: &Option<Tensor>| slope.as_ref().map(|slope| part(slope)?.f_unsqueeze(1)).transpose();
            // Before x is overwritten, what else depends on it.
            let mut further = None;
            if let Some(slope) = slope(&slopes.entropy)? {
                let mut log_p = x.f_clamp_min(least(x.f_kind()?))?;
                let p = x.f_exp()?;
                let entropy = log_p.f_mul(&p)?.f_sum_dim_intlist(1, true, None)?.f_neg()?;
                further = Some(log_p.f_add_(&entropy)?.f_mul_(&p)?.f_mul_(&slope.f_neg()?)?);
            }
            if let (Some((teacher, reference)), Some(slope)) = (&self.wanted.reference, slope(&slopes.divergence)?) {
                let both = Distributions::new(&x, &part(teacher)?, reference.divergence, reference.temperature)?;
                let gradient = both.gradient()?.f_mul_(&slope)?;
                let shared = gradient.size2()?.1;
                let sum = further.map_or_else(|| x.f_zeros_like(), Ok)?;
                let _ = sum.f_narrow(1, 0, shared)?.f_add_(&gradient)?;
                further = Some(sum);
            }
            self.write_odds(&mut x, &part(&by_column)?, (start, len))?;
            if let Some(further) = further {
                let _ = x.f_add_(&further)?;
            }
        }
        Ok(())
    }

    /// Overwrites log-probabilities with `sum_k slope_k (e_k - q_k)`, where `q_k = p / (1 - p_k)` in the columns other than
    /// `k`.
    fn write_odds(&self, x: &mut Tensor, slopes: &Tensor, (start, len): (i64, i64)) -> Result<()> {
        let part = |tensor: &Tensor| tensor.f_narrow(0, start, len);
        let (ids, log_odds, greatest) = (part(&self.ids)?, part(&self.log_odds)?, part(&self.greatest)?);
        let sum = |tensor: &Tensor| tensor.f_sum_dim_intlist(1, true, None);
        // log(1 - p_k). Only the likeliest column makes it small, and p is then as small in all others: both relative to it.
        let log_rest = log_odds.f_neg()?.f_log_sigmoid()?.f_clamp_min(least(x.f_kind()?))?;
        let shift = log_rest.f_amin([1], true)?;
        let greatest_p = x.f_gather(1, &greatest, false)?.f_exp()?;
        let relative = slopes.f_mul(&shift.f_sub(&log_rest)?.f_exp_()?)?;
        let _ = x.f_sub_(&shift)?.f_exp_()?.f_mul_(&sum(&relative)?.f_neg()?)?;
        let over_rest = slopes.f_div(&log_rest.f_exp()?)?;
        let _ = x.f_scatter_add_(1, &ids, &over_rest)?;
        // In the likeliest column, p may be almost 1 and these sums cancel out: without its own part they do not.
        let is_greatest = ids.f_eq_tensor(&greatest)?;
        let own = sum(&slopes.f_masked_fill(&is_greatest.f_logical_not()?, 0)?)?;
        let others = sum(&over_rest.f_masked_fill(&is_greatest, 0)?)?;
        let _ = x.f_scatter_(1, &greatest, &own.f_sub(&greatest_p.f_mul(&others)?)?)?;
        Ok(())
    }
}

/// Overwrites logits with log-probabilities, and returns the log-odds of some columns `[n, K]` and the likeliest column
/// `[n, 1]`.
fn log_probabilities(x: &Tensor, ids: &Tensor) -> Result<(Tensor, Tensor)> {
    let mut x = x.shallow_clone();
    let greatest = x.f_argmax(1, true)?;
    let shift = x.f_gather(1, &greatest, false)?;
    let shift = shift.f_where_self(&shift.f_isposinf()?.f_logical_not()?, &shift.f_full_like(f64::NAN)?)?;
    let _ = x.f_sub_(&shift)?;
    let top = x.f_gather(1, &greatest, false)?;
    let _ = x.f_scatter_value_(1, &greatest, f64::NEG_INFINITY)?;
    // All relative to the likeliest column.
    let others = x.f_logsumexp([1], true)?;
    let _ = x.f_scatter_(1, &greatest, &top)?;
    let all = others.f_exp()?.f_log1p()?;
    let _ = x.f_sub_(&all)?;
    let log_p = x.f_gather(1, ids, false)?;
    let log_odds = log_p.f_sub(&log_p.f_exp()?.f_neg()?.f_log1p()?)?;
    let of_greatest = top.f_sub(&others)?.f_expand_as(&log_odds)?;
    Ok((of_greatest.f_where_self(&ids.f_eq_tensor(&greatest)?, &log_odds)?, greatest))
}

/// The entropy of the `k` greatest logits of each row, `[n]`.
fn top_entropy(x: &Tensor, k: i64) -> Result<Tensor> {
    if k < 1 {
        return Err(Error::Value { argument: "top_entropy", expected: "at least 1 column", actual: k.to_string() });
    }
    let (rows, vocab) = x.size2()?;
    let mut parts = vec![];
    for (start, len) in pieces(rows, rows_at_a_time(x.device(), vocab)) {
        let x = x.f_narrow(0, start, len)?;
        let top = if k < vocab { x.f_topk(k, 1, true, false)?.0 } else { x.shallow_clone() };
        let log_p = top.f_log_softmax(1, None)?;
        let p = log_p.f_exp()?;
        parts.push(p.f_mul(&log_p.f_clamp_min(least(x.f_kind()?))?)?.f_sum_dim_intlist(1, false, None)?.f_neg()?);
    }
    Ok(Tensor::f_cat(&parts, 0)?)
}
