//! Rows on the device of the model's output.

use tch::{Device, Tensor};

use super::inputs::check_tokens;
use super::rows::Batch;
use crate::error::Result;

/// [`Rows`](super::rows::Rows) on the device of the input. All tensors are `[n]`.
#[derive(Debug)]
pub(in crate::loss) struct RowTensors {
    /// int64.
    pub(in crate::loss) tokens: Tensor,
    /// int64.
    pub(in crate::loss) labels: Tensor,
    /// f32 or f64.
    pub(in crate::loss) weights: Tensor,
    /// int64: where the output that predicts each row is among the flattened positions.
    pub(super) positions: Tensor,
    /// int64.
    pub(in crate::loss) sequences: Tensor,
    pub(in crate::loss) batch: Batch,
}

impl RowTensors {
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
            positions: self.positions.shallow_clone(),
            sequences: self.sequences.shallow_clone(),
            batch: self.batch.clone(),
        }
    }

    fn map(&self, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            tokens: of(&self.tokens)?,
            labels: of(&self.labels)?,
            weights: of(&self.weights)?,
            positions: of(&self.positions)?,
            sequences: of(&self.sequences)?,
            batch: self.batch.clone(),
        })
    }
}

/// Sends a list to a device, without waiting for it.
pub(in crate::loss) fn send_list(list: &[i64], device: Device) -> Result<Tensor> {
    send(&Tensor::f_from_slice(list)?, device)
}

/// Sends a tensor to a device, without waiting for it if the tensor is on the host.
pub(super) fn send(tensor: &Tensor, device: Device) -> Result<Tensor> {
    // A copy to the host that is not waited for would be read before it is complete.
    let non_blocking = tensor.device() == Device::Cpu;
    Ok(tensor.f_to_device_(device, tensor.f_kind()?, non_blocking, false)?)
}
