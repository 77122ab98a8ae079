//! One pass over the logits of rows, chunk by chunk.

use tch::{Device, Kind, Tensor, no_grad_guard};

use super::head::{Gradients, LmHead};
use super::measure::{Gradient, Measured, Wanted};
use super::odds::pieces;
use super::row_tensors::RowTensors;
use super::scores::{Needs, Slopes, Stats};
use super::source::Source;
use super::surrogate::{surrogate, surrogate_per_row};
use crate::error::Result;

/// A pass over rows.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    source: &'a Source<'a>,
    reference: Option<&'a Source<'a>>,
    rows: &'a RowTensors,
    needs: &'a Needs<'a>,
    positions: Tensor,
    chunk_rows: Option<i64>,
    kind: Kind,
}

/// From the rows `(start, len)` and what is known of them to the slopes of a sum, which are needed if the last argument is
/// true.
pub(super) type SlopesOf<'a> = &'a mut dyn FnMut((i64, i64), Stats, bool) -> Result<Option<Slopes>>;

/// Brings the gradients of a pass into the graph.
#[derive(Debug)]
pub(super) struct Surrogates {
    /// A scalar.
    pub(super) sum: Tensor,
    /// `[n]`, in place of what a row adds to the sum.
    pub(super) per_row: Option<Tensor>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        source: &'a Source<'a>,
        reference: Option<&'a Source<'a>>,
        rows: &'a RowTensors,
        needs: &'a Needs<'a>,
        chunk_rows: Option<i64>,
    ) -> Result<Self> {
        let (positions, kind) = (rows.positions.shallow_clone(), source.compute_kind()?);
        Ok(Self { source, reference, rows, needs, positions, chunk_rows, kind })
    }

    /// The rows `(start, len)` of each chunk.
    pub(super) fn pieces(&self) -> Result<Vec<(i64, i64)>> {
        let rows = self.positions.size1()?;
        // From logits, everything is there already, but what more than log-odds needs should be small.
        let step = match self.source.head() {
            None if !self.needs.is_wide() => i64::MAX,
            _ => self.source.rows_at_a_time(self.chunk_rows)?,
        };
        Ok(pieces(rows, step).collect())
    }

    /// How many rows of a group may be computed at a time, to save a second pass. Unless the number is chosen, these are two
    /// chunks.
    pub(super) fn rows_of_group(&self) -> Result<i64> {
        let step = self.source.rows_at_a_time(self.chunk_rows)?;
        Ok(match (self.source.head(), self.needs.is_wide()) {
            (None, false) => i64::MAX,
            (Some(_), false) if self.chunk_rows.is_none() => step.saturating_mul(2),
            _ => step,
        })
    }

    /// Whether the model should get a gradient.
    pub(super) fn is_tracked(&self) -> Result<bool> {
        let input = self.source.select(&self.positions.f_narrow(0, 0, 0)?)?;
        let head = self.source.head().map_or(Ok(false), |head| head.is_tracked())?;
        Ok(input.requires_grad() || head)
    }

    /// Measures the rows `(start, len)`, whose logits are overwritten.
    fn measure(&self, x: Tensor, (start, len): (i64, i64)) -> Result<(Measured<'a>, Stats)> {
        let rows = self.rows.narrow(start, len)?;
        let columns = self.needs.columns.map(|columns| rows.take("columns", columns)).transpose()?;
        let reference = match (self.reference, self.needs.reference) {
            (Some(source), Some(reference)) => {
                let positions = self.positions.f_narrow(0, start, len)?;
                let logits = source.constant_logits(&positions.f_to_device(source.device())?, self.kind)?;
                Some((logits.f_to_device(x.device())?, reference))
            }
            _ => None,
        };
        let (entropy, top_entropy) = (self.needs.entropy, self.needs.top_entropy);
        Measured::new(x, &rows.labels, Wanted { entropy, top_entropy, columns, reference })
    }

    /// What is known of all rows, without a graph.
    pub(super) fn stats(&self) -> Result<Stats> {
        let _no_grad = no_grad_guard();
        let mut parts = vec![];
        let step = self.source.rows_at_a_time(self.chunk_rows)?;
        for piece @ (start, len) in pieces(self.positions.size1()?, step) {
            let x = self.source.constant_logits(&self.positions.f_narrow(0, start, len)?, self.kind)?;
            parts.push(self.measure(x, piece)?.1);
        }
        Stats::cat(&parts)
    }

    /// What is known of all rows, and the gradient of a sum whose slopes are given chunk by chunk.
    pub(super) fn gradients(&self, per_row: bool, pieces: &[(i64, i64)], slopes: SlopesOf<'_>) -> Result<Surrogates> {
        let input = self.source.select(&self.positions)?;
        match self.source.head() {
            None => self.on_logits(&input, per_row, pieces, slopes),
            // The head's gradient cannot be summed before `backward` brings a factor for each row.
            Some(head) if per_row && head.is_tracked()? => {
                self.on_logits(&head.logits(&input, self.kind)?, per_row, pieces, slopes)
            }
            Some(head) => self.on_hidden(&input, &head, per_row, pieces, slopes),
        }
    }

    /// From rows of logits `[n, V]`, which are overwritten.
    fn on_logits(
        &self,
        logits: &Tensor,
        per_row: bool,
        pieces: &[(i64, i64)],
        slopes: SlopesOf<'_>,
    ) -> Result<Surrogates> {
        let is_tracked = logits.requires_grad();
        // In f32 and f64 the gradient overwrites the logits.
        let x = logits.f_detach()?.f_to_kind(self.kind)?;
        let rows = logits.size2()?.0;
        for &piece @ (start, len) in pieces {
            let mut part = x.f_narrow(0, start, len)?;
            let (measured, stats) = self.measure(part.shallow_clone(), piece)?;
            let slopes = slopes(piece, stats, is_tracked)?;
            if let (true, Some(slopes)) = (is_tracked, slopes)
                && let Some(factors) = measured.gradient(&slopes)?.factors
            {
                let _ = part.f_mul_(&factors.product()?)?;
            }
        }
        let mut sum = Tensor::f_zeros([], (self.kind, logits.device()))?;
        if per_row {
            let each = match is_tracked {
                true => surrogate_per_row(logits, &x)?,
                false => Tensor::f_zeros([rows], (self.kind, logits.device()))?,
            };
            return Ok(Surrogates { sum, per_row: Some(each) });
        }
        if is_tracked {
            sum = surrogate(logits, &x)?;
        }
        Ok(Surrogates { sum, per_row: None })
    }

    /// From rows of hidden states `[n, H]`, which are overwritten.
    fn on_hidden(
        &self,
        rows: &Tensor,
        head: &LmHead<'_>,
        per_row: bool,
        pieces: &[(i64, i64)],
        slopes: SlopesOf<'_>,
    ) -> Result<Surrogates> {
        let mut gradients = Gradients::wanted_by(rows, head, pieces.len() == 1)?;
        // The gradient of each chunk overwrites its rows.
        let (hidden, hidden_gradient) = (rows.f_detach()?, rows.f_detach()?.f_to_kind(self.kind)?);
        for &piece @ (start, len) in pieces {
            let hidden = hidden.f_narrow(0, start, len)?;
            let no_grad = no_grad_guard();
            let (x, cap_slope) = head.logits_and_slope(&hidden, self.kind, gradients.any())?;
            let (measured, stats) = self.measure(x, piece)?;
            drop(no_grad);
            let slopes = slopes(piece, stats, gradients.any())?;
            let _no_grad = no_grad_guard();
            if let (true, Some(slopes)) = (gradients.any(), slopes) {
                let mut gradient = measured.gradient(&slopes)?;
                if let Some(cap_slope) = cap_slope {
                    let _ = gradient.x.f_mul_(&cap_slope)?;
                }
                let place = hidden_gradient.f_narrow(0, start, len)?;
                add_steep(&mut gradients, gradient, &slopes, head, &hidden, place)?;
            }
        }
        let mut sum = Tensor::f_zeros([], (self.kind, rows.device()))?;
        let mut each = per_row.then(|| Tensor::f_zeros([rows.size2()?.0], (self.kind, rows.device()))).transpose()?;
        if gradients.for_hidden() {
            match per_row {
                true => each = Some(surrogate_per_row(rows, &hidden_gradient)?),
                false => sum = sum.f_add(&surrogate(rows, &hidden_gradient)?)?,
            }
        }
        let ([weight_gradient, bias_gradient], deferred) = gradients.into_sums();
        if let Some(deferred) = deferred {
            sum = sum.f_add(&deferred)?;
        }
        for (parameter, gradient) in [(Some(head.weight), weight_gradient), (head.bias, bias_gradient)] {
            if let (Some(parameter), Some(gradient)) = (parameter, gradient) {
                sum = sum.f_add(&surrogate(parameter, &gradient)?)?;
            }
        }
        Ok(Surrogates { sum, per_row: each })
    }
}

