//! From inputs and rows to the terms of an objective, differentiable with respect to the inputs.
//!
//! libtorch's Rust bindings have no custom autograd functions. The gradient is therefore computed in closed form in the
//! forward pass, without a graph, and a [surrogate](surrogate) brings it into the graph: a scalar of value 0 with this
//! gradient.
//!
//! Rows that the objective skips have no gradient. On a CPU, hidden states of rows of slope 0 are left out of the matrix
//! products; on a GPU, finding them would mean waiting for it. From logits on a CPU, and where a reduction has to know how many rows count, the rows that
//! may be skipped are decided first.

use tch::{Device, Kind, Tensor, no_grad_guard};

use super::head::{Gradients, LmHead};
use super::objective::{Objective, Terms};
use super::odds::{Odds, pieces, rows_at_a_time};
use super::rows::{RowTensors, Rows};
use crate::error::Result;

/// A chunk with fewer logits does not keep the processor busy.
const LEAST_CHUNK_LOGITS: i64 = 1 << 22;

/// What the logits of a row are computed from.
#[derive(Debug)]
pub(in crate::loss) enum Source<'a> {
    /// Logits `[P, V]` of `P` positions.
    Logits(Tensor),
    /// Hidden states `[P, H]`, and the head with its weight in the dtype of the products.
    Hidden { hidden: Tensor, weight: Tensor, head: LmHead<'a> },
}

/// A factor `[n]` for each row, given the rows and a mask of those that count.
pub(in crate::loss) type RowFactors<'a> = &'a dyn Fn(&RowTensors, &Tensor) -> Result<Tensor>;

/// What is wanted of the terms.
pub(in crate::loss) struct Request<'a> {
    /// Factors that multiply the terms, if any.
    pub(in crate::loss) factors: Option<RowFactors<'a>>,
    /// Each term with a gradient of its own, instead of the gradient of their sum.
    pub(in crate::loss) per_row: bool,
    /// How many rows of logits to compute at a time from hidden states; chosen by size if `None`.
    pub(in crate::loss) chunk_rows: Option<i64>,
}

/// The terms of all rows.
#[derive(Debug)]
pub(in crate::loss) struct Outcome {
    /// The rows in the order of the terms.
    pub(in crate::loss) rows: RowTensors,
    /// Constants.
    pub(in crate::loss) terms: Terms,
    /// `[n]`: the values of the terms; differentiable if they were requested per row.
    pub(in crate::loss) values: Tensor,
    /// A scalar of value 0, with the gradient of the sum if it was not requested per row.
    pub(in crate::loss) surrogate: Tensor,
}

/// Computes the terms of an objective on rows.
pub(in crate::loss) fn run(
    source: &Source<'_>,
    rows: &Rows,
    objective: &impl Objective,
    request: &Request<'_>,
) -> Result<Outcome> {
    let Plan { rows, computed, factors, skipped } = decide(source, rows, objective, request)?;
    let input = source.select(&rows.positions.f_narrow(0, 0, computed)?)?;
    let pass = Pass {
        labels: rows.labels.f_narrow(0, 0, computed)?,
        weights: rows.weights.f_narrow(0, 0, computed)?,
        factors: factors.map(|factors| factors.f_narrow(0, 0, computed)).transpose()?,
        objective,
        per_row: request.per_row,
        kind: source.compute_kind()?,
    };
    let PassOutput { mut terms, mut values, surrogate } = match source {
        Source::Logits(_) => pass.on_logits(&input)?,
        Source::Hidden { .. } => pass.on_hidden(&input, &source.head(), source.rows_at_a_time(request)?)?,
    };
    if let Some(skipped) = skipped {
        values = Tensor::f_cat(&[&values, &skipped.value], 0)?;
        terms = Terms::cat(&[terms, skipped])?;
    }
    Ok(Outcome { rows, terms, values, surrogate })
}

impl<'a> Source<'a> {
    /// Logits `[B, S, V]`.
    pub(in crate::loss) fn logits(logits: &Tensor) -> Result<Self> {
        Ok(Self::Logits(logits.f_flatten(0, 1)?))
    }

