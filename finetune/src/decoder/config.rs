//! `config.json`: what a decoder computes, with the defaults that `transformers` has for its family.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use figa_loss::tch::Tensor;
use serde::de::{Deserialize, Deserializer};
use serde_json::Value;

use super::family::{AttentionScale, Biases, FAMILIES, Family, Rotaries, Softcap, Windows};
use super::rotary::{Beside, Rope, Rotary};
use crate::json;

/// What a decoder computes.
#[derive(Debug, Clone)]
pub struct Config {
    /// Rows of the embedding and of the head.
    pub vocab_size: i64,
    /// The longest sequence that the model supports.
    pub max_position_embeddings: i64,
    pub(super) family: Family,
    pub(super) hidden_size: i64,
    pub(super) intermediate_size: i64,
    pub(super) heads: i64,
    pub(super) kv_heads: i64,
    pub(super) head_dim: i64,
    pub(super) rms_norm_eps: f64,
    pub(super) activation: Activation,
    /// Whether query, key and value, the output of attention, and the feed-forward part have biases.
    pub(super) biases: [bool; 3],
    pub(super) tie_word_embeddings: bool,
    /// What attention scores are multiplied by.
    pub(super) attention_scale: f64,
    pub(super) attention_softcap: Option<f64>,
    pub(super) embedding_scale: f64,
    /// What attention and feed-forward part are multiplied by, before they are added.
    pub(super) residual_scale: f64,
    pub(super) logit_scale: f64,
    pub(super) logit_softcap: Option<f64>,
    pub(super) rotaries: Vec<Rotary>,
    pub(super) layers: Vec<Layer>,
}

/// In what a layer differs from others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    /// How many positions a token attends to, its own included.
    pub(super) window: Option<i64>,
    /// Which of the rotaries it has.
    pub(super) rotary: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    Silu,
    GeluTanh,
}

impl Activation {
    fn new(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Self::Silu),
            "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            _ => None,
        }
    }

    pub(super) fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Self::Silu => x.silu(),
            Self::GeluTanh => x.gelu("tanh"),
        }
    }
}

/// The fields of `config.json`.
#[derive(Debug, serde::Deserialize)]
struct Fields {
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    max_position_embeddings: i64,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    /// Older versions of `transformers` write this, newer ones `rope_parameters`.
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    partial_rotary_factor: Option<f64>,
    original_max_position_embeddings: Option<i64>,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    /// `None` if the file says nothing, `Some(None)` for null.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<i64>>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    no_rope_layers: Option<Vec<u8>>,
    no_rope_layer_interval: Option<usize>,
    query_pre_attn_scalar: Option<f64>,
    #[serde(default, deserialize_with = "present")]
    attn_logit_softcapping: Option<Softcap>,
    #[serde(default, deserialize_with = "present")]
    final_logit_softcapping: Option<Softcap>,
    embedding_multiplier: Option<f64>,
    attention_multiplier: Option<f64>,
    residual_multiplier: Option<f64>,
    logits_scaling: Option<f64>,
    use_bidirectional_attention: Option<bool>,
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The greatest numbers that are believed, for each size.
const MOST: [(&str, i64); 8] = [
    ("vocab_size", 1 << 24),
    ("hidden_size", 1 << 20),
    ("intermediate_size", 1 << 22),
    ("num_hidden_layers", 1 << 12),
    ("num_attention_heads", 1 << 12),
    ("num_key_value_heads", 1 << 12),
    ("head_dim", 1 << 16),
    ("max_position_embeddings", 1 << 30),
];

impl Config {
    /// Reads and checks the `config.json` of a folder.
    ///
    /// # Errors
    /// Names the file, and the field that is missing or not supported.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let family = family(&json::read(&path)?).with_context(|| path.display().to_string())?;
        Self::new(family, json::read(&path)?).with_context(|| path.display().to_string())
    }

