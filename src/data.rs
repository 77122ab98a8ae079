//! From a record to the rows of a batch.
//!
//! 1. An [`SpaRecord`] holds an instruction, the model's original answer and a minimally revised one.
//!    [`RecordReader`] reads records from files of any size, and [`Fields`] names their fields.
//! 2. A [`PromptTemplate`] renders the prompt in front of both answers; the [`ChatTemplate`] of a model renders the whole
//!    conversation with its answer.
//! 3. A [`PairEncoder`] tokenizes prompt and answer together, aligns the tokens of the two answers, and gives each
//!    token its label and weight: an [`EncodedPair`] of two [`Example`]s.
//! 4. [`Batching`] groups pairs of similar length, [`collate`] pads examples to a [`Batch`], and
//!    [`Batch::to_tensors`](Batch::to_tensors) (feature `torch`) turns the batch into tensors. [`pack`] does it with one row
//!    a pair, for models that take an attention mask.
//!
//! A [`TextComparer`] aligns and labels two texts alone, to look at them.
//!
//! ```
//! use figa_loss::tokenizers::{Tokenizer, models::wordlevel::WordLevel, pre_tokenizers::whitespace::WhitespaceSplit};
//! use figa_loss::{PairEncoder, PromptTemplate, SpaRecord, collate};
//!
//! // A tokenizer of six words. A real one comes from `Tokenizer::from_file("tokenizer.json")`.
//! let vocab = ["</s>", "Colour?", "The", "sky", "is", "green", "blue"];
//! let vocab = vocab.iter().enumerate().map(|(id, token)| (token.to_string(), id as u32)).collect();
//! let model = WordLevel::builder().vocab(vocab).unk_token("</s>".into()).build().unwrap();
//! let mut tokenizer = Tokenizer::new(model);
//! tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
//!
//! let mut encoder = PairEncoder::new(tokenizer, "</s>")?;
//! encoder.template = PromptTemplate::Plain;
//! let pair = encoder.encode(&SpaRecord::new("Colour?", "The sky is green", "The sky is blue"))?;
//! let batch = collate(pair.rows(), encoder.eos_id());
//!
//! // prompt, The, sky, is, green or blue, </s>
//! assert_eq!(batch.labels, [-100, 2, 3, 4, 5, 0, -100, 2, 3, 4, 6, 0]);
//! assert_eq!(batch.weights, [0.0, 0.0, 0.0, 0.0, -0.5, 0.0, 0.0, 0.3, 0.3, 0.3, 1.0, 0.3]);
//! # Ok::<(), figa_loss::Error>(())
//! ```

mod batching;
mod chat;
mod collate;
mod compare;
mod encode;
mod example;
mod guard;
mod model_folder;
mod pack;
mod prompt;
mod read;
mod record;
mod render;
mod tokenizer;
mod words;

pub use batching::Batching;
pub use chat::{ChatOptions, ChatTemplate};
#[cfg(feature = "torch")]
pub use collate::BatchTensors;
pub use collate::{Batch, collate};
pub use compare::{LabelledTexts, LabelledToken, TextComparer};
pub use encode::PairEncoder;
pub use example::{EncodedPair, Example};
pub use guard::hide_caught_panics;
pub use model_folder::model_files;
pub use pack::{PackedBatch, pack};
#[cfg(feature = "torch")]
pub use pack::{PackedInputs, PackedTensors, packing_error};
pub use prompt::PromptTemplate;
pub use read::{Format, RawRecord, RecordReader};
pub use record::{Fields, Message, SpaRecord};
pub use render::{RenderedAnswer, RenderedPair};
