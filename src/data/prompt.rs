//! The prompt in front of both answers.

use std::path::Path;

use super::chat::ChatTemplate;
use super::record::{Message, SpaRecord};
use crate::error::{Error, Result};

/// How an instruction is rendered as a prompt. The answer follows the rendered text directly.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum PromptTemplate {
    /// The prompt of Stanford Alpaca, with its two forms for records with and without `input`; one space separates it
    /// from the answer.
    #[default]
    Alpaca,
    /// The instruction, and the input if there is one, each on lines of its own.
    Plain,
    /// Instruction and input as they are, with nothing between or behind them: for rendered prompts.
    Verbatim,
    /// The chat template of the model. Instruction and input are the user's message, on lines of their own.
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
    /// encoder.template = PromptTemplate::for_model("path/to/model")?;
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`ChatTemplate::read`].
    pub fn for_model(folder: impl AsRef<Path>) -> Result<Self> {
        Ok(ChatTemplate::read(folder)?.map_or(Self::Alpaca, Self::Chat))
    }

    /// The text in front of a answer, separator included.
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
    /// Those of [`ChatTemplate::render`]; without one, [`Error::Conversation`] for a record of more than one message.
    pub fn render(&self, record: &SpaRecord) -> Result<String> {
        let SpaRecord { instruction, input, messages, .. } = record;
        let instruction = match (self, &messages[..]) {
            (Self::Chat(template), []) => {
                // Without the line break that ends it in a plain prompt.
                let user = Self::Plain.render(record)?.trim_end_matches('\n').to_owned();
                return template.render(&[Message::new("user", user)]);
            }
            (Self::Chat(template), _) => return template.render(messages),
            (_, []) => instruction,
            (_, [only]) if only.role == "user" => &only.content,
            (_, several) => return Err(Error::Conversation { messages: several.len() }),
        };
        Ok(match (self, input.is_empty()) {
            (Self::Alpaca, true) => format!(
                "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
                 ### Instruction:\n{instruction}\n\n### Response: "
            ),
            (Self::Alpaca, false) => format!(
                "Below is an instruction that describes a task, paired with an input that provides further context. \
                 Write a response that appropriately completes the request.\n\n\
                 ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response: "
            ),
            (Self::Plain, true) => format!("{instruction}\n"),
            (Self::Plain, false) => format!("{instruction}\n{input}\n"),
            (Self::Verbatim | Self::Chat(_), _) => format!("{instruction}{input}"),
        })
    }
}