    /// Hidden states `[B, S, H]` and a head.
    pub(in crate::loss) fn hidden(hidden: &Tensor, head: LmHead<'a>) -> Result<Self> {
        // A CPU multiplies f32 no slower than f16 and bf16, and rounds less.
        let kind = if hidden.device() == Device::Cpu { compute_kind(hidden)? } else { hidden.f_kind()? };
        Ok(Self::Hidden { hidden: hidden.f_flatten(0, 1)?, weight: head.weight.f_to_kind(kind)?, head })
    }

    fn input(&self) -> &Tensor {
        match self {
            Self::Logits(logits) => logits,
            Self::Hidden { hidden, .. } => hidden,
        }
    }

    fn compute_kind(&self) -> Result<Kind> {
        compute_kind(self.input())
    }

    /// The head whose weight has the dtype of the products. Only for hidden states.
    fn head(&self) -> LmHead<'_> {
        match self {
            Self::Hidden { weight, head, .. } => LmHead { weight, ..*head },
            Self::Logits(_) => unreachable!("logits have no head"),
        }
    }

    /// The input at some positions, in memory of its own.
    fn select(&self, positions: &Tensor) -> Result<Tensor> {
        let input = self.input().f_index_select(0, positions)?;
        match self {
            Self::Logits(_) => Ok(input),
            Self::Hidden { weight, .. } => Ok(input.f_to_kind(weight.f_kind()?)?),
        }
    }

    /// How many rows of logits to hold at a time.
    fn rows_at_a_time(&self, request: &Request<'_>) -> Result<i64> {
        match self {
            Self::Logits(logits) => Ok(rows_at_a_time(logits.device(), logits.size2()?.1)),
            Self::Hidden { weight, .. } => {
                let (vocab, width) = weight.size2()?;
                // As many rows as the head is wide take the memory of its gradient, which `backward` needs anyway.
                Ok(request.chunk_rows.unwrap_or_else(|| width.max(LEAST_CHUNK_LOGITS / vocab).max(1)))
            }
        }
    }

    /// The terms of rows, without a graph.
    fn score(&self, rows: &RowTensors, objective: &impl Objective, step: i64) -> Result<Terms> {
        let _no_grad = no_grad_guard();
        let kind = self.compute_kind()?;
        let mut parts = vec![];
        for (start, len) in pieces(rows.positions.size1()?, step) {
            let part = |tensor: &Tensor| tensor.f_narrow(0, start, len);
            let input = self.select(&part(&rows.positions)?)?;
            let mut x = match self {
                Self::Logits(_) => input.f_to_kind(kind)?,
                Self::Hidden { .. } => self.head().logits(&input, kind)?,
            };
            let odds = Odds::take(&mut x, &part(&rows.labels)?)?;
            parts.push(objective.terms(odds.scores()?, &part(&rows.weights)?)?);
        }
        Terms::cat(&parts)
    }
}

/// Losses are computed in f32 at least.
pub(in crate::loss) fn compute_kind(input: &Tensor) -> Result<Kind> {
    Ok(if input.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float })
}

/// The rows, after deciding which of them count as far as the request needs it.
struct Plan {
    rows: RowTensors,
    /// How many of the rows, from the first on, are still to be computed.
    computed: i64,
    factors: Option<Tensor>,
    /// The terms of the other rows, which do not count.
    skipped: Option<Terms>,
}

fn decide(source: &Source<'_>, rows: &Rows, objective: &impl Objective, request: &Request<'_>) -> Result<Plan> {
    let (kind, device) = (source.compute_kind()?, source.input().device());
    let on_cpu = device == Device::Cpu;
    // On a CPU it is cheaper to decide first than to make room for a gradient of 0. A GPU would have to be waited for.
    let saves_memory = on_cpu && matches!(source, Source::Logits(logits) if logits.requires_grad()) && !request.per_row;
    let may_skip = |&index: &usize| objective.may_skip(rows.weights()[index]);
    let undecided: Vec<usize> = match saves_memory || request.factors.is_some() {
        true => (0..rows.len()).filter(may_skip).collect(),
        false => vec![],
    };
    let mut counted = Tensor::f_ones([rows.len() as i64], (Kind::Bool, device))?;
    let (tensors, computed, skipped);
    if undecided.is_empty() {
        (tensors, computed, skipped) = (rows.to_device(device, kind)?, rows.len(), None);
    } else {
        let step = source.rows_at_a_time(request)?;
        let terms = source.score(&rows.select(&undecided).to_device(device, kind)?, objective, step)?;
        let indices: Vec<i64> = undecided.iter().map(|&index| index as i64).collect();
        counted = counted.f_index_copy_(0, &Tensor::f_from_slice(&indices)?.f_to_device(device)?, &terms.counted)?;
        if on_cpu {
            let mask = Vec::<bool>::try_from(&counted)?;
            let (mut order, last): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|&index| mask[index]);
            computed = order.len();
            order.extend(last);
            tensors = rows.select(&order).to_device(device, kind)?;
            counted = counted.f_sort(0, true)?.0;
            skipped = Some(terms.select(&terms.counted.f_logical_not()?)?);
        } else {
            (tensors, computed, skipped) = (rows.to_device(device, kind)?, rows.len(), None);
        }
    }
    let factors = request.factors.map(|factors| factors(&tensors, &counted)).transpose()?;
    Ok(Plan { rows: tensors, computed: computed as i64, factors, skipped })
}