    fn new(family: Family, fields: Fields) -> Result<Self> {
        ensure!(
            !fields.use_bidirectional_attention.unwrap_or(false),
            "use_bidirectional_attention is true, expected false: the model does not predict the next token"
        );
        let (hidden, heads) = (fields.hidden_size, fields.num_attention_heads);
        let kv_heads = fields.num_key_value_heads.unwrap_or(heads);
        let own_head_dim = fields.head_dim.or(family.head_dim);
        let sizes = [
            fields.vocab_size,
            hidden,
            fields.intermediate_size,
            fields.num_hidden_layers,
            heads,
            kv_heads,
            own_head_dim.unwrap_or(1),
            fields.max_position_embeddings,
        ];
        for ((name, most), size) in MOST.into_iter().zip(sizes) {
            ensure!((1..=most).contains(&size), "{name} is {size}, expected 1 to {most}");
        }
        let eps = fields.rms_norm_eps;
        ensure!(eps.is_finite() && eps >= 0.0, "rms_norm_eps is {eps}, expected a number of at least 0");
        ensure!(
            heads % kv_heads == 0,
            "num_attention_heads is {heads}, expected a multiple of num_key_value_heads, which is {kv_heads}"
        );
        ensure!(
            own_head_dim.is_some() || hidden % heads == 0,
            "hidden_size is {hidden}, expected a multiple of num_attention_heads, which is {heads}"
        );
        let head_dim = own_head_dim.unwrap_or(hidden / heads);
        ensure!(head_dim % 2 == 0, "a head has {head_dim} dimensions, expected an even number");
        let (attention_bias, mlp_bias) = (fields.attention_bias, fields.mlp_bias);
        let multiplier = |name: &str, value: Option<f64>| {
            let value = value.filter(|_| family.has_multipliers).unwrap_or(1.0);
            ensure!(value.is_finite() && value != 0.0, "{name} is {value}, expected a finite number other than 0");
            Ok(value)
        };
        let embedding_scale = if family.scales_embeddings { (hidden as f64).sqrt() } else { 1.0 };
        Ok(Self {
            vocab_size: fields.vocab_size,
            max_position_embeddings: fields.max_position_embeddings,
            hidden_size: hidden,
            intermediate_size: fields.intermediate_size,
            heads,
            kv_heads,
            head_dim,
            rms_norm_eps: eps,
            activation: fields.activation(&family)?,
            biases: match family.biases {
                Biases::None => [false; 3],
                Biases::QueryKeyValue => [true, false, false],
                Biases::Attention => [attention_bias, attention_bias, false],
                Biases::All => [attention_bias, attention_bias, mlp_bias],
            },
            tie_word_embeddings: fields.tie_word_embeddings.unwrap_or(family.tie_word_embeddings),
            attention_scale: match family.attention_scale {
                AttentionScale::HeadDim => (head_dim as f64).powf(-0.5),
                AttentionScale::QueryScalar => {
                    let scalar = fields.query_pre_attn_scalar.unwrap_or(256.0);
                    ensure!(
                        scalar.is_finite() && scalar > 0.0,
                        "query_pre_attn_scalar is {scalar}, expected a number above 0"
                    );
                    scalar.powf(-0.5)
                }
                AttentionScale::Multiplier => multiplier("attention_multiplier", fields.attention_multiplier)?,
            },
            attention_softcap: softcap(
                "attn_logit_softcapping",
                fields.attn_logit_softcapping,
                family.attention_softcap,
            )?,
            embedding_scale: embedding_scale * multiplier("embedding_multiplier", fields.embedding_multiplier)?,
            residual_scale: multiplier("residual_multiplier", fields.residual_multiplier)?,
            logit_scale: multiplier("logits_scaling", fields.logits_scaling)?.recip(),
            logit_softcap: softcap("final_logit_softcapping", fields.final_logit_softcapping, family.logit_softcap)?,
            rotaries: fields.rotaries(&family, head_dim)?,
            layers: fields.layers(&family)?,
            family,
        })
    }
}

/// The family of a model, unless it is of a kind that the decoder does not compute.
fn family(value: &Value) -> Result<Family> {
    let has = |field: &str| value.get(field).is_some_and(|value| !value.is_null());
    let model_type = value.get("model_type").and_then(Value::as_str);
    let model_type = model_type.context("model_type is missing or not a text")?;
    let quantization = value.get("quantization_config").filter(|value| !value.is_null());
    if let Some(method) = quantization.map(|value| value.get("quant_method").and_then(Value::as_str)) {
        let method = method.unwrap_or("an unknown method");
        bail!("quantization_config: the model is quantised ({method}), expected a version of it that is not");
    }
    let known = FAMILIES.map(|family| family.model_type).join(", ");
    for (kind, fields) in [
        ("a mixture of experts", &["num_experts", "num_local_experts", "n_routed_experts"][..]),
        ("a multimodal model", &["text_config", "vision_config", "audio_config"]),
    ] {
        if fields.iter().any(|field| has(field)) {
            bail!("model_type is {model_type:?}, {kind}, which is not supported; expected one of {known}");
        }
    }
    let found = FAMILIES.into_iter().find(|family| family.model_type == model_type);
    found.with_context(|| format!("model_type is {model_type:?}, expected one of {known}"))
}

/// Every n-th layer.
fn interval(name: &str, field: Option<usize>, default: usize) -> Result<usize> {
    let interval = field.unwrap_or(default);
    ensure!(interval > 0, "{name} is 0, expected at least 1");
    Ok(interval)
}

fn softcap(name: &str, field: Option<Softcap>, of_family: Option<Softcap>) -> Result<Softcap> {
    let cap = of_family.and_then(|default| field.unwrap_or(default));
    if let Some(cap) = cap {
        ensure!(cap.is_finite() && cap > 0.0, "{name} is {cap}, expected a number above 0");
    }
    Ok(cap)
}

impl Fields {
    fn activation(&self, family: &Family) -> Result<Activation> {
        let (field, default) = family.activation;
        let name = if field == "hidden_act" { &self.hidden_act } else { &self.hidden_activation };
        let name = name.as_deref().unwrap_or(default);
        Activation::new(name).with_context(|| format!("{field} is {name:?}, expected silu or gelu_pytorch_tanh"))
    }

