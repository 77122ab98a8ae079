//! Edit scripts, alignments and labels of two sequences.

use std::hash::Hash;

use figa_loss::{Aligner, Alignment, EditOp, EditTag, Side, TokenLabel, label_tokens};
use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use crate::error::exception;
use crate::long::interruptible;
use crate::options;
use crate::tokens::{Pair, Tokens};

/// Pairs with a larger product of lengths may take long enough for Ctrl-C to matter.
const LONG: usize = 1 << 30;

/// Runs a function of both sequences without the GIL.
fn compute<T: Send + 'static>(
    py: Python<'_>,
    pair: &Pair<'_>,
    of_int64: fn(&[i64], &[i64], Aligner) -> T,
    of_int32: fn(&[i32], &[i32], Aligner) -> T,
    aligner: Aligner,
) -> PyResult<T> {
    if pair.original.len().saturating_mul(pair.revised.len()) > LONG {
        let (original, revised) = (pair.original.to_int64()?.into_owned(), pair.revised.to_int64()?.into_owned());
        return interruptible(py, move |_| of_int64(&original, &revised, aligner));
    }
    match (&pair.original, &pair.revised) {
        (Tokens::Int32(original), Tokens::Int32(revised)) => {
            let (original, revised) = (original.as_slice()?, revised.as_slice()?);
            Ok(py.detach(|| of_int32(original, revised, aligner)))
        }
        (original, revised) => {
            let (original, revised) = (original.to_int64()?, revised.to_int64()?);
            Ok(py.detach(|| of_int64(&original, &revised, aligner)))
        }
    }
}

fn editops_of<T: Eq + Hash>(source: &[T], dest: &[T], _: Aligner) -> Vec<EditOp> {
    figa_loss::editops(source, dest)
}

fn distance_of<T: Eq + Hash>(source: &[T], dest: &[T], _: Aligner) -> usize {
    figa_loss::distance(source, dest)
}

fn alignment_of<T: Eq + Hash>(original: &[T], revised: &[T], aligner: Aligner) -> Alignment {
    aligner.align(original, revised)
}

fn tag_name(py: Python<'_>, tag: EditTag) -> &Bound<'_, PyString> {
    match tag {
        EditTag::Replace => intern!(py, "replace"),
        EditTag::Insert => intern!(py, "insert"),
        EditTag::Delete => intern!(py, "delete"),
    }
}

#[pyfunction]
pub fn editops<'py>(source: &Bound<'py, PyAny>, dest: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    let py = source.py();
    let pair = Pair::new(["source", "dest"], [source, dest])?;
    let ops = compute(py, &pair, editops_of, editops_of, Aligner::Levenshtein)?;
    PyList::new(py, ops.iter().map(|op| (tag_name(py, op.tag), op.src_pos, op.dest_pos)))
}

#[pyfunction]
pub fn distance(source: &Bound<'_, PyAny>, dest: &Bound<'_, PyAny>) -> PyResult<usize> {
    let pair = Pair::new(["source", "dest"], [source, dest])?;
    compute(source.py(), &pair, distance_of, distance_of, Aligner::Levenshtein)
}

/// How to find the changes: a mapping.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Method {
    aligner: String,
    granularity: String,
    original_words: Option<Vec<Option<u32>>>,
    revised_words: Option<Vec<Option<u32>>>,
}

impl Method {
    fn align(&self, py: Python<'_>, pair: &Pair<'_>) -> PyResult<Alignment> {
        let aligner = options::named(&self.aligner)?;
        let granularity: figa_loss::Granularity = options::named(&self.granularity)?;
        let words = [&self.original_words, &self.revised_words].map(|words| words.as_deref().unwrap_or_default());
        if granularity == figa_loss::Granularity::Word && words.iter().any(|words| words.is_empty()) {
            let message = "granularity: word needs original_words and revised_words, the number of each token's word";
            return Err(PyValueError::new_err(message));
        }
        let alignment = compute(py, pair, alignment_of, alignment_of, aligner)?;
        granularity.widen(alignment, words[0], words[1]).map_err(|error| exception(&error))
    }
}

type Mask<'py> = Bound<'py, PyArray1<bool>>;

/// The masks of both sides, and the spans as `(tag, original_start, original_end, revised_start, revised_end)`.
#[pyfunction]
pub fn align<'py>(
    original: &Bound<'py, PyAny>,
    revised: &Bound<'py, PyAny>,
    method: Method,
) -> PyResult<(Mask<'py>, Mask<'py>, Bound<'py, PyList>)> {
    let py = original.py();
    let pair = Pair::new(["original", "revised"], [original, revised])?;
    let alignment = method.align(py, &pair)?;
    let spans = alignment.spans().iter().map(|span| {
        let (original, revised) = (&span.original, &span.revised);
        (tag_name(py, span.tag), original.start, original.end, revised.start, revised.end)
    });
    let mask = |mask: &[bool]| mask.to_vec().into_pyarray(py);
    Ok((mask(alignment.removed()), mask(alignment.added()), PyList::new(py, spans)?))
}

/// The labels of both sides as numbers, then their weights.
type Labels<'py> = [Bound<'py, PyAny>; 4];

#[pyfunction]
pub fn label<'py>(
    original: &Bound<'py, PyAny>,
    revised: &Bound<'py, PyAny>,
    eos: Option<&Bound<'py, PyAny>>,
    method: Method,
    weights: options::Weights,
) -> PyResult<Labels<'py>> {
    let py = original.py();
    let weights = options::weights(weights)?;
    let pair = Pair::new(["original", "revised"], [original, revised])?;
    let eos = eos.map(|eos| pair.number("eos", eos)).transpose()?;
    let alignment = method.align(py, &pair)?;
    let of = |side: Side, tokens: &Tokens<'_>| -> PyResult<_> {
        let labels = labels_of(&alignment, side, &tokens.to_int64()?, eos).map_err(|error| exception(&error))?;
        let values: Vec<f32> = labels.iter().map(|&label| weights.weight(side, label)).collect();
        let labels: Vec<u8> = labels.into_iter().map(label_number).collect();
        Ok((labels.into_pyarray(py).into_any(), values.into_pyarray(py).into_any()))
    };
    let (original, revised) = (of(Side::Original, &pair.original)?, of(Side::Revised, &pair.revised)?);
    Ok([original.0, revised.0, original.1, revised.1])
}

/// The labels of one side; without an EOS, no token is one.
pub fn labels_of(
    alignment: &Alignment,
    side: Side,
    tokens: &[i64],
    eos: Option<i64>,
) -> figa_loss::Result<Vec<TokenLabel>> {
    let none = || (i64::MIN..).find(|number| !tokens.contains(number)).unwrap_or_default();
    label_tokens(alignment, side, tokens, &eos.unwrap_or_else(none))
}

/// The number of a label in the enumeration of the Python package.
pub fn label_number(label: TokenLabel) -> u8 {
    match label {
        TokenLabel::Ignored => 0,
        TokenLabel::Kept => 1,
        TokenLabel::Inserted => 2,
        TokenLabel::Deleted => 3,
        TokenLabel::Substituted => 4,
        TokenLabel::Eos => 5,
    }
}
