//! From the JSON of a record to its parts, in all the shapes that [`Fields`] lists.

use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::message::{Message, kind};
use super::{Fields, SpaRecord};

/// The field with variables for the template.
const TEMPLATE_VARIABLES: &str = "chat_template_kwargs";

/// The field that says why the answers end, as in the API of OpenAI and in vLLM, and its value for those that a limit of
/// tokens has cut off.
pub(super) const FINISH_REASON: &str = "finish_reason";
pub(super) const LENGTH: &str = "length";

/// The variables that hold the conversation, which no other variable may replace.
pub(in crate::data) const CONVERSATION: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// Fields that belong to a prompt and would be dropped, were they not named.
const GUARDED: [&str; 3] = ["system", "tools", "documents"];

/// A field that belongs to a prompt and cannot be read.
const HISTORY: &str = "history";

/// Why a record cannot be read.
pub(in crate::data) enum Invalid {
    Json(serde_json::Error),
    /// The JSON is valid, and something in it is not.
    Record(String),
    /// It is valid, but the value of this field would be dropped.
    Unnamed(&'static str),
}

/// What is wrong with a field of [`GUARDED`] that nobody has named.
pub(in crate::data) fn would_be_dropped(key: &str) -> String {
    format!("`{key}` would be dropped: remove it, or name its field")
}

impl Fields {
    pub(in crate::data) fn parse(&self, json: &[u8]) -> Result<SpaRecord, Invalid> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let values = serde::Deserializer::deserialize_map(&mut deserializer, Wanted(self)).map_err(Invalid::Json)?;
        deserializer.end().map_err(Invalid::Json)?;
        match self.unnamed(&values) {
            Some(key) => Err(Invalid::Unnamed(key)),
            None => self.record(values).map_err(Invalid::Record),
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let required = [&self.instruction, &self.input, &self.output, &self.original, &self.revised];
        let optional = [&self.system, &self.tools, &self.documents];
        required.into_iter().chain(optional.into_iter().flatten()).map(|name| &**name)
    }

    /// Whether the record's own field of this name is needed.
    fn needs(&self, key: &str) -> bool {
        let is_part = |name: &str| name == key || first_name(name) == key;
        self.names().any(is_part)
            || [TEMPLATE_VARIABLES, FINISH_REASON, HISTORY].contains(&key)
            || GUARDED.contains(&key)
    }

    /// The record with these values; only the [needed](Self::needs) ones are read.
    pub(super) fn record(&self, values: Map<String, Value>) -> Result<SpaRecord, String> {
        if let Some(key) = self.unnamed(&values) {
            return Err(format!("{} ({key})", would_be_dropped(key)));
        }
        if values.get(HISTORY).is_some_and(|value| !is_empty(value)) && !self.is_named(HISTORY) {
            return Err(format!("`{HISTORY}` is not read: put its turns into the messages of the prompt"));
        }
        let input = self.text(&values, &self.input)?;
        let output = match optional(&values, &self.output) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(_) => self.answer(&values, &self.output)?.1.text().into_owned(),
        };
        let instruction = optional(&values, &self.instruction);
        if let (None, Some(Value::String(original)), Some(Value::String(revised))) =
            (instruction, optional(&values, &self.original), optional(&values, &self.revised))
        {
            let record = self.dialogue(original, revised)?;
            let mut record = record.ok_or_else(|| self.missing(&values, &self.instruction))?;
            if !input.is_empty() {
                return Err(format!("both the dialogues and `{}` hold a prompt", self.input));
            }
            record.output = output;
            return self.with_context(record, &values);
        }
        let (before_original, original) = self.answer(&values, &self.original)?;
        let (before_revised, revised) = self.answer(&values, &self.revised)?;
        self.check_same(&before_original, &before_revised)?;
        let mut record = SpaRecord::new("", "", "");
        (record.input, record.output) = (input, output);
        (record.original_output, record.revised_output) = (original, revised);
        record.messages = before_original;
        match instruction {
            None if record.messages.is_empty() => return Err(self.missing(&values, &self.instruction)),
            None => {}
            Some(Value::String(text)) => {
                let last = record.messages.iter().rev().find(|message| message.role() == "user");
                match last {
                    None if record.messages.is_empty() => record.instruction.clone_from(text),
                    // The question once more, as some datasets have it.
                    Some(question) if question.text().trim() == text.trim() => {}
                    _ if text.is_empty() => {}
                    _ => return Err(self.two_prompts()),
                }
            }
            Some(value) => {
                let messages = messages(&self.instruction, value)?;
                if !record.messages.is_empty() && messages != record.messages {
                    return Err(self.two_prompts());
                }
                record.messages = messages;
            }
        }
        if !record.messages.is_empty() && !record.input.is_empty() {
            return Err(format!("both messages and `{}` hold a prompt", self.input));
        }
        self.with_context(record, &values)
    }