/// The main pass over `n` rows.
struct Pass<'a, O> {
    /// All `[n]`.
    labels: Tensor,
    weights: Tensor,
    factors: Option<Tensor>,
    objective: &'a O,
    per_row: bool,
    kind: Kind,
}

struct PassOutput {
    terms: Terms,
    values: Tensor,
    surrogate: Tensor,
}

impl<O: Objective> Pass<'_, O> {
    /// The terms of rows `start..start + len`, whose logits `x` are overwritten. Returns what the rows of `x` have to be
    /// multiplied by to become the gradient.
    fn terms(&self, x: &mut Tensor, (start, len): (i64, i64)) -> Result<(Terms, Tensor)> {
        let part = |tensor: &Tensor| tensor.f_narrow(0, start, len);
        let odds = Odds::take(x, &part(&self.labels)?)?;
        let mut terms = self.objective.terms(odds.scores()?, &part(&self.weights)?)?;
        if let Some(factors) = &self.factors {
            terms.scale(&part(factors)?)?;
        }
        let gradient_factors = odds.gradient_factors(&terms.slope)?;
        Ok((terms, gradient_factors))
    }

    /// From rows of logits `[n, V]`, which are overwritten.
    fn on_logits(&self, logits: &Tensor) -> Result<PassOutput> {
        let no_grad = no_grad_guard();
        let mut x = logits.f_detach()?.f_to_kind(self.kind)?;
        let (terms, factors) = self.terms(&mut x, (0, logits.size2()?.0))?;
        let mut values = terms.value.shallow_clone();
        let mut sum = Tensor::f_zeros([], (self.kind, logits.device()))?;
        if logits.requires_grad() {
            // In f32 and f64 the gradient overwrites the logits.
            let gradient = x.f_mul_(&factors)?;
            drop(no_grad);
            match self.per_row {
                true => values = values.f_add(&surrogate_per_row(logits, &gradient)?)?,
                false => sum = surrogate(logits, &gradient)?,
            }
        }
        Ok(PassOutput { terms, values, surrogate: sum })
    }

    /// From rows of hidden states `[n, H]`, which are overwritten, in chunks of `step` rows.
    fn on_hidden(&self, rows: &Tensor, head: &LmHead<'_>, step: i64) -> Result<PassOutput> {
        if self.per_row && head.is_tracked()? {
            // The head's gradient cannot be summed before `backward` brings a factor for each row.
            return self.on_logits(&head.logits(rows, self.kind)?);
        }
        let mut gradients = Gradients::wanted_by(rows, head)?;
        let no_grad = no_grad_guard();
        // The gradient of each chunk overwrites its rows.
        let (hidden, hidden_gradient) = (rows.f_detach()?, rows.f_detach()?.f_to_kind(self.kind)?);
        let mut parts = vec![];
        for piece @ (start, len) in pieces(rows.size2()?.0, step) {
            let hidden = hidden.f_narrow(0, start, len)?;
            let (mut x, cap_slope) = head.logits_and_slope(&hidden, self.kind, gradients.any())?;
            let (terms, factors) = self.terms(&mut x, piece)?;
            if gradients.any() {
                if let Some(cap_slope) = cap_slope {
                    let _ = x.f_mul_(&cap_slope)?;
                }
                let chunk = Chunk { x, factors: factors.f_mul_scalar(head.scale)?, hidden };
                chunk.add_to(&mut gradients, head, &terms.slope, hidden_gradient.f_narrow(0, start, len)?)?;
            }
            parts.push(terms);
        }
        drop(no_grad);

        let terms = Terms::cat(&parts)?;
        let mut values = terms.value.shallow_clone();
        let mut sum = Tensor::f_zeros([], (self.kind, rows.device()))?;
        if gradients.for_hidden() {
            match self.per_row {
                true => values = values.f_add(&surrogate_per_row(rows, &hidden_gradient)?)?,
                false => sum = sum.f_add(&surrogate(rows, &hidden_gradient)?)?,
            }
        }
        let [weight_gradient, bias_gradient] = gradients.into_sums();
        for (parameter, gradient) in [(Some(head.weight), weight_gradient), (head.bias, bias_gradient)] {
            if let (Some(parameter), Some(gradient)) = (parameter, gradient) {
                sum = sum.f_add(&surrogate(parameter, &gradient)?)?;
            }
        }
        Ok(PassOutput { terms, values, surrogate: sum })
    }
}

