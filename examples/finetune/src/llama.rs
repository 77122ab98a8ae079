//! A causal language model of the Llama family from a folder in Hugging Face layout: Llama 2 and 3, SmolLM2, Qwen2.
//!
//! RMSNorm, rotary positions, grouped-query attention, SwiGLU. Parameters keep their Hugging Face names, so that what is
//! saved loads in `transformers`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use figa_loss::tch::{self, Device, Kind, Tensor};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What `config.json` says.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    pub model_type: String,
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub num_hidden_layers: i64,
    pub num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    /// The longest sequence the model knows positions for.
    pub max_position_embeddings: i64,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// Where newer versions of `transformers` put both.
    rope_parameters: Option<Rope>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default)]
    use_sliding_window: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Rope {
    rope_type: Option<String>,
    /// The older name of `rope_type`; some have both.
    r#type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

fn silu() -> String {
    "silu".into()
}

impl Config {
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let config: Self = read_json(&path)?;
        config.check().with_context(|| path.display().to_string())?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let (kind, act) = (&self.model_type, &self.hidden_act);
        ensure!(matches!(&kind[..], "llama" | "qwen2"), "model_type is {kind:?}, expected llama or qwen2");
        ensure!(act == "silu", "hidden_act is {act:?}, expected silu");
        ensure!(!self.use_sliding_window, "use_sliding_window is true, which is not supported");
        let sizes = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            self.num_attention_heads,
        ];
        ensure!(sizes.iter().all(|&size| size > 0) && self.kv_heads() > 0, "a size is 0 or negative");
        let (heads, kv, dim) = (self.num_attention_heads, self.kv_heads(), self.head_dim());
        ensure!(heads % kv == 0, "{heads} attention heads do not divide by {kv} key-value heads");
        ensure!(dim > 0 && dim % 2 == 0, "a head has {dim} dimensions, expected an even number");
        self.frequencies().map(drop)
    }

    fn head_dim(&self) -> i64 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    fn kv_heads(&self) -> i64 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// The angle by which each pair of dimensions turns from one position to the next.
    fn frequencies(&self) -> Result<Vec<f64>> {
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()).cloned().unwrap_or_default();
        let theta = rope.rope_theta.or(self.rope_theta).unwrap_or(10_000.0);
        let dim = self.head_dim();
        let plain = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64));
        let kind = rope.rope_type.or(rope.r#type).unwrap_or("default".into());
        let given =
            |name: &str, value: Option<f64>| value.with_context(|| format!("rope of type {kind} without {name}"));
        match &kind[..] {
            "default" => Ok(plain.collect()),
            "linear" => {
                let factor = given("factor", rope.factor)?;
                Ok(plain.map(|f| f / factor).collect())
            }
            // Slow turns are stretched, fast ones kept, and those in between blended.
            "llama3" => {
                let factor = given("factor", rope.factor)?;
                let low = given("low_freq_factor", rope.low_freq_factor)?;
                let high = given("high_freq_factor", rope.high_freq_factor)?;
                let context = given("original_max_position_embeddings", rope.original_max_position_embeddings)?;
                let blended = plain.map(|f| {
                    let turns = context * f / std::f64::consts::TAU;
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    f * (keep + (1.0 - keep) / factor)
                });
                Ok(blended.collect())
            }
            other => bail!("rope is of type {other:?}, expected default, linear or llama3"),
        }
    }
}

pub struct Llama {
    pub config: Config,
    /// The kind of the checkpoint's own tensors.
    pub source_kind: Kind,
    /// By their Hugging Face names: those that learn in f32, and the frozen ones in the kind to compute in.
    pub parameters: BTreeMap<String, Tensor>,
    /// The kind to compute in.
    kind: Kind,
    /// The first layer that learns.
    first_layer: i64,
    frequencies: Tensor,
}

/// What earlier calls have left for later tokens to attend to.
#[derive(Default)]
pub struct Cache {
    /// Keys and values of each layer, `[B, heads, seen, head_dim]`.
    layers: Vec<[Tensor; 2]>,
}

/// What all layers of one call share.
struct Positions {
    cos: Tensor,
    sin: Tensor,
    /// Which keys a query sees, `[B, 1, S, seen]`; without a mask, all before it.
    mask: Option<Tensor>,
}

