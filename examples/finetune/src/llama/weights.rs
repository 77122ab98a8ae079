//! The tensors of a checkpoint in Hugging Face layout.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use figa_loss::tch::{Kind, Tensor};
use serde::Deserialize;

use super::Config;
use crate::json;

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const HEAD: &str = "lm_head.weight";

/// A parameter of the architecture.
struct Parameter {
    shape: Vec<i64>,
    /// Biases are optional.
    required: bool,
}

/// Reads the parameters of a model and passes each through `convert`. Returns them by name, and the dtype of the files.
/// Other tensors, such as the rotary frequencies of old checkpoints, are ignored.
pub(super) fn read(
    folder: &Path,
    config: &Config,
    convert: impl Fn(&str, Tensor) -> Tensor,
) -> Result<(BTreeMap<String, Tensor>, Kind)> {
    let architecture = architecture(config);
    let mut parameters = BTreeMap::new();
    let mut kind = Kind::Float;
    for shard in shards(folder)? {
        let path = shard.display();
        let tensors = Tensor::read_safetensors(&shard)
            .with_context(|| format!("{path}: missing, truncated or not a safetensors file"))?;
        for (name, tensor) in tensors {
            let Some(Parameter { shape, .. }) = architecture.get(&name) else { continue };
            let size = tensor.size();
            ensure!(size == *shape, "{path}: tensor {name} has shape {size:?}, expected {shape:?}");
            kind = tensor.kind();
            ensure!(tensor.is_floating_point(), "{path}: tensor {name} is {kind:?}, expected a floating-point type");
            let tensor = convert(&name, tensor);
            parameters.insert(name, tensor);
        }
    }
    for (name, Parameter { required, .. }) in &architecture {
        let complete = !required || parameters.contains_key(name);
        ensure!(complete, "{}: no safetensors file contains the tensor {name}", folder.display());
    }
    Ok((parameters, kind))
}

/// The files that contain the tensors.
fn shards(folder: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(vec![folder.join("model.safetensors")]);
    }
    let names: BTreeSet<String> = json::read::<Index>(&index)?.weight_map.into_values().collect();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The parameters of a model by name.
fn architecture(config: &Config) -> BTreeMap<String, Parameter> {
    let (hidden, inner, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let (query, kv) = (config.num_attention_heads * config.head_dim(), config.kv_heads() * config.head_dim());
    let mut parameters = BTreeMap::new();
    let mut add = |name: String, shape: &[i64], required| {
        parameters.insert(name, Parameter { shape: shape.to_vec(), required });
    };
    add(EMBEDDING.into(), &[vocab, hidden], true);
    add("model.norm.weight".into(), &[hidden], true);
    if !config.tie_word_embeddings {
        add(HEAD.into(), &[vocab, hidden], true);
    }
    for layer in 0..config.num_hidden_layers {
        let layer = format!("model.layers.{layer}");
        for (name, [output, input]) in [
            ("self_attn.q_proj", [query, hidden]),
            ("self_attn.k_proj", [kv, hidden]),
            ("self_attn.v_proj", [kv, hidden]),
            ("self_attn.o_proj", [hidden, query]),
            ("mlp.gate_proj", [inner, hidden]),
            ("mlp.up_proj", [inner, hidden]),
            ("mlp.down_proj", [hidden, inner]),
        ] {
            add(format!("{layer}.{name}.weight"), &[output, input], true);
            add(format!("{layer}.{name}.bias"), &[output], false);
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("{layer}.{name}.weight"), &[hidden], true);
        }
    }
    parameters
}
