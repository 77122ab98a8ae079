//! Which rows count: selected on the host, before anything is computed.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// The positions that predict a token with a label and a weight, row after row of the batch.
#[derive(Debug)]
pub(super) struct Active {
    /// `[B, S]`.
    pub(super) shape: [i64; 2],
    /// int64 `[n]`: `b * S + t` for position `t` of sequence `b`, which predicts token `t + 1`.
    pub(super) rows: Tensor,
    /// int64 `[n]`: the tokens to predict.
    pub(super) targets: Tensor,
    /// `[n]`: what they weigh.
    pub(super) weights: Tensor,
    /// int64 `[m]`: which of the `n` have a negative weight.
    pub(super) penalised: Tensor,
    /// How many tokens have a label, whatever they weigh.
    pub(super) labelled: i64,
}

impl Active {
    /// Selects from `labels [B, S]` and `weights [B, S]`, for rows of `vocab` logits on `device`.
    ///
    /// What lies on the host already is read at once, and what is sent to the device is not waited for.
    ///
    /// A label outside of the vocabulary must not reach a kernel: on CUDA it would be a device assert, which no program
    /// survives.
    pub(super) fn select(
        labels: &Tensor,
        weights: &Tensor,
        ignore_index: i64,
        vocab: i64,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let &[batch, seq] = &labels.size()[..] else { unreachable!("labels were checked to be [B, S]") };
        let labels = Vec::<i64>::try_from(on_host(labels, Kind::Int64)?)?;
        let weights = Vec::<f64>::try_from(on_host(weights, Kind::Double)?)?;
        let (mut rows, mut targets, mut signed, mut penalised, mut labelled) = (vec![], vec![], vec![], vec![], 0);
        for (at, (&label, &weight)) in (0..).zip(labels.iter().zip(&weights)) {
            let (row, position) = (at / seq, at % seq);
            // Nothing predicts the first token.
            if position == 0 || label == ignore_index {
                continue;
            }
            if !(0..vocab).contains(&label) {
                return Err(Error::LabelOutOfRange { row, position, label, vocab, ignore_index });
            }
            labelled += 1;
            if weight != 0.0 {
                if weight < 0.0 {
                    penalised.push(rows.len() as i64);
                }
                rows.push(at - 1);
                targets.push(label);
                signed.push(weight);
            }
        }
        let send = |list: &[i64]| Tensor::f_from_slice(list)?.f_to_device_(device, Kind::Int64, true, false);
        Ok(Self {
            shape: [batch, seq],
            rows: send(&rows)?,
            targets: send(&targets)?,
            weights: Tensor::f_from_slice(&signed)?.f_to_kind(kind)?.f_to_device_(device, kind, true, false)?,
            penalised: send(&penalised)?,
            labelled,
        })
    }

    /// The same rows in another order. On a GPU, this would wait for it.
    pub(super) fn reordered(&self, order: &Tensor) -> Result<Self> {
        let weights = self.weights.f_index_select(0, order)?;
        Ok(Self {
            rows: self.rows.f_index_select(0, order)?,
            targets: self.targets.f_index_select(0, order)?,
            penalised: weights.f_lt(0)?.f_nonzero()?.f_squeeze_dim(1)?,
            weights,
            ..*self
        })
    }

    /// int64 `[n]`: the sequence of each row.
    pub(super) fn sequences(&self) -> Result<Tensor> {
        // Without positions there are no rows, but the division is checked all the same.
        Ok(self.rows.f_divide_scalar_mode(self.shape[1].max(1), "floor")?)
    }
}

fn on_host(tensor: &Tensor, kind: Kind) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_reshape([-1])?.f_contiguous()?)
}
