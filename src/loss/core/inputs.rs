//! Do the arguments of a loss fit each other? Everything is checked before anything is computed.

use tch::{Kind, Tensor};

use super::head::LmHead;
use super::rows::OutputShape;
use crate::error::{Error, Result};

const FLOATS: &str = "f16, bf16, f32 or f64";

/// Checks logits `[B, S, V]` or `[N, V]` for the positions of some rows, and returns `V`.
pub(super) fn check_logits(argument: &'static str, logits: &Tensor, shape: OutputShape<'_>) -> Result<i64> {
    check_defined(argument, logits)?;
    let vocab = check_last(argument, logits, shape, 'V')?;
    check_kind(argument, logits, FLOATS, is_float)?;
    Ok(vocab)
}

/// Checks hidden states `[B, S, H]` or `[N, H]` and a head `[V, H]`, and returns `V`. Under autocast their dtypes may
/// differ.
pub(super) fn check_hidden(hidden: &Tensor, head: &LmHead<'_>, shape: OutputShape<'_>, autocast: bool) -> Result<i64> {
    check_defined("hidden", hidden)?;
    check_defined("lm_head", head.weight)?;
    let width = check_last("hidden", hidden, shape, 'H')?;
    let vocab = match *head.weight.size() {
        [vocab, same] if vocab > 0 && same == width => vocab,
        _ => {
            let expected = format!("[V, H] = [V, {width}] with V > 0");
            return Err(Error::Shape { argument: "lm_head", expected, actual: head.weight.size() });
        }
    };
    let mut parameters = vec![("lm_head", head.weight)];
    if let Some(bias) = head.bias {
        check_defined("bias", bias)?;
        if bias.size() != [vocab] {
            let expected = format!("[V] = [{vocab}]");
            return Err(Error::Shape { argument: "bias", expected, actual: bias.size() });
        }
        parameters.push(("bias", bias));
    }
    check_kind("hidden", hidden, FLOATS, is_float)?;
    let (kind, expected) = (hidden.f_kind()?, hidden.device());
    for (argument, tensor) in parameters {
        match autocast {
            true => check_kind(argument, tensor, FLOATS, is_float)?,
            false => check_kind(argument, tensor, "that of hidden", |actual| actual == kind)?,
        }
        if tensor.device() != expected {
            return Err(Error::Device { argument, expected, actual: tensor.device() });
        }
    }
    if !(head.scale.is_finite() && head.scale != 0.0) {
        let (expected, actual) = ("a finite number other than 0", head.scale.to_string());
        return Err(Error::Value { argument: "scale", expected, actual });
    }
    match head.softcap {
        Some(cap) if !(cap.is_finite() && cap > 0.0) => {
            Err(Error::Value { argument: "softcap", expected: "a number > 0", actual: cap.to_string() })
        }
        _ => Ok(vocab),
    }
}

/// Checks that a tensor has the positions of some rows and one more dimension, and returns its size.
fn check_last(argument: &'static str, tensor: &Tensor, shape: OutputShape<'_>, name: char) -> Result<i64> {
    let size = tensor.size();
    let fits = |positions: &[i64]| match shape {
        OutputShape::OfLabels(shape) => positions == shape,
        OutputShape::AtLeast(least) => matches!(positions.len(), 1 | 2) && positions.iter().product::<i64>() >= least,
    };
    match size.split_last() {
        Some((&last, positions)) if last > 0 && fits(positions) => Ok(last),
        _ => {
            let expected = match shape {
                OutputShape::OfLabels(shape) => {
                    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
                    format!("{} = [{sizes}{name}] with {name} > 0", names(shape.len(), Some(name)))
                }
                OutputShape::AtLeast(least) => {
                    let [flat, batch] = [1, 2].map(|dimensions| names(dimensions, Some(name)));
                    format!("{batch} or {flat} with at least {least} positions, as outputs says, and {name} > 0")
                }
            };
            Err(Error::Shape { argument, expected, actual: size })
        }
    }
}

/// `[B, S]` or `[N]`, with one more dimension if it has a name.
fn names(dimensions: usize, last: Option<char>) -> String {
    let positions = if dimensions == 2 { "B, S" } else { "N" };
    last.map_or(format!("[{positions}]"), |last| format!("[{positions}, {last}]"))
}

/// Checks labels and weights of some dimensions against each other.
pub(super) fn check_labels(labels: &Tensor, weights: &Tensor, dimensions: usize) -> Result<()> {
    check_defined("labels", labels)?;
    if labels.dim() != dimensions {
        let expected = names(dimensions, None);
        return Err(Error::Shape { argument: "labels", expected, actual: labels.size() });
    }
    check_kind("labels", labels, "int64", |kind| kind == Kind::Int64)?;
    check_tokens("weights", weights, &labels.size())?;
    check_kind("weights", weights, FLOATS, is_float)
}

/// Checks that a tensor holds something for each token of the labels.
pub(in crate::loss) fn check_tokens(argument: &'static str, tensor: &Tensor, shape: &[i64]) -> Result<()> {
    check_defined(argument, tensor)?;
    if tensor.size() != shape {
        let expected = format!("{} = {shape:?}, that of labels", names(shape.len(), None));
        return Err(Error::Shape { argument, expected, actual: tensor.size() });
    }
    Ok(())
}

/// Checks that a tensor holds a list of int64 for each token of the labels.
pub(super) fn check_columns(argument: &'static str, tensor: &Tensor, shape: &[i64]) -> Result<()> {
    check_defined(argument, tensor)?;
    check_last(argument, tensor, OutputShape::OfLabels(shape), 'K')?;
    check_kind(argument, tensor, "int64", |kind| kind == Kind::Int64)
}

/// Checks that a tensor holds an int64 for each token of the labels.
pub(super) fn check_numbers(argument: &'static str, labels: &Tensor, numbers: &Tensor) -> Result<()> {
    check_tokens(argument, numbers, &labels.size())?;
    check_kind(argument, numbers, "int64", |kind| kind == Kind::Int64)
}

fn check_defined(argument: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.defined() {
        return Ok(());
    }
    Err(Error::Value { argument, expected: "a tensor", actual: "an undefined tensor".into() })
}

fn check_kind(
    argument: &'static str,
    tensor: &Tensor,
    expected: &'static str,
    fits: impl Fn(Kind) -> bool,
) -> Result<()> {
    match tensor.f_kind()? {
        kind if fits(kind) => Ok(()),
        actual => Err(Error::Dtype { argument, expected, actual }),
    }
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
}

/// Checks a setting of a loss.
pub(in crate::loss) fn at_least_0(argument: &'static str, value: f64) -> Result<()> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(Error::Value { argument, expected: "a finite number >= 0", actual: value.to_string() }),
    }
}

/// Checks a setting of a loss.
pub(in crate::loss) fn greater_than_0(argument: &'static str, value: f64) -> Result<()> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(Error::Value { argument, expected: "a finite number > 0", actual: value.to_string() }),
    }
}
