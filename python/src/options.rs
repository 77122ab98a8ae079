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

pub fn weights((alpha, beta, gamma): (f32, f32, f32)) -> PyResult<FigaWeights> {
    let weights = FigaWeights { alpha, beta, gamma };
    weights.validate().map_err(|error| exception(&error))?;
    Ok(weights)
}
