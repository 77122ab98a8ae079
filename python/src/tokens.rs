//! Sequences of Python as slices: arrays without a copy, lists of integers, texts, and anything else that can be hashed.

use std::borrow::Cow;

use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

/// A sequence of tokens.
pub enum Tokens<'py> {
    Int64(PyReadonlyArray1<'py, i64>),
    Int32(PyReadonlyArray1<'py, i32>),
    Owned(Vec<i64>),
}

impl Tokens<'_> {
    pub fn len(&self) -> usize {
        match self {
            Self::Int64(array) => array.len(),
            Self::Int32(array) => array.len(),
            Self::Owned(numbers) => numbers.len(),
        }
    }

    pub fn to_int64(&self) -> PyResult<Cow<'_, [i64]>> {
        Ok(match self {
            Self::Int64(array) => array.as_slice()?.into(),
            Self::Int32(array) => array.as_slice()?.iter().copied().map(i64::from).collect::<Vec<_>>().into(),
            Self::Owned(numbers) => numbers.as_slice().into(),
        })
    }
}

/// Two sequences, with equal numbers for equal items.
pub struct Pair<'py> {
    pub original: Tokens<'py>,
    pub revised: Tokens<'py>,
    /// The numbers of items that are no integers.
    numbers: Option<Bound<'py, PyDict>>,
}

impl<'py> Pair<'py> {
    pub fn new(names: [&str; 2], objects: [&Bound<'py, PyAny>; 2]) -> PyResult<Self> {
        if let (Some(original), Some(revised)) = (integers(names[0], objects[0])?, integers(names[1], objects[1])?) {
            return Ok(Self { original, revised, numbers: None });
        }
        if let (Ok(original), Ok(revised)) = (objects[0].cast::<PyString>(), objects[1].cast::<PyString>()) {
            let code_points = |text: &Bound<'_, PyString>| -> PyResult<_> {
                Ok(Tokens::Owned(text.to_cow()?.chars().map(|c| i64::from(u32::from(c))).collect()))
            };
            return Ok(Self { original: code_points(original)?, revised: code_points(revised)?, numbers: None });
        }
        let numbers = PyDict::new(objects[0].py());
        let items = |at: usize| -> PyResult<_> {
            let items = objects[at].try_iter().map_err(|_| unexpected(names[at], objects[at]))?;
            Ok(Tokens::Owned(items.map(|item| number(&numbers, &item?)).collect::<PyResult<_>>()?))
        };
        Ok(Self { original: items(0)?, revised: items(1)?, numbers: Some(numbers) })
    }

    /// The number of an item that may be in both sequences.
    pub fn number(&self, name: &str, item: &Bound<'py, PyAny>) -> PyResult<i64> {
        if let Some(numbers) = &self.numbers {
            return number(numbers, item);
        }
        if let Ok(character) = item.extract::<char>() {
            return Ok(u32::from(character).into());
        }
        item.extract().map_err(|_| PyTypeError::new_err(format!("{name}: expected a token, got {item}")))
    }
}

/// The number of an item: the next one, if it differs from all before it.
fn number(numbers: &Bound<'_, PyDict>, item: &Bound<'_, PyAny>) -> PyResult<i64> {
    if let Some(number) = numbers.get_item(item)? {
        return number.extract();
    }
    let number = numbers.len() as i64;
    numbers.set_item(item, number)?;
    Ok(number)
}

/// The integers of an array or a list; `None` if the object is neither.
fn integers<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Option<Tokens<'py>>> {
    if object.is_instance_of::<PyString>() {
        return Ok(None);
    }
    if let Ok(array) = object.cast::<PyUntypedArray>() {
        return array_of_integers(name, array).map(Some);
    }
    if object.hasattr("__array__")? {
        // A tensor on the CPU, or another array.
        let array = object.py().import("numpy")?.call_method1("asarray", (object,))?;
        return array_of_integers(name, array.cast()?).map(Some);
    }
    Ok(object.extract().ok().map(Tokens::Owned))
}

fn array_of_integers<'py>(name: &str, array: &Bound<'py, PyUntypedArray>) -> PyResult<Tokens<'py>> {
    let kind: char = array.dtype().getattr("kind")?.extract()?;
    if array.ndim() != 1 || !['i', 'u'].contains(&kind) {
        let (dtype, shape) = (array.dtype(), array.shape());
        return Err(PyTypeError::new_err(format!("{name}: expected a 1-D array of integers, got {dtype} {shape:?}")));
    }
    if array.is_contiguous() {
        if let Ok(array) = array.cast::<PyArray1<i64>>() {
            return Ok(Tokens::Int64(array.readonly()));
        }
        if let Ok(array) = array.cast::<PyArray1<i32>>() {
            return Ok(Tokens::Int32(array.readonly()));
        }
    }
    Ok(Tokens::Owned(array.call_method1("astype", ("int64",))?.cast::<PyArray1<i64>>()?.to_vec()?))
}

fn unexpected(name: &str, object: &Bound<'_, PyAny>) -> PyErr {
    let kind = object.get_type().name().map_or_else(|_| "an object".into(), |name| name.to_string());
    PyTypeError::new_err(format!("{name}: expected a sequence of tokens, got {kind}"))
}
