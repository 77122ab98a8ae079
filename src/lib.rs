//! Fine-grained loss functions for aligning language models, over libtorch ([`tch`]).
//!
//! A model's original answer is contrasted, token by token, with a minimally revised one. Tokens that the revision
//! added or substituted are rewarded, tokens that it deleted or substituted are penalised, the rest is left alone:
//! the FIGA loss of [arXiv 2311.04072](https://arxiv.org/abs/2311.04072).
//!
//! Data flows one way, and the modules follow it:
//!
//! | module | from | to |
//! |---|---|---|
//! | [`align`] | two token sequences | an [`Alignment`]: what was removed, what was added |
//! | [`weights`] | an alignment | a [`TokenLabel`] and a signed weight per token |
//! | [`data`] | a file of [`SpaRecord`]s and a tokenizer | [`Example`] rows, a padded [`Batch`], tensors |
//! | [`loss`] | logits, or hidden states and the head; labels, weights | a scalar to call `backward` on |
//!
//! [`docs::choosing`] says when to take what, [`docs::figa`] leads from the paper to the signatures, [`docs::results`]
//! shows what it does to a real model, and [`docs::design`] why it is built this way.
//!
//! # Label two answers
//!
//! ```
//! use figa_loss::Aligner;
//!
//! let original = ["He", "go", "home"];
//! let revised = ["He", "goes", "home", "now"];
//! let alignment = Aligner::Levenshtein.align(&original, &revised);
//! assert_eq!(alignment.removed(), [false, true, false]);
//! assert_eq!(alignment.added(), [false, true, false, true]);
//! ```
//!
//! # Compute the loss in your training loop
//!
//! ```
//! # #[cfg(feature = "torch")] {
//! use figa_loss::{figa_loss, tch::{Device, Kind, Tensor}};
//!
//! let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
//! let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
//! let weights = Tensor::from_slice(&[0f32, 1.0, -0.5]).reshape([1, 3]);
//! figa_loss(&logits, &labels, &weights)?.backward();
//! # }
//! # Ok::<(), figa_loss::Error>(())
//! ```
//!
//! # Leave the logits out
//!
//! [`fused_linear_figa_loss`] takes the hidden states and the head instead of logits, and computes the active rows only.
//! A frozen head is one that requires no gradient. Bias, scale and soft-cap: [`LmHead`] and
//! [`FigaLoss::forward_linear`].
//!
//! # Build batches from your JSON
//!
//! See the worked example of the module [`data`].
//!
//! # Accumulate gradients
//!
//! Divide every micro-batch by the count of the whole batch: [`Reduction::External`].
//!
//! # Features
//!
//! | feature | default | gives |
//! |---|---|---|
//! | (none) | | [`align`] and [`weights`]: pure Rust, builds in seconds |
//! | `data` | yes | [`data`]: records, prompts, encoding with Hugging Face [`tokenizers`], collation |
//! | `cli` | | the command `figa`, for people who train elsewhere; without libtorch |
//! | `rayon` | yes | [`Aligner::align_all`] on all cores |
//! | `torch` | yes | [`loss`] and tensors, through [`tch`]; needs libtorch |
//! | `doc-only` | | type-check and document without libtorch |
//! | `download-libtorch` | | tch's own download of libtorch at build time |

#![warn(rustdoc::broken_intra_doc_links)]

pub mod align;
#[cfg(feature = "torch")]
mod cuda;
#[cfg(feature = "data")]
pub mod data;
mod error;
#[cfg(feature = "torch")]
pub mod loss;
pub mod weights;

pub use align::{Aligner, Alignment, EditOp, EditTag, Granularity, Span, Workspace, distance, editops};
#[cfg(all(feature = "data", feature = "torch"))]
pub use data::BatchTensors;
#[cfg(feature = "data")]
pub use data::{
    Batch, Batching, ChatTemplate, EncodedPair, Example, Fields, Format, Message, PairEncoder, PromptTemplate,
    RawRecord, RawText, RecordReader, SpaRecord, collate,
};
pub use error::{Error, Result};
#[cfg(feature = "torch")]
pub use loss::{ClassStats, FigaLoss, Gate, LmHead, LossOutput, Penalty, Reduction, figa_loss, fused_linear_figa_loss};
pub use weights::{FigaWeights, IGNORE_INDEX, Side, TokenLabel, label_tokens};

// Their types are in our signatures.
#[cfg(feature = "torch")]
pub use tch;
#[cfg(feature = "data")]
pub use tokenizers;

/// Longer reading: the pages of the folder `docs`.
#[cfg(any(doc, doctest))]
pub mod docs {
    #[doc = include_str!("../docs/figa.md")]
    pub mod figa {}

    #[doc = include_str!("../docs/choosing.md")]
    pub mod choosing {}

    #[doc = include_str!("../docs/results.md")]
    pub mod results {}

    #[doc = include_str!("../docs/design.md")]
    pub mod design {}
}

/// The examples of the README, compiled and run.
#[cfg(all(doctest, feature = "data", feature = "torch"))]
#[doc = include_str!("../README.md")]
struct Readme;
