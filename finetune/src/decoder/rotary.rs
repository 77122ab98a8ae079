//! Rotary positions: by how much each pair of dimensions rotates from one position to the next.

use std::f64::consts::TAU;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// The rotary positions of some layers.
#[derive(Debug, Clone)]
pub(super) struct Rotary {
    /// How many dimensions of a head rotate, the first ones.
    pub(super) dim: i64,
    /// What sines and cosines are multiplied by.
    pub(super) factor: f64,
    theta: f64,
    scaling: Scaling,
}

/// How frequencies differ from those of the original rotary positions.
#[derive(Debug, Clone)]
enum Scaling {
    /// Not by the length of the rows.
    Fixed(Vec<f64>),
    /// Beyond so many positions, theta grows with the longest row.
    Dynamic { factor: f64, positions: f64 },
    /// Divided by the first factors, and by the second ones if the longest row has more than so many positions.
    Long { factors: [Vec<f64>; 2], positions: i64 },
}

/// An object of `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Rope {
    rope_type: Option<String>,
    /// The older name of `rope_type`. Some files have both.
    r#type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<i64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    short_factor: Option<Vec<f64>>,
    long_factor: Option<Vec<f64>>,
}

/// What stands in `config.json` beside a [`Rope`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Beside {
    pub(super) head_dim: i64,
    /// Used if the object has none.
    pub(super) theta: f64,
    /// Used if the object has none; `None` for families that rotate whole heads.
    pub(super) partial_factor: Option<f64>,
    pub(super) positions: i64,
    /// Used in place of the number in the object.
    pub(super) original_positions: Option<i64>,
}

impl Rope {
    pub(super) fn rotary(&self, beside: Beside) -> Result<Rotary> {
        let theta = self.rope_theta.unwrap_or(beside.theta);
        let dim = self.dim(beside)?;
        let kind = self.rope_type.as_deref().or(self.r#type.as_deref()).unwrap_or("default");
        let original = beside.original_positions.or(self.original_max_position_embeddings);
        let original = original.unwrap_or(beside.positions);
        let number = |name: &str, value: Option<f64>| {
            value.with_context(|| format!("rope_type is {kind:?}, which needs {name}"))
        };
        let unscaled = frequencies(theta, dim);
        let mut attention_factor = 1.0;
        let scaling = match kind {
            "default" => Scaling::Fixed(unscaled),
            "linear" => {
                let factor = number("factor", self.factor)?;
                Scaling::Fixed(unscaled.into_iter().map(|f| f / factor).collect())
            }
            "dynamic" => {
                Scaling::Dynamic { factor: number("factor", self.factor)?, positions: beside.positions as f64 }
            }
            "llama3" => {
                let factor = number("factor", self.factor)?;
                let low = number("low_freq_factor", self.low_freq_factor)?;
                let high = number("high_freq_factor", self.high_freq_factor)?;
                // Low frequencies are divided by the factor, high ones kept, and those between them interpolated.
                let interpolate = |f: f64| {
                    let turns = original as f64 * f / TAU;
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    f * (keep + (1.0 - keep) / factor)
                };
                Scaling::Fixed(unscaled.into_iter().map(interpolate).collect())
            }
            "yarn" => {
                let factor = number("factor", self.factor)?;
                attention_factor = self.yarn_attention_factor(factor);
                Scaling::Fixed(self.yarn(unscaled, factor, theta, dim, original as f64))
            }
            "longrope" => {
                let list = |name: &str, list: &Option<Vec<f64>>| {
                    let list = list.as_ref().with_context(|| format!("rope_type is {kind:?}, which needs {name}"))?;
                    let (len, expected) = (list.len(), dim / 2);
                    ensure!(len as i64 == expected, "{name} has {len} numbers, expected {expected}");
                    Ok(list.clone())
                };
                let factor = self.factor.unwrap_or(beside.positions as f64 / original as f64);
                attention_factor = self.attention_factor.unwrap_or(match factor > 1.0 {
                    true => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
                    false => 1.0,
                });
                let factors = [list("short_factor", &self.short_factor)?, list("long_factor", &self.long_factor)?];
                Scaling::Long { factors, positions: original }
            }
            other => bail!("rope_type is {other:?}, expected default, linear, dynamic, llama3, yarn or longrope"),
        };
        let rotary = Rotary { dim, factor: attention_factor, theta, scaling };
        let longest = rotary.frequencies(beside.positions);
        ensure!(
            longest.iter().chain([&attention_factor]).all(|number| number.is_finite()),
            "rope_theta or the numbers beside it give rotary frequencies that are not finite"
        );
        Ok(rotary)
    }

    fn dim(&self, beside: Beside) -> Result<i64> {
        let factor = self.partial_rotary_factor.or(beside.partial_factor).unwrap_or(1.0);
        ensure!(
            factor == 1.0 || beside.partial_factor.is_some(),
            "partial_rotary_factor is {factor}, expected 1 for a model of this type"
        );
        let dim = (beside.head_dim as f64 * factor) as i64;
        ensure!(
            (2..=beside.head_dim).contains(&dim) && dim % 2 == 0,
            "partial_rotary_factor is {factor}, so that {dim} dimensions of a head rotate, expected an even number of at \
             least 2 and at most {}",
            beside.head_dim
        );
        Ok(dim)
    }

    fn yarn_attention_factor(&self, factor: f64) -> f64 {
        let scale = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
        self.attention_factor.unwrap_or_else(|| match (self.mscale, self.mscale_all_dim) {
            (Some(one), Some(all)) if one != 0.0 && all != 0.0 => scale(one) / scale(all),
            _ => scale(1.0),
        })
    }

    /// Dimensions that turn often keep their frequency, those that turn seldom have it divided by the factor.
    fn yarn(&self, unscaled: Vec<f64>, factor: f64, theta: f64, dim: i64, positions: f64) -> Vec<f64> {
        let or = |value: Option<f64>, default| value.filter(|&value| value != 0.0).unwrap_or(default);
        // The dimension that makes so many turns.
        let dimension = |turns: f64| dim as f64 * (positions / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (dimension(or(self.beta_fast, 32.0)), dimension(or(self.beta_slow, 1.0)));
        if self.truncate.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let frequency = |(index, f): (usize, f64)| {
            let divided = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f / factor * divided + f * (1.0 - divided)
        };
        unscaled.into_iter().enumerate().map(frequency).collect()
    }
}

impl Rotary {
    /// Whether the frequencies depend on how long rows are.
    pub(super) fn depends_on_length(&self) -> bool {
        !matches!(self.scaling, Scaling::Fixed(_))
    }

    /// The angle between two positions for each pair of dimensions, given the number of positions of the longest row.
    pub(super) fn frequencies(&self, longest: i64) -> Vec<f64> {
        match &self.scaling {
            Scaling::Fixed(frequencies) => frequencies.clone(),
            Scaling::Dynamic { factor, positions } => {
                let growth = factor * (longest as f64).max(*positions) / positions - (factor - 1.0);
                let dim = self.dim as f64;
                // With two dimensions there is one frequency, which does not depend on theta.
                let theta = if self.dim > 2 { self.theta * growth.powf(dim / (dim - 2.0)) } else { self.theta };
                frequencies(theta, self.dim)
            }
            Scaling::Long { factors, positions } => {
                let factors = &factors[usize::from(longest > *positions)];
                frequencies(self.theta, self.dim).into_iter().zip(factors).map(|(f, factor)| f / factor).collect()
            }
        }
    }
}

fn frequencies(theta: f64, dim: i64) -> Vec<f64> {
    (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64)).collect()
}
