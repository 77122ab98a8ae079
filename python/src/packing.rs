//! Rows -> packed rows.

use figa_loss::{Example, PackedBatch, TokenLabel, pack as pack_examples};
use numpy::{IntoPyArray, PyArrayLike1, PyArrayMethods, TypeMustMatch};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::exception;

/// The ids, labels and weights of a row.
type Row<'py> = (
    PyArrayLike1<'py, i64, TypeMustMatch>,
    PyArrayLike1<'py, i64, TypeMustMatch>,
    PyArrayLike1<'py, f32, TypeMustMatch>,
);

/// Packs groups of rows. The arrays have the names and shapes of `PackedBatch`.
#[pyfunction]
pub fn pack<'py>(py: Python<'py>, groups: Vec<Vec<Row<'py>>>, pad_id: u32) -> PyResult<Bound<'py, PyDict>> {
    let groups = groups.iter().map(|group| group.iter().map(example).collect()).collect::<PyResult<Vec<Vec<_>>>>()?;
    let batch = py.detach(|| pack_examples(&groups, pad_id, Example::is_active));
    let PackedBatch { batch_size, seq_len, has_branches, .. } = batch;
    let arrays = PyDict::new(py);
    for (name, values) in
        [("input_ids", batch.input_ids), ("position_ids", batch.position_ids), ("visible_until", batch.visible_until)]
    {
        arrays.set_item(name, values.into_pyarray(py).reshape([batch_size, seq_len])?)?;
    }
    arrays.set_item("labels", batch.labels.into_pyarray(py))?;
    arrays.set_item("weights", batch.weights.into_pyarray(py))?;
    arrays.set_item("outputs", batch.outputs.into_pyarray(py))?;
    arrays.set_item("sequences", batch.sequences.into_pyarray(py))?;
    arrays.set_item("has_branches", has_branches)?;
    Ok(arrays)
}

fn example((ids, labels, weights): &Row<'_>) -> PyResult<Example> {
    let ids = ids.as_slice()?.iter().map(|&id| u32::try_from(id)).collect::<Result<Vec<_>, _>>()?;
    let token_labels = vec![TokenLabel::Kept; ids.len()];
    Example::new(ids, labels.as_slice()?.to_vec(), weights.as_slice()?.to_vec(), token_labels)
        .map_err(|error| exception(&error))
}
