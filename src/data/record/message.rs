//! One turn of a conversation, with everything that a chat template may read.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

/// One turn of a conversation: a role, a content, and any other fields, all of which a chat template sees.
///
/// The content is a string, a list of text parts such as `{"type": "text", "text": "..."}`, or null or absent beside
/// `tool_calls`. Roles are read in any case, and the `from`, `value` and role names of ShareGPT become the usual ones.
///
/// ```
/// use figa_loss::Message;
///
/// let question = Message::new("user", "Weather in Oslo?");
/// assert_eq!((question.role(), &*question.text()), ("user", "Weather in Oslo?"));
/// let call = r#"{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "weather"}}]}"#;
/// let call: Message = serde_json::from_str(call)?;
/// assert_eq!((&*call.text(), call.fields().len()), ("", 3));
/// assert!(question.is_text() && !call.is_text());
/// assert_eq!(call.get("tool_calls").expect("a list")[0]["function"]["name"], "weather");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Message {
    fields: Map<String, Value>,
}

impl Message {
    /// A message of a role and a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let fields = [("role", role.into()), ("content", content.into())];
        Self { fields: fields.map(|(name, text)| (name.to_owned(), text.into())).into_iter().collect() }
    }

    /// `system`, `user`, `assistant`, `tool`, or another role that the template knows.
    pub fn role(&self) -> &str {
        self.fields["role"].as_str().unwrap_or_default()
    }

    /// The text of the content: a string as it is, text parts joined, and nothing for a message without content.
    pub fn text(&self) -> Cow<'_, str> {
        match self.fields.get("content") {
            Some(Value::String(text)) => text.into(),
            Some(Value::Array(_)) => self.parts().collect::<String>().into(),
            _ => "".into(),
        }
    }

    /// The value of a field; `None` if it is absent or null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// All fields in their order.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Whether the message has nothing but its role and a text, as a string or in parts.
    pub fn is_text(&self) -> bool {
        let mut others = self.fields.iter().filter(|(name, _)| !["role", "content"].contains(&&***name));
        self.get("content").is_some() && others.all(|(_, value)| value.is_null())
    }

    /// The texts of the parts.
    pub(in crate::data) fn parts(&self) -> impl Iterator<Item = &str> {
        self.fields.get("content").and_then(Value::as_array).into_iter().flatten().filter_map(part_text)
    }

    /// Whether the content is a list of parts.
    pub(in crate::data) fn has_parts(&self) -> bool {
        self.fields.get("content").is_some_and(Value::is_array)
    }

    /// The same message with this text as its content.
    pub(in crate::data) fn with_text(&self, text: String) -> Self {
        let mut message = self.clone();
        message.fields.insert("content".into(), text.into());
        message
    }

    /// A message from JSON; an error says what is wrong with it, without its place.
    pub(super) fn from_json(value: Value) -> Result<Self, String> {
        let Value::Object(fields) = value else { return Err(format!("is {}, expected a message", kind(&value))) };
        let mut fields = if fields.contains_key("from") && fields.contains_key("value") && !fields.contains_key("role")
        {
            from_share_gpt(fields)
        } else {
            fields
        };
        match fields.get_mut("role") {
            None => return Err("has no role".into()),
            Some(Value::String(role)) if role.trim().is_empty() => return Err("role is empty".into()),
            Some(Value::String(role)) => *role = usual_role(role),
            Some(other) => return Err(format!("role is {}, expected a string", kind(other))),
        }
        if fields["role"] == "function_call" {
            function_call(&mut fields)?;
        }
        let message = Self { fields };
        message.check_content()?;
        Ok(message.with_text_parts())
    }

    /// Parts that are strings become `{"type": "text", "text": ...}`, which is what templates read.
    fn with_text_parts(mut self) -> Self {
        for part in self.fields.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::String(text) = part {
                *part = json!({"type": "text", "text": text.as_str()});
            }
        }
        self
    }

    fn check_content(&self) -> Result<(), String> {
        match self.fields.get("content") {
            Some(Value::String(_)) => Ok(()),
            None | Some(Value::Null) if self.get("tool_calls").is_some() => Ok(()),
            None => Err("has no content".into()),
            Some(Value::Array(parts)) => parts.iter().zip(1..).try_for_each(|(part, number)| match part_text(part) {
                Some(_) => Ok(()),
                None => Err(format!("content, part {number} is {}, and only text is read", part_kind(part))),
            }),
            Some(other) => Err(format!("content is {}, expected a string or a list of parts", kind(other))),
        }
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(value).map_err(|reason| serde::de::Error::custom(format!("message: {reason}")))
    }
}

/// The text of a part; `None` if it is no text.
fn part_text(part: &Value) -> Option<&str> {
    match &part["type"] {
        Value::Null => part.as_str().or_else(|| part["text"].as_str()),
        Value::String(kind) if ["text", "input_text", "output_text"].contains(&&**kind) => part["text"].as_str(),
        _ => None,
    }
}

fn part_kind(part: &Value) -> String {
    part["type"].as_str().map_or_else(|| kind(part).to_owned(), |name| format!("of the type {name:?}"))
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A message of ShareGPT with the usual names, its fields in the same order.
fn from_share_gpt(fields: Map<String, Value>) -> Map<String, Value> {
    let renamed = |name: String| match &*name {
        "from" => "role".to_owned(),
        "value" => "content".to_owned(),
        _ => name,
    };
    fields.into_iter().map(|(name, value)| (renamed(name), value)).collect()
}

/// A role by its usual name; other roles stay as they are, for the template to accept or reject.
fn usual_role(role: &str) -> String {
    let usual = match &*role.to_ascii_lowercase() {
        "human" | "user" => "user",
        "gpt" | "assistant" => "assistant",
        "system" => "system",
        "developer" => "developer",
        "observation" | "tool" => "tool",
        "function_call" => "function_call",
        _ => role,
    };
    usual.to_owned()
}

/// Turns a tool call of ShareGPT, which is a message whose text is JSON, into `tool_calls`.
fn function_call(fields: &mut Map<String, Value>) -> Result<(), String> {
    let text = fields.get("content").and_then(Value::as_str).unwrap_or_default();
    let calls = match serde_json::from_str(text) {
        Ok(Value::Array(calls)) => calls,
        Ok(call @ Value::Object(_)) => vec![call],
        _ => vec![],
    };
    if calls.is_empty() || !calls.iter().all(|call| call["name"].is_string()) {
        return Err("function_call: expected {\"name\": ..., \"arguments\": ...} as JSON".into());
    }
    let calls = calls.into_iter().map(|call| json!({"type": "function", "function": call})).collect();
    fields.insert("role".into(), "assistant".into());
    fields.insert("content".into(), Value::Null);
    fields.insert("tool_calls".into(), Value::Array(calls));
    Ok(())
}
