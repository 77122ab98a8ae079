//! A causal language model of the Llama family from a folder in Hugging Face layout: Llama 2 and 3, SmolLM2, Qwen2.
//!
//! RMSNorm, rotary positions, grouped-query attention and SwiGLU. Parameters keep their Hugging Face names, so
//! `transformers` can load a saved model.

mod config;
mod weights;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use figa_loss::PackedInputs;
use figa_loss::tch::{self, Device, Kind, Tensor};

pub use self::config::Config;
pub use self::weights::shards;
use self::weights::{EMBEDDING, HEAD};

/// A model with its parameters.
pub struct Llama {
    /// The sizes of the model.
    pub config: Config,
    /// The dtype of each parameter in the files that the model comes from.
    pub source_kinds: BTreeMap<String, Kind>,
    /// Parameters by name: trainable ones in f32, frozen ones in the dtype of the computation.
    pub parameters: BTreeMap<String, Tensor>,
    /// The dtype of the computation.
    kind: Kind,
    first_trainable_layer: i64,
    frequencies: Tensor,
}

/// Keys and values of earlier tokens, which later tokens attend to.
#[derive(Default)]
pub struct Cache {
    /// Keys and values of each layer, `[B, heads, seen, head_dim]`.
    layers: Vec<[Tensor; 2]>,
}

/// The inputs that all layers share.
struct Positions {
    /// `[.., S, head_dim]`.
    cos: Tensor,
    sin: Tensor,
    /// The keys that each query attends to, `[B, 1, S, seen]`; `None` for causal attention.
    mask: Option<Tensor>,
}

impl Llama {
    /// Reads `config.json` and `model.safetensors`, or the shards of `model.safetensors.index.json`. If `freeze_below`
    /// is above 0, the embeddings and the layers below it are frozen.
    ///
    /// # Errors
    /// Names the file or tensor that is missing or invalid, or a `freeze_below` beyond the last layer.
    pub fn load(folder: &Path, device: Device, kind: Kind, freeze_below: i64) -> Result<Self> {
        let config = Config::read(folder)?;
        let layers = config.num_hidden_layers;
        ensure!(
            freeze_below <= layers,
            "--freeze-below: expected at most {layers}, the number of layers, got {freeze_below}"
        );
        let mut source_kinds = BTreeMap::new();
        let parameters = weights::read(folder, &config, |name, tensor| {
            source_kinds.insert(name.to_owned(), tensor.kind());
            let trainable = !is_frozen(name, freeze_below);
            tensor.to_device(device).to_kind(if trainable { Kind::Float } else { kind }).set_requires_grad(trainable)
        })?;
        let frequencies = Tensor::from_slice(&config.frequencies()?).to_kind(Kind::Float).to_device(device);
        Ok(Self { config, source_kinds, parameters, kind, first_trainable_layer: freeze_below, frequencies })
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
        self.frequencies.device()
    }

    /// The weight of the head, `[V, H]`.
    pub fn lm_head(&self) -> Tensor {
        self.get(if self.config.tie_word_embeddings { EMBEDDING } else { HEAD })
    }

    /// The hidden states `[B, S, H]` of `input_ids [B, S]`, which may be padded on the right.
    pub fn forward(&self, input_ids: &Tensor) -> Tensor {
        self.layers(input_ids, &self.positions(&consecutive(input_ids, 0), None), None)
    }

    /// The hidden states `[B, S, H]` of packed rows.
    pub fn forward_packed(&self, inputs: &PackedInputs) -> Tensor {
        let mask = inputs.attention_mask.as_ref().map(Tensor::shallow_clone);
        // One rotation for all heads of a token.
        let position_ids = inputs.position_ids.unsqueeze(1);
        self.layers(&inputs.input_ids, &self.positions(&position_ids, mask), None)
    }

    /// [`forward`](Self::forward) for tokens that follow those in `cache`. `tokens [B, seen + S]` is false for padding,
    /// which here is on the left.
    pub fn forward_cached(&self, input_ids: &Tensor, tokens: &Tensor, cache: &mut Cache) -> Tensor {
        let (new, all) = (input_ids.size()[1], tokens.size()[1]);
        let index = Tensor::arange(all, (Kind::Int64, input_ids.device()));
        let query = index.narrow(0, all - new, new).unsqueeze(1);
        // A padding token attends to itself, because its softmax would be 0 / 0 otherwise.
        let mask = tokens.unsqueeze(1).logical_and(&index.le_tensor(&query)).logical_or(&index.eq_tensor(&query));
        let positions = self.positions(&consecutive(input_ids, all - new), Some(mask.unsqueeze(1)));
        self.layers(input_ids, &positions, Some(cache))
    }

