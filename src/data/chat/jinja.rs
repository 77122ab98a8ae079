//! Jinja as `transformers` sets it up, on minijinja.

use jiff::Zoned;
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, State, filters};
use minijinja_contrib::globals::joiner;

use super::bounds::{self, MAX_STEPS, pay_for};
use super::filters::{default, escape, float, int, percent};
use super::json::to_json;
use super::python::{call_method, invalid, pay_for_format};

/// The most bytes of one letter in the format of a date, with its width.
const MAX_DATE_WIDTH: usize = 256;

/// An environment without templates; `clock` is the time that they see.
pub(super) fn environment(clock: Zoned) -> Result<Environment<'static>, Error> {
    let mut jinja = Environment::new();
    jinja.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    jinja.set_unknown_method_callback(call_method);
    // Python: None is not iterable; strings and dicts are sequences.
    jinja.add_test("iterable", |it: &Value| !it.is_none() && minijinja::tests::is_iterable(it));
    jinja.add_test("sequence", |it: &Value| {
        matches!(it.kind(), ValueKind::Undefined | ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    jinja.add_filter("e", escape);
    jinja.add_filter("escape", escape);
    jinja.add_filter("tojson", to_json);
    jinja.add_filter("int", int);
    jinja.add_filter("float", float);
    jinja.add_filter("default", default);
    jinja.add_filter("d", default);
    jinja.add_filter("format", format);
    jinja.add_function("joiner", joiner);
    jinja.add_function("raise_exception", |message: &str| -> Result<(), Error> { Err(invalid(message)) });
    jinja.add_function("strftime_now", move |state: &State, format: &str| {
        pay_for(state, format.len().saturating_mul(MAX_DATE_WIDTH))?;
        strtime::format(format, &clock).map_err(invalid)
    });
    add_bounds(&mut jinja);
    Ok(jinja)
}

/// Bounds what templates may cost; see [`bounds`].
fn add_bounds(jinja: &mut Environment<'static>) {
    jinja.set_fuel(Some(MAX_STEPS));
    // It shows all variables, and is none of Python's.
    jinja.remove_global("debug");
    jinja.add_filter("_percent", percent);
    jinja.add_filter("_times", bounds::times);
    jinja.add_filter("_sized", bounds::sized);
    jinja.add_filter("_listed", bounds::listed);
    jinja.add_filter("_storable", bounds::storable);
    jinja.add_function("dict", bounds::dict);
    jinja.add_function("namespace", bounds::namespace);
    jinja.add_function("cycler", bounds::cycler);
    let comparisons: [Comparison; 6] = [
        (&["==", "eq", "equalto"], |a, b| a == b),
        (&["!=", "ne"], |a, b| a != b),
        (&["<", "lt", "lessthan"], |a, b| a < b),
        (&["<=", "le"], |a, b| a <= b),
        (&[">", "gt", "greaterthan"], |a, b| a > b),
        (&[">=", "ge"], |a, b| a >= b),
    ];
    for (names, compare) in comparisons {
        for name in names {
            jinja.add_test(*name, bounds::comparison(compare));
        }
    }
    jinja.add_test("in", bounds::contains);
}

/// The names of a test, and what it compares.
type Comparison = (&'static [&'static str], fn(&Value, &Value) -> bool);

/// The filter `format`, in the style of `%`.
fn format(state: &mut State, text: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let values: Vec<Value> = args.iter().map(|arg| (**arg).clone()).collect();
    pay_for_format(state, '%', text.as_str().unwrap_or_default(), &values)?;
    filters::format(state, text, args)
}
