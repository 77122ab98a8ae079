//! From a model's output and rows to the terms of an objective, differentiable with respect to the model.
//!
//! libtorch's Rust bindings have no custom autograd functions. The gradient is therefore computed in closed form in the
//! forward pass, without a graph, and a [surrogate](super::surrogate) brings it into the graph: a scalar of value 0 with
//! this gradient. How the loss changes with the few numbers of each row is taken by autograd, from the loss's own
//! operations on them.
//!
//! An objective that is local to a row takes one pass over the logits: chunk by chunk, numbers, slopes, gradient. Where a
//! loss needs several rows at once, such as all those of a pair of answers, they make a group. Groups that fit into a chunk
//! take one pass as well; if one does not, a first pass computes the numbers of all rows, and a second one the gradient.
//!
//! Rows of slope 0 have no gradient. On a CPU they are left out of what follows; on a GPU, finding them would mean waiting
//! for it. From logits on a CPU, and where a reduction has to know how many rows count, the rows that may be skipped are
//! decided first.

use std::borrow::Cow;
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::autocast::{AutocastOff, autocast_kind};
use super::objective::{Numbers, Objective};
use super::pass::Pass;
use super::row_tensors::{RowTensors, send_list};
use super::rows::Rows;
use super::scores::{Needs, Scores};
use super::source::{ModelOutput, Source};
use crate::error::{Error, Result};

/// A factor `[n]` for each row, given the rows and a mask of those that count.
pub(in crate::loss) type RowFactors<'a> = &'a dyn Fn(&RowTensors, &Tensor) -> Result<Tensor>;

/// What is wanted of the terms.
#[derive(Default)]
pub(in crate::loss) struct Request<'a> {
    /// Factors that multiply the terms, if any.
    pub(in crate::loss) factors: Option<RowFactors<'a>>,
    /// Each term with a gradient of its own, instead of the gradient of their sum.
    pub(in crate::loss) per_row: bool,
    /// How many rows of logits to compute at a time; chosen by size if `None`.
    pub(in crate::loss) chunk_rows: Option<i64>,
}

/// The terms of all rows.
#[derive(Debug)]
pub(in crate::loss) struct Outcome {
    /// The rows in the order of the numbers.
    pub(in crate::loss) rows: RowTensors,
    /// Constants.
    pub(in crate::loss) numbers: Numbers,
    /// `[n]`: the values of the terms; differentiable if they were requested per row.
    pub(in crate::loss) values: Tensor,
    /// A scalar of value 0, with the gradient of the sum if it was not requested per row.
    pub(in crate::loss) surrogate: Tensor,
}

/// Computes the terms of an objective on rows.
pub(in crate::loss) fn run(
    output: ModelOutput<'_>,
    rows: &Rows,
    objective: &dyn Objective,
    request: &Request<'_>,
) -> Result<Outcome> {
    let needs = objective.needs();
    let prepared = Prepared::new(output, rows, &needs, request)?;
    let _autocast = AutocastOff::new(prepared.autocast);
    if objective.is_joint() {
        return joint(&prepared, objective, request);
    }
    let Plan { rows, computed, factors, skipped } = decide(&prepared, objective, request)?;
    let narrowed = rows.narrow(0, computed)?;
    let factors = factors.map(|factors| factors.f_narrow(0, 0, computed)).transpose()?;
    let pass = prepared.pass(&narrowed)?;
    let mut parts = vec![];
    let surrogates = pass.gradients(request.per_row, &pass.pieces()?, &mut |(start, len), stats, is_tracked| {
        let scores = Scores::new(narrowed.narrow(start, len)?, stats, is_tracked);
        let mut terms = objective.terms(&scores)?;
        if let Some(factors) = &factors {
            terms.value = terms.value.f_mul(&factors.f_narrow(0, start, len)?)?;
        }
        let slopes = is_tracked.then(|| scores.slopes(&terms.value.f_sum(None)?, false)).transpose()?;
        parts.push(Numbers::new(&scores, terms)?);
        Ok(slopes)
    })?;
    let mut numbers = Numbers::cat(&parts)?;
    let mut values = match &surrogates.per_row {
        Some(surrogates) => numbers.value.f_add(surrogates)?,
        None => numbers.value.shallow_clone(),
    };
    if let Some(skipped) = skipped {
        values = Tensor::f_cat(&[&values, &skipped.value], 0)?;
        numbers = Numbers::cat(&[numbers, skipped])?;
    }
    Ok(Outcome { rows, numbers, values, surrogate: surrogates.sum })
}

