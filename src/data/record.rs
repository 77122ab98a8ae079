//! What a record says.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::read::RecordReader;
use crate::error::Result;

/// One record of SPA, the format of the FIGA paper's data: an instruction, and an answer before and after its minimal
/// revision.
///
/// All fields are strings. `input` and `output` may be absent or null, other fields are ignored. [`Fields`] reads records
/// whose fields have other names, and such as hold lists of messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SpaRecord {
    /// What the model was asked.
    pub instruction: String,
    /// The material the instruction works on; empty where there is none.
    pub input: String,
    /// The ground truth; empty where there is none. The loss does not use it.
    pub output: String,
    /// The model's own answer.
    pub original_output: String,
    /// The answer after as small a change as makes it good.
    pub revised_output: String,
    /// The conversation in front of the answers, where the record is made of messages. It then takes the place of
    /// `instruction`, and `input` is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
}

/// One turn of a conversation.
///
/// ```no_run
/// use figa_loss::{ChatTemplate, Message};
///
/// let template = ChatTemplate::read("path/to/model")?.expect("a model with a chat template");
/// let question = Message { role: "user".into(), content: "What colour is the sky?".into() };
/// println!("{}", template.render(&[question])?);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl SpaRecord {
    /// Reads all records of a file into memory; [`RecordReader`] says which files, and reads one after another.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) for a name that says no format, [`Error::Io`](crate::Error::Io) when the
    /// file cannot be read, [`Error::Record`](crate::Error::Record) with path, line and column for the first broken record.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<Self>> {
        let fields = Fields::default();
        RecordReader::open([path])?.map(|raw| raw?.parse(&fields)).collect()
    }
}

impl<'de> Deserialize<'de> for SpaRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(&Fields::default())
    }
}

/// Which field of a record means what. The default are the names of SPA.
///
/// A prompt and answers may also be lists of messages, `{"role": ..., "content": ...}`. The last message of an answer is
/// the answer itself, and those before it belong to the prompt; both answers must agree in them.
///
/// ```
/// use figa_loss::{Fields, Format, RecordReader};
///
/// let json = r#"{"prompt": [{"role": "user", "content": "Colour?"}], "chosen": "It is blue.", "rejected": "Green."}"#;
/// let fields = Fields {
///     instruction: "prompt".into(),
///     original: "rejected".into(),
///     revised: "chosen".into(),
///     ..Fields::default()
/// };
/// let mut reader = RecordReader::from_text("preferences.jsonl", Format::Lines, json.as_bytes());
/// let record = reader.next().expect("one record")?.parse(&fields)?;
/// assert_eq!((&*record.messages[0].content, &*record.revised_output), ("Colour?", "It is blue."));
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// What the model was asked; `instruction` by default.
    pub instruction: String,
    /// The material of the instruction; `input` by default.
    pub input: String,
    /// The ground truth; `output` by default.
    pub output: String,
    /// The model's own answer; `original_output` by default.
    pub original: String,
    /// The revised answer; `revised_output` by default.
    pub revised: String,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            instruction: "instruction".into(),
            input: "input".into(),
            output: "output".into(),
            original: "original_output".into(),
            revised: "revised_output".into(),
        }
    }
}

impl Fields {
    pub(super) fn parse(&self, json: &[u8]) -> Result<SpaRecord, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let record = deserializer.deserialize_map(self)?;
        deserializer.end()?;
        Ok(record)
    }
}

/// The value of a field.
#[derive(Clone)]
enum Content {
    Text(String),
    Messages(Vec<Message>),
}

impl<'de> Visitor<'de> for &Fields {
    type Value = SpaRecord;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SpaRecord, A::Error> {
        let names = [&self.instruction, &self.input, &self.output, &self.original, &self.revised];
        let mut values: [Option<Content>; 5] = Default::default();
        while let Some(key) = map.next_key::<String>()? {
            // One field may serve for several.
            if !names.contains(&&key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value_seed(Value)?;
            for (name, slot) in names.into_iter().zip(&mut values).filter(|(name, _)| **name == key) {
                if slot.replace(value.clone().unwrap_or(Content::Text(String::new()))).is_some() {
                    return Err(A::Error::custom(format!("duplicate field `{key}`")));
                }
                // Null is nothing, and only two fields may be nothing.
                if value.is_none() && ![&self.input, &self.output].contains(&name) {
                    return Err(A::Error::custom(format!("field `{key}` is null, expected a string")));
                }
            }
        }
        let [instruction, input, output, original, revised] = values;
        let missing = |name: &str| A::Error::custom(format!("missing field `{name}`"));
        let text = |value: Option<Content>, name: &str| match value {
            Some(Content::Text(text)) => Ok(text),
            None => Ok(String::new()),
            Some(Content::Messages(_)) => {
                Err(A::Error::custom(format!("field `{name}` holds messages, expected a string")))
            }
        };
        let (input, output) = (
            text(input, &self.input)?,
            match output {
                Some(Content::Messages(messages)) => answer(messages, &self.output)?.1,
                output => text(output, &self.output)?,
            },
        );
        let split = |value: Option<Content>, name: &str| match value {
            None => Err(missing(name)),
            Some(Content::Text(text)) => Ok((vec![], text)),
            Some(Content::Messages(messages)) => answer(messages, name),
        };
        let (before_original, original_output) = split(original, &self.original)?;
        let (before_revised, revised_output) = split(revised, &self.revised)?;
        if before_original != before_revised {
            let message = format!("`{}` and `{}` differ before their last messages", self.original, self.revised);
            return Err(A::Error::custom(message));
        }
        let (instruction, mut messages) = match instruction {
            Some(Content::Text(text)) => (text, vec![]),
            Some(Content::Messages(messages)) => (String::new(), messages),
            None if before_original.is_empty() => return Err(missing(&self.instruction)),
            None => (String::new(), vec![]),
        };
        if !before_original.is_empty() {
            if !instruction.is_empty() || !input.is_empty() || !(messages.is_empty() || messages == before_original) {
                let message = format!("both `{}` and the answers' messages hold a prompt", self.instruction);
                return Err(A::Error::custom(message));
            }
            messages = before_original;
        }
        if !messages.is_empty() && !input.is_empty() {
            return Err(A::Error::custom(format!("both messages and `{}` hold a prompt", self.input)));
        }
        Ok(SpaRecord { instruction, input, output, original_output, revised_output, messages })
    }
}

/// The messages before the answer, and the answer.
fn answer<E: serde::de::Error>(mut messages: Vec<Message>, name: &str) -> Result<(Vec<Message>, String), E> {
    match messages.pop() {
        Some(Message { role, content }) if role == "assistant" => Ok((messages, content)),
        Some(Message { role, .. }) => {
            Err(E::custom(format!("`{name}` ends in a message of {role:?}, expected one of \"assistant\"")))
        }
        None => Err(E::custom(format!("`{name}` holds no message"))),
    }
}

/// Reads a string, a list of messages, or null.
struct Value;

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Option<Content>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Option<Content>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a string or a list of messages")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Content::Text(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Some(Content::Text(text)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut messages = vec![];
        while let Some(message) = list.next_element()? {
            messages.push(message);
        }
        Ok(Some(Content::Messages(messages)))
    }
}