impl Llama {
    /// Reads `config.json` and `model.safetensors`, or the shards of `model.safetensors.index.json`. Layers below
    /// `freeze_below`, and then the embeddings as well, do not learn.
    pub fn load(folder: &Path, device: Device, kind: Kind, freeze_below: i64) -> Result<Self> {
        let config = Config::read(folder)?;
        let layers = config.num_hidden_layers;
        ensure!(freeze_below <= layers, "--freeze-below {freeze_below}: the model has {layers} layers");
        let frozen = |name: &str| {
            let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<i64>().ok());
            freeze_below > 0 && layer.map_or(name == EMBEDDING, |layer| layer < freeze_below)
        };
        let expected = expected(&config);
        let mut parameters = BTreeMap::new();
        let mut source_kind = kind;
        for shard in shards(folder)? {
            let tensors = Tensor::read_safetensors(&shard);
            let tensors =
                tensors.with_context(|| format!("{}: missing, truncated or no safetensors", shard.display()))?;
            for (name, tensor) in tensors {
                // Others, as the rotary frequencies of old checkpoints, follow from the configuration.
                let Some((shape, _)) = expected.get(&name) else { continue };
                let (place, size) = (shard.display(), tensor.size());
                ensure!(size == *shape, "{place}: tensor {name} has shape {size:?}, expected {shape:?}");
                source_kind = tensor.kind();
                ensure!(tensor.is_floating_point(), "{place}: tensor {name} is {source_kind:?}, expected floats");
                let learns = !frozen(&name);
                let tensor = tensor.to_device(device).to_kind(if learns { Kind::Float } else { kind });
                parameters.insert(name, tensor.set_requires_grad(learns));
            }
        }
        for (name, (_, required)) in &expected {
            let there = !required || parameters.contains_key(name);
            ensure!(there, "{}: none of its safetensors files holds the tensor {name}", folder.display());
        }
        let frequencies = Tensor::from_slice(&config.frequencies()?).to_kind(Kind::Float).to_device(device);
        Ok(Self { config, source_kind, parameters, kind, first_layer: freeze_below, frequencies })
    }

    /// The weight of the head, `[V, H]`.
    pub fn lm_head(&self) -> Tensor {
        self.get(if self.config.tie_word_embeddings { EMBEDDING } else { HEAD })
    }

    /// `input_ids [B, S]`, padded on the right if at all, to hidden states `[B, S, H]`.
    pub fn forward(&self, input_ids: &Tensor) -> Tensor {
        self.layers(input_ids, &self.positions(input_ids, 0, None), None)
    }

    /// [`Llama::forward`] of the tokens that follow those in `cache`. `tokens [B, seen + S]` tells tokens from padding,
    /// which here stands on the left.
    pub fn forward_cached(&self, input_ids: &Tensor, tokens: &Tensor, cache: &mut Cache) -> Tensor {
        let (new, all) = (input_ids.size()[1], tokens.size()[1]);
        let index = Tensor::arange(all, (Kind::Int64, input_ids.device()));
        let query = index.narrow(0, all - new, new).unsqueeze(1);
        // A padding token sees itself, or its softmax would be 0 / 0.
        let mask = tokens.unsqueeze(1).logical_and(&index.le_tensor(&query)).logical_or(&index.eq_tensor(&query));
        self.layers(input_ids, &self.positions(input_ids, all - new, Some(mask.unsqueeze(1))), Some(cache))
    }

    fn positions(&self, input_ids: &Tensor, before: i64, mask: Option<Tensor>) -> Positions {
        let new = input_ids.size()[1];
        let positions = Tensor::arange_start(before, before + new, (Kind::Float, input_ids.device()));
        let angles = positions.unsqueeze(1) * &self.frequencies;
        let angles = Tensor::cat(&[&angles, &angles], 1);
        Positions { cos: angles.cos().to_kind(self.kind), sin: angles.sin().to_kind(self.kind), mask }
    }

    fn layers(&self, input_ids: &Tensor, positions: &Positions, mut cache: Option<&mut Cache>) -> Tensor {
        let frozen = (self.first_layer > 0).then(tch::no_grad_guard);
        let mut x = Tensor::embedding(&self.get(EMBEDDING), input_ids, -1, false, false);
        for layer in 0..self.first_layer {
            x = self.layer(layer, &x, positions, cache.as_deref_mut());
        }
        drop(frozen);
        for layer in self.first_layer..self.config.num_hidden_layers {
            x = self.layer(layer, &x, positions, cache.as_deref_mut());
        }
        self.rms_norm("model.norm", &x)
    }

    fn layer(&self, index: i64, x: &Tensor, positions: &Positions, cache: Option<&mut Cache>) -> Tensor {
        let layer = format!("model.layers.{index}");
        let normed = self.rms_norm(&format!("{layer}.input_layernorm"), x);
        // Not in place: the norms have saved what they were given.
        let mixed = x + self.attention(index, &format!("{layer}.self_attn"), &normed, positions, cache);
        let normed = self.rms_norm(&format!("{layer}.post_attention_layernorm"), &mixed);
        let of = |name: &str, x: &Tensor| self.linear(&format!("{layer}.mlp.{name}"), x);
        mixed + of("down_proj", &(of("gate_proj", &normed).silu() * of("up_proj", &normed)))
    }

    fn attention(
        &self,
        layer: i64,
        name: &str,
        x: &Tensor,
        positions: &Positions,
        cache: Option<&mut Cache>,
    ) -> Tensor {
        let (batch, seq, dim) = (x.size()[0], x.size()[1], self.config.head_dim());
        let heads = |part: &str, heads: i64| {
            self.linear(&format!("{name}.{part}"), x).reshape([batch, seq, heads, dim]).transpose(1, 2)
        };
        let rotate = |x: Tensor| {
            let halves = x.chunk(2, -1);
            &x * &positions.cos + Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1) * &positions.sin
        };
        let (all, kv) = (self.config.num_attention_heads, self.config.kv_heads());
        let (query, mut key, mut value) =
            (rotate(heads("q_proj", all)), rotate(heads("k_proj", kv)), heads("v_proj", kv));
        if let Some(cache) = cache {
            match cache.layers.get_mut(layer as usize) {
                Some(seen) => {
                    (key, value) = (Tensor::cat(&[&seen[0], &key], 2), Tensor::cat(&[&seen[1], &value], 2));
                    *seen = [key.shallow_clone(), value.shallow_clone()];
                }
                None => cache.layers.push([key.shallow_clone(), value.shallow_clone()]),
            }
        }
        let repeat = |x: Tensor| x.repeat_interleave_self_int(all / kv, 1, None);
        let (key, value, mask) = (repeat(key), repeat(value), positions.mask.as_ref());
        let mixed = Tensor::scaled_dot_product_attention(&query, &key, &value, mask, 0.0, mask.is_none(), None, false);
        self.linear(&format!("{name}.o_proj"), &mixed.transpose(1, 2).reshape([batch, seq, all * dim]))
    }

    fn linear(&self, name: &str, x: &Tensor) -> Tensor {
        let bias = format!("{name}.bias");
        let bias = self.parameters.contains_key(&bias).then(|| self.get(&bias));
        x.linear(&self.get(&format!("{name}.weight")), bias.as_ref())
    }

    /// In f32, whatever the kind of `x`.
    fn rms_norm(&self, name: &str, x: &Tensor) -> Tensor {
        let wide = x.to_kind(Kind::Float);
        let scale = (wide.square().mean_dim(-1, true, Kind::Float) + self.config.rms_norm_eps).rsqrt();
        (wide * scale).to_kind(x.kind()) * self.get(&format!("{name}.weight"))
    }

    /// A parameter in the kind to compute in.
    fn get(&self, name: &str) -> Tensor {
        self.parameters[name].to_kind(self.kind)
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    serde_json::from_reader(std::io::BufReader::new(file)).with_context(|| path.display().to_string())
}

