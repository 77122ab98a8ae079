//! Jinja as `transformers` sets it up, on minijinja.

use jiff::Zoned;
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error};
use minijinja_contrib::globals::{cycler, joiner};

use super::filters::{default, escape, float, int, percent};
use super::json::to_json;
use super::python::{call_method, invalid};

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
    jinja.add_filter("_percent", percent);
    jinja.add_function("joiner", joiner);
    jinja.add_function("cycler", |items: minijinja::value::Rest<Value>| cycler(items.0));
    jinja.add_function("raise_exception", |message: &str| -> Result<(), Error> { Err(invalid(message)) });
    jinja.add_function("strftime_now", move |format: &str| strtime::format(format, &clock).map_err(invalid));
    Ok(jinja)
}
