//! The rows of a loss, selected on the host before anything is computed.

use std::borrow::Cow;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::inputs::{check_labels, check_numbers};
use super::row_tensors::{RowTensors, send, send_list};
use crate::error::{Error, Result};

/// The rows of a loss: each predicts one token, the label, from the model's output at one position, and has a weight.
///
/// Tokens without a label and tokens of weight 0 are no rows: nothing is computed for them. `labels` and `weights` may be on
/// any device. They are read on the host, where the data pipeline knows them: a label outside of the vocabulary has to
/// be found before it reaches a GPU, where it would end the process's CUDA context.
///
/// ```
/// use figa_loss::{IGNORE_INDEX, Rows, tch::Tensor};
///
/// let labels = Tensor::from_slice(&[-100i64, 5, 8, 0]).reshape([1, 4]);
/// let weights = Tensor::from_slice(&[0f32, 0.0, 1.0, -0.5]).reshape([1, 4]);
/// // As Hugging Face has them: position t predicts token t + 1.
/// assert_eq!(Rows::of_batch(&labels, &weights, IGNORE_INDEX)?.len(), 2);
/// // Shifted already: position t predicts labels[t].
/// assert_eq!(Rows::of_shifted(&labels, &weights, IGNORE_INDEX)?.len(), 2);
/// // Without padding: one dimension, and the sequence of each token.
/// let (labels, weights) = (labels.flatten(0, 1), weights.flatten(0, 1));
/// let sequences = Tensor::from_slice(&[0i64, 0, 1, 1]);
/// let rows = Rows::of_flat(&labels, &weights, &sequences, IGNORE_INDEX)?;
/// assert!(rows.sequences() == 2 && !rows.is_empty());
/// // The first position predicts a token of each sequence.
/// let outputs = Tensor::from_slice(&[0i64, 1, 0, 2]);
/// assert_eq!(Rows::of_targets(&labels, &weights, &outputs, &sequences, IGNORE_INDEX)?.len(), 2);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rows {
    /// Where each row's token is in the flattened `labels`.
    tokens: Vec<i64>,
    /// The tokens to predict.
    labels: Vec<i64>,
    /// Finite and never 0.
    weights: Vec<f64>,
    /// The position that predicts each row's token, in the flattened output of the model.
    positions: Vec<i64>,
    /// The sequence that each row belongs to.
    sequences: Vec<i64>,
    all: Arc<AllTokens>,
    /// The least and the greatest label of all tokens with one, and where they are.
    extremes: Option<[(i64, i64); 2]>,
    /// Whether the positions of the output are not those of the labels.
    has_own_positions: bool,
    batch: Batch,
}

/// All tokens, with those that are no rows.
#[derive(Debug)]
struct AllTokens {
    labels: Vec<i64>,
    /// The sequence of each token; those of `[B, S]` follow from their places.
    sequences: Option<Vec<i64>>,
}

/// A sequence, with its tokens and rows in their order.
#[derive(Debug, Default)]
pub(in crate::loss) struct Sequence {
    /// The labels of all of its tokens.
    pub(in crate::loss) labels: Vec<i64>,
    pub(in crate::loss) rows: Vec<SequenceRow>,
}

/// A row of a sequence.
#[derive(Debug)]
pub(in crate::loss) struct SequenceRow {
    /// Which of all rows it is.
    pub(in crate::loss) index: usize,
    /// Which token of its sequence, and what it weighs.
    pub(in crate::loss) token: (usize, f64),
}

/// What a loss has to know of the batch besides its rows.
#[derive(Debug, Clone)]
pub(in crate::loss) struct Batch {
    /// `[B, S]` or `[N]`, of the labels.
    pub(in crate::loss) shape: Arc<[i64]>,
    /// How many tokens have a label, whatever they weigh.
    pub(in crate::loss) labelled: i64,
    /// How many sequences there are, with rows or without.
    pub(in crate::loss) sequences: i64,
    ignore_index: i64,
}

