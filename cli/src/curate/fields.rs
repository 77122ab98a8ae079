//! The fields of a record as they stand in its text.

use std::ops::Range;

use serde::de::IgnoredAny;
use serde_json::Deserializer;

/// Where the value of a field stands in an object that has been found to be one; the last if there are several.
pub fn value_of(json: &str, name: &str) -> Option<Range<usize>> {
    let (mut found, mut at) = (None, json.find('{')? + 1);
    loop {
        let mut keys = Deserializer::from_str(&json[at..]).into_iter::<String>();
        let key = keys.next()?.ok();
        at += keys.byte_offset();
        let Some(key) = key else { return found };
        at += json[at..].find(':')? + 1;
        at += json[at..].len() - json[at..].trim_start().len();
        let mut values = Deserializer::from_str(&json[at..]).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let end = at + values.byte_offset();
        if key == name {
            found = Some(at..end);
        }
        at = end + json[end..].find([',', '}'])? + 1;
        if json[..at].ends_with('}') {
            return found;
        }
    }
}

/// The object with another value of one field, which is its last where it had none; all else stays as it was.
pub fn with_value(json: &str, name: &str, value: &str) -> String {
    match value_of(json, name) {
        Some(Range { start, end }) => [&json[..start], value, &json[end..]].concat(),
        None => {
            let inside = json.trim_end().strip_suffix('}').unwrap_or(json).trim_end();
            format!("{inside}, {}: {value}{}", serde_json::Value::from(name), &json[inside.len()..])
        }
    }
}
