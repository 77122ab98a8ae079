//! What stands in front of both answers.

use super::record::SpaRecord;

/// How an instruction becomes a prompt. The response follows the rendered text directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PromptTemplate {
    /// The prompt of Stanford Alpaca, with its two forms for records with and without `input`; one space separates it
    /// from the response.
    #[default]
    Alpaca,
    /// Instruction, input if there is one, each on lines of their own.
    Plain,
    /// Instruction and input as they are, with nothing between or behind them: for prompts that are rendered already,
    /// by a model's chat template for instance.
    Verbatim,
}

impl PromptTemplate {
    /// The text in front of a response, separator included.
    ///
    /// ```
    /// use figa_loss::{PromptTemplate, SpaRecord};
    ///
    /// let record = SpaRecord { instruction: "Add.".into(), input: "1 2".into(), ..SpaRecord::default() };
    /// assert_eq!(PromptTemplate::Plain.render(&record), "Add.\n1 2\n");
    /// assert!(PromptTemplate::Alpaca.render(&record).ends_with("### Input:\n1 2\n\n### Response: "));
    /// ```
    pub fn render(self, record: &SpaRecord) -> String {
        let SpaRecord { instruction, input, .. } = record;
        match (self, input.is_empty()) {
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
            (Self::Verbatim, _) => format!("{instruction}{input}"),
        }
    }
}