    fn layers(&self, family: &Family) -> Result<Vec<Layer>> {
        let count = self.num_hidden_layers as usize;
        let rotates = match (family.rotary, &self.no_rope_layers) {
            (Rotaries::AllBut(_), Some(list)) => list.iter().map(|&rotates| rotates != 0).collect(),
            (Rotaries::AllBut(default), None) => {
                let interval = interval("no_rope_layer_interval", self.no_rope_layer_interval, default)?;
                (1..=count).map(|layer| layer % interval != 0).collect()
            }
            _ => vec![true; count],
        };
        ensure!(
            rotates.len() == count,
            "no_rope_layers has {} entries, expected {count}, the number of layers",
            rotates.len()
        );
        let has_window = self.has_window(family, &rotates)?;
        let window = match family.windows {
            Windows::None => None,
            Windows::All(default) => self.sliding_window.unwrap_or(default),
            Windows::Upper => self.sliding_window.unwrap_or(Some(4096)).filter(|_| self.use_sliding_window),
            Windows::WithoutRotary => self.sliding_window.flatten().filter(|_| self.use_sliding_window),
            Windows::AllBut(_) => self.sliding_window.unwrap_or(Some(4096)),
        };
        if let Some(window @ ..=0) = window {
            bail!("sliding_window is {window}, expected at least 1");
        }
        let layer = |(has_window, rotates): (bool, bool)| Layer {
            window: window.filter(|_| has_window),
            rotary: rotates.then_some(usize::from(has_window && matches!(family.rotary, Rotaries::Local(_)))),
        };
        Ok(has_window.into_iter().zip(rotates).map(layer).collect())
    }

    /// For each layer, whether it attends to a window.
    fn has_window(&self, family: &Family, rotates: &[bool]) -> Result<Vec<bool>> {
        let count = rotates.len();
        let by_default: Vec<bool> = match family.windows {
            Windows::None => return Ok(vec![false; count]),
            Windows::All(_) => return Ok(vec![true; count]),
            Windows::Upper => (0..count).map(|layer| layer >= self.max_window_layers.unwrap_or(28)).collect(),
            Windows::WithoutRotary => rotates.iter().map(|rotates| !rotates).collect(),
            Windows::AllBut(default) => {
                let pattern = interval("sliding_window_pattern", self.sliding_window_pattern, default)?;
                (1..=count).map(|layer| layer % pattern != 0).collect()
            }
        };
        let Some(types) = &self.layer_types else { return Ok(by_default) };
        ensure!(
            types.len() == count,
            "layer_types has {} entries, expected {count}, the number of layers",
            types.len()
        );
        let is_window = |name: &String| match &name[..] {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => bail!("layer_types has {other:?}, expected full_attention or sliding_attention"),
        };
        types.iter().map(is_window).collect()
    }

    fn rotaries(&self, family: &Family, head_dim: i64) -> Result<Vec<Rotary>> {
        let given = [&self.rope_scaling, &self.rope_parameters].into_iter().flatten();
        let given = given.map(|value| value.as_object()).find(|object| object.is_none_or(|object| !object.is_empty()));
        let mut parameters = match given {
            Some(object) => object.context("rope_parameters or rope_scaling is no object")?.clone(),
            None => serde_json::Map::new(),
        };
        let is_partial = family.rotary == Rotaries::Partial;
        if is_partial {
            // Early files of Phi have other names for what they all mean.
            for name in ["rope_type", "type"] {
                if parameters.get(name).is_some_and(|kind| kind == "su" || kind == "yarn") {
                    parameters.insert(name.into(), "longrope".into());
                }
            }
        }
        let rope = |parameters: Value, theta: f64| {
            let rope: Rope = serde_json::from_value(parameters).context("rope_parameters")?;
            rope.rotary(Beside {
                head_dim,
                theta,
                partial_factor: is_partial.then(|| self.partial_rotary_factor.unwrap_or(1.0)),
                positions: self.max_position_embeddings,
                // A class default of Phi.
                original_positions: self.original_max_position_embeddings.or(is_partial.then_some(4096)),
            })
        };
        let theta = self.rope_theta.unwrap_or(family.rope_theta);
        let Rotaries::Local(local_theta) = family.rotary else {
            return Ok(vec![rope(parameters.into(), theta)?]);
        };
        // One object for each type of layer, or an older one for full attention alone.
        let is_nested = parameters.contains_key("full_attention") || parameters.contains_key("sliding_attention");
        let of_type = |name: &str| parameters.get(name).filter(|value| !value.is_null()).cloned();
        let empty = || Value::Object(serde_json::Map::new());
        let (full, local) = match is_nested {
            true => (of_type("full_attention"), of_type("sliding_attention")),
            false => (Some(parameters.clone().into()), None),
        };
        let local_theta = self.rope_local_base_freq.unwrap_or(local_theta);
        Ok(vec![rope(full.unwrap_or_else(empty), theta)?, rope(local.unwrap_or_else(empty), local_theta)?])
    }
}
