//! The rows of a loss, selected on the host before anything is computed.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// The rows of a loss: each predicts one token from the logits at one position.
///
/// They are built on the host: it is there that the collator knows them, and that a label outside of the vocabulary has
/// to be found. On CUDA it would be a device assert, which no program survives.
#[derive(Debug)]
pub(in crate::loss) struct Rows {
    /// Where the logits are among the flattened positions of the input.
    positions: Vec<i64>,
    /// The tokens to predict.
    labels: Vec<i64>,
    /// Never 0.
    weights: Vec<f64>,
    /// The sequence that each row belongs to.
    sequences: Vec<i64>,
    batch: BatchFacts,
}

/// What a loss has to know of the batch besides its rows.
#[derive(Debug, Clone, Copy)]
pub(in crate::loss) struct BatchFacts {
    /// `[B, S]`.
    pub(in crate::loss) shape: [i64; 2],
    /// How many tokens have a label, whatever they weigh.
    pub(in crate::loss) labelled: i64,
}

impl BatchFacts {
    /// How many sequences there are, with rows or without.
    pub(in crate::loss) fn sequences(&self) -> i64 {
        self.shape[0]
    }
}

impl Rows {
    /// The rows of `labels [B, S]` and `weights [B, S]`, which have the positions of the inputs: position `t` predicts
    /// token `t + 1`. What is on the host already is read without waiting for the device.
    pub(in crate::loss) fn of_batch(labels: &Tensor, weights: &Tensor, ignore_index: i64, vocab: i64) -> Result<Self> {
        let (batch, seq) = labels.size2()?;
        let labels = Vec::<i64>::try_from(on_host(labels, Kind::Int64)?)?;
        let weights = Vec::<f64>::try_from(on_host(weights, Kind::Double)?)?;
        let batch = BatchFacts { shape: [batch, seq], labelled: 0 };
        let mut rows = Self { positions: vec![], labels: vec![], weights: vec![], sequences: vec![], batch };
        for (at, (&label, &weight)) in (0..).zip(labels.iter().zip(&weights)) {
            let (row, position) = (at / seq, at % seq);
            // Nothing predicts the first token.
            if position == 0 || label == ignore_index {
                continue;
            }
            if !(0..vocab).contains(&label) {
                return Err(Error::LabelOutOfRange { row, position, label, vocab, ignore_index });
            }
            rows.batch.labelled += 1;
            if weight != 0.0 {
                rows.positions.push(at - 1);
                rows.labels.push(label);
                rows.weights.push(weight);
                rows.sequences.push(row);
            }
        }
        Ok(rows)
    }

    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }

    pub(super) fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The rows with these indices, in their order.
    pub(super) fn select(&self, indices: &[usize]) -> Self {
        fn of<T: Copy>(list: &[T], indices: &[usize]) -> Vec<T> {
            indices.iter().map(|&index| list[index]).collect()
        }
        Self {
            positions: of(&self.positions, indices),
            labels: of(&self.labels, indices),
            weights: of(&self.weights, indices),
            sequences: of(&self.sequences, indices),
            batch: self.batch,
        }
    }

    /// Sends the rows to a device, without waiting for it.
    pub(super) fn to_device(&self, device: Device, kind: Kind) -> Result<RowTensors> {
        let send = |list: &[i64]| Tensor::f_from_slice(list)?.f_to_device_(device, Kind::Int64, true, false);
        Ok(RowTensors {
            positions: send(&self.positions)?,
            labels: send(&self.labels)?,
            weights: Tensor::f_from_slice(&self.weights)?.f_to_kind(kind)?.f_to_device_(device, kind, true, false)?,
            sequences: send(&self.sequences)?,
            batch: self.batch,
        })
    }
}

/// [`Rows`] on the device of the input. All tensors are `[n]`.
#[derive(Debug)]
pub(in crate::loss) struct RowTensors {
    /// int64.
    pub(in crate::loss) positions: Tensor,
    /// int64.
    pub(in crate::loss) labels: Tensor,
    /// f32 or f64.
    pub(in crate::loss) weights: Tensor,
    /// int64.
    pub(in crate::loss) sequences: Tensor,
    pub(in crate::loss) batch: BatchFacts,
}

fn on_host(tensor: &Tensor, kind: Kind) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_reshape([-1])?.f_contiguous()?)
}
