//! AdamW with moments that can be saved. `tch::nn` does not expose those of its own optimizer.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use figa_loss::tch::{self, Device, Kind, Tensor};

use crate::gradients::Gradients;

const BETAS: (f64, f64) = (0.9, 0.999);
const EPS: f64 = 1e-8;

/// A step computes this many elements at a time, so that what it reads and writes several times stays in the cache of a CPU.
const PIECE: i64 = 1 << 17;

/// AdamW without weight decay, as is usual in fine-tuning. Moments are f32; updates of bf16 parameters are rounded
/// stochastically.
pub struct AdamW {
    parameters: Vec<Parameter>,
    /// Steps taken.
    steps: i32,
}

struct Parameter {
    name: String,
    value: Tensor,
    mean: Tensor,
    square: Tensor,
}

impl AdamW {
    /// An optimizer of the trainable parameters.
    pub fn new(parameters: &BTreeMap<String, Tensor>) -> Self {
        let trainable = parameters.iter().filter(|(_, value)| value.requires_grad());
        let parameters = trainable.map(|(name, value)| Parameter {
            name: name.clone(),
            value: value.shallow_clone(),
            mean: zeros(value),
            square: zeros(value),
        });
        Self { parameters: parameters.collect(), steps: 0 }
    }

    /// Takes a step along the gradients times `scale`, and frees each of them.
    ///
    /// A parameter without a gradient has one of 0.
    pub fn step(&mut self, gradients: &mut Gradients, lr: f64, scale: f64) {
        let _no_grad = tch::no_grad_guard();
        self.steps += 1;
        // Random numbers are for rounding. A resumed run has the same.
        tch::manual_seed(self.steps.into());
        let (mean_bias, square_bias) = (1.0 - BETAS.0.powi(self.steps), 1.0 - BETAS.1.powi(self.steps));
        for parameter in &self.parameters {
            let grad = gradients.take(&parameter.name).unwrap_or_else(|| parameter.mean.zeros_like());
            // Views of what is written: parameters are contiguous, as they were read from a file.
            let [value, mean, square] = [&parameter.value, &parameter.mean, &parameter.square].map(|t| t.view([-1]));
            let step = if value.device() == Device::Cpu { PIECE } else { value.numel() as i64 };
            let pieces = [value, grad.reshape([-1]), mean, square].map(|tensor| tensor.split(step.max(1), 0));
            for piece in 0..pieces[0].len() {
                let [mut value, grad, mut mean, mut square] = pieces.each_ref().map(|list| list[piece].shallow_clone());
                let mut grad = grad * scale;
                let _ = mean.lerp_(&grad, 1.0 - BETAS.0);
                let _ = square.lerp_(&grad.square_(), 1.0 - BETAS.1);
                let mut root = square / square_bias;
                let _ = root.sqrt_().g_add_scalar_(EPS);
                let update = (mean * (lr / mean_bias)).g_div_(&root);
                match value.kind() {
                    Kind::BFloat16 => value.copy_(&round_stochastically(&(value.to_kind(Kind::Float) - update))),
                    _ => {
                        let _ = value.subtract_(&update);
                    }
                }
            }
        }
    }

    /// The moments, with the names to save them under.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let moments = self.parameters.iter().flat_map(|Parameter { name, mean, square, .. }| {
            [(format!("mean.{name}"), mean.shallow_clone()), (format!("square.{name}"), square.shallow_clone())]
        });
        moments.collect()
    }

    /// Restores moments that were saved after `steps` steps.
    ///
    /// # Errors
    /// Names the moment that is missing or does not fit its parameter.
    pub fn restore(&mut self, state: Vec<(String, Tensor)>, steps: i32) -> Result<()> {
        let mut state: BTreeMap<String, Tensor> = state.into_iter().collect();
        for Parameter { name, mean, square, .. } in &mut self.parameters {
            for (moment, current) in [("mean", mean), ("square", square)] {
                let saved = state.remove(&format!("{moment}.{name}"));
                let saved = saved.with_context(|| format!("tensor {moment}.{name} is missing"))?;
                let (size, kind, expected) = (saved.size(), saved.kind(), current.size());
                ensure!(
                    size == expected && kind == Kind::Float,
                    "tensor {moment}.{name} is {kind:?} of shape {size:?}, expected Float of shape {expected:?}"
                );
                current.copy_(&saved);
            }
        }
        self.steps = steps;
        Ok(())
    }
}

fn zeros(like: &Tensor) -> Tensor {
    Tensor::zeros(like.size(), (Kind::Float, like.device()))
}

/// Rounds f32 to bf16, up or down with the probabilities that keep the mean: small updates are not lost.
fn round_stochastically(x: &Tensor) -> Tensor {
    // bf16 is the upper half of the bits. What is added to the lower half carries with its probability.
    const LOWER: i64 = 1 << 16;
    let bits = x.view_dtype(Kind::Int);
    // A random number of 63 bits is enough for two.
    let count = bits.size1().expect("one dimension");
    let noise = Tensor::empty([(count + 1) / 2], (Kind::Int64, x.device())).random_().view_dtype(Kind::Int);
    let bits = bits + noise.narrow(0, 0, count).bitwise_and(LOWER - 1);
    bits.bitwise_and(-LOWER).view_dtype(Kind::Float).to_kind(Kind::BFloat16)
}