/// Rows of hidden states, with the gradient with respect to their logits up to a factor for each row.
struct Chunk {
    /// `[n, V]`.
    x: Tensor,
    /// `[n, 1]`.
    factors: Tensor,
    /// `[n, H]`.
    hidden: Tensor,
}

impl Chunk {
    /// Adds the chunk to the gradients, and writes the gradient with respect to its hidden states to `hidden_gradient`
    /// if it is wanted.
    fn add_to(
        mut self,
        gradients: &mut Gradients,
        head: &LmHead<'_>,
        slopes: &Tensor,
        mut hidden_gradient: Tensor,
    ) -> Result<()> {
        match steep_first(&mut self.x, slopes)? {
            None => {
                if let Some(gradient) = gradients.add(&self.x, &self.factors, &self.hidden, head.weight)? {
                    hidden_gradient.f_copy_(&gradient)?;
                }
            }
            Some(order) => {
                let of_steep = |tensor: &Tensor| tensor.f_index_select(0, &order);
                let (factors, hidden) = (of_steep(&self.factors)?, of_steep(&self.hidden)?);
                let x = self.x.f_narrow(0, 0, order.size1()?)?;
                if let Some(gradient) = gradients.add(&x, &factors, &hidden, head.weight)? {
                    let _ = hidden_gradient.f_zero_()?.f_index_copy_(0, &order, &gradient)?;
                }
            }
        }
        Ok(())
    }
}

/// Moves the rows of `x` whose slope is not 0 to the front, where each free place takes the next such row after them:
/// the others have no gradient and need not be multiplied. Returns which row each of the first ones was; `None` if all
/// have a slope, and on a GPU, which would have to be waited for.
fn steep_first(x: &mut Tensor, slopes: &Tensor) -> Result<Option<Tensor>> {
    if x.device() != Device::Cpu {
        return Ok(None);
    }
    let steep = Vec::<bool>::try_from(slopes.f_ne(0)?)?;
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

/// A scalar of value 0 whose gradient with respect to `x` is `dx`.
///
/// The sum of `x * dx` has that gradient whatever its own value is, and nothing in the graph has saved that value: it
/// can be overwritten with 0.
fn surrogate(x: &Tensor, dx: &Tensor) -> Result<Tensor> {
    // In the kind of dx, so that the outer gradient multiplies it before autograd rounds it to the kind of x.
    let x = x.f_to_kind(dx.f_kind()?)?;
    let sum = if x.numel() <= i32::MAX as usize {
        x.f_reshape([-1])?.f_dot(&dx.f_reshape([-1])?)?
    } else {
        // Too long for a dot product on a GPU, which needs no memory for the products.
        x.f_mul(dx)?.f_sum(None)?
    };
    let _ = sum.f_detach()?.f_zero_()?;
    Ok(sum)
}

/// The same for each row of `x [n, _]`: `[n]`.
fn surrogate_per_row(x: &Tensor, dx: &Tensor) -> Result<Tensor> {
    let sums = x.f_to_kind(dx.f_kind()?)?.f_mul(dx)?.f_sum_dim_intlist(1, false, None)?;
    let _ = sums.f_detach()?.f_zero_()?;
    Ok(sums)
}