/// The files that hold the tensors.
fn shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(vec![folder.join("model.safetensors")]);
    }
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let names: BTreeSet<String> = read_json::<Index>(&index)?.weight_map.into_values().collect();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The parameters of such a model: their shapes, and whether they must be there. Biases may be.
fn expected(config: &Config) -> BTreeMap<String, (Vec<i64>, bool)> {
    let (hidden, wide, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let (query, kv) = (config.num_attention_heads * config.head_dim(), config.kv_heads() * config.head_dim());
    let mut all = BTreeMap::new();
    let mut add = |name: &str, shape: &[i64], required| all.insert(name.to_owned(), (shape.to_vec(), required));
    add(EMBEDDING, &[vocab, hidden], true);
    add("model.norm.weight", &[hidden], true);
    if !config.tie_word_embeddings {
        add(HEAD, &[vocab, hidden], true);
    }
    for layer in 0..config.num_hidden_layers {
        let layer = format!("model.layers.{layer}");
        for (name, [out, inner]) in [
            ("self_attn.q_proj", [query, hidden]),
            ("self_attn.k_proj", [kv, hidden]),
            ("self_attn.v_proj", [kv, hidden]),
            ("self_attn.o_proj", [hidden, query]),
            ("mlp.gate_proj", [wide, hidden]),
            ("mlp.up_proj", [wide, hidden]),
            ("mlp.down_proj", [hidden, wide]),
        ] {
            add(&format!("{layer}.{name}.weight"), &[out, inner], true);
            add(&format!("{layer}.{name}.bias"), &[out], false);
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(&format!("{layer}.{name}.weight"), &[hidden], true);
        }
    }
    all
}
