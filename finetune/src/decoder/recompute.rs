//! Activation checkpointing: the graph of a layer exists only while its gradient is computed.

use figa_loss::PackedTensors;
use figa_loss::tch::{self, Tensor};

use super::Decoder;
use super::context::Context;
use super::parameters::{EMBEDDING, NORM};
use crate::gradients::Gradients;

/// Hidden states whose layers are computed once more in the backward pass.
pub struct Recomputed<'a> {
    model: &'a Decoder,
    batch: &'a PackedTensors,
    context: Context,
    needed: Option<&'a Tensor>,
    /// The input of each trainable layer.
    inputs: Vec<Tensor>,
    /// The output of the last layer, a leaf.
    last: Tensor,
    /// The hidden states, behind the last norm.
    pub hidden: Tensor,
}

impl Decoder {
    /// [`forward_packed`](Self::forward_packed), with a graph that begins behind the last layer.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub fn forward_recomputed<'a>(
        &'a self,
        batch: &'a PackedTensors,
        needed: Option<&'a Tensor>,
    ) -> figa_loss::Result<Recomputed<'a>> {
        let context = Context::of_packed(self, batch)?;
        let mut inputs = vec![];
        let last = {
            let _no_grad = tch::no_grad_guard();
            let mut x = self.embed(&batch.input_ids);
            for layer in 0..self.layers() {
                if layer >= self.first_trainable_layer {
                    inputs.push(x.shallow_clone());
                }
                x = self.layer(layer, &x, &context, None, self.needed_in(layer, needed));
            }
            x
        };
        let last = last.set_requires_grad(true);
        let hidden = self.rms_norm(NORM, &last);
        Ok(Recomputed { model: self, batch, context, needed, inputs, last, hidden })
    }
}

impl Recomputed<'_> {
    /// Adds the gradient of a loss of the hidden states to that of a step.
    pub fn backward(mut self, loss: &Tensor, gradients: &mut Gradients) {
        let model = self.model;
        let mut names = vec![NORM.to_owned(), model.head_name().to_owned()];
        let mut slope = gradients.add(loss, &names, &self.last);
        let first = model.first_trainable_layer;
        for layer in (first..model.layers()).rev() {
            let input = self.inputs.pop().expect("an input for each trainable layer").set_requires_grad(true);
            let output = model.layer(layer, &input, &self.context, None, model.needed_in(layer, self.needed));
            let prefix = format!("model.layers.{layer}.");
            names = model.parameters.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
            // A scalar with this gradient.
            slope = gradients.add(&(output * slope).sum(None), &names, &input);
        }
        if first == 0 {
            let output = model.embed(&self.batch.input_ids);
            gradients.add_parameters(&(output * slope).sum(None), &[EMBEDDING.to_owned()]);
        }
    }
}
