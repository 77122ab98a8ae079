//! Errors of the crate as exceptions of Python, with their one line.

use figa_loss::Error;
use pyo3::PyErr;
use pyo3::exceptions::{PyOSError, PyValueError};

/// A file that cannot be read is an `OSError`, anything else a `ValueError`.
pub fn exception(error: &Error) -> PyErr {
    match error {
        Error::Io { .. } => PyOSError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}
