//! The fields of a JSON object, in order, whose values keep their bytes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

pub struct RawFields<'a>(Vec<(String, Cow<'a, RawValue>)>);

impl RawFields<'_> {
    /// The JSON of a value. If a name occurs several times, its last value counts.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rfind(|(key, _)| key == name).map(|(_, value)| value.get())
    }

    /// The value of a name, whose dots reach into objects where there is no field of the whole name.
    pub fn get_path(&self, name: &str) -> serde_json::Result<Option<Value>> {
        if let Some(json) = self.get(name) {
            return serde_json::from_str(json).map(Some);
        }
        let inner = name.split_once('.').and_then(|(first, rest)| Some((self.get(first)?, rest)));
        inner.map_or(Ok(None), |(json, rest)| serde_json::from_str::<RawFields>(json)?.get_path(rest))
    }

    /// Replaces all values of a name by one, or adds a field at the end.
    pub fn set(&mut self, name: &str, value: Box<RawValue>) {
        let mut value = Some(Cow::Owned(value));
        self.0.retain_mut(|(key, old)| key != name || value.take().map(|value| *old = value).is_some());
        self.0.extend(value.map(|value| (name.to_owned(), value)));
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = RawFields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = vec![];
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    fields.push((name, Cow::Borrowed(value)));
                }
                Ok(RawFields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

impl Serialize for RawFields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::RawFields;

    #[test]
    fn values_keep_their_bytes_and_their_order() {
        let json = r#" { "z" : 1.00, "a": [ 1,{"b":  "\u0061"}], "z": 12345678901234567890123, "\u0062": null } "#;
        let mut fields: RawFields = serde_json::from_str(json).unwrap();
        assert_eq!(fields.get("z"), Some("12345678901234567890123"));
        assert_eq!((fields.get("b"), fields.get("c")), (Some("null"), None));
        for (name, value) in [("a", "2.50"), ("c", "[ ]"), ("z", "3")] {
            fields.set(name, serde_json::value::RawValue::from_string(value.into()).unwrap());
        }
        let expected = r#"{"z":3,"a":2.50,"b":null,"c":[ ]}"#;
        assert_eq!(serde_json::to_string(&fields).unwrap(), expected);
    }

    #[test]
    fn dots_reach_into_objects() {
        let json = r#"{"a": {"b.c": 1, "d": {"e": 2}, "f": 3}, "g.h": 4, "g": {"h": 5}}"#;
        let fields: RawFields = serde_json::from_str(json).unwrap();
        for (name, value) in [("a.b.c", Some(1)), ("a.d.e", Some(2)), ("g.h", Some(4)), ("a.d.x", None), ("x.y", None)]
        {
            assert_eq!(fields.get_path(name).unwrap(), value.map(Into::into), "{name}");
        }
        assert!(fields.get_path("a.f.x").is_err(), "no object");
    }
}