/// With terms that depend on all rows.
fn joint(prepared: &Prepared<'_>, objective: &dyn Objective, request: &Request<'_>) -> Result<Outcome> {
    if request.per_row {
        let expected = "a reduction to one number, for a loss whose terms depend on other rows";
        return Err(Error::Value { argument: "reduction", expected, actual: "None".into() });
    }
    let (parts, surrogate) = prepared.losses(&[prepared.rows.len() as i64], &mut |_, scores| {
        let rows = scores.rows().shallow_clone();
        let mut terms = objective.terms(scores)?;
        if let Some(factors) = request.factors {
            let counted = terms.counted_mask()?;
            terms.value = terms.value.f_mul(&factors(&rows, &counted)?)?;
        }
        Ok((terms.value.f_sum(None)?, (rows, Numbers::new(scores, terms)?)))
    })?;
    let (_, (rows, numbers)) = parts.into_iter().next().expect("one group");
    Ok(Outcome { rows, values: numbers.value.shallow_clone(), numbers, surrogate })
}

/// The loss that a closure computes from what is known of the rows.
pub(in crate::loss) fn run_closure<T>(
    output: ModelOutput<'_>,
    rows: &Rows,
    needs: &Needs<'_>,
    loss: impl FnOnce(&Scores) -> Result<(Tensor, T)>,
) -> Result<(Tensor, T)> {
    let prepared = Prepared::new(output, rows, needs, &Request::default())?;
    let _autocast = AutocastOff::new(prepared.autocast);
    let mut loss = Some(loss);
    let (parts, surrogate) = prepared.losses(&[prepared.rows.len() as i64], &mut |_, scores| {
        let loss = loss.take().expect("one group");
        let (loss, more) = loss(scores)?;
        if loss.numel() != 1 {
            return Err(Error::Shape { argument: "loss", expected: "[], a single number".into(), actual: loss.size() });
        }
        Ok((loss, more))
    })?;
    let (loss, more) = parts.into_iter().next().expect("one group");
    // What else the closure used keeps its gradient.
    Ok((loss.f_add(&surrogate.f_reshape(loss.size())?)?, more))
}

/// The sum of the losses of groups of rows, each of which depends on the rows of its group alone. `group_of` says which group
/// the rows of each sequence are in; those of other sequences have no part in the loss. The closure computes the sum over some
/// groups from what is known of their rows, and something to know of each of these sums.
pub(in crate::loss) fn run_groups<T>(
    output: ModelOutput<'_>,
    rows: &Rows,
    needs: &Needs<'_>,
    chunk_rows: Option<i64>,
    group_of: &[Option<usize>],
    loss: LossOfGroups<'_, T>,
) -> Result<(Tensor, Vec<T>)> {
    let mut prepared = Prepared::new(output, rows, needs, &Request { chunk_rows, ..Request::default() })?;
    let _autocast = AutocastOff::new(prepared.autocast);
    let (rows, sizes) = prepared.rows.by_group(group_of);
    prepared.rows = Cow::Owned(rows);
    let (parts, mut sum) = prepared.losses(&sizes, loss)?;
    let mut all = vec![];
    for (loss, more) in parts {
        sum = sum.f_add(&loss)?;
        all.push(more);
    }
    Ok((sum, all))
}

