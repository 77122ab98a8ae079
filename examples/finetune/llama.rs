//! A causal language model of the Llama family from a folder in Hugging Face layout: Llama 2 and 3, SmolLM2, Qwen2.
//!
//! RMSNorm, rotary positions, grouped-query attention, SwiGLU. Parameters keep their Hugging Face names, so that what is
//! saved loads in `transformers`.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use figa_loss::tch::nn::VarStore;
use figa_loss::tch::{Device, Kind, Tensor};
use serde::Deserialize;

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
    #[serde(default = "ten_thousand")]
    rope_theta: f64,
    rope_scaling: Option<RopeScaling>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default = "silu")]
    hidden_act: String,
}

#[derive(Debug, Clone, Deserialize)]
struct RopeScaling {
    #[serde(alias = "type")]
    rope_type: String,
    #[serde(default = "one")]
    factor: f64,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

fn ten_thousand() -> f64 {
    10_000.0
}

fn one() -> f64 {
    1.0
}

fn silu() -> String {
    "silu".into()
}

impl Config {
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        let config: Self = serde_json::from_reader(file).with_context(|| path.display().to_string())?;
        let (kind, act) = (&config.model_type, &config.hidden_act);
        ensure!(
            matches!(&kind[..], "llama" | "qwen2"),
            "{}: model_type is {kind:?}, expected llama or qwen2",
            path.display()
        );
        ensure!(act == "silu", "{}: hidden_act is {act:?}, expected silu", path.display());
        Ok(config)
    }

    fn head_dim(&self) -> i64 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    fn kv_heads(&self) -> i64 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// The angle by which each pair of dimensions turns from one position to the next.
    fn frequencies(&self) -> Result<Vec<f64>> {
        let dim = self.head_dim();
        let plain = (0..dim / 2).map(|i| self.rope_theta.powf(-2.0 * i as f64 / dim as f64));
        let Some(scaling) = &self.rope_scaling else { return Ok(plain.collect()) };
        match &scaling.rope_type[..] {
            "default" => Ok(plain.collect()),
            "linear" => Ok(plain.map(|f| f / scaling.factor).collect()),
            // Slow turns are stretched, fast ones kept, and those in between blended.
            "llama3" => {
                let (Some(low), Some(high), Some(context)) =
                    (scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_position_embeddings)
                else {
                    bail!("config.json: rope_scaling of type llama3 lacks a factor or the original context")
                };
                Ok(plain
                    .map(|f| {
                        let turns = context * f / std::f64::consts::TAU;
                        let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                        f * (keep + (1.0 - keep) / scaling.factor)
                    })
                    .collect())
            }
            other => bail!("config.json: rope_scaling is of type {other:?}, expected linear or llama3"),
        }
    }
}

pub struct Llama {
    pub config: Config,
    pub vs: VarStore,
    parameters: HashMap<String, Tensor>,
    frequencies: Tensor,
}

impl Llama {
    /// Reads `config.json` and `model.safetensors`, or the shards of `model.safetensors.index.json`.
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<Self> {
        let config = Config::read(folder)?;
        let mut found = HashMap::new();
        for shard in shards(folder)? {
            let tensors = Tensor::read_safetensors(&shard);
            found.extend(tensors.with_context(|| format!("{}: truncated or no safetensors", shard.display()))?);
        }
        let frequencies = Tensor::from_slice(&config.frequencies()?).to_kind(Kind::Float).to_device(device);
        let mut vs = VarStore::new(device);
        vs.set_kind(kind);
        let mut parameters = HashMap::new();
        for (name, shape) in expected(&config, &found) {
            let tensor = found.get(&name).with_context(|| format!("{}: tensor {name} is missing", folder.display()))?;
            ensure!(
                tensor.size() == shape,
                "{}: tensor {name} has shape {:?}, expected {shape:?}",
                folder.display(),
                tensor.size()
            );
            let (path, last) = name.rsplit_once('.').unwrap_or(("", &name));
            let path = path.split('.').fold(vs.root(), |path, part| path / part);
            parameters.insert(name.clone(), path.var_copy(last, &tensor.to_kind(kind)));
        }
        Ok(Self { config, vs, parameters, frequencies })
    }

