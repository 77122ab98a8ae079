//! Records: their fields and messages.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// One record of SPA, the format of the FIGA paper's data: an instruction, and an answer before and after its minimal
/// revision.
///
/// All fields are strings. `input` and `output` may be absent or null, other fields are ignored. [`Fields`] reads records
/// with other field names, and records with lists of messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SpaRecord {
    /// What the model was asked.
    pub instruction: String,
    /// The material the instruction works on; empty where there is none.
    pub input: String,
    /// The ground truth; empty where there is none. The loss does not use it.
    pub output: String,
    /// The model's own answer.
    pub original_output: String,
    /// The answer after the smallest change that makes it good.
    pub revised_output: String,
    /// The conversation in front of the answers, if the record holds messages. It then replaces `instruction`, and
    /// `input` is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
}

/// One turn of a conversation.
///
/// ```no_run
/// use figa_loss::{ChatTemplate, Message};
///
/// let template = ChatTemplate::read("path/to/model")?.expect("a model with a chat template");
/// let question = Message::new("user", "What colour is the sky?");
/// println!("{}", template.render(&[question])?);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text of the message.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

impl SpaRecord {
    /// A record without `input`, `output` and `messages`.
    ///
    /// ```
    /// use figa_loss::SpaRecord;
    ///
    /// let mut record = SpaRecord::new("Add.", "13", "12");
    /// record.input = "5 7".into();
    /// assert_eq!((&*record.original_output, &*record.revised_output), ("13", "12"));
    /// ```
    pub fn new(
        instruction: impl Into<String>,
        original_output: impl Into<String>,
        revised_output: impl Into<String>,
    ) -> Self {
        Self {
            instruction: instruction.into(),
            original_output: original_output.into(),
            revised_output: revised_output.into(),
            ..Self::default()
        }
    }
}

impl<'de> Deserialize<'de> for SpaRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(&Fields::default())
    }
}

/// The names of a record's fields. The defaults are those of SPA.
///
/// The prompt and the answers may also be lists of messages, `{"role": ..., "content": ...}`. The last message of an
/// answer is the answer itself; those before it belong to the prompt, and must be the same for both answers.
///
/// ```
/// use figa_loss::{Fields, Format, RecordReader};
///
/// let json = r#"{"prompt": [{"role": "user", "content": "Colour?"}], "chosen": "It is blue.", "rejected": "Green."}"#;
/// let mut fields = Fields::default();
/// (fields.instruction, fields.original, fields.revised) = ("prompt".into(), "rejected".into(), "chosen".into());
/// let mut reader = RecordReader::from_text("preferences.jsonl", Format::Lines, json.as_bytes());
/// let record = reader.next().expect("one record")?.parse(&fields)?;
/// assert_eq!((&*record.messages[0].content, &*record.revised_output), ("Colour?", "It is blue."));
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
                // Null means absent, and only two fields may be absent.
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
