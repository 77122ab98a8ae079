//! The one error type. Every message is a single line: what was wrong, what was expected, what came, what to do. It is
//! complete in itself; only an error of libtorch has a `source`, which holds the rest of libtorch's own account.

#[cfg(feature = "data")]
use std::path::PathBuf;

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
        /// What would have been right.
        expected: &'static str,
        /// What came instead.
        actual: String,
    },

    /// The parts of a row, or the rows of a batch, do not fit each other.
    #[error("example {index}: {part} has {actual} entries but input_ids has {expected}")]
    RowLength {
        /// Position of the example among those collated.
        index: usize,
        /// The field with the wrong length.
        part: &'static str,
        /// The length of `input_ids`.
        expected: usize,
        /// The length of `part`.
        actual: usize,
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

    /// A record of a data file is broken.
    #[cfg(feature = "data")]
    #[error(
        "{}:{line}:{column}: {message}; a record is an object with the strings instruction, original_output and \
         revised_output, or the fields that were named for them",
        path.display()
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// The line of the error, from 1.
        line: usize,
        /// The column of the error, from 1, in bytes.
        column: usize,
        /// What is wrong there.
        message: String,
    },

    /// The name of a data file does not say its format.
    #[cfg(feature = "data")]
    #[error(
        "{}: expected a name that ends in .json (one array) or .jsonl (one record a line), perhaps with .gz or .zst behind",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
    },

    /// The tokenizer does not know a token it needs.
    #[cfg(feature = "data")]
    #[error(
        "the tokenizer has no token {token:?}; name the end-of-sequence token of its model, or add this one to the \
         tokenizer"
    )]
    MissingToken {
        /// The token that was looked up.
        token: String,
    },

    /// The folder of a model names no token that ends an answer.
    #[cfg(feature = "data")]
    #[error("{}: names no eos_token, so that it has to be said which token ends an answer", path.display())]
    NoEos {
        /// The folder.
        path: PathBuf,
    },

    /// A file of a model's folder is broken; or its chat template refuses a conversation.
    #[cfg(feature = "data")]
    #[error("{place}: {message}")]
    ModelFile {
        /// The file, and the part of it.
        place: String,
        /// What is wrong there.
        message: String,
    },

    /// A record holds a conversation that only a chat template can render.
    #[cfg(feature = "data")]
    #[error("the prompt is a conversation of {messages} messages: it takes the model's chat template to render it")]
    Conversation {
        /// How many.
        messages: usize,
    },

    /// The tokenizer failed.
    #[cfg(feature = "data")]
    #[error("tokenizer: {0}")]
    Tokenizer(tokenizers::Error),

    /// A prompt has no tokens.
    #[cfg(feature = "data")]
    #[error(
        "the prompt of the {side:?} response has no tokens, so that nothing could predict the response's first; use a \
         template that renders some text, or a tokenizer that puts a BOS in front"
    )]
    EmptyPrompt {
        /// The response that nothing precedes.
        side: crate::weights::Side,
    },

    /// A prompt leaves no room for a single token of the response.
    #[cfg(feature = "data")]
    #[error(
        "the prompt has {prompt_tokens} tokens and max_length is {max_length}: no token of the {side:?} response is left; \
         raise max_length or leave the record out"
    )]
    PromptTooLong {
        /// The response that does not fit.
        side: crate::weights::Side,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// The limit.
        max_length: usize,
    },

    /// A tensor has the wrong shape.
    #[cfg(feature = "torch")]
    #[error("{argument}: expected shape {expected}, got {actual:?}")]
    Shape {
        /// The argument.
        argument: &'static str,
        /// The letters and what they stand for in this call, such as `[B, S] = [2, 7]`.
        expected: String,
        /// The shape that came.
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
        /// The type that came.
        actual: tch::Kind,
    },

    /// A tensor is on another device than those it goes with.
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

    /// A label names no column of `logits`.
    #[cfg(feature = "torch")]
    #[error(
        "labels[{row}, {position}] is {label}: expected 0 <= label < V = {vocab}, or ignore_index = {ignore_index}"
    )]
    LabelOutOfRange {
        /// Row of `labels`.
        row: i64,
        /// Position in the row.
        position: i64,
        /// The label found there.
        label: i64,
        /// Columns of `logits`.
        vocab: i64,
        /// The label that would have been skipped.
        ignore_index: i64,
    },

    /// libtorch failed: out of memory, for example.
    #[cfg(feature = "torch")]
    #[error("{}", .0.to_string().lines().next().unwrap_or_default())]
    Torch(#[from] tch::TchError),
}