    /// A part of the prompt that nobody has named.
    fn unnamed(&self, values: &Map<String, Value>) -> Option<&'static str> {
        GUARDED.into_iter().find(|key| !self.is_named(key) && values.get(*key).is_some_and(|value| !is_empty(value)))
    }

    fn is_named(&self, key: &str) -> bool {
        self.names().any(|name| first_name(name) == key)
    }

    /// Adds the system message, the tools, the documents, the variables of the template, and why the answers end.
    fn with_context(&self, mut record: SpaRecord, values: &Map<String, Value>) -> Result<SpaRecord, String> {
        if let Some(name) = &self.system {
            let system = self.text(values, name)?;
            match record.messages.first() {
                _ if system.is_empty() => {}
                Some(first) if first.role() == "system" && first.text() == system => {}
                Some(first) if first.role() == "system" => {
                    return Err(format!("both `{name}` and the messages hold a system message"));
                }
                _ => {
                    if record.messages.is_empty() {
                        record.messages.push(Message::new("user", record.question()));
                    }
                    if record.is_dialogue() {
                        // No longer the text that follows `Assistant:`.
                        for answer in [&mut record.original_output, &mut record.revised_output] {
                            *answer = Message::new("assistant", answer.text().trim());
                        }
                    }
                    (record.instruction, record.input) = (String::new(), String::new());
                    record.messages.insert(0, Message::new("system", system));
                }
            }
        }
        record.tools = list_of_objects(values, self.tools.as_deref())?;
        record.documents = list_of_objects(values, self.documents.as_deref())?;
        record.chat_template_kwargs = match optional(values, TEMPLATE_VARIABLES) {
            None => Map::new(),
            Some(Value::Object(variables)) => match CONVERSATION.into_iter().find(|name| variables.contains_key(*name))
            {
                None => variables.clone(),
                Some(name) => return Err(format!("`{TEMPLATE_VARIABLES}` holds `{name}`, which is no variable")),
            },
            Some(other) => return Err(format!("`{TEMPLATE_VARIABLES}` is {}, expected an object", kind(other))),
        };
        record.is_truncated = self.text(values, FINISH_REASON)? == LENGTH;
        Ok(record)
    }

    fn text(&self, values: &Map<String, Value>, name: &str) -> Result<String, String> {
        match optional(values, name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(format!("`{name}` is {}, expected a string", kind(other))),
        }
    }

    /// The messages in front of an answer, and the answer.
    fn answer(&self, values: &Map<String, Value>, name: &str) -> Result<(Vec<Message>, Message), String> {
        let mut messages = match optional(values, name) {
            None => return Err(self.missing(values, name)),
            Some(Value::String(text)) => return Ok((vec![], Message::new("assistant", text))),
            Some(value) => messages(name, value)?,
        };
        match messages.pop() {
            Some(last) if last.role() == "assistant" => Ok((messages, last)),
            Some(last) => {
                let role = last.role();
                Err(format!("`{name}`: the last message has the role {role:?}, expected \"assistant\""))
            }
            None => Err(format!("`{name}` holds no message")),
        }
    }

    fn missing(&self, values: &Map<String, Value>, name: &str) -> String {
        match find(values, name) {
            Some(_) => format!("`{name}` is null"),
            None => format!("the field `{name}` is missing"),
        }
    }

    fn two_prompts(&self) -> String {
        format!("both `{}` and the answers' messages hold a prompt, and they differ", self.instruction)
    }

    /// Only the last message may differ.
    fn check_same(&self, original: &[Message], revised: &[Message]) -> Result<(), String> {
        let (a, b) = (&self.original, &self.revised);
        if original.len() != revised.len() {
            let (m, n) = (original.len(), revised.len());
            return Err(format!("`{a}` has {m} messages in front of its answer and `{b}` has {n}, expected the same"));
        }
        let Some(at) = original.iter().zip(revised).position(|(original, revised)| original != revised) else {
            return Ok(());
        };
        let (number, role) = (at + 1, original[at].role());
        Err(format!(
            "`{a}` and `{b}` differ in message {number} ({role}): only the last message may be edited; make one record of \
             each edited turn"
        ))
    }

    /// A record of two dialogues that differ in their last turn; `None` if the texts are no dialogues.
    fn dialogue(&self, original: &str, revised: &str) -> Result<Option<SpaRecord>, String> {
        let (Some(turns), Some(revised_turns)) = (turns(original), turns(revised)) else { return Ok(None) };
        let start = |name: &str, turns: &[Turn]| match turns.last() {
            Some(last) if last.role == "assistant" => Ok(last.text.start),
            _ => Err(format!("`{name}` is a dialogue that does not end with a turn of the assistant")),
        };
        let (cut, revised_cut) = (start(&self.original, &turns)?, start(&self.revised, &revised_turns)?);
        if original[..cut] != revised[..revised_cut] {
            return Err(format!(
                "`{}` and `{}` differ before their last turns: only the last turn may be edited",
                self.original, self.revised
            ));
        }
        let mut record = SpaRecord::new(&original[..cut], &original[cut..], &revised[cut..]);
        let before = &turns[..turns.len() - 1];
        record.messages =
            before.iter().map(|turn| Message::new(turn.role, original[turn.text.clone()].trim())).collect();
        Ok(Some(record))
    }
}