    /// From `position_ids [.., S]`.
    fn positions(&self, position_ids: &Tensor, mask: Option<Tensor>) -> Positions {
        let angles = position_ids.to_kind(Kind::Float).unsqueeze(-1) * &self.frequencies;
        let angles = Tensor::cat(&[&angles, &angles], -1);
        Positions { cos: angles.cos().to_kind(self.kind), sin: angles.sin().to_kind(self.kind), mask }
    }

    fn layers(&self, input_ids: &Tensor, positions: &Positions, mut cache: Option<&mut Cache>) -> Tensor {
        let no_grad = (self.first_trainable_layer > 0).then(tch::no_grad_guard);
        let mut x = Tensor::embedding(&self.get(EMBEDDING), input_ids, -1, false, false);
        for layer in 0..self.first_trainable_layer {
            x = self.layer(layer, &x, positions, cache.as_deref_mut());
        }
        drop(no_grad);
        for layer in self.first_trainable_layer..self.config.num_hidden_layers {
            x = self.layer(layer, &x, positions, cache.as_deref_mut());
        }
        self.rms_norm("model.norm", &x)
    }

    fn layer(&self, index: i64, x: &Tensor, positions: &Positions, cache: Option<&mut Cache>) -> Tensor {
        let layer = format!("model.layers.{index}");
        let normed = self.rms_norm(&format!("{layer}.input_layernorm"), x);
        // Not in place: the backward pass needs the inputs of the norms.
        let x = x + self.attention(index, &normed, positions, cache);
        let normed = self.rms_norm(&format!("{layer}.post_attention_layernorm"), &x);
        let mlp = |name: &str, x: &Tensor| self.linear(&format!("{layer}.mlp.{name}"), x);
        x + mlp("down_proj", &(mlp("gate_proj", &normed).silu() * mlp("up_proj", &normed)))
    }

    fn attention(&self, layer: i64, x: &Tensor, positions: &Positions, cache: Option<&mut Cache>) -> Tensor {
        let (batch, seq, dim) = (x.size()[0], x.size()[1], self.config.head_dim());
        let (query_heads, kv_heads) = (self.config.num_attention_heads, self.config.kv_heads());
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}");
        let project =
            |part: &str, heads: i64| self.linear(&name(part), x).reshape([batch, seq, heads, dim]).transpose(1, 2);
        let query = positions.rotate(&project("q_proj", query_heads));
        let mut key = positions.rotate(&project("k_proj", kv_heads));
        let mut value = project("v_proj", kv_heads);
        if let Some(cache) = cache {
            [key, value] = cache.extend(layer as usize, [key, value]);
        }
        let repeat = |x: Tensor| x.repeat_interleave_self_int(query_heads / kv_heads, 1, None);
        let (key, value, mask) = (repeat(key), repeat(value), positions.mask.as_ref());
        let mixed = Tensor::scaled_dot_product_attention(&query, &key, &value, mask, 0.0, mask.is_none(), None, false);
        self.linear(&name("o_proj"), &mixed.transpose(1, 2).reshape([batch, seq, query_heads * dim]))
    }

    fn linear(&self, name: &str, x: &Tensor) -> Tensor {
        let bias = format!("{name}.bias");
        let bias = self.parameters.contains_key(&bias).then(|| self.get(&bias));
        x.linear(&self.get(&format!("{name}.weight")), bias.as_ref())
    }

    /// Computed in f32, whatever the dtype of `x`.
    fn rms_norm(&self, name: &str, x: &Tensor) -> Tensor {
        let wide = x.to_kind(Kind::Float);
        let scale = (wide.square().mean_dim(-1, true, Kind::Float) + self.config.rms_norm_eps).rsqrt();
        (wide * scale).to_kind(x.kind()) * self.get(&format!("{name}.weight"))
    }

    /// A parameter in the dtype of the computation.
    fn get(&self, name: &str) -> Tensor {
        self.parameters[name].to_kind(self.kind)
    }
}

/// The positions of `input_ids [B, S]` that follow so many others, `[S]`.
fn consecutive(input_ids: &Tensor, before: i64) -> Tensor {
    Tensor::arange_start(before, before + input_ids.size()[1], (Kind::Int64, input_ids.device()))
}

impl Positions {
    /// Rotates each pair of dimensions by the angle of its position.
    fn rotate(&self, x: &Tensor) -> Tensor {
        let halves = x.chunk(2, -1);
        x * &self.cos + Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1) * &self.sin
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
}

/// Whether a parameter belongs to the embeddings or to a layer below `freeze_below`.
fn is_frozen(name: &str, freeze_below: i64) -> bool {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<i64>().ok());
    freeze_below > 0 && layer.map_or(name == EMBEDDING, |layer| layer < freeze_below)
}