/// Adds the rows of a chunk that have a slope to the gradients, and writes the gradient with respect to the chunk's hidden
/// states to its place if it is wanted.
fn add_steep(
    gradients: &mut Gradients,
    mut gradient: Gradient,
    slopes: &Slopes,
    head: &LmHead<'_>,
    hidden: &Tensor,
    mut place: Tensor,
) -> Result<()> {
    let Some(order) = steep_first(&mut gradient.x, slopes)? else {
        if let Some(gradient) = gradients.add(&gradient, head.scale, hidden, head.weight)? {
            place.f_copy_(&gradient)?;
        }
        return Ok(());
    };
    let factors = gradient.index_factors(&order)?;
    let steep = Gradient { x: gradient.x.f_narrow(0, 0, order.size1()?)?, factors };
    if let Some(gradient) = gradients.add(&steep, head.scale, &hidden.f_index_select(0, &order)?, head.weight)? {
        let _ = place.f_zero_()?.f_index_copy_(0, &order, &gradient)?;
    }
    Ok(())
}

/// Moves the rows of `x` that have a slope to the front, where each free place takes the next such row after them:
/// the others have no gradient and need not be multiplied. Returns which row each of the first ones was; `None` if all
/// have a slope, and on a GPU, which would have to be waited for.
fn steep_first(x: &mut Tensor, slopes: &Slopes) -> Result<Option<Tensor>> {
    if x.device() != Device::Cpu {
        return Ok(None);
    }
    let steep = Vec::<bool>::try_from(slopes.steep()?)?;
    let count = steep.iter().filter(|&&steep| steep).count();
    if count == steep.len() {
        return Ok(None);
    }
    let mut order: Vec<i64> = (0..count as i64).collect();
    let free = (0..count).filter(|&row| !steep[row]);
    let after = (count..steep.len()).filter(|&row| steep[row]);
    for (place, row) in free.zip(after) {
        x.f_get(place as i64)?.f_copy_(&x.f_get(row as i64)?)?;
        order[place] = row as i64;
    }
    Ok(Some(Tensor::f_from_slice(&order)?))
}
