//! A causal language model from a folder in Hugging Face layout. One decoder computes all families: what differs between
//! them is in `family`, and in the numbers of `config`.
//!
//! RMSNorm, rotary positions, grouped-query attention and gated feed-forward layers. Parameters keep their Hugging Face
//! names, so `transformers` can load a saved model.

mod config;
mod context;
mod family;
mod layer;
mod parameters;
mod recompute;
mod rotary;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use figa_loss::tch::{self, Device, Kind, Tensor};
use figa_loss::{LmHead, PackedTensors};

pub use self::config::Config;
use self::context::Context;
pub use self::parameters::shards;
use self::parameters::{EMBEDDING, HEAD, NORM};
pub use self::recompute::Recomputed;

/// A model with its parameters.
pub struct Decoder {
    /// The sizes of the model.
    pub config: Config,
    /// The dtype of each parameter in the files that the model comes from.
    pub source_kinds: BTreeMap<String, Kind>,
    /// Parameters by name. Frozen ones are in the dtype of the computation.
    pub parameters: BTreeMap<String, Tensor>,
    /// The dtype of the computation.
    kind: Kind,
    first_trainable_layer: i64,
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// The device of its parameters.
    pub device: Device,
    /// The dtype of the computation.
    pub kind: Kind,
    /// The dtype of trainable parameters.
    pub weights: Kind,
    /// If above 0, the embeddings and the layers below are frozen.
    pub freeze_below: i64,
}

/// Keys and values of earlier tokens, which later tokens attend to.
#[derive(Default)]
pub struct Cache {
    /// Keys and values of each layer, `[B, heads, seen, head_dim]`.
    layers: Vec<[Tensor; 2]>,
}

/// From hidden states to logits.
pub struct Head {
    weight: Tensor,
    scale: f64,
    softcap: Option<f64>,
}

impl Decoder {
    /// Reads `config.json` and `model.safetensors`, or the shards of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// Names the file or tensor that is missing or invalid, or a `freeze_below` beyond the last layer.
    pub fn load(folder: &Path, load: Load) -> Result<Self> {
        let Load { device, kind, weights, freeze_below } = load;
        let config = Config::read(folder)?;
        let layers = config.layers.len();
        ensure!(
            freeze_below <= layers as i64,
            "--freeze-below: expected at most {layers}, the number of layers, got {freeze_below}"
        );
        let mut source_kinds = BTreeMap::new();
        let parameters = parameters::read(folder, &config, |name, tensor| {
            source_kinds.insert(name.to_owned(), tensor.kind());
            let trainable = !is_frozen(name, freeze_below);
            tensor.to_device(device).to_kind(if trainable { weights } else { kind }).set_requires_grad(trainable)
        })?;
        Ok(Self { config, source_kinds, parameters, kind, first_trainable_layer: freeze_below })
    }

    /// The model with all parameters frozen, in the dtype of the computation.
    pub fn frozen(mut self) -> Self {
        for parameter in self.parameters.values_mut() {
            *parameter = parameter.detach().to_kind(self.kind);
        }
        self
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.parameters[EMBEDDING].device()
    }

    /// The head.
    pub fn head(&self) -> Head {
        let Config { logit_scale, logit_softcap, .. } = self.config;
        Head { weight: self.get(self.head_name()), scale: logit_scale, softcap: logit_softcap }
    }

    /// The name of the head's weight.
    fn head_name(&self) -> &'static str {
        if self.config.tie_word_embeddings { EMBEDDING } else { HEAD }
    }

    /// The hidden states `[B, S, H]` of `input_ids [B, S]`, which may be padded on the right.
    pub fn forward(&self, input_ids: &Tensor) -> Tensor {
        self.run(input_ids, &Context::of_rows(self, input_ids), None, None)
    }

    /// The hidden states `[B, S, H]` of packed rows; given the positions that are `needed`, `[n]`, theirs alone, `[n, H]`.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub fn forward_packed(&self, batch: &PackedTensors, needed: Option<&Tensor>) -> figa_loss::Result<Tensor> {
        Ok(self.run(&batch.input_ids, &Context::of_packed(self, batch)?, None, needed))
    }

    /// [`forward`](Self::forward) for tokens that follow those in `cache`. `tokens [B, seen + S]` is false for padding,
    /// which here is on the left.
    pub fn forward_cached(&self, input_ids: &Tensor, tokens: &Tensor, cache: &mut Cache) -> Tensor {
        self.run(input_ids, &Context::of_cached(self, input_ids, tokens), Some(cache), None)
    }

    fn run(
        &self,
        input_ids: &Tensor,
        context: &Context,
        mut cache: Option<&mut Cache>,
        needed: Option<&Tensor>,
    ) -> Tensor {
        let mut no_grad = (self.first_trainable_layer > 0).then(tch::no_grad_guard);
        let mut x = self.embed(input_ids);
        for layer in 0..self.layers() {
            if layer == self.first_trainable_layer {
                no_grad = None;
            }
            x = self.layer(layer, &x, context, cache.as_deref_mut(), self.needed_in(layer, needed));
        }
        drop(no_grad);
        self.rms_norm(NORM, &x)
    }

    fn layers(&self) -> i64 {
        self.config.layers.len() as i64
    }

    /// Only the last layer leaves out what is not needed: later layers attend to all positions.
    fn needed_in<'a>(&self, layer: i64, needed: Option<&'a Tensor>) -> Option<&'a Tensor> {
        needed.filter(|_| layer + 1 == self.layers())
    }

    fn embed(&self, input_ids: &Tensor) -> Tensor {
        let embedded = Tensor::embedding(&self.get(EMBEDDING), input_ids, -1, false, false);
        let mut scale = self.config.embedding_scale;
        if self.config.family.scales_embeddings {
            // The models were trained with a rounded one.
            scale = Tensor::from(scale).to_kind(self.kind).double_value(&[]);
        }
        if scale == 1.0 { embedded } else { embedded * scale }
    }

    /// A parameter in the dtype of the computation.
    fn get(&self, name: &str) -> Tensor {
        self.parameters[name].to_kind(self.kind)
    }
}

impl Head {
    /// The head as losses take it.
    pub fn lm_head(&self) -> LmHead<'_> {
        let head = LmHead::new(&self.weight).with_scale(self.scale);
        self.softcap.map_or(head, |cap| head.with_softcap(cap))
    }

    /// Hidden states `[.., H]` to logits `[.., V]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let logits = hidden.matmul(&self.weight.tr()) * self.scale;
        match self.softcap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }
}

impl Cache {
    /// Appends the keys and values of new tokens to those of a layer, and returns all of them.
    fn extend(&mut self, layer: usize, new: [Tensor; 2]) -> [Tensor; 2] {
        let Some(seen) = self.layers.get_mut(layer) else {
            self.layers.push(new.each_ref().map(Tensor::shallow_clone));
            return new;
        };
        for (seen, new) in seen.iter_mut().zip(new) {
            *seen = Tensor::cat(&[&*seen, &new], 2);
        }
        seen.each_ref().map(Tensor::shallow_clone)
    }

    /// Drops all but these rows, int64 `[rows]`.
    pub fn keep(&mut self, rows: &Tensor) {
        for seen in self.layers.iter_mut().flatten() {
            *seen = seen.index_select(0, rows);
        }
    }
}

/// Whether a parameter belongs to the embeddings or to a layer below `freeze_below`.
fn is_frozen(name: &str, freeze_below: i64) -> bool {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<i64>().ok());
    freeze_below > 0 && layer.map_or(name == EMBEDDING, |layer| layer < freeze_below)
}
