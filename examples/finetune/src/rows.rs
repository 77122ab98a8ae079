//! The rows of a method, and how they become a batch.

use figa_loss::tch::{Device, Tensor};
use figa_loss::{BatchTensors, Example, IGNORE_INDEX, Pairs, Result, Rows, collate};

/// A row to train on.
#[derive(Debug, Clone)]
pub struct Row {
    /// With the weights of the method.
    pub example: Example,
    /// The weight of each token in the anchor; empty if the method has none.
    pub anchor: Vec<f32>,
    /// The log-probability of each token under the base model; empty if the method needs none.
    pub reference: Vec<f32>,
}

impl Row {
    /// Whether a token has a weight, in the loss or in the anchor.
    pub fn matters(&self) -> bool {
        self.example.active().any(|active| active) || self.anchored().next().is_some()
    }

    /// The tokens with a weight in the anchor. Nothing predicts the first token of a row.
    pub fn anchored(&self) -> impl Iterator<Item = &f32> {
        self.anchor.iter().skip(1).filter(|&&weight| weight != 0.0)
    }
}

/// Rows as tensors, and what a loss has to know of them.
pub struct Batch {
    pub input_ids: Tensor,
    pub rows: Rows,
    /// The tokens with a weight in the anchor.
    pub anchor: Rows,
    /// Which rows belong together, for a loss of pairs.
    pub pairs: Pairs,
    /// The log-probabilities under the base model, 0 where there are none.
    pub reference: Tensor,
}

impl Batch {
    /// The rows of some pairs.
    pub fn new(pairs: &[&[Row]], pad_id: u32, device: Device) -> Result<Self> {
        let rows: Vec<&Row> = pairs.iter().copied().flatten().collect();
        let batch = collate(rows.iter().map(|row| &row.example), pad_id);
        let padded = |of: fn(&Row) -> &[f32]| -> Result<Tensor> {
            let mut numbers = vec![];
            for (row, end) in rows.iter().zip((1..).map(|count| count * batch.seq_len)) {
                numbers.extend_from_slice(of(row));
                numbers.resize(end, 0.0);
            }
            Ok(Tensor::f_from_slice(&numbers)?.f_reshape([batch.batch_size as i64, batch.seq_len as i64])?)
        };
        let (anchor, reference) = (padded(|row| &row.anchor)?, padded(|row| &row.reference)?);
        let BatchTensors { input_ids, labels, weights, .. } = batch.to_tensors(device)?;
        Ok(Self {
            input_ids,
            rows: Rows::of_batch(&labels, &weights, IGNORE_INDEX)?,
            anchor: Rows::of_batch(&labels, &anchor, IGNORE_INDEX)?,
            pairs: Pairs::alternating(pairs.len() as i64),
            reference,
        })
    }
}
