//! Labels of columns of sequences.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Float32Array, ListArray, RecordBatch, UInt8Array};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field};
use figa_loss::{Aligner, FigaWeights, Granularity, Side, TokenLabel};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use rayon::prelude::*;

use crate::arrow::{self, Batch, failed};
use crate::error::exception;
use crate::long::{interruptible, pool};
use crate::options;
use crate::pairs::{label_number, labels_of};

/// The labels of both sides, then their weights, for columns of lists of integers.
#[pyfunction]
pub fn label_batch(
    py: Python<'_>,
    original: &Bound<'_, PyAny>,
    revised: &Bound<'_, PyAny>,
    eos: Option<i64>,
    method: (String, String),
    weights: options::Weights,
) -> PyResult<Batch> {
    let (original, revised) = (Column::new("original", original)?, Column::new("revised", revised)?);
    if original.0.len() != revised.0.len() {
        let message = format!("revised: expected {} lists, as in original, got {}", original.0.len(), revised.0.len());
        return Err(PyValueError::new_err(message));
    }
    let labelling = Labelling {
        aligner: options::named(&method.0)?,
        granularity: options::named(&method.1)?,
        weights: options::weights(weights)?,
        eos,
    };
    if labelling.granularity == Granularity::Word {
        return Err(PyValueError::new_err("granularity: expected token or phrase:N, as words need texts; got word"));
    }
    let pool = pool()?;
    let (of_original, of_revised) = (original.clone(), revised.clone());
    let labels: figa_loss::Result<Vec<_>> = interruptible(py, move |stop| {
        let label = |at: usize| match stop.load(Ordering::Relaxed) {
            true => Ok(Default::default()),
            false => labelling.label([of_original.list(at), of_revised.list(at)]),
        };
        pool.install(|| (0..of_original.0.len()).into_par_iter().with_min_len(16).map(label).collect())
    })?;
    let labels: Vec<(Vec<TokenLabel>, Vec<TokenLabel>)> = labels.map_err(|error| exception(&error))?;
    let (of_original, of_revised): (Vec<_>, Vec<_>) = labels.into_iter().unzip();
    let sides = [(Side::Original, &original, of_original.concat()), (Side::Revised, &revised, of_revised.concat())];
    let mut columns: Vec<(String, ArrayRef)> = vec![];
    for (side, column, labels) in &sides {
        let numbers: UInt8Array = labels.iter().map(|&label| label_number(label)).collect();
        columns.push((format!("{side}_token_labels"), column.lists(Arc::new(numbers))));
    }
    for (side, column, labels) in &sides {
        let weights: Float32Array = labels.iter().map(|&label| labelling.weights.weight(*side, label)).collect();
        columns.push((format!("{side}_weights"), column.lists(Arc::new(weights))));
    }
    Ok(Batch(RecordBatch::try_from_iter(columns).map_err(|error| failed(&error))?))
}

#[derive(Clone, Copy)]
struct Labelling {
    aligner: Aligner,
    granularity: Granularity,
    weights: FigaWeights,
    eos: Option<i64>,
}

impl Labelling {
    fn label(&self, [original, revised]: [&[i64]; 2]) -> figa_loss::Result<(Vec<TokenLabel>, Vec<TokenLabel>)> {
        let alignment = self.granularity.widen(self.aligner.align(original, revised), &[], &[])?;
        let original = labels_of(&alignment, Side::Original, original, self.eos)?;
        Ok((original, labels_of(&alignment, Side::Revised, revised, self.eos)?))
    }
}

/// A column of lists of integers, none of them null.
#[derive(Clone)]
struct Column(ListArray);

impl Column {
    fn new(name: &str, object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let array = arrow::import(name, object)?;
        let unexpected = || {
            let kind = array.data_type();
            PyTypeError::new_err(format!("{name}: expected a column of lists of integers, got {kind}"))
        };
        let (DataType::List(item) | DataType::LargeList(item)) = array.data_type() else { return Err(unexpected()) };
        if !item.data_type().is_integer() {
            return Err(unexpected());
        }
        let lists = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
        let lists = arrow_cast::cast(&array, &lists).map_err(|error| failed(&error))?.as_list::<i32>().clone();
        if lists.null_count() + lists.values().null_count() > 0 {
            return Err(PyValueError::new_err(format!("{name}: expected lists of integers, got null")));
        }
        Ok(Self(lists))
    }

    fn list(&self, at: usize) -> &[i64] {
        let offsets = self.0.value_offsets();
        &self.0.values().as_primitive::<Int64Type>().values()[offsets[at] as usize..offsets[at + 1] as usize]
    }

    /// Values of the items as lists of the same lengths.
    fn lists(&self, values: ArrayRef) -> ArrayRef {
        let item = Field::new("item", values.data_type().clone(), false);
        let lengths = OffsetBuffer::from_lengths(self.0.offsets().lengths());
        Arc::new(ListArray::new(item.into(), lengths, values, None))
    }
}