/// Which position of the model's output predicts a token.
enum Predictor {
    /// A token at `t` is predicted at position `t - shift`.
    Shift(i64),
    /// Each token has a number of its own.
    Outputs(Vec<i64>),
}

/// What the output of a model must be like to have the positions of some rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::loss) enum OutputShape<'a> {
    /// The shape of the labels.
    OfLabels(&'a [i64]),
    /// Any, of at least so many positions.
    AtLeast(i64),
}

impl Rows {
    /// The rows of `labels [B, S]` and `weights [B, S]` that have the positions of the inputs: position `t` predicts token
    /// `t + 1`, and nothing predicts the first token.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Dtype`] for arguments that do not fit each other, [`Error::Value`] for an undefined
    /// tensor and for a weight that is infinite or NaN.
    pub fn of_batch(labels: &Tensor, weights: &Tensor, ignore_index: i64) -> Result<Self> {
        check_labels(labels, weights, 2)?;
        Self::new(labels, weights, ignore_index, Predictor::Shift(1), None)
    }

    /// The rows of `labels [B, S]` and `weights [B, S]` that are shifted already: position `t` predicts `labels[t]`.
    ///
    /// # Errors
    /// Those of [`of_batch`](Self::of_batch).
    pub fn of_shifted(labels: &Tensor, weights: &Tensor, ignore_index: i64) -> Result<Self> {
        check_labels(labels, weights, 2)?;
        Self::new(labels, weights, ignore_index, Predictor::Shift(0), None)
    }

    /// The rows of `labels [N]` and `weights [N]`, where position `n` predicts `labels[n]`. `sequences [N]`, int64, counts
    /// the sequences from 0, and says which one each token belongs to.
    ///
    /// # Errors
    /// Those of [`of_batch`](Self::of_batch), and [`Error::Value`] for a negative sequence.
    pub fn of_flat(labels: &Tensor, weights: &Tensor, sequences: &Tensor, ignore_index: i64) -> Result<Self> {
        check_labels(labels, weights, 1)?;
        let sequences = numbers("sequences", sequences, labels)?;
        Self::new(labels, weights, ignore_index, Predictor::Shift(0), Some(sequences))
    }

    /// The rows of `labels [N]` and `weights [N]`, where the model's output at position `outputs[n]` predicts `labels[n]`.
    ///
    /// `outputs [N]`, int64, counts the positions of the flattened output: `b * S + s` for `[B, S, _]`. Several tokens may have
    /// the same position, as where packed answers part. A token of weight 0 may have -1: nothing predicts it, but it counts as
    /// labelled. What a loss gets or returns for each token has the shape `[N]`. `sequences [N]` is that of
    /// [`of_flat`](Self::of_flat).
    ///
    /// # Errors
    /// Those of [`of_flat`](Self::of_flat), and [`Error::Value`] for an active token without a position. Losses return
    /// [`Error::Shape`] if the output has too few positions.
    pub fn of_targets(
        labels: &Tensor,
        weights: &Tensor,
        outputs: &Tensor,
        sequences: &Tensor,
        ignore_index: i64,
    ) -> Result<Self> {
        check_labels(labels, weights, 1)?;
        check_numbers("outputs", labels, outputs)?;
        let outputs = Vec::<i64>::try_from(on_host(outputs, Kind::Int64)?)?;
        let sequences = numbers("sequences", sequences, labels)?;
        Self::new(labels, weights, ignore_index, Predictor::Outputs(outputs), Some(sequences))
    }