/// The sum over some groups, and something to know of it.
type LossOfGroups<'a, T> = &'a mut dyn FnMut(Range<usize>, &Scores) -> Result<(Tensor, T)>;

/// Arguments that have been checked.
struct Prepared<'a> {
    source: Source<'a>,
    reference: Option<Source<'a>>,
    rows: Cow<'a, Rows>,
    needs: &'a Needs<'a>,
    chunk_rows: Option<i64>,
    autocast: Option<Kind>,
}

impl<'a> Prepared<'a> {
    fn new(output: ModelOutput<'a>, rows: &'a Rows, needs: &'a Needs<'a>, request: &Request<'_>) -> Result<Self> {
        if let Some(rows @ ..=0) = request.chunk_rows {
            let (argument, expected) = ("chunk_rows", "at least 1 row");
            return Err(Error::Value { argument, expected, actual: rows.to_string() });
        }
        let autocast = autocast_kind(output.device())?;
        let source = Source::new(output, rows.output_shape(), autocast)?;
        let reference = match &needs.reference {
            None => None,
            Some(reference) => {
                reference.validate()?;
                Some(Source::new(reference.output, rows.output_shape(), autocast)?)
            }
        };
        needs.validate(rows.shape())?;
        let rows = rows.checked(source.vocab()?, source.compute_kind()?)?;
        Ok(Self { source, reference, rows, needs, chunk_rows: request.chunk_rows, autocast })
    }

    fn pass<'b>(&'b self, rows: &'b RowTensors) -> Result<Pass<'b>> {
        Pass::new(&self.source, self.reference.as_ref(), rows, self.needs, self.chunk_rows)
    }

    fn to_device(&self, rows: &Rows) -> Result<RowTensors> {
        rows.to_device(self.source.device(), self.source.compute_kind()?)
    }

    /// The losses of groups of rows, and a scalar of value 0 that has the gradient of their sum. The groups follow each other,
    /// each with so many rows.
    fn losses<T>(&self, groups: &[i64], loss: LossOfGroups<'_, T>) -> Result<(Vec<(Tensor, T)>, Tensor)> {
        let rows = self.to_device(&self.rows)?;
        let pass = self.pass(&rows)?;
        let is_tracked = pass.is_tracked()?;
        let chunks = if is_tracked { chunks_of_groups(groups, pass.rows_of_group()?) } else { None };
        let Some(chunks) = chunks else {
            let scores = Scores::new(rows.shallow_clone(), pass.stats()?, is_tracked);
            let (loss, more) = loss(0..groups.len(), &scores)?;
            let surrogate = self.second_pass(is_tracked, &scores, &loss)?;
            return Ok((vec![(loss, more)], surrogate));
        };
        let pieces: Vec<(i64, i64)> = chunks.iter().map(|chunk| chunk.rows).collect();
        let (mut chunks, mut parts) = (chunks.into_iter(), vec![]);
        let surrogates = pass.gradients(false, &pieces, &mut |(start, len), stats, is_tracked| {
            let scores = Scores::new(rows.narrow(start, len)?, stats, is_tracked);
            let groups = chunks.next().expect("a chunk for each piece").groups;
            let (loss, more) = loss(groups, &scores)?;
            let slopes = is_tracked.then(|| scores.slopes(&loss, true)).transpose()?;
            parts.push((loss, more));
            Ok(slopes)
        })?;
        Ok((parts, surrogates.sum))
    }

