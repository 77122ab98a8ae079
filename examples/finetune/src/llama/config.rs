//! `config.json`: the sizes of a model and its rotary positions.

use std::f64::consts::TAU;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::json;

const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// The contents of `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    model_type: String,
    /// Rows of the embedding and of the head.
    pub vocab_size: i64,
    pub(super) hidden_size: i64,
    pub(super) intermediate_size: i64,
    pub(super) num_hidden_layers: i64,
    pub(super) num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    /// The longest sequence that the model supports.
    pub max_position_embeddings: i64,
    pub(super) rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// Newer versions of `transformers` store theta and scaling here.
    rope_parameters: Option<Rope>,
    #[serde(default)]
    pub(super) tie_word_embeddings: bool,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default)]
    use_sliding_window: bool,
    quantization_config: Option<Quantization>,
}

#[derive(Debug, Clone, Deserialize)]
struct Quantization {
    quant_method: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Rope {
    rope_type: Option<String>,
    /// The older name of `rope_type`. Some files have both.
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
    /// Reads and checks the `config.json` of a folder.
    ///
    /// # Errors
    /// Names the file, and the field that is missing or not supported.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let config: Self = json::read(&path)?;
        config.check().with_context(|| path.display().to_string())?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let (model_type, act) = (&self.model_type, &self.hidden_act);
        ensure!(matches!(&model_type[..], "llama" | "qwen2"), "model_type is {model_type:?}, expected llama or qwen2");
        ensure!(act == "silu", "hidden_act is {act:?}, expected silu");
        ensure!(!self.use_sliding_window, "use_sliding_window is true, expected false");
        if let Some(Quantization { quant_method }) = &self.quantization_config {
            let method = quant_method.as_deref().unwrap_or("an unknown method");
            bail!("quantization_config: the model is quantised ({method}), expected a version of it that is not");
        }
        for (name, size, most) in [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("num_key_value_heads", self.kv_heads(), 1 << 12),
            ("head_dim", self.head_dim.unwrap_or(1), 1 << 16),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 30),
        ] {
            ensure!((1..=most).contains(&size), "{name} is {size}, expected 1 to {most}");
        }
        let eps = self.rms_norm_eps;
        ensure!(eps.is_finite() && eps >= 0.0, "rms_norm_eps is {eps}, expected a number of at least 0");
        let (hidden, heads, kv_heads) = (self.hidden_size, self.num_attention_heads, self.kv_heads());
        ensure!(
            heads % kv_heads == 0,
            "num_attention_heads is {heads}, expected a multiple of num_key_value_heads, which is {kv_heads}"
        );
        ensure!(
            self.head_dim.is_some() || hidden % heads == 0,
            "hidden_size is {hidden}, expected a multiple of num_attention_heads, which is {heads}"
        );
        let dim = self.head_dim();
        ensure!(dim % 2 == 0, "a head has {dim} dimensions, expected an even number");
        let frequencies = self.frequencies()?;
        ensure!(
            frequencies.iter().all(|frequency| frequency.is_finite()),
            "rope_theta or the numbers beside it give rotary frequencies that are not finite"
        );
        Ok(())
    }

    pub(super) fn head_dim(&self) -> i64 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    pub(super) fn kv_heads(&self) -> i64 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// The angle by which each pair of dimensions rotates from one position to the next.
    pub(super) fn frequencies(&self) -> Result<Vec<f64>> {
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()).cloned().unwrap_or_default();
        let theta = rope.rope_theta.or(self.rope_theta).unwrap_or(DEFAULT_ROPE_THETA);
        let dim = self.head_dim();
        let unscaled = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64));
        rope.scale(unscaled)
    }
}

impl Rope {
    fn scale(&self, frequencies: impl Iterator<Item = f64>) -> Result<Vec<f64>> {
        let rope_type = self.rope_type.as_deref().or(self.r#type.as_deref()).unwrap_or("default");
        let need = |name: &str, value: Option<f64>| {
            value.with_context(|| format!("rope_type is {rope_type:?}, which needs {name}"))
        };
        match rope_type {
            "default" => Ok(frequencies.collect()),
            "linear" => {
                let factor = need("factor", self.factor)?;
                Ok(frequencies.map(|f| f / factor).collect())
            }
            // Low frequencies are divided by the factor, high ones kept, and those between them interpolated.
            "llama3" => {
                let factor = need("factor", self.factor)?;
                let low = need("low_freq_factor", self.low_freq_factor)?;
                let high = need("high_freq_factor", self.high_freq_factor)?;
                let context = need("original_max_position_embeddings", self.original_max_position_embeddings)?;
                let interpolate = |f: f64| {
                    let turns = context * f / TAU;
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    f * (keep + (1.0 - keep) / factor)
                };
                Ok(frequencies.map(interpolate).collect())
            }
            other => bail!("rope_type is {other:?}, expected default, linear or llama3"),
        }
    }
}