    /// The weight of the head, `[V, H]`.
    pub fn lm_head(&self) -> &Tensor {
        self.get(if self.config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" })
    }

    /// `input_ids [B, S]`, padded on the right if at all, to hidden states `[B, S, H]`.
    pub fn forward(&self, input_ids: &Tensor) -> Tensor {
        let embedding = self.get("model.embed_tokens.weight");
        let mut x = Tensor::embedding(embedding, input_ids, -1, false, false);
        let positions = Tensor::arange(input_ids.size()[1], (Kind::Float, input_ids.device()));
        let angles = positions.unsqueeze(1) * &self.frequencies;
        let angles = Tensor::cat(&[&angles, &angles], 1);
        let (cos, sin) = (angles.cos().to_kind(x.kind()), angles.sin().to_kind(x.kind()));
        for layer in 0..self.config.num_hidden_layers {
            let layer = format!("model.layers.{layer}");
            let normed = self.rms_norm(&format!("{layer}.input_layernorm"), &x);
            // Not in place: the norms have saved what they were given.
            let mixed = &x + self.attention(&format!("{layer}.self_attn"), &normed, &cos, &sin);
            let normed = self.rms_norm(&format!("{layer}.post_attention_layernorm"), &mixed);
            let of = |name: &str, x: &Tensor| self.linear(&format!("{layer}.mlp.{name}"), x);
            x = mixed + of("down_proj", &(of("gate_proj", &normed).silu() * of("up_proj", &normed)));
        }
        self.rms_norm("model.norm", &x)
    }

    fn attention(&self, name: &str, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
        let (batch, seq, dim) = (x.size()[0], x.size()[1], self.config.head_dim());
        let heads = |part: &str, heads: i64| {
            self.linear(&format!("{name}.{part}"), x).reshape([batch, seq, heads, dim]).transpose(1, 2)
        };
        let rotate = |x: Tensor| {
            let halves = x.chunk(2, -1);
            &x * cos + Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1) * sin
        };
        let (all, kv) = (self.config.num_attention_heads, self.config.kv_heads());
        let repeat = |x: Tensor| x.repeat_interleave_self_int(all / kv, 1, None);
        let (query, key) = (rotate(heads("q_proj", all)), repeat(rotate(heads("k_proj", kv))));
        let value = repeat(heads("v_proj", kv));
        let mixed = Tensor::scaled_dot_product_attention(&query, &key, &value, None::<&Tensor>, 0.0, true, None, false);
        self.linear(&format!("{name}.o_proj"), &mixed.transpose(1, 2).reshape([batch, seq, all * dim]))
    }

    fn linear(&self, name: &str, x: &Tensor) -> Tensor {
        x.linear(self.get(&format!("{name}.weight")), self.parameters.get(&format!("{name}.bias")))
    }

    /// In f32, whatever the kind of `x`.
    fn rms_norm(&self, name: &str, x: &Tensor) -> Tensor {
        let wide = x.to_kind(Kind::Float);
        let scale = (wide.square().mean_dim(-1, true, Kind::Float) + self.config.rms_norm_eps).rsqrt();
        (wide * scale).to_kind(x.kind()) * self.get(&format!("{name}.weight"))
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.parameters[name]
    }
}

/// The files that hold the tensors.
fn shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(vec![folder.join("model.safetensors")]);
    }
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let file = File::open(&index).with_context(|| index.display().to_string())?;
    let map: Index = serde_json::from_reader(file).with_context(|| index.display().to_string())?;
    let mut names: Vec<String> = map.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The parameters of such a model, with their shapes. Biases are there where the checkpoint has them.
fn expected(config: &Config, found: &HashMap<String, Tensor>) -> Vec<(String, Vec<i64>)> {
    let (hidden, wide, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let (query, kv) = (config.num_attention_heads * config.head_dim(), config.kv_heads() * config.head_dim());
    let mut list =
        vec![("model.embed_tokens.weight".into(), vec![vocab, hidden]), ("model.norm.weight".into(), vec![hidden])];
    if !config.tie_word_embeddings {
        list.push(("lm_head.weight".into(), vec![vocab, hidden]));
    }
    for layer in 0..config.num_hidden_layers {
        for (name, [out, inner]) in [
            ("self_attn.q_proj", [query, hidden]),
            ("self_attn.k_proj", [kv, hidden]),
            ("self_attn.v_proj", [kv, hidden]),
            ("self_attn.o_proj", [hidden, query]),
            ("mlp.gate_proj", [wide, hidden]),
            ("mlp.up_proj", [wide, hidden]),
            ("mlp.down_proj", [hidden, wide]),
        ] {
            let name = format!("model.layers.{layer}.{name}");
            let bias = format!("{name}.bias");
            if found.contains_key(&bias) {
                list.push((bias, vec![out]));
            }
            list.push((format!("{name}.weight"), vec![out, inner]));
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            list.push((format!("model.layers.{layer}.{name}.weight"), vec![hidden]));
        }
    }
    list
}
