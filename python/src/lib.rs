//! The extension module `figa_loss._core`: what the Python package takes from Rust. Its types and docstrings are in the
//! Python files beside it, which are the only callers.
//!
//! ```text
//! tokens.rs             sequences of Python: arrays without a copy, lists, texts, anything that can be hashed
//! pairs.rs              edit scripts, alignments and labels of two sequences
//! columns.rs            labels of columns of sequences
//! encoder.rs            records -> rows
//! packing.rs            rows -> packed rows
//! arrow.rs              batches of Arrow, through its C interface
//! options.rs            names and weights of the arguments
//! long.rs               work without the GIL, on all cores, that Ctrl-C stops
//! error.rs              errors of the crate as exceptions
//! ```

mod arrow;
mod columns;
mod encoder;
mod error;
mod long;
mod options;
mod packing;
mod pairs;
mod tokens;

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command `figa`, without the GIL, and returns its exit code.
#[pyfunction]
fn run(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    let code = py.detach(|| figa_cli::run(arguments));
    // An exit code has no number to read, but is equal to the one that it was made from.
    (0..=u8::MAX).find(|&number| code == number.into()).unwrap_or(1)
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // The hook is this module's own, because each extension module has a standard library of its own.
    figa_loss::hide_caught_panics();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("ALIGNERS", options::aligner_names())?;
    module.add_class::<arrow::Batch>()?;
    module.add_class::<encoder::Encoder>()?;
    module.add_function(wrap_pyfunction!(run, module)?)?;
    module.add_function(wrap_pyfunction!(pairs::editops, module)?)?;
    module.add_function(wrap_pyfunction!(pairs::distance, module)?)?;
    module.add_function(wrap_pyfunction!(pairs::align, module)?)?;
    module.add_function(wrap_pyfunction!(pairs::label, module)?)?;
    module.add_function(wrap_pyfunction!(columns::label_batch, module)?)?;
    module.add_function(wrap_pyfunction!(packing::pack, module)?)
}
