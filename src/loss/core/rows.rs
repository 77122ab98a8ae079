//! The rows of a loss, selected on the host before anything is computed.

use std::borrow::Cow;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::inputs::{check_labels, check_sequences, check_tokens};
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
    /// The sequence that each row belongs to.
    sequences: Vec<i64>,
    all: Arc<AllTokens>,
    /// The least and the greatest label of all tokens with one, and where they are.
    extremes: Option<[(i64, i64); 2]>,
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
    /// A token at `t` is predicted at position `t - shift`.
    shift: i64,
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
        Self::new(labels, weights, ignore_index, 1, None)
    }

    /// The rows of `labels [B, S]` and `weights [B, S]` that are shifted already: position `t` predicts `labels[t]`.
    ///
    /// # Errors
    /// Those of [`of_batch`](Self::of_batch).
    pub fn of_shifted(labels: &Tensor, weights: &Tensor, ignore_index: i64) -> Result<Self> {
        check_labels(labels, weights, 2)?;
        Self::new(labels, weights, ignore_index, 0, None)
    }

    /// The rows of `labels [N]` and `weights [N]`, where position `n` predicts `labels[n]`. `sequences [N]`, int64, counts
    /// the sequences from 0, and says which one each token belongs to.
    ///
    /// # Errors
    /// Those of [`of_batch`](Self::of_batch), and [`Error::Value`] for a negative sequence.
    pub fn of_flat(labels: &Tensor, weights: &Tensor, sequences: &Tensor, ignore_index: i64) -> Result<Self> {
        check_labels(labels, weights, 1)?;
        check_sequences(labels, sequences)?;
        let sequences = Vec::<i64>::try_from(on_host(sequences, Kind::Int64)?)?;
        if let Some(negative) = sequences.iter().find(|&&sequence| sequence < 0) {
            let actual = negative.to_string();
            return Err(Error::Value { argument: "sequences", expected: "numbers >= 0", actual });
        }
        Self::new(labels, weights, ignore_index, 0, Some(sequences))
    }

    fn new(
        labels: &Tensor,
        weights: &Tensor,
        ignore_index: i64,
        shift: i64,
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
        let batch = Batch { shape, labelled: 0, sequences: count, ignore_index, shift };
        let all = Arc::new(AllTokens { labels, sequences });
        let mut rows = Self {
            tokens: vec![],
            labels: vec![],
            weights: vec![],
            sequences: vec![],
            all: all.clone(),
            extremes: None,
            batch,
        };
        for (at, (&label, &weight)) in (0..).zip(all.labels.iter().zip(&weights)) {
            if label == ignore_index || at % last < shift {
                continue;
            }
            if !weight.is_finite() {
                return Err(rows.bad_weight(at, weight));
            }
            rows.batch.labelled += 1;
            let [least, greatest] = rows.extremes.get_or_insert([(label, at); 2]);
            *least = if label < least.0 { (label, at) } else { *least };
            *greatest = if label > greatest.0 { (label, at) } else { *greatest };
            if weight != 0.0 {
                rows.tokens.push(at);
                rows.labels.push(label);
                rows.weights.push(weight);
                rows.sequences.push(rows.sequence_of(at));
            }
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
            sequences: of(&self.sequences, indices),
            all: self.all.clone(),
            extremes: self.extremes,
            batch: self.batch.clone(),
        }
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
        let send_list = |list: &[i64]| send(&Tensor::f_from_slice(list)?, device);
        Ok(RowTensors {
            tokens: send_list(&self.tokens)?,
            labels: send_list(&self.labels)?,
            weights: send(&Tensor::f_from_slice(&self.weights)?.f_to_kind(kind)?, device)?,
            sequences: send_list(&self.sequences)?,
            batch: self.batch.clone(),
        })
    }
}

/// [`Rows`] on the device of the input. All tensors are `[n]`.
#[derive(Debug)]
pub(in crate::loss) struct RowTensors {
    /// int64.
    pub(in crate::loss) tokens: Tensor,
    /// int64.
    pub(in crate::loss) labels: Tensor,
    /// f32 or f64.
    pub(in crate::loss) weights: Tensor,
    /// int64.
    pub(in crate::loss) sequences: Tensor,
    pub(in crate::loss) batch: Batch,
}

impl RowTensors {
    /// Where the output that predicts each row is among the flattened positions.
    pub(super) fn positions(&self) -> Result<Tensor> {
        Ok(self.tokens.f_sub_scalar(self.batch.shift)?)
    }

    /// What a tensor holds for the tokens of the rows: `[n]` of `[B, S]`, or `[n, K]` of `[B, S, K]`.
    pub(super) fn take(&self, argument: &'static str, tokens: &Tensor) -> Result<Tensor> {
        let (shape, dimensions) = (&self.batch.shape, self.batch.shape.len());
        let size = if tokens.defined() { tokens.size() } else { vec![] };
        if size.len() != dimensions + 1 || size[..dimensions] != **shape {
            check_tokens(argument, tokens, shape)?;
        }
        let tokens = send(tokens, self.tokens.device())?;
        let flat = if dimensions == 2 { tokens.f_flatten(0, 1)? } else { tokens };
        Ok(flat.f_index_select(0, &self.tokens)?)
    }

    pub(super) fn narrow(&self, start: i64, len: i64) -> Result<Self> {
        self.map(|part| Ok(part.f_narrow(0, start, len)?))
    }

    pub(super) fn index(&self, indices: &Tensor) -> Result<Self> {
        self.map(|part| Ok(part.f_index_select(0, indices)?))
    }

    pub(super) fn shallow_clone(&self) -> Self {
        Self {
            tokens: self.tokens.shallow_clone(),
            labels: self.labels.shallow_clone(),
            weights: self.weights.shallow_clone(),
            sequences: self.sequences.shallow_clone(),
            batch: self.batch.clone(),
        }
    }

    fn map(&self, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            tokens: of(&self.tokens)?,
            labels: of(&self.labels)?,
            weights: of(&self.weights)?,
            sequences: of(&self.sequences)?,
            batch: self.batch.clone(),
        })
    }
}

/// Sends a tensor to a device, without waiting for it if the tensor is on the host.
pub(in crate::loss) fn send(tensor: &Tensor, device: Device) -> Result<Tensor> {
    // A copy to the host that is not waited for would be read before it is complete.
    let non_blocking = tensor.device() == Device::Cpu;
    Ok(tensor.f_to_device_(device, tensor.f_kind()?, non_blocking, false)?)
}

fn on_host(tensor: &Tensor, kind: Kind) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_reshape([-1])?.f_contiguous()?)
}
