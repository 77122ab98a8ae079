//! The rows of a method, and how they become a batch.

use figa_loss::tch::{Device, Tensor};
use figa_loss::{Example, IGNORE_INDEX, PackedBatch, PackedTensors, Pairs, Result, Rows, pack};

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
    /// Whether any token has a weight, in the loss or in the anchor. Nothing predicts the first one.
    pub fn matters(&self) -> bool {
        (1..self.example.len()).any(|at| self.is_needed(at))
    }

    /// Whether a token has a weight, in the loss or in the anchor.
    fn is_needed(&self, at: usize) -> bool {
        self.example.is_active(at) || self.anchor.get(at).is_some_and(|&weight| weight != 0.0)
    }

    /// The tokens with a weight in the anchor. Nothing predicts the first token of a row.
    pub fn anchored(&self) -> impl Iterator<Item = &f32> {
        self.anchor.iter().skip(1).filter(|&&weight| weight != 0.0)
    }
}

impl AsRef<Example> for Row {
    fn as_ref(&self) -> &Example {
        &self.example
    }
}

/// How the answers of a pair become the model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One row a pair: what both begin with once, and nothing behind the last token that is needed.
    Packed,
    /// One row an answer.
    Separate,
}

impl Layout {
    /// Groups of answers as the model's input on a device.
    pub fn pack<'a, A, G>(
        self,
        groups: impl IntoIterator<Item = G>,
        pad_id: u32,
        is_needed: impl Fn(&A, usize) -> bool,
        device: Device,
    ) -> Result<Packed>
    where
        A: AsRef<Example> + 'a,
        G: IntoIterator<Item = &'a A>,
    {
        let mut batch = match self {
            Self::Packed => pack(groups, pad_id, is_needed),
            Self::Separate => pack(groups.into_iter().flatten().map(|answer| [answer]), pad_id, |_, _| true),
        };
        let mut needed: Vec<i64> = batch.outputs.iter().copied().filter(|&output| output >= 0).collect();
        needed.sort_unstable();
        needed.dedup();
        for output in &mut batch.outputs {
            if let Ok(place) = needed.binary_search(output) {
                *output = place as i64;
            }
        }
        let needed = Tensor::f_from_slice(&needed)?.f_to_device(device)?;
        Ok(Packed { tensors: batch.to_tensors(device)?, batch, needed })
    }
}

/// Answers as the model's input. Their `outputs` count those that are needed.
pub struct Packed {
    pub batch: PackedBatch,
    pub tensors: PackedTensors,
    /// The positions whose output some target needs, `[n]`, on the device.
    pub needed: Tensor,
}

impl Packed {
    /// The targets as the rows of a loss.
    pub fn rows(&self, weights: &Tensor) -> Result<Rows> {
        let PackedTensors { labels, outputs, sequences, .. } = &self.tensors;
        Rows::of_targets(labels, weights, outputs, sequences, IGNORE_INDEX)
    }
}

/// Rows as tensors, and what a loss has to know of them.
pub struct Batch {
    pub tensors: PackedTensors,
    /// The positions whose output is needed.
    pub needed: Tensor,
    /// Tokens that the model computes, padding included.
    pub computed: usize,
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
    pub fn new(pairs: &[&[Row]], layout: Layout, pad_id: u32, device: Device) -> Result<Self> {
        let packed = layout.pack(pairs.iter().copied(), pad_id, Row::is_needed, device)?;
        let of_targets = |of: fn(&Row) -> &[f32]| {
            let lists: Vec<&[f32]> = pairs.iter().copied().flatten().map(of).collect();
            Tensor::f_from_slice(&packed.batch.of_targets(&lists))
        };
        let (anchor, reference) = (of_targets(|row| &row.anchor)?, of_targets(|row| &row.reference)?);
        Ok(Self {
            computed: packed.batch.input_ids.len(),
            rows: packed.rows(&packed.tensors.weights)?,
            anchor: packed.rows(&anchor)?,
            tensors: packed.tensors,
            needed: packed.needed,
            pairs: Pairs::alternating(pairs.len() as i64),
            reference,
        })
    }
}
