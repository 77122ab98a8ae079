//! Names and weights of the arguments, as the command `figa` takes them.

use std::str::FromStr;

use figa_loss::{Aligner, Error, FigaWeights};
use pyo3::PyResult;

use crate::error::exception;

pub fn aligner_names() -> Vec<String> {
    Aligner::ALL.iter().map(Aligner::to_string).collect()
}

/// An aligner or a granularity by its name.
pub fn named<T: FromStr<Err = Error>>(text: &str) -> PyResult<T> {
    text.parse().map_err(|error: Error| exception(&error))
}

/// `alpha`, `beta`, `gamma` and the weight of EOS.
pub type Weights = (f32, f32, f32, Option<f32>);

pub fn weights((alpha, beta, gamma, eos): Weights) -> PyResult<FigaWeights> {
    let weights = FigaWeights { alpha, beta, gamma, eos };
    weights.validate().map_err(|error| exception(&error))?;
    Ok(weights)
}
