//! What a template may cost. Templates are programs of strangers: they may loop without end, and build values that are
//! larger or deeper than any memory.
//!
//! minijinja counts the steps of a template (its fuel), and the bytes that they create. It does not count what is inside
//! the values that are compared, joined or shown, whose parts may be shared: `[a, a]` of `[b, b]` of ... So filters count
//! that, and [`syntax`](super::syntax) puts them where values grow.

use std::iter;

use minijinja::functions;
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Error, State, Value};

use super::python::invalid;

/// Bytes of the source.
pub(super) const MAX_SOURCE: usize = 1 << 18;
/// Lines, and bytes of a line: minijinja counts both with 16 bits.
pub(super) const MAX_LINE: usize = u16::MAX as usize;
/// Brackets within brackets.
pub(super) const MAX_NESTING: usize = 50;
/// Tokens of an expression between two commas.
pub(super) const MAX_CHAIN: usize = 1000;
/// `elif`s of a template, each of which a parser nests in the one before.
pub(super) const MAX_ELIFS: usize = 500;
/// Levels of lists and dicts within each other.
pub(super) const MAX_DEPTH: usize = 200;

/// Steps of rendering one conversation, or as many as it has bytes if those are more.
pub(super) const MAX_STEPS: u64 = 5_000_000;
/// A step also pays for this many bytes that are created or read.
pub(super) const STEP_BYTES: usize = 64;
/// Parts of a value that one step pays for.
const STEP_PARTS: usize = 4;

/// Takes the steps for some bytes, before they are created.
pub(super) fn pay_for(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / STEP_BYTES) as u64)
}

/// The bytes of all texts in a value, with a few for each part; each visit is paid for.
pub(super) fn pay_for_parts(state: &State, value: &Value) -> Result<usize, Error> {
    Ok(Walk::over(state, value, Content::Any)?.bytes)
}

/// A value as it is, once its size is paid for; what is lazy becomes a list.
pub(super) fn sized(state: &State, value: Value) -> Result<Value, Error> {
    if is_simple(&value) {
        pay_for(state, value.as_str().map_or(0, str::len))?;
        return Ok(value);
    }
    let value = listed(state, value)?;
    Walk::over(state, &value, Content::Any)?;
    Ok(value)
}

/// A value as it is; a list of the items of what is lazy.
pub(super) fn listed(state: &State, value: Value) -> Result<Value, Error> {
    if value.kind() != ValueKind::Iterable {
        return Ok(value);
    }
    let mut list = vec![];
    for item in value.try_iter()? {
        state.consume_fuel(1)?;
        list.push(item);
    }
    Ok(Value::from(list))
}

/// A value that a namespace may hold: with other namespaces, or what refers to them, values would hold themselves.
pub(super) fn storable(state: &State, value: Value) -> Result<Value, Error> {
    if is_simple(&value) {
        return Ok(value);
    }
    let value = listed(state, value)?;
    Walk::over(state, &value, Content::Data)?;
    Ok(value)
}

fn is_simple(value: &Value) -> bool {
    !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain)
}

#[derive(Clone, Copy, PartialEq)]
enum Content {
    Any,
    /// Nothing but texts, numbers, lists and dicts.
    Data,
}

/// A walk over all parts of a value, those that are shared each time.
struct Walk<'s, 't, 'e> {
    state: &'s State<'t, 'e>,
    content: Content,
    parts: usize,
    bytes: usize,
    /// What is paid for, in steps.
    paid: usize,
}

impl<'s, 't, 'e> Walk<'s, 't, 'e> {
    /// How often a walk pays, in steps.
    const INSTALMENT: usize = 1024;

    fn over(state: &'s State<'t, 'e>, value: &Value, content: Content) -> Result<Self, Error> {
        let mut walk = Self { state, content, parts: 0, bytes: 0, paid: 0 };
        walk.visit(value, 0)?;
        walk.pay()?;
        Ok(walk)
    }

    fn steps(&self) -> usize {
        self.parts / STEP_PARTS + self.bytes / STEP_BYTES
    }

    fn pay(&mut self) -> Result<(), Error> {
        let steps = self.steps();
        self.state.consume_fuel((steps - self.paid) as u64)?;
        self.paid = steps;
        Ok(())
    }

    fn visit(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.parts += 1;
        self.bytes += value.as_bytes().map_or(0, <[u8]>::len);
        if is_simple(value) {
            return Ok(());
        }
        if depth >= MAX_DEPTH {
            return Err(invalid(format!("lists and dicts within each other: more than {MAX_DEPTH} levels")));
        }
        if self.steps() - self.paid > Self::INSTALMENT {
            self.pay()?;
        }
        if let Some(list) = value.downcast_object_ref::<Vec<Value>>() {
            return list.iter().try_for_each(|item| self.visit(item, depth + 1));
        }
        if value.kind() == ValueKind::Map {
            if self.content == Content::Data && !is_dict(value) {
                return Err(not_storable());
            }
            let pairs = value.as_object().and_then(|map| map.try_iter_pairs());
            for (key, value) in pairs.into_iter().flatten() {
                self.visit(&key, depth + 1)?;
                self.visit(&value, depth + 1)?;
            }
            return Ok(());
        }
        match value.try_iter() {
            Ok(mut items) => items.try_for_each(|item| self.visit(&item, depth + 1)),
            Err(_) if self.content == Content::Data => Err(not_storable()),
            Err(_) => Ok(()),
        }
    }
}

