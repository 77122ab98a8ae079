//! From rows to a right-padded batch, and from the batch to tensors.

use super::example::Example;
#[cfg(feature = "torch")]
use crate::error::{Error, Result};
use crate::weights::IGNORE_INDEX;

/// Rows padded on the right to the longest of them. Every list holds `batch_size * seq_len` entries, row after row.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Batch {
    /// Number of rows, `B`.
    pub batch_size: usize,
    /// Tokens per row, `S`.
    pub seq_len: usize,
    /// Token ids; `pad_id` in the padding.
    pub input_ids: Vec<i64>,
    /// True for tokens, false for padding.
    pub attention_mask: Vec<bool>,
    /// [`IGNORE_INDEX`] in prompt and padding.
    pub labels: Vec<i64>,
    /// 0 in prompt and padding.
    pub weights: Vec<f32>,
}

/// Pads examples to one batch.
///
/// The attention mask follows from the lengths, so `pad_id` may be any id, even that of EOS. Without examples the batch
/// is 0 x 0.
///
/// ```
/// use figa_loss::TokenLabel::{Eos, Kept};
/// use figa_loss::{Batch, Example, collate};
///
/// let long = Example::new(vec![5, 6, 0], vec![5, 6, 0], vec![1.0; 3], vec![Kept, Kept, Eos])?;
/// let short = Example::new(vec![5, 0], vec![5, 0], vec![1.0; 2], vec![Kept, Eos])?;
/// let batch: Batch = collate([&long, &short], 0);
/// assert_eq!((batch.batch_size, batch.seq_len), (2, 3));
/// assert_eq!(batch.attention_mask, [true, true, true, true, true, false]);
/// assert_eq!(batch.labels, [5, 6, 0, 5, 0, -100]);
/// # #[cfg(feature = "torch")] {
/// use figa_loss::{BatchTensors, tch::Device};
///
/// let BatchTensors { input_ids, .. } = batch.to_tensors(Device::Cpu)?;
/// assert_eq!(input_ids.size(), [2, 3]);
/// # }
/// # Ok::<(), figa_loss::Error>(())
/// ```
pub fn collate<'a>(examples: impl IntoIterator<Item = &'a Example>, pad_id: u32) -> Batch {
    let examples: Vec<&Example> = examples.into_iter().collect();
    let (batch_size, seq_len) = (examples.len(), examples.iter().map(|example| example.len()).max().unwrap_or(0));
    let size = batch_size * seq_len;
    let mut batch = Batch {
        batch_size,
        seq_len,
        input_ids: Vec::with_capacity(size),
        attention_mask: Vec::with_capacity(size),
        labels: Vec::with_capacity(size),
        weights: Vec::with_capacity(size),
    };
    for (index, example) in examples.into_iter().enumerate() {
        batch.input_ids.extend(example.input_ids().iter().map(|&id| i64::from(id)));
        batch.attention_mask.resize(index * seq_len + example.len(), true);
        batch.labels.extend_from_slice(example.labels());
        batch.weights.extend_from_slice(example.weights());
        let end = (index + 1) * seq_len;
        batch.input_ids.resize(end, i64::from(pad_id));
        batch.attention_mask.resize(end, false);
        batch.labels.resize(end, IGNORE_INDEX);
        batch.weights.resize(end, 0.0);
    }
    batch
}

/// A [`Batch`] for a model on some device. All four tensors have the shape `[B, S]`.
///
/// Labels and weights stay on the host, where the loss selects the active rows without waiting for the device.
#[cfg(feature = "torch")]
#[derive(Debug)]
#[non_exhaustive]
pub struct BatchTensors {
    /// int64, on the device.
    pub input_ids: tch::Tensor,
    /// bool, true for tokens, on the device. A causal model needs no mask, since the padding is on the right.
    pub attention_mask: tch::Tensor,
    /// int64, on the host.
    pub labels: tch::Tensor,
    /// float32, on the host.
    pub weights: tch::Tensor,
}

#[cfg(feature = "torch")]
impl Batch {
    /// Copies the batch to tensors, the model's input to `device`.
    ///
    /// # Errors
    /// [`Error::Value`] if a list does not have `batch_size * seq_len` entries, [`Error::Torch`] if the device is
    /// out of memory.
    pub fn to_tensors(&self, device: tch::Device) -> Result<BatchTensors> {
        let size = [self.batch_size, self.seq_len];
        Ok(BatchTensors {
            input_ids: padded("batch.input_ids", &self.input_ids, size, device)?,
            attention_mask: padded("batch.attention_mask", &self.attention_mask, size, device)?,
            labels: padded("batch.labels", &self.labels, size, tch::Device::Cpu)?,
            weights: padded("batch.weights", &self.weights, size, tch::Device::Cpu)?,
        })
    }
}

/// A list of padded rows as a tensor `[batch_size, seq_len]`.
#[cfg(feature = "torch")]
pub(super) fn padded<T: tch::kind::Element>(
    argument: &'static str,
    data: &[T],
    [batch_size, seq_len]: [usize; 2],
    device: tch::Device,
) -> Result<tch::Tensor> {
    if batch_size.checked_mul(seq_len) != Some(data.len()) {
        let actual = format!("{} entries for {batch_size} x {seq_len}", data.len());
        return Err(Error::Value { argument, expected: "batch_size * seq_len entries", actual });
    }
    Ok(tch::Tensor::f_from_slice(data)?.f_reshape([batch_size as i64, seq_len as i64])?.f_to_device(device)?)
}
