//! `tojson`, as Python's `json.dumps` with `ensure_ascii=False`.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{State, Value};

use super::bounds::{MAX_DEPTH, pay_for, pay_for_parts};
use super::python::{float_text, invalid};

struct Layout<'s, 't, 'e> {
    state: &'s State<'t, 'e>,
    ensure_ascii: bool,
    sort_keys: bool,
    /// What one level of indentation is; `None` writes everything on one line.
    indent: Option<String>,
    /// Between items, and between key and value.
    separators: [String; 2],
}

/// The options are positional too: `ensure_ascii`, `indent`, `separators`, `sort_keys`.
pub(super) fn to_json(
    state: &State,
    value: &Value,
    positional: Rest<Value>,
    options: Kwargs,
) -> Result<String, minijinja::Error> {
    let option = |at: usize, name| {
        let named = options.get::<Option<Value>>(name)?;
        Ok::<_, minijinja::Error>(positional.get(at).cloned().or(named).filter(|value| !value.is_none()))
    };
    let flag = |at, name| Ok::<_, minijinja::Error>(option(at, name)?.is_some_and(|value| value.is_true()));
    let (ensure_ascii, sort_keys) = (flag(0, "ensure_ascii")?, flag(3, "sort_keys")?);
    let indent = match option(1, "indent")? {
        None => None,
        Some(indent) => match (indent.as_str(), indent.as_i64()) {
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(spaces)) => {
                let spaces = usize::try_from(spaces).unwrap_or(0);
                pay_for(state, spaces)?;
                Some(" ".repeat(spaces))
            }
            _ => return Err(invalid("tojson: indent is neither a number nor a string")),
        },
    };
    let separators = match option(2, "separators")? {
        Some(list) => {
            let list: Vec<String> = list.try_iter()?.map(|text| text.to_string()).collect();
            list.try_into().map_err(|_| invalid("tojson: expected two separators"))?
        }
        None if indent.is_some() => [",", ": "].map(str::to_owned),
        None => [", ", ": "].map(str::to_owned),
    };
    options.assert_all_used()?;
    pay_for_parts(state, value)?;
    let mut json = String::new();
    Layout { state, ensure_ascii, sort_keys, indent, separators }.write(value, 0, &mut json)?;
    Ok(json)
}

impl Layout<'_, '_, '_> {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), minijinja::Error> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!("tojson: lists and dicts within each other: more than {MAX_DEPTH} levels")));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.quote(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq => {
                let items = value.try_iter()?.collect::<Vec<_>>();
                self.list(['[', ']'], items, depth, out, |layout, item, out| layout.write(&item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut entries = vec![];
                for key in value.try_iter()? {
                    entries.push((key_text(&key)?, value.get_item(&key)?));
                }
                if self.sort_keys {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.list(['{', '}'], entries, depth, out, |layout, (key, value), out| {
                    layout.quote(&key, out);
                    pay_for(layout.state, layout.separators[1].len())?;
                    out.push_str(&layout.separators[1]);
                    layout.write(&value, depth + 1, out)
                })?;
            }
            kind => return Err(invalid(format!("tojson: a value of the kind {kind} has no JSON form"))),
        }
        Ok(())
    }

    fn list<T>(
        &self,
        [open, close]: [char; 2],
        items: Vec<T>,
        depth: usize,
        out: &mut String,
        write: impl Fn(&Self, T, &mut String) -> Result<(), minijinja::Error>,
    ) -> Result<(), minijinja::Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                pay_for(self.state, indent.len() * depth)?;
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
            Ok::<_, minijinja::Error>(())
        };
        out.push(open);
        let is_empty = items.is_empty();
        for (at, item) in items.into_iter().enumerate() {
            if at > 0 {
                pay_for(self.state, self.separators[0].len())?;
                out.push_str(&self.separators[0]);
            }
            line(depth + 1, out)?;
            write(self, item, out)?;
        }
        if !is_empty {
            line(depth, out)?;
        }
        out.push(close);
        Ok(())
    }

    fn quote(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                _ if c < ' ' || self.ensure_ascii && c > '~' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                _ => out.push(c),
            }
        }
        out.push('"');
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => match number {
            _ if number.is_nan() => "NaN".into(),
            _ if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
            _ => float_text(number),
        },
        _ => value.to_string(),
    }
}

/// Keys that are no strings are written as JSON, in quotes.
fn key_text(key: &Value) -> Result<String, minijinja::Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number => Ok(number(key)),
        kind => Err(invalid(format!("tojson: a key of the kind {kind}"))),
    }
}
