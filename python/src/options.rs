//! Names and weights of the arguments, as the command `figa` takes them.

use figa_loss::{Aligner, FigaWeights, Granularity};
use pyo3::PyResult;
use pyo3::exceptions::PyValueError;

use crate::error::exception;

pub fn aligner_names() -> Vec<String> {
    Aligner::ALL.iter().map(|aligner| format!("{aligner:?}").to_lowercase()).collect()
}

pub fn aligner(name: &str) -> PyResult<Aligner> {
    let names = aligner_names();
    let found = names.iter().position(|known| known == name).map(|at| Aligner::ALL[at]);
    found.ok_or_else(|| PyValueError::new_err(format!("aligner: expected one of {}, got {name:?}", names.join(", "))))
}

/// `token`, `word` or `phrase:N`.
pub fn granularity(text: &str) -> PyResult<Granularity> {
    match text.split_once(':') {
        None if text == "token" => Some(Granularity::Token),
        None if text == "word" => Some(Granularity::Word),
        Some(("phrase", gap)) => gap.parse().ok().map(Granularity::Phrase),
        _ => None,
    }
    .ok_or_else(|| PyValueError::new_err(format!("granularity: expected token, word or phrase:N, got {text:?}")))
}

pub fn weights((alpha, beta, gamma): (f32, f32, f32)) -> PyResult<FigaWeights> {
    let weights = FigaWeights { alpha, beta, gamma };
    weights.validate().map_err(|error| exception(&error))?;
    Ok(weights)
}