fn not_storable() -> Error {
    invalid("a namespace can hold texts, numbers, lists and dicts; no other namespace, macro or loop")
}

/// Whether a value is a plain dict: its type is private, and that of namespaces and macros as well.
fn is_dict(value: &Value) -> bool {
    thread_local!(static DICT: Value = Value::from_pairs([("", 0)]));
    let type_name = |value: &Value| value.as_object().map(|object| object.type_name());
    DICT.with(|dict| type_name(dict) == type_name(value))
}

/// `dict(...)`, which may nest values.
pub(super) fn dict(state: &State, base: Option<Value>, entries: Kwargs) -> Result<Value, Error> {
    sized(state, functions::dict(base, entries)?)
}

/// `namespace(...)`, see [`storable`].
pub(super) fn namespace(state: &State, entries: Option<ValueOrKwargs>) -> Result<Value, Error> {
    let pairs = entries.as_ref().and_then(|entries| entries.as_object()?.try_iter_pairs());
    for (_, value) in pairs.into_iter().flatten() {
        Walk::over(state, &value, Content::Data)?;
    }
    functions::namespace(entries)
}

/// `cycler(...)`, which holds values.
pub(super) fn cycler(state: &State, items: Rest<Value>) -> Result<Value, Error> {
    for item in items.iter() {
        pay_for_parts(state, item)?;
    }
    minijinja_contrib::globals::cycler(items.0)
}

/// A test that compares two values, once that is paid for.
pub(super) fn comparison(
    compare: fn(&Value, &Value) -> bool,
) -> impl Fn(&State, &Value, &Value) -> Result<bool, Error> + Send + Sync + 'static {
    move |state, left, right| {
        match (left.as_str(), right.as_str()) {
            (Some(left), Some(right)) => pay_for(state, left.len().min(right.len()))?,
            (None, None) => {
                pay_for_parts(state, left)?;
                pay_for_parts(state, right)?;
            }
            _ => {}
        }
        Ok(compare(left, right))
    }
}

/// The test `in`.
pub(super) fn contains(state: &State, item: &Value, list: &Value) -> Result<bool, Error> {
    if item.as_str().is_none_or(|text| text.len() >= STEP_BYTES) {
        pay_for_parts(state, item)?;
        pay_for_parts(state, list)?;
    }
    minijinja::tests::is_in(state, item, list)
}

/// `left * right`: repeats a text or a list, or multiplies numbers.
pub(super) fn times(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(left), Some(right)) = (integer(left), integer(right)) {
        return left.checked_mul(right).map(whole).ok_or_else(|| invalid("the product is too large"));
    }
    if let (Some(left), Some(right)) = (float(left), float(right)) {
        return Ok((left * right).into());
    }
    let (value, count) = match (integer(left), integer(right)) {
        (None, Some(count)) => (left, count),
        (Some(count), None) => (right, count),
        _ => return Err(unsupported("*", left, right)),
    };
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = value.as_str() {
        pay_for(state, text.len().saturating_mul(count))?;
        let repeated = text.repeat(count);
        return Ok(if value.is_safe() { Value::from_safe_string(repeated) } else { repeated.into() });
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Err(unsupported("*", left, right));
    }
    let steps = Walk::over(state, value, Content::Any)?.steps() + 1;
    state.consume_fuel(steps.saturating_mul(count) as u64)?;
    let items: Vec<Value> = value.try_iter()?.collect();
    let repeated: Vec<Value> = iter::repeat_n(items, count).flatten().collect();
    Ok(if value.is_tuple() { Tuple::from(repeated).into() } else { repeated.into() })
}

/// `left % right` of numbers, with the sign of the right one.
pub(super) fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    match (integer(left), integer(right)) {
        (Some(_), Some(0)) => Err(invalid("modulo by zero")),
        (Some(left), Some(right)) => {
            let remainder = left.checked_rem(right).unwrap_or(0);
            let is_opposite = remainder != 0 && (remainder < 0) != (right < 0);
            Ok(whole(if is_opposite { remainder + right } else { remainder }))
        }
        _ => match (float(left), float(right)) {
            (Some(_), Some(0.0)) => Err(invalid("modulo by zero")),
            (Some(left), Some(right)) => {
                let remainder = left % right;
                let is_opposite = remainder != 0.0 && (remainder < 0.0) != (right < 0.0);
                Ok(if is_opposite { remainder + right } else { remainder.abs().copysign(right) }.into())
            }
            _ => Err(unsupported("%", left, right)),
        },
    }
}

fn unsupported(operator: &str, left: &Value, right: &Value) -> Error {
    invalid(format!("{operator} is not defined for a {} and a {}", left.kind(), right.kind()))
}

fn integer(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(value.is_true().into()),
        ValueKind::Number if value.is_integer() => value.clone().try_into().ok(),
        _ => None,
    }
}

fn float(value: &Value) -> Option<f64> {
    matches!(value.kind(), ValueKind::Bool | ValueKind::Number).then(|| value.clone().try_into().ok())?
}

fn whole(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}
