//! Batches of Arrow, through its C interface: nothing is copied, and any library that has the interface will do.

use std::ffi::CStr;

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi, to_ffi};
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray, make_array};
use arrow_schema::ArrowError;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";

/// A batch for Python, which reads it through the C interface.
#[pyclass(frozen)]
pub struct Batch(pub RecordBatch);

#[pymethods]
impl Batch {
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        // A schema is a wish, which a producer need not fulfil.
        drop(requested_schema);
        let (array, schema) = to_ffi(&StructArray::from(self.0.clone()).to_data()).map_err(|error| failed(&error))?;
        Ok((PyCapsule::new_with_value(py, schema, SCHEMA)?, PyCapsule::new_with_value(py, array, ARRAY)?))
    }
}

/// An array, or a batch as an array of structs.
pub fn import(name: &str, object: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    if !object.hasattr("__arrow_c_array__")? {
        let kind = object.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "{name}: expected Arrow data, such as pyarrow.array(...), got {kind}"
        )));
    }
    let capsules = object.call_method0("__arrow_c_array__")?;
    let (schema, array): (Bound<'_, PyCapsule>, Bound<'_, PyCapsule>) = capsules.extract()?;
    let (schema, array) = (schema.pointer_checked(Some(SCHEMA))?, array.pointer_checked(Some(ARRAY))?);
    // SAFETY: capsules of these names hold these structures, whose content is moved out.
    let data = unsafe {
        let schema = FFI_ArrowSchema::from_raw(schema.cast().as_ptr());
        from_ffi(FFI_ArrowArray::from_raw(array.cast().as_ptr()), &schema)
    };
    Ok(make_array(data.map_err(|error| failed(&error))?))
}

pub fn failed(error: &ArrowError) -> PyErr {
    PyValueError::new_err(error.to_string().lines().next().unwrap_or_default().to_owned())
}
