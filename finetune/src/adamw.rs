//! AdamW with moments that can be saved. `tch::nn` does not expose those of its own optimizer.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use figa_loss::tch::{self, Device, Kind, Tensor};

use crate::gradients::Gradients;
use crate::ranks::Ranks;

const BETAS: (f64, f64) = (0.9, 0.999);
const EPS: f64 = 1e-8;

/// A step computes this many elements at a time, so that what it reads and writes several times stays in the cache of a CPU.
const PIECE: i64 = 1 << 17;

/// AdamW without weight decay, as is usual in fine-tuning. Moments are f32; updates of bf16 parameters are rounded
/// stochastically.
pub struct AdamW<'a> {
    parameters: Vec<Parameter>,
    /// Steps taken.
    steps: i32,
    /// The processes that share the moments (ZeRO, stage 1).
    sharing: Option<&'a Ranks>,
}

/// A parameter, and the moments of the part that this process updates.
struct Parameter {
    name: String,
    value: Tensor,
    /// Where the part begins, in a list of all elements.
    start: i64,
    /// `[n]`, as is `square`.
    mean: Tensor,
    square: Tensor,
}

impl<'a> AdamW<'a> {
    /// An optimizer of the trainable parameters.
    pub fn new(parameters: &BTreeMap<String, Tensor>) -> Self {
        Self::with_shared_moments(parameters, None)
    }

    /// An optimizer whose moments are divided among some processes: each updates a part of every parameter, and sends it to
    /// the others.
    pub fn with_shared_moments(parameters: &BTreeMap<String, Tensor>, sharing: Option<&'a Ranks>) -> Self {
        let trainable = parameters.iter().filter(|(_, value)| value.requires_grad());
        let parameters = trainable.map(|(name, value)| {
            let all = value.numel() as i64;
            let (start, len) = sharing.map_or((0, all), |ranks| ranks.part(all));
            let zeros = || Tensor::zeros([len], (Kind::Float, value.device()));
            Parameter { name: name.clone(), value: value.shallow_clone(), start, mean: zeros(), square: zeros() }
        });
        Self { parameters: parameters.collect(), steps: 0, sharing }
    }

    /// Takes a step along the gradients times `scale`, and frees each of them.
    ///
    /// A parameter without a gradient has one of 0.
    ///
    /// # Errors
    /// Those of the communication between processes that share the moments.
    pub fn step(&mut self, gradients: &mut Gradients, lr: f64, scale: f64) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        self.steps += 1;
        // Random numbers are for rounding. A resumed run has the same.
        tch::manual_seed(self.steps.into());
        let (mean_bias, square_bias) = (1.0 - BETAS.0.powi(self.steps), 1.0 - BETAS.1.powi(self.steps));
        for parameter in &self.parameters {
            let Parameter { name, value, start, mean, square } = parameter;
            let len = mean.size1()?;
            let grad = gradients.take(name).map(|gradient| gradient.reshape([-1]).narrow(0, *start, len));
            let grad = grad.unwrap_or_else(|| mean.zeros_like());
            // Views of what is written: parameters are contiguous, as they were read from a file.
            let all = value.view([-1]);
            let part = all.narrow(0, *start, len);
            let step = if value.device() == Device::Cpu { PIECE } else { len };
            let pieces = [&part, &grad, mean, square].map(|tensor| tensor.split(step.max(1), 0));
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
            if let Some(ranks) = self.sharing {
                all.shallow_clone().copy_(&ranks.join(&part, all.size1()?)?);
            }
        }
        Ok(())
    }

    /// The moments, with the names to save them under.
    ///
    /// # Errors
    /// Those of the communication between processes that share the moments.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut moments = vec![];
        for Parameter { name, value, mean, square, .. } in &self.parameters {
            for (moment, part) in [("mean", mean), ("square", square)] {
                let all = match self.sharing {
                    Some(ranks) => ranks.join(part, value.numel() as i64)?,
                    None => part.shallow_clone(),
                };
                moments.push((format!("{moment}.{name}"), all.view(&*value.size())));
            }
        }
        Ok(moments)
    }

    /// Restores moments that were saved after `steps` steps.
    ///
    /// # Errors
    /// Names the moment that is missing or does not fit its parameter.
    pub fn restore(&mut self, state: Vec<(String, Tensor)>, steps: i32) -> Result<()> {
        let mut state: BTreeMap<String, Tensor> = state.into_iter().collect();
        for Parameter { name, value, start, mean, square } in &mut self.parameters {
            for (moment, current) in [("mean", mean), ("square", square)] {
                let saved = state.remove(&format!("{moment}.{name}"));
                let saved = saved.with_context(|| format!("tensor {moment}.{name} is missing"))?;
                let (size, kind, expected) = (saved.size(), saved.kind(), value.size());
                ensure!(
                    size == expected && kind == Kind::Float,
                    "tensor {moment}.{name} is {kind:?} of shape {size:?}, expected Float of shape {expected:?}"
                );
                current.copy_(&saved.view([-1]).narrow(0, *start, current.size1()?));
            }
        }
        self.steps = steps;
        Ok(())
    }
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
