//! Do the arguments of a loss fit each other? Everything is checked before anything is computed.

use tch::{Device, Kind, Tensor};

use super::head::LmHead;
use crate::error::{Error, Result};

const FLOATS: &str = "f16, bf16, f32 or f64";

/// Checks `logits [B, S, V]` and returns `V`.
pub(in crate::loss) fn check_logits(logits: &Tensor) -> Result<i64> {
    check_defined("logits", logits)?;
    let vocab = match *logits.size() {
        [_, _, vocab] if vocab > 0 => vocab,
        _ => {
            let expected = "[B, S, V] with V > 0".into();
            return Err(Error::Shape { argument: "logits", expected, actual: logits.size() });
        }
    };
    check_kind("logits", logits, FLOATS, is_float)?;
    Ok(vocab)
}

/// Checks `hidden [B, S, H]` and a head `[V, H]`, and returns `V`.
pub(in crate::loss) fn check_hidden(hidden: &Tensor, head: &LmHead<'_>) -> Result<i64> {
    check_defined("hidden", hidden)?;
    check_defined("lm_head", head.weight)?;
    let width = match *hidden.size() {
        [_, _, width] if width > 0 => width,
        _ => {
            let expected = "[B, S, H] with H > 0".into();
            return Err(Error::Shape { argument: "hidden", expected, actual: hidden.size() });
        }
    };
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
        check_kind(argument, tensor, "that of hidden", |actual| actual == kind)?;
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

/// Checks labels and weights against the positions of `input [B, S, _]`.
pub(in crate::loss) fn check_tokens(input: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<()> {
    let (batch, seq, expected) = (input.size()[0], input.size()[1], input.device());
    for (argument, tensor) in [("labels", labels), ("weights", weights)] {
        check_defined(argument, tensor)?;
        if tensor.size() != [batch, seq] {
            let expected = format!("[B, S] = [{batch}, {seq}]");
            return Err(Error::Shape { argument, expected, actual: tensor.size() });
        }
        let actual = tensor.device();
        if actual != expected && actual != Device::Cpu {
            return Err(Error::Device { argument, expected, actual });
        }
    }
    check_kind("labels", labels, "int64", |kind| kind == Kind::Int64)?;
    check_kind("weights", weights, FLOATS, is_float)
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
