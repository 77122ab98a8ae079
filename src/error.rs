//! The one error type. Every message is a single line: what was wrong, what was expected, what came, what to do. It is
//! complete without its `source`; only an error of libtorch has one, which holds libtorch's full text.

#[cfg(feature = "data")]
use std::path::PathBuf;

#[cfg(feature = "data")]
use crate::side::Side;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value is outside of its domain.
    #[error("{argument}: expected {expected}, got {actual}")]
    Value {
        /// The argument or field, as the caller spelled it.
        argument: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// The value that was given.
        actual: String,
    },

    /// A file could not be read.
    #[cfg(feature = "data")]
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },

    /// A record of a data file is invalid.
    #[cfg(feature = "data")]
    #[error("{place}: {message}")]
    Record {
        /// Where it is: the file, the line and, for invalid JSON, the column, or the row.
        place: String,
        /// What is wrong there.
        message: String,
    },

    /// The name of a data file does not say its format.
    #[cfg(feature = "data")]
    #[error(
        "{}: expected .jsonl or .ndjson (one record per line), .json (one array or one record per line), each also with .gz \
         or .zst, or .parquet{}{}",
        path.display(),
        if cfg!(feature = "parquet") { "" } else { " (feature parquet)" },
        convert_csv(path)
    )]
    Format {
        /// The file.
        path: PathBuf,
    },

    /// A model's folder lacks something or is invalid, or its chat template rejects a conversation.
    #[cfg(feature = "data")]
    #[error("{place}: {message}")]
    Model {
        /// The file, or the part of the model.
        place: String,
        /// What is wrong there, and what to do.
        message: String,
    },

    /// A setting forbids it: a limit is too low, or something has to be asked for. The message ends with the name of the
    /// setting in brackets.
    #[cfg(feature = "data")]
    #[error("{place}: {message} ({setting})")]
    Setting {
        /// The record, or the part of the model.
        place: String,
        /// What is wrong there, and what to do.
        message: String,
        /// The field or the argument, such as `max_bytes`.
        setting: &'static str,
    },

    /// A record holds something that only a chat template can render.
    #[cfg(feature = "data")]
    #[error("only the model's chat template renders {what}")]
    Conversation {
        /// What it holds.
        what: String,
    },

    /// The tokenizer failed.
    #[cfg(feature = "data")]
    #[error("tokenizer: {0}")]
    Tokenizer(tokenizers::Error),

    /// A prompt has no tokens.
    #[cfg(feature = "data")]
    #[error(
        "the prompt of the {side} answer has no tokens, and nothing could predict the answer's first token; use a \
         template that renders some text, or a tokenizer that adds a BOS"
    )]
    EmptyPrompt {
        /// The answer without a prompt.
        side: Side,
    },

    /// A prompt leaves no room for a single token of the answer.
    #[cfg(feature = "data")]
    #[error(
        "the prompt has {prompt_tokens} tokens and max_length is {max_length}: no room for the {side} answer; raise \
         max_length, or drop the record"
    )]
    PromptTooLong {
        /// The answer that does not fit.
        side: Side,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// The limit.
        max_length: usize,
    },

    /// An answer has too many tokens to be aligned.
    #[cfg(feature = "data")]
    #[error(
        "the {side} answer has {tokens} tokens, more than the limit of one answer, {max}: raise it \
         (max_answer_tokens), or drop the record"
    )]
    AnswerTooLong {
        /// The answer.
        side: Side,
        /// Its tokens.
        tokens: usize,
        /// The limit.
        max: usize,
    },

    /// A tensor has the wrong shape.
    #[cfg(feature = "torch")]
    #[error("{argument}: expected shape {expected}, got {actual:?}")]
    Shape {
        /// The argument.
        argument: &'static str,
        /// The expected shape and its sizes in this call, such as `[B, S] = [2, 7]`.
        expected: String,
        /// The shape that was given.
        actual: Vec<i64>,
    },

    /// A tensor has the wrong element type.
    #[cfg(feature = "torch")]
    #[error("{argument}: expected dtype {expected}, got {actual:?}; convert it with to_kind")]
    Dtype {
        /// The argument.
        argument: &'static str,
        /// The types that are accepted.
        expected: &'static str,
        /// The type that was given.
        actual: tch::Kind,
    },

    /// A tensor is on another device than the tensors that it is used with.
    #[cfg(feature = "torch")]
    #[error("{argument}: expected device {expected:?}, got {actual:?}; move it with to_device")]
    Device {
        /// The argument.
        argument: &'static str,
        /// The device of the logits or the hidden states.
        expected: tch::Device,
        /// The device of the argument.
        actual: tch::Device,
    },

    /// A label is not a column of the logits.
    #[cfg(feature = "torch")]
    #[error("labels{place} is {label}: expected 0 <= label < V = {vocab}, or ignore_index = {ignore_index}")]
    LabelOutOfRange {
        /// Its indices in `labels`, such as `[1, 2]`.
        place: String,
        /// The label.
        label: i64,
        /// Columns of the logits.
        vocab: i64,
        /// The label that is skipped.
        ignore_index: i64,
    },

    /// libtorch failed: out of memory, for example.
    #[cfg(feature = "torch")]
    #[error("{}", .0.to_string().lines().next().unwrap_or_default())]
    Torch(#[from] tch::TchError),
}

#[cfg(feature = "data")]
impl Error {
    /// The setting whose value is the reason, which the message names in brackets: a program with a flag for it can name
    /// the flag in its place.
    ///
    /// ```
    /// use figa_loss::{Fields, Format, RecordReader};
    ///
    /// let mut reader = RecordReader::from_text("x.jsonl", Format::Lines, "{\"instruction\": \"Correct it.\"}".as_bytes());
    /// reader.max_bytes = 20;
    /// let error = reader.next().unwrap()?.parse(&Fields::default()).unwrap_err();
    /// let expected = "x.jsonl:1: the record has 30 bytes, more than the limit of one record: raise it (max_bytes)";
    /// assert_eq!((&*error.to_string(), error.setting()), (expected, Some("max_bytes")));
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    pub fn setting(&self) -> Option<&'static str> {
        match self {
            Self::Setting { setting, .. } => Some(setting),
            Self::AnswerTooLong { .. } => Some("max_answer_tokens"),
            _ => None,
        }
    }
}

/// How to turn a table of text into records.
#[cfg(feature = "data")]
fn convert_csv(path: &std::path::Path) -> String {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if !["csv", "tsv"].contains(&extension.to_ascii_lowercase().as_str()) {
        return String::new();
    }
    let (path, separator) = (path.display(), if extension.eq_ignore_ascii_case("tsv") { ", sep='\\t'" } else { "" });
    format!(
        "; convert it: python3 -c \"import pandas; pandas.read_csv('{path}'{separator}).to_json('records.jsonl', \
         orient='records', lines=True)\""
    )
}
