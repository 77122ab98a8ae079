//! Names and weights of the arguments, as the command `figa` takes them.

use std::str::FromStr;

use figa_loss::{Aligner, Error, FigaWeights};
use pyo3::PyResult;

use crate::error::exception;

pub fn aligner_names() -> Vec<String> {
    Aligner::ALL.iter().map(Aligner::to_string).collect()
}

/// An aligner, a granularity or weights by their name.
pub fn named<T: FromStr<Err = Error>>(text: &str) -> PyResult<T> {
    text.parse().map_err(|error: Error| exception(&error))
}

/// The name of weights, and what takes the place of their `alpha`, `beta`, `gamma` and `eos`.
pub type Weights = (String, Option<f32>, Option<f32>, Option<f32>, Option<f32>);

pub fn weights((name, alpha, beta, gamma, eos): Weights) -> PyResult<FigaWeights> {
    let named: FigaWeights = named(&name)?;
    let weights = FigaWeights {
        alpha: alpha.unwrap_or(named.alpha),
        beta: beta.unwrap_or(named.beta),
        gamma: gamma.unwrap_or(named.gamma),
        eos: eos.unwrap_or(named.eos),
    };
    weights.validate().map_err(|error| exception(&error))?;
    Ok(weights)
}