    fn new(
        labels: &Tensor,
        weights: &Tensor,
        ignore_index: i64,
        predictor: Predictor,
        sequences: Option<Vec<i64>>,
    ) -> Result<Self> {
        let shape: Arc<[i64]> = labels.size().into();
        let labels = Vec::<i64>::try_from(on_host(labels, Kind::Int64)?)?;
        let weights = Vec::<f64>::try_from(on_host(weights, Kind::Double)?)?;
        let last = shape.last().copied().unwrap_or(1);
        let count = match &sequences {
            Some(sequences) => sequences.iter().max().map_or(0, |last| last + 1),
            None => shape[0],
        };
        let has_own_positions = matches!(predictor, Predictor::Outputs(_));
        let batch = Batch { shape, labelled: 0, sequences: count, ignore_index };
        let all = Arc::new(AllTokens { labels, sequences });
        let mut rows = Self {
            tokens: vec![],
            labels: vec![],
            weights: vec![],
            positions: vec![],
            sequences: vec![],
            all: all.clone(),
            extremes: None,
            has_own_positions,
            batch,
        };
        for (at, (&label, &weight)) in (0..).zip(all.labels.iter().zip(&weights)) {
            let position = match &predictor {
                // Nothing predicts the first token of a sequence.
                Predictor::Shift(shift) if at % last < *shift => continue,
                Predictor::Shift(shift) => at - shift,
                Predictor::Outputs(outputs) => outputs[at as usize],
            };
            if label == ignore_index {
                continue;
            }
            if !weight.is_finite() {
                return Err(rows.bad_weight(at, weight));
            }
            rows.batch.labelled += 1;
            let [least, greatest] = rows.extremes.get_or_insert([(label, at); 2]);
            *least = if label < least.0 { (label, at) } else { *least };
            *greatest = if label > greatest.0 { (label, at) } else { *greatest };
            if weight == 0.0 {
                continue;
            }
            if position < 0 {
                let actual = format!("{position} at {}", rows.place(at));
                return Err(Error::Value { argument: "outputs", expected: "a position for each active token", actual });
            }
            rows.tokens.push(at);
            rows.labels.push(label);
            rows.weights.push(weight);
            rows.positions.push(position);
            rows.sequences.push(rows.sequence_of(at));
        }
        Ok(rows)
    }

    /// The sequence of a token.
    fn sequence_of(&self, at: i64) -> i64 {
        match (&self.all.sequences, &*self.batch.shape) {
            (Some(sequences), _) => sequences[at as usize],
            (None, shape) => at / shape[1],
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many sequences there are, with rows or without.
    pub fn sequences(&self) -> i64 {
        self.batch.sequences
    }

    pub(in crate::loss) fn weights(&self) -> &[f64] {
        &self.weights
    }

    pub(super) fn shape(&self) -> &[i64] {
        &self.batch.shape
    }

    pub(super) fn output_shape(&self) -> OutputShape<'_> {
        match self.has_own_positions {
            false => OutputShape::OfLabels(&self.batch.shape),
            true => OutputShape::AtLeast(self.positions.iter().max().map_or(0, |last| last + 1)),
        }
    }

    /// The rows as a loss of this vocabulary and kind sees them: in f32, small weights vanish.
    pub(super) fn checked(&self, vocab: i64, kind: Kind) -> Result<Cow<'_, Self>> {
        for (label, at) in self.extremes.into_iter().flatten() {
            if !(0..vocab).contains(&label) {
                let ignore_index = self.batch.ignore_index;
                return Err(Error::LabelOutOfRange { place: self.place(at), label, vocab, ignore_index });
            }
        }
        if kind == Kind::Double {
            return Ok(Cow::Borrowed(self));
        }
        let single = |index: usize| self.weights[index] as f32;
        if let Some(index) = (0..self.len()).find(|&index| single(index).is_infinite()) {
            return Err(self.bad_weight(self.tokens[index], self.weights[index]));
        }
        let remaining: Vec<usize> = (0..self.len()).filter(|&index| single(index) != 0.0).collect();
        Ok(if remaining.len() == self.len() { Cow::Borrowed(self) } else { Cow::Owned(self.select(&remaining)) })
    }

    fn bad_weight(&self, at: i64, weight: f64) -> Error {
        let actual = format!("{weight} at {}", self.place(at));
        Error::Value { argument: "weights", expected: "finite numbers within the range of the loss's dtype", actual }
    }

