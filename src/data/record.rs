//! Records: a prompt and two answers, and the names of their fields.

mod message;
mod parse;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

pub use message::Message;
pub(super) use parse::{CONVERSATION, Invalid, would_be_dropped};

/// One record of SPA, the format of the FIGA paper's data: an instruction, and an answer before and after its minimal
/// revision.
///
/// In its simplest form all fields are strings, and `input` and `output` may be absent or null. Prompt and answers may
/// also be messages; [`Fields`] lists the shapes, and reads records with other field names. What `Serialize` writes,
/// `Deserialize` reads.
///
/// ```
/// use figa_loss::{Fields, Format, RecordReader, SpaRecord};
///
/// let json = r#"{"instruction": "Weather in Oslo?", "original_output": "No idea.", "revised_output": "It rains.",
///     "tools": [{"type": "function", "function": {"name": "weather"}}], "chat_template_kwargs": {"thinking": false}}"#;
/// let json = json.replace('\n', " ");
/// let mut fields = Fields::default();
/// fields.tools = Some("tools".into());
/// let mut reader = RecordReader::from_text("calls.jsonl", Format::Lines, std::io::Cursor::new(json));
/// let record: SpaRecord = reader.next().expect("one record")?.parse(&fields)?;
/// assert_eq!(record.tools.as_ref().expect("a list")[0]["function"]["name"], "weather");
/// assert_eq!(record.chat_template_kwargs["thinking"], false);
/// assert_eq!(serde_json::from_str::<SpaRecord>(&serde_json::to_string(&record)?)?, record);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SpaRecord {
    /// What the model was asked.
    pub instruction: String,
    /// Text that the instruction refers to; empty where there is none.
    pub input: String,
    /// The reference answer; empty where there is none. The loss does not use it.
    pub output: String,
    /// The model's own answer, a message of the assistant.
    pub original_output: Message,
    /// The answer after the smallest change that makes it good, a message of the assistant.
    pub revised_output: Message,
    /// The conversation in front of the answers, if the record holds messages. It then replaces `instruction` and
    /// `input`, which are empty; only where the record was a dialogue in one text is `instruction` that text.
    pub messages: Vec<Message>,
    /// The tools that the template shows to the model: a list of objects.
    pub tools: Option<Value>,
    /// The documents that the template shows to the model: a list of objects.
    pub documents: Option<Value>,
    /// Variables for the template, such as `enable_thinking`.
    pub chat_template_kwargs: Map<String, Value>,
    /// Whether a limit of tokens cut the answers off: the record's `finish_reason` is `length`. Their rows have no EOS,
    /// because nothing says where these answers end.
    pub is_truncated: bool,
}

impl SpaRecord {
    /// A record of texts, without `input`, `output` and messages.
    ///
    /// ```
    /// use figa_loss::SpaRecord;
    ///
    /// let mut record = SpaRecord::new("Add.", "13", "12");
    /// record.input = "5 7".into();
    /// assert_eq!((record.original_output.text(), record.revised_output.text()), ("13".into(), "12".into()));
    /// ```
    pub fn new(
        instruction: impl Into<String>,
        original_output: impl Into<String>,
        revised_output: impl Into<String>,
    ) -> Self {
        Self {
            instruction: instruction.into(),
            input: String::new(),
            output: String::new(),
            original_output: Message::new("assistant", original_output),
            revised_output: Message::new("assistant", revised_output),
            messages: vec![],
            tools: None,
            documents: None,
            chat_template_kwargs: Map::new(),
            is_truncated: false,
        }
    }

    /// The user's question where the record holds no messages: the instruction, and the input on lines of its own.
    pub(super) fn question(&self) -> String {
        match self.input.is_empty() {
            true => self.instruction.clone(),
            false => format!("{}\n{}", self.instruction, self.input),
        }
    }

    /// Whether prompt and answers were one text each: turns of `Human` and `Assistant`.
    pub(super) fn is_dialogue(&self) -> bool {
        !self.messages.is_empty() && !self.instruction.is_empty()
    }
}

impl Serialize for SpaRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if self.messages.is_empty() {
            map.serialize_entry("instruction", &self.instruction)?;
        } else if !self.is_dialogue() {
            map.serialize_entry("instruction", &self.messages)?;
        }
        map.serialize_entry("input", &self.input)?;
        map.serialize_entry("output", &self.output)?;
        for (name, answer) in [("original_output", &self.original_output), ("revised_output", &self.revised_output)] {
            match (self.is_dialogue(), answer.is_text()) {
                (true, _) => map.serialize_entry(name, &format!("{}{}", self.instruction, answer.text()))?,
                (false, true) if !answer.has_parts() => map.serialize_entry(name, &answer.text())?,
                (false, _) => map.serialize_entry(name, answer)?,
            }
        }
        for (name, value) in [("tools", &self.tools), ("documents", &self.documents)] {
            if let Some(value) = value {
                map.serialize_entry(name, value)?;
            }
        }
        if !self.chat_template_kwargs.is_empty() {
            map.serialize_entry("chat_template_kwargs", &self.chat_template_kwargs)?;
        }
        if self.is_truncated {
            map.serialize_entry(parse::FINISH_REASON, parse::LENGTH)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for SpaRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields { tools: Some("tools".into()), documents: Some("documents".into()), ..Fields::default() };
        let values = deserializer.deserialize_map(parse::Wanted(&fields))?;
        fields.record(values).map_err(serde::de::Error::custom)
    }
}

/// The names of a record's fields. The defaults are those of SPA. A name with dots, such as `data.chosen`, reaches into
/// objects.
///
/// A prompt is a text or a list of messages. An answer is a text, a message of the assistant, or a list of messages that
/// ends in one; the messages before it belong to the prompt and must be the same for both answers. Without a prompt, both
/// answers may also be dialogues in one text, with turns that begin with `Human:` and `Assistant:` after a blank line.
///
/// The fields `chat_template_kwargs` and `finish_reason` have fixed names.
///
/// ```
/// use figa_loss::{Fields, Format, RecordReader};
///
/// let json = r#"{"prompt": [{"role": "user", "content": "Colour?"}], "chosen": "It is blue.", "rejected": "Green."}"#;
/// let mut fields = Fields::default();
/// (fields.instruction, fields.original, fields.revised) = ("prompt".into(), "rejected".into(), "chosen".into());
/// let mut reader = RecordReader::from_text("preferences.jsonl", Format::Lines, json.as_bytes());
/// let record = reader.next().expect("one record")?.parse(&fields)?;
/// assert_eq!((record.messages[0].text(), record.revised_output.text()), ("Colour?".into(), "It is blue.".into()));
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fields {
    /// What the model was asked; `instruction` by default.
    pub instruction: String,
    /// Text that the instruction refers to; `input` by default.
    pub input: String,
    /// The reference answer; `output` by default.
    pub output: String,
    /// The model's own answer; `original_output` by default.
    pub original: String,
    /// The revised answer; `revised_output` by default.
    pub revised: String,
    /// The system message. By default there is none, and a record with a field `system` is an error.
    pub system: Option<String>,
    /// The tools: a list of objects, or its JSON as a string. By default there are none, and a record with a field `tools`
    /// is an error.
    pub tools: Option<String>,
    /// The documents: a list of objects, or its JSON as a string. By default there are none, and a record with a field
    /// `documents` is an error.
    pub documents: Option<String>,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            instruction: "instruction".into(),
            input: "input".into(),
            output: "output".into(),
            original: "original_output".into(),
            revised: "revised_output".into(),
            system: None,
            tools: None,
            documents: None,
        }
    }
}
