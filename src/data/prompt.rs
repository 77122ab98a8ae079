//! The prompt in front of both answers.

use std::path::Path;

use super::chat::{ChatOptions, ChatTemplate};
use super::record::SpaRecord;
use super::render::generation_prompt;
use crate::error::{Error, Result};

/// How a prompt is rendered.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum PromptTemplate {
    /// The prompt of Stanford Alpaca, with its two forms for records with and without `input`; one space separates it
    /// from the answer.
    #[default]
    Alpaca,
    /// The instruction, and the input if there is one, each on lines of its own.
    Plain,
    /// Instruction and input as they are, with nothing between or after them: for rendered prompts.
    Verbatim,
    /// The chat template of the model, which renders the answers too. Instruction and input are the user's message, on
    /// lines of their own.
    Chat(ChatTemplate),
}

impl PromptTemplate {
    /// The prompt of a model: its [`Chat`](Self::Chat) template if its folder has one, [`Alpaca`](Self::Alpaca)
    /// otherwise.
    ///
    /// ```no_run
    /// use figa_loss::{PairEncoder, PromptTemplate};
    ///
    /// let mut encoder = PairEncoder::read("path/to/model", None)?;
    /// encoder.template = PromptTemplate::for_model("path/to/model", &Default::default())?;
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`ChatTemplate::read`].
    pub fn for_model(folder: impl AsRef<Path>, options: &ChatOptions) -> Result<Self> {
        Ok(ChatTemplate::read(folder, options)?.map_or(Self::Alpaca, Self::Chat))
    }

    /// The time that the prompt's chat template sees, such as `2026-01-31T12:00:00`; `None` if it does not ask for it.
    ///
    /// ```
    /// assert_eq!(figa_loss::PromptTemplate::Plain.date(), None);
    /// ```
    pub fn date(&self) -> Option<&str> {
        match self {
            Self::Chat(template) => template.date(),
            _ => None,
        }
    }

    /// The text from which a model generates an answer. The prompt of a row may differ: [`PairEncoder::render`] returns
    /// it.
    ///
    /// [`PairEncoder::render`]: crate::PairEncoder::render
    ///
    /// ```
    /// use figa_loss::{PromptTemplate, SpaRecord};
    ///
    /// let mut record = SpaRecord::new("Add.", "12", "3");
    /// record.input = "1 2".into();
    /// assert_eq!(PromptTemplate::Plain.render(&record)?, "Add.\n1 2\n");
    /// assert!(PromptTemplate::Alpaca.render(&record)?.ends_with("### Input:\n1 2\n\n### Response: "));
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`ChatTemplate::render`]; without one, [`Error::Conversation`] for a record with tools, documents or more
    /// than one message.
    pub fn render(&self, record: &SpaRecord) -> Result<String> {
        let template = match self {
            Self::Chat(template) => return generation_prompt(template, record),
            Self::Alpaca => alpaca,
            Self::Plain => |instruction: &str, input: &str| match input.is_empty() {
                true => format!("{instruction}\n"),
                false => format!("{instruction}\n{input}\n"),
            },
            Self::Verbatim => |instruction: &str, input: &str| format!("{instruction}{input}"),
        };
        let only_chat = |what: &str| Err(Error::Conversation { what: what.into() });
        if record.tools.is_some() {
            return only_chat("a prompt with tools");
        }
        if record.documents.is_some() {
            return only_chat("a prompt with documents");
        }
        match &record.messages[..] {
            [] => Ok(template(&record.instruction, &record.input)),
            // A dialogue in one text.
            _ if record.is_dialogue() && matches!(self, Self::Verbatim) => Ok(record.instruction.clone()),
            [only] if only.role() == "user" => Ok(template(&only.text(), "")),
            several => Err(Error::Conversation { what: format!("a prompt of {} messages", several.len()) }),
        }
    }
}

fn alpaca(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        return format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Response: "
        );
    }
    format!(
        "Below is an instruction that describes a task, paired with an input that provides further context. \
         Write a response that appropriately completes the request.\n\n\
         ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response: "
    )
}