    /// The indices of a token in `labels`.
    fn place(&self, at: i64) -> String {
        match *self.batch.shape {
            [_, seq] => format!("[{}, {}]", at / seq, at % seq),
            _ => format!("[{at}]"),
        }
    }

    /// The rows with these indices, in their order.
    pub(in crate::loss) fn select(&self, indices: &[usize]) -> Self {
        fn of<T: Copy>(list: &[T], indices: &[usize]) -> Vec<T> {
            indices.iter().map(|&index| list[index]).collect()
        }
        Self {
            tokens: of(&self.tokens, indices),
            labels: of(&self.labels, indices),
            weights: of(&self.weights, indices),
            positions: of(&self.positions, indices),
            sequences: of(&self.sequences, indices),
            all: self.all.clone(),
            extremes: self.extremes,
            has_own_positions: self.has_own_positions,
            batch: self.batch.clone(),
        }
    }

    /// The rows of the sequences in each group, one group after the other, and how many rows each group has. Rows of sequences in
    /// no group are left out.
    pub(super) fn by_group(&self, group_of: &[Option<usize>]) -> (Self, Vec<i64>) {
        let groups = group_of.iter().flatten().max().map_or(0, |last| last + 1);
        let mut members = vec![vec![]; groups];
        for (index, &sequence) in self.sequences.iter().enumerate() {
            if let Some(group) = group_of[sequence as usize] {
                members[group].push(index);
            }
        }
        let sizes = members.iter().map(|rows| rows.len() as i64).collect();
        (self.select(&members.concat()), sizes)
    }

    /// `sum |w|` over the rows of each sequence.
    pub(in crate::loss) fn sizes(&self) -> Vec<f64> {
        let mut sizes = vec![0.0; self.batch.sequences as usize];
        for (&sequence, weight) in self.sequences.iter().zip(&self.weights) {
            sizes[sequence as usize] += weight.abs();
        }
        sizes
    }

    /// The tokens and rows of each sequence. The rows are in the order of their tokens.
    pub(in crate::loss) fn by_sequence(&self) -> Vec<Sequence> {
        let mut sequences: Vec<Sequence> = vec![];
        sequences.resize_with(self.batch.sequences as usize, Sequence::default);
        let mut rows = self.tokens.iter().zip(&self.weights).enumerate().peekable();
        for (at, &label) in (0..).zip(&self.all.labels) {
            let sequence = &mut sequences[self.sequence_of(at) as usize];
            if let Some((index, (_, &weight))) = rows.next_if(|(_, (token, _))| **token == at) {
                sequence.rows.push(SequenceRow { index, token: (sequence.labels.len(), weight) });
            }
            sequence.labels.push(label);
        }
        sequences
    }

    /// Sends the rows to a device, without waiting for it.
    pub(super) fn to_device(&self, device: Device, kind: Kind) -> Result<RowTensors> {
        Ok(RowTensors {
            tokens: send_list(&self.tokens, device)?,
            labels: send_list(&self.labels, device)?,
            weights: send(&Tensor::f_from_slice(&self.weights)?.f_to_kind(kind)?, device)?,
            positions: send_list(&self.positions, device)?,
            sequences: send_list(&self.sequences, device)?,
            batch: self.batch.clone(),
        })
    }
}

/// Numbers that count something from 0, one for each token.
fn numbers(argument: &'static str, numbers: &Tensor, labels: &Tensor) -> Result<Vec<i64>> {
    check_numbers(argument, labels, numbers)?;
    let numbers = Vec::<i64>::try_from(on_host(numbers, Kind::Int64)?)?;
    match numbers.iter().find(|&&number| number < 0) {
        None => Ok(numbers),
        Some(negative) => Err(Error::Value { argument, expected: "numbers >= 0", actual: negative.to_string() }),
    }
}

fn on_host(tensor: &Tensor, kind: Kind) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_reshape([-1])?.f_contiguous()?)
}