/// The part of a name in front of its first dot.
fn first_name(name: &str) -> &str {
    name.split_once('.').map_or(name, |(first, _)| first)
}

/// The value of a field that is there and not null.
fn optional<'v>(values: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    find(values, name).filter(|value| !value.is_null())
}

/// A field by its name; where there is none of this name, the dots in it reach into objects.
fn find<'v>(values: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    if let Some(value) = values.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    find(values.get(first)?.as_object()?, rest)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The messages of a field: a list of them, or one.
fn messages(name: &str, value: &Value) -> Result<Vec<Message>, String> {
    match value {
        Value::Array(list) => {
            let read = |(value, number): (&Value, usize)| {
                Message::from_json(value.clone()).map_err(|reason| format!("`{name}`, message {number}: {reason}"))
            };
            list.iter().zip(1..).map(read).collect()
        }
        Value::Object(_) => {
            Ok(vec![Message::from_json(value.clone()).map_err(|reason| format!("`{name}`: {reason}"))?])
        }
        other => Err(format!("`{name}` is {}, expected a string or messages", kind(other))),
    }
}

/// A list of objects, or its JSON as a string, as tables hold it whose columns have one type each.
fn list_of_objects(values: &Map<String, Value>, name: Option<&str>) -> Result<Option<Value>, String> {
    let Some(name) = name else { return Ok(None) };
    let list = match optional(values, name) {
        None => return Ok(None),
        Some(Value::String(json)) if json.is_empty() => return Ok(None),
        Some(Value::String(json)) => {
            serde_json::from_str(json).map_err(|error| format!("`{name}` is a string that holds no JSON: {error}"))?
        }
        Some(value) => value.clone(),
    };
    match &list {
        Value::Array(items) if items.is_empty() => Ok(None),
        Value::Array(items) if items.iter().all(Value::is_object) => Ok(Some(list)),
        Value::Array(_) => Err(format!("`{name}`: expected a list of objects")),
        other => Err(format!("`{name}` is {}, expected a list of objects", kind(other))),
    }
}

/// A turn of a dialogue in one text.
struct Turn {
    role: &'static str,
    /// Where the turn's own text is.
    text: std::ops::Range<usize>,
}

/// The turns of a dialogue; `None` if the text is not a dialogue.
fn turns(text: &str) -> Option<Vec<Turn>> {
    if !text.trim_start().starts_with("Human:") {
        return None;
    }
    let mut turns: Vec<Turn> = vec![];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let before = &text[..at];
        let is_after_blank = before.trim().is_empty() || before.ends_with("\n\n") || before.ends_with("\n\r\n");
        for (name, role) in [("Human:", "user"), ("Assistant:", "assistant")] {
            if is_after_blank && line.starts_with(name) {
                if let Some(last) = turns.last_mut() {
                    last.text.end = at;
                }
                turns.push(Turn { role, text: at + name.len()..text.len() });
            }
        }
        at += line.len();
    }
    (turns.first()?.role == "user").then_some(turns)
}

/// Reads the fields of an object that are needed.
pub(super) struct Wanted<'a>(pub(super) &'a Fields);

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if !self.0.needs(&key) {
                map.next_value::<IgnoredAny>()?;
            } else if values.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate field `{key}`")));
            } else {
                values.insert(key, map.next_value()?);
            }
        }
        Ok(values)
    }
}
