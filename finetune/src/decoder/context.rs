//! What all layers share: where the tokens stand, and what they attend to.

use figa_loss::PackedTensors;
use figa_loss::tch::{Kind, Tensor};

use super::Decoder;

/// Rotations and masks for each kind of layer.
pub(super) struct Context {
    /// For each rotary of the model, cosines and sines, `[.., S, dim]`.
    rotations: Vec<[Tensor; 2]>,
    /// For each window of the model, the keys that each query attends to, bool `[.., S, seen]`; `None` for causal attention.
    masks: Vec<(Option<i64>, Option<Tensor>)>,
}

impl Context {
    /// Of rows from their first token on.
    pub(super) fn of_rows(model: &Decoder, input_ids: &Tensor) -> Self {
        let len = input_ids.size()[1];
        let columns = Tensor::arange(len, (Kind::Int64, input_ids.device()));
        let masks = windows(model, len).into_iter().map(|(window, cut)| {
            let query = columns.unsqueeze(1);
            let mask = cut.map(|window| columns.le_tensor(&query).logical_and(&columns.gt_tensor(&(query - window))));
            (window, mask)
        });
        Self { masks: masks.collect(), rotations: rotations(model, &columns, len) }
    }

    /// Of packed rows.
    pub(super) fn of_packed(model: &Decoder, batch: &PackedTensors) -> figa_loss::Result<Self> {
        let mut masks = vec![];
        for (window, cut) in windows(model, batch.input_ids.size()[1]) {
            let is_causal = !batch.has_branches && cut.is_none();
            masks.push((window, if is_causal { None } else { Some(batch.attention_mask(cut)?) }));
        }
        let depends_on_length = model.config.rotaries.iter().any(|rotary| rotary.depends_on_length());
        let longest = if depends_on_length { batch.position_ids.max().int64_value(&[]) + 1 } else { 0 };
        // One rotation for all heads of a token.
        Ok(Self { masks, rotations: rotations(model, &batch.position_ids.unsqueeze(1), longest) })
    }

    /// Of tokens that follow others. `tokens [B, seen + S]` is false for padding, which is on the left.
    pub(super) fn of_cached(model: &Decoder, input_ids: &Tensor, tokens: &Tensor) -> Self {
        let (new, all) = (input_ids.size()[1], tokens.size()[1]);
        let columns = Tensor::arange(all, (Kind::Int64, input_ids.device()));
        let new_columns = columns.narrow(0, all - new, new);
        let query = new_columns.unsqueeze(1);
        let seen = tokens.unsqueeze(1).logical_and(&columns.le_tensor(&query));
        let masks = windows(model, all).into_iter().map(|(window, cut)| {
            let near = |window| seen.logical_and(&columns.gt_tensor(&(&query - window)));
            let mask = cut.map_or_else(|| seen.shallow_clone(), near);
            // A padding token attends to itself, because its softmax would be 0 / 0 otherwise.
            (window, Some(mask.logical_or(&columns.eq_tensor(&query)).unsqueeze(1)))
        });
        Self { masks: masks.collect(), rotations: rotations(model, &new_columns, all) }
    }

    /// The mask of layers with this window.
    pub(super) fn mask(&self, window: Option<i64>) -> Option<&Tensor> {
        self.masks.iter().find(|(of, _)| *of == window).and_then(|(_, mask)| mask.as_ref())
    }

    /// Rotates the first dimensions of each head by the angles of its position.
    pub(super) fn rotate(&self, rotary: usize, x: &Tensor) -> Tensor {
        let [cos, sin] = &self.rotations[rotary];
        let (dim, all) = (cos.size().last().copied().unwrap_or(0), x.size().last().copied().unwrap_or(0));
        let rotated = x.narrow(-1, 0, dim);
        let halves = rotated.chunk(2, -1);
        let rotated = &rotated * cos + Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1) * sin;
        if dim == all { rotated } else { Tensor::cat(&[rotated, x.narrow(-1, dim, all - dim)], -1) }
    }
}

/// The windows of the model's layers, each with the one that cuts something off rows of this length.
fn windows(model: &Decoder, len: i64) -> Vec<(Option<i64>, Option<i64>)> {
    let mut windows: Vec<Option<i64>> = model.config.layers.iter().map(|layer| layer.window).collect();
    windows.sort_unstable();
    windows.dedup();
    windows.into_iter().map(|window| (window, window.filter(|&window| window < len))).collect()
}

/// From `position_ids [.., S]` and the number of positions of the longest row.
fn rotations(model: &Decoder, position_ids: &Tensor, longest: i64) -> Vec<[Tensor; 2]> {
    let positions = position_ids.to_kind(Kind::Float).unsqueeze(-1);
    let rotations = model.config.rotaries.iter().map(|rotary| {
        let frequencies = Tensor::from_slice(&rotary.frequencies(longest)).to_kind(Kind::Float);
        let angles = &positions * frequencies.to_device(position_ids.device());
        let angles = Tensor::cat(&[&angles, &angles], -1);
        [angles.cos(), angles.sin()].map(|tensor| (tensor * rotary.factor).to_kind(model.kind))
    });
    rotations.collect()
}
