//! Filters that differ from minijinja's own, and the operator `%`.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Tuple, ValueKind};
use minijinja::{Error, State, Value};

use super::bounds::remainder;
use super::python::{argument, invalid, pay_for_format};

/// `left % right`: formats a string, or takes the remainder of numbers.
pub(super) fn percent(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    let Some(text) = left.as_str() else { return remainder(left, right) };
    let args = match right.downcast_object_ref::<Tuple>() {
        Some(tuple) => tuple.to_vec(),
        None => vec![right.clone()],
    };
    let conversions = conversions(text);
    if args.len() > conversions.len() && right.kind() != ValueKind::Map {
        return Err(invalid("not all arguments converted during string formatting"));
    }
    // Python cuts the fraction off where an integer is asked for.
    let integer = |(conversion, arg): (char, Value)| match f64::try_from(arg.clone()) {
        Ok(number) if "diu".contains(conversion) && !arg.is_integer() && number.is_finite() => {
            Value::from(number.trunc() as i128)
        }
        _ => arg,
    };
    let kinds = conversions.into_iter().chain(std::iter::repeat('s'));
    let args: Vec<Value> = kinds.zip(args).map(integer).collect();
    pay_for_format(state, '%', text, &args)?;
    format(FormatStyle::Printf, text, &args).map(Value::from)
}

/// The letters of the conversions in a format string, in their order.
fn conversions(text: &str) -> Vec<char> {
    let parts = text.split('%').skip(1);
    let letter = |part: &str| part.chars().find(|c| c.is_alphabetic());
    let mut found = vec![];
    let mut is_escaped = false;
    for part in parts {
        if is_escaped || part.is_empty() {
            is_escaped = !is_escaped && part.is_empty();
            continue;
        }
        found.extend(letter(part));
    }
    found
}

/// The filter `int`: a number, or the default for anything that is not a number.
pub(super) fn int(value: &Value, default: Option<Value>, base: Option<u32>, options: Kwargs) -> Result<Value, Error> {
    let default = argument(default, &options, "default")?.unwrap_or(Value::from(0));
    let base = argument(base, &options, "base")?.unwrap_or(10);
    options.assert_all_used()?;
    let truncated =
        |number: f64| if number.is_finite() { Value::from(number.trunc() as i128) } else { default.clone() };
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => f64::try_from(value.clone()).map_or(default.clone(), truncated),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default().trim();
            match parse_int(text, base) {
                Some(number) => Value::from(number),
                None => text.replace('_', "").parse().map_or(default.clone(), truncated),
            }
        }
        _ => default,
    })
}

/// The filter `float`: a number, or the default for anything that is not a number.
pub(super) fn float(value: &Value, default: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let default = argument(default, &options, "default")?.unwrap_or(Value::from(0.0));
    options.assert_all_used()?;
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).map_or(default, Value::from),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default().trim().replace('_', "");
            text.parse::<f64>().map_or(default, Value::from)
        }
        _ => default,
    })
}

/// The filter `default`: another value in place of an undefined one, with `boolean` also of a false one.
pub(super) fn default(
    value: &Value,
    other: Option<Value>,
    boolean: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let other = argument(other, &options, "default_value")?;
    let boolean = argument(boolean, &options, "boolean")?.unwrap_or(false);
    options.assert_all_used()?;
    let is_absent = value.is_undefined() || boolean && !value.is_true();
    Ok(if is_absent { other.unwrap_or(Value::from("")) } else { value.clone() })
}

/// As Python's `int(text, base)`.
fn parse_int(text: &str, base: u32) -> Option<i128> {
    let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let lower = digits.to_ascii_lowercase();
    let digits = lower.strip_prefix(prefix).unwrap_or(&lower).replace('_', "");
    if !(2..=36).contains(&base) || digits.starts_with(['+', '-']) {
        return None;
    }
    i128::from_str_radix(&format!("{sign}{digits}"), base).ok()
}

/// HTML with the entities of Python's markupsafe. What is escaped already stays as it is.
pub(super) fn escape(value: &Value) -> Value {
    if value.is_safe() {
        return value.clone();
    }
    let text = value.to_string();
    let entity = |c: char| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '\'' => Some("&#39;"),
        '"' => Some("&#34;"),
        _ => None,
    };
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match entity(c) {
            Some(entity) => escaped.push_str(entity),
            None => escaped.push(c),
        }
    }
    Value::from_safe_string(escaped)
}
