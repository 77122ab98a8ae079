//! The tensors of a checkpoint in Hugging Face layout.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use figa_loss::tch::Tensor;
use serde_json::Value;

use super::Config;
use super::family::QueryKeyNorm;
use crate::hub;

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const HEAD: &str = "lm_head.weight";
pub(super) const NORM: &str = "model.norm.weight";

/// The names in safetensors files of the dtypes that can be trained.
const DTYPES: [&str; 4] = ["F64", "F32", "F16", "BF16"];

/// Reads the parameters of a model and passes each through `convert`. Returns them by name. Other tensors, such as the
/// rotary frequencies of old checkpoints, are ignored.
pub(super) fn read(
    folder: &Path,
    config: &Config,
    mut convert: impl FnMut(&str, Tensor) -> Tensor,
) -> Result<BTreeMap<String, Tensor>> {
    let architecture = architecture(config);
    let mut parameters = BTreeMap::new();
    for shard in shards(folder)? {
        let path = shard.display();
        let not_read = || format!("{path}: missing, truncated or not a safetensors file");
        for (name, dtype) in dtypes(&shard).with_context(not_read)? {
            ensure!(
                !architecture.contains_key(&name) || DTYPES.contains(&&*dtype),
                "{path}: tensor {name} is {dtype}, expected one of {}: use a version of the model that is not quantised",
                DTYPES.join(", ")
            );
        }
        for (name, tensor) in Tensor::read_safetensors(&shard).with_context(not_read)? {
            let Some(shape) = architecture.get(&name) else { continue };
            let size = tensor.size();
            ensure!(size == *shape, "{path}: tensor {name} has shape {size:?}, expected {shape:?}");
            let tensor = convert(&name, tensor);
            parameters.insert(name, tensor);
        }
    }
    for name in architecture.keys() {
        let complete = parameters.contains_key(name);
        ensure!(complete, "{}: no safetensors file contains the tensor {name}", folder.display());
    }
    Ok(parameters)
}

/// The longest header that the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The dtype of each tensor of a file, by its name in the header: also those that the library does not know.
fn dtypes(path: &Path) -> Result<BTreeMap<String, String>> {
    let mut file = File::open(path)?;
    let mut size = [0; 8];
    file.read_exact(&mut size)?;
    let mut header = vec![];
    file.take(u64::from_le_bytes(size).min(MAX_HEADER_BYTES)).read_to_end(&mut header)?;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&header)?;
    let dtype = |(name, tensor): (String, Value)| Some((name, tensor["dtype"].as_str()?.to_owned()));
    Ok(header.into_iter().filter_map(dtype).collect())
}

/// The files in the folder of a model that contain its tensors.
///
/// # Errors
/// Names the index that is invalid.
pub fn shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(vec![folder.join("model.safetensors")]);
    }
    Ok(hub::shards(&index)?.into_iter().map(|name| folder.join(name)).collect())
}

/// The shapes of a model's parameters, by name.
fn architecture(config: &Config) -> BTreeMap<String, Vec<i64>> {
    let (hidden, inner, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let (query, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let family = &config.family;
    let [qkv_bias, output_bias, inner_bias] = config.biases;
    let mut linears =
        vec![("self_attn.o_proj", [hidden, query], output_bias), ("mlp.down_proj", [hidden, inner], inner_bias)];
    linears.extend(match family.has_fused_projections {
        true => vec![
            ("self_attn.qkv_proj", [query + 2 * kv, hidden], qkv_bias),
            ("mlp.gate_up_proj", [2 * inner, hidden], inner_bias),
        ],
        false => vec![
            ("self_attn.q_proj", [query, hidden], qkv_bias),
            ("self_attn.k_proj", [kv, hidden], qkv_bias),
            ("self_attn.v_proj", [kv, hidden], qkv_bias),
            ("mlp.gate_proj", [inner, hidden], inner_bias),
            ("mlp.up_proj", [inner, hidden], inner_bias),
        ],
    });
    let norms = [family.attention_norms, family.feed_forward_norms].concat();
    let mut norms: Vec<(&str, i64)> = norms.into_iter().flatten().map(|name| (name, hidden)).collect();
    norms.extend(match family.query_key_norm {
        None => vec![],
        Some(QueryKeyNorm::EachHead) => {
            vec![("self_attn.q_norm", config.head_dim), ("self_attn.k_norm", config.head_dim)]
        }
        Some(QueryKeyNorm::AllHeads) => vec![("self_attn.q_norm", query), ("self_attn.k_norm", kv)],
    });

    let mut shapes = BTreeMap::from([(EMBEDDING.to_owned(), vec![vocab, hidden]), (NORM.to_owned(), vec![hidden])]);
    if !config.tie_word_embeddings {
        shapes.insert(HEAD.to_owned(), vec![vocab, hidden]);
    }
    for layer in 0..config.layers.len() {
        let layer = format!("model.layers.{layer}");
        for (name, shape, has_bias) in &linears {
            shapes.insert(format!("{layer}.{name}.weight"), shape.to_vec());
            if *has_bias {
                shapes.insert(format!("{layer}.{name}.bias"), vec![shape[0]]);
            }
        }
        for (name, size) in &norms {
            shapes.insert(format!("{layer}.{name}.weight"), vec![*size]);
        }
    }
    shapes
}