    /// The gradient of a sum that was computed from the scores of all rows.
    fn second_pass(&self, is_tracked: bool, scores: &Scores, sum: &Tensor) -> Result<Tensor> {
        if !is_tracked {
            return Ok(Tensor::f_zeros([], (self.source.compute_kind()?, self.source.device()))?);
        }
        let mut slopes = scores.slopes(sum, true)?;
        let mut rows = scores.rows().shallow_clone();
        if self.source.device() == Device::Cpu {
            let steep = slopes.steep()?.f_nonzero()?.f_squeeze_dim(1)?;
            if steep.size1()? < rows.tokens.size1()? {
                (slopes, rows) = (slopes.index(&steep)?, rows.index(&steep)?);
            }
        }
        let pass = self.pass(&rows)?;
        let take = &mut |(start, len), _, _| Ok(Some(slopes.narrow(start, len)?));
        Ok(pass.gradients(false, &pass.pieces()?, take)?.sum)
    }
}

/// Groups whose rows are computed together.
struct Chunk {
    groups: Range<usize>,
    /// Start and length.
    rows: (i64, i64),
}

/// Chunks of as many groups as fit into `most` rows; at least one. `None` if a group does not fit.
fn chunks_of_groups(groups: &[i64], most: i64) -> Option<Vec<Chunk>> {
    let mut chunks = vec![Chunk { groups: 0..0, rows: (0, 0) }];
    for (group, &size) in groups.iter().enumerate() {
        if size > most {
            return None;
        }
        let last = chunks.last_mut().expect("at least one chunk");
        let (start, len) = last.rows;
        if len + size <= most {
            *last = Chunk { groups: last.groups.start..group + 1, rows: (start, len + size) };
        } else {
            chunks.push(Chunk { groups: group..group + 1, rows: (start + len, size) });
        }
    }
    Some(chunks)
}

/// The rows, after deciding which of them count as far as the request needs it.
struct Plan {
    rows: RowTensors,
    /// How many of the rows, from the first on, are still to be computed.
    computed: i64,
    factors: Option<Tensor>,
    /// The numbers of the other rows, which do not count.
    skipped: Option<Numbers>,
}

fn decide(prepared: &Prepared<'_>, objective: &dyn Objective, request: &Request<'_>) -> Result<Plan> {
    let Prepared { source, rows, .. } = prepared;
    let on_cpu = source.device() == Device::Cpu;
    // On a CPU it is cheaper to decide first than to make room for a gradient of 0. A GPU would have to be waited for.
    let saves_memory = on_cpu && source.is_tracked_logits() && !request.per_row;
    let may_skip = |&index: &usize| objective.may_skip(rows.weights()[index]);
    let undecided: Vec<usize> = match saves_memory || request.factors.is_some() {
        true => (0..rows.len()).filter(may_skip).collect(),
        false => vec![],
    };
    let mut counted = Tensor::f_ones([rows.len() as i64], (Kind::Bool, source.device()))?;
    let (tensors, computed, skipped);
    if undecided.is_empty() {
        (tensors, computed, skipped) = (prepared.to_device(rows)?, rows.len(), None);
    } else {
        let some = prepared.to_device(&rows.select(&undecided))?;
        let stats = prepared.pass(&some)?.stats()?;
        let scores = Scores::new(some, stats, false);
        let numbers = Numbers::new(&scores, objective.terms(&scores)?)?;
        let indices: Vec<i64> = undecided.iter().map(|&index| index as i64).collect();
        let indices = send_list(&indices, source.device())?;
        counted = counted.f_index_copy_(0, &indices, &numbers.counted)?;
        if on_cpu {
            let mask = Vec::<bool>::try_from(&counted)?;
            let (mut order, last): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|&index| mask[index]);
            computed = order.len();
            order.extend(last);
            tensors = prepared.to_device(&rows.select(&order))?;
            counted = counted.f_sort(0, true)?.0;
            skipped = Some(numbers.select(&numbers.counted.f_logical_not()?)?);
        } else {
            (tensors, computed, skipped) = (prepared.to_device(rows)?, rows.len(), None);
        }
    }
    let factors = request.factors.map(|factors| factors(&tensors, &counted)).transpose()?;
    Ok(Plan { rows: tensors, computed: computed as i64, factors, skipped })
}
