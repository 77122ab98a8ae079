//! Fine-grained loss functions for aligning language models, over libtorch ([`tch`]).
//!
//! A model's original answer is contrasted, token by token, with a minimally revised one. Tokens that the revision
//! added or substituted are rewarded, tokens that it deleted or substituted are penalised, and kept tokens are held by a
//! small weight: the FIGA loss of [arXiv 2311.04072](https://arxiv.org/abs/2311.04072).
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
//! [`docs::choosing`] compares the options, [`docs::figa`] derives the functions from the paper, [`docs::results`] shows
//! results on a real model, and [`docs::design`] explains the design.
//!
//! # Label two answers
//!
//! ```
//! use figa_loss::{Aligner, FigaWeights, Side};
//!
//! const EOS: i64 = 0;
//! let (original, revised) = ([5, 6, 7, EOS], [5, 8, 7, 9, EOS]);
//! let alignment = Aligner::Levenshtein.align(&original, &revised);
//! assert_eq!(alignment.removed(), [false, true, false, false]);
//! assert_eq!(alignment.added(), [false, true, false, true, false]);
//!
//! let weights = FigaWeights::default();
//! assert_eq!(weights.of(&alignment, Side::Original, &original, &EOS)?, [0.0, -0.5, 0.0, 0.0]);
//! assert_eq!(weights.of(&alignment, Side::Revised, &revised, &EOS)?, [0.3, 1.0, 0.3, 1.0, 0.3]);
//! # Ok::<(), figa_loss::Error>(())
//! ```
//!
//! # Compute the loss in your training loop
//!
//! ```
//! # #[cfg(feature = "torch")] {
//! use figa_loss::figa_loss;
//! use figa_loss::tch::nn::{self, Module, OptimizerConfig};
//! use figa_loss::tch::{Device, Kind, Tensor};
//!
//! // First thing in `main`: otherwise libtorch sees no GPU.
//! figa_loss::load_cuda();
//! let vars = nn::VarStore::new(Device::cuda_if_available());
//! // In the place of your model:
//! let embed = nn::embedding(&vars.root() / "embed", 10, 8, Default::default());
//! let head = nn::linear(&vars.root() / "head", 8, 10, Default::default());
//! let mut optimizer = nn::AdamW::default().build(&vars, 1e-2)?;
//!
//! // Prompt, two tokens, EOS: [B, S]. Labels are not shifted, as in Hugging Face.
//! let input_ids = Tensor::from_slice(&[1i64, 5, 8, 0]).reshape([1, 4]);
//! let labels = Tensor::from_slice(&[-100i64, 5, 8, 0]).reshape([1, 4]);
//! let weights = Tensor::from_slice(&[0f32, 0.0, 1.0, 1.0]).reshape([1, 4]);
//! for step in 0..3 {
//!     // [B, S, V]
//!     let logits = head.forward(&embed.forward(&input_ids.to_device(vars.device())));
//!     let loss = figa_loss(&logits, &labels, &weights)?;
//!     optimizer.backward_step(&loss);
//!     println!("step {step}: {:.3}", loss.double_value(&[]));
//! }
//! # }
//! # Ok::<(), figa_loss::Error>(())
//! ```
//!
//! # Build batches from your JSON
//!
//! ```no_run
//! # #[cfg(all(feature = "data", feature = "torch"))] {
//! use figa_loss::tch::Device;
//! use figa_loss::{Batching, EncodedPair, Fields, PairEncoder, RecordReader, collate};
//!
//! figa_loss::load_cuda();
//! // The model's tokenizer.json and EOS.
//! let encoder = PairEncoder::read("path/to/model", None)?;
//! // The names of SPA, but for these two.
//! let mut fields = Fields::default();
//! (fields.original, fields.revised) = ("rejected".into(), "chosen".into());
//!
//! // On all cores, in constant memory.
//! let mut reader = RecordReader::open(["pairs.jsonl"])?;
//! let pairs = reader.map_in_order(|raw| encoder.encode(&raw.parse(&fields)?));
//! for pairs in Batching::default().batches(pairs) {
//!     let pairs = pairs?;
//!     let batch = collate(pairs.iter().flat_map(EncodedPair::rows), encoder.eos_id());
//!     // input_ids, attention_mask, labels, weights
//!     let batch = batch.to_tensors(Device::cuda_if_available())?;
//!     # let _ = batch;
//! }
//! # }
//! # Ok::<(), figa_loss::Error>(())
//! ```
//!
//! The module [`data`] takes one record through all of it, step by step.
//!
//! # Use it with a frozen head
//!
//! [`fused_linear_figa_loss`] takes hidden states and a head instead of logits and computes the active rows only. Inputs
//! that require no gradient get none: a frozen head costs neither the time nor the memory of its gradient.
//!
//! ```
//! # #[cfg(feature = "torch")] {
//! use figa_loss::fused_linear_figa_loss;
//! use figa_loss::tch::{Device, Kind, Tensor};
//!
//! // [B, S, H] and [V, H]; the head requires no gradient.
//! let hidden = Tensor::randn([1, 3, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
//! let lm_head = Tensor::randn([10, 8], (Kind::Float, Device::Cpu));
//! let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
//! let weights = Tensor::from_slice(&[0f32, 1.0, -0.5]).reshape([1, 3]);
//! fused_linear_figa_loss(&hidden, &lm_head, &labels, &weights)?.backward();
//! assert!(hidden.grad().defined() && !lm_head.grad().defined());
//! # }
//! # Ok::<(), figa_loss::Error>(())
//! ```
//!
//! Bias, scale and soft-cap: [`LmHead`] and [`FigaLoss::forward_linear`].
//!
//! # Accumulate gradients
//!
//! The mean of micro-batch means is not the mean of the batch. Divide each sum by the count of the whole batch:
//!
//! ```
//! # #[cfg(feature = "torch")] {
//! use figa_loss::tch::{Device, Kind, Tensor};
//! use figa_loss::{FigaLoss, Reduction};
//!
//! let logits = Tensor::randn([2, 3, 10], (Kind::Float, Device::Cpu)).set_requires_grad(true);
//! let labels = Tensor::from_slice(&[-100i64, 2, 3, -100, 4, 5]).reshape([2, 3]);
//! let weights = Tensor::from_slice(&[0f32, 1.0, 1.0, 0.0, 0.0, 1.0]).reshape([2, 3]);
//!
//! // 3: two in the first row, one in the second. `Example::active` counts them for rows of the module `data`.
//! let count = weights.count_nonzero(None).double_value(&[]);
//! let loss = FigaLoss::new().with_reduction(Reduction::External(count));
//! for row in 0..2 {
//!     let part = |tensor: &Tensor| tensor.narrow(0, row, 1);
//!     loss.forward(&part(&logits), &part(&labels), &part(&weights))?.loss.backward();
//! }
//! let accumulated = logits.grad().copy();
//! logits.grad().zero_();
//! figa_loss::figa_loss(&logits, &labels, &weights)?.backward();
//! assert!(accumulated.allclose(&logits.grad(), 1e-5, 1e-7, false));
//! # }
//! # Ok::<(), figa_loss::Error>(())
//! ```
//!
//! # Pick the weights and the gate
//!
//! `alpha` rewards added tokens, `beta` penalises removed ones, `gamma` and `eos` hold the kept tokens and the end of the
//! revised answer. They are set in [`FigaWeights`], or in [`PairEncoder::weights`]; the gate is set in the loss.
//! [`FigaWeights::paper`] has those of the paper, and [`docs::choosing`] says when to change them.
//!
//! ```
//! # #[cfg(feature = "torch")] {
//! use figa_loss::{FigaLoss, FigaWeights, Gate, Penalty};
//!
//! // alpha 1, gamma 0.3, eos 0.3
//! let weights = FigaWeights { beta: 0.2, ..FigaWeights::default() };
//! // Penalises while p >= exp(-1) = 0.368, where the default stops at exp(-0.6) = 0.549.
//! let later = FigaLoss::new().with_gate(Some(Gate::AtMost(1.0)));
//! // Bounded, so it needs no gate.
//! let bounded = FigaLoss::new().with_gate(None).with_penalty(Penalty::Unlikelihood);
//! # let _ = (weights, later, bounded);
//! # }
//! ```
//!
//! # Why this crate
//!
//! * **The paper's loss**, with the tie-breaking of the paper's aligner and without the mistakes of its code; [`docs::figa`]
//!   compares them line by line.
//! * **Weights cannot get lost.** They are an argument of the loss, sign included: no trainer in between can drop them.
//! * **Fast, because FIGA is sparse.** Most tokens have the weight 0. Their logits are not read, and with
//!   [`fused_linear_figa_loss`] not even computed. `cargo bench --bench loss` compares.
//! * **Errors instead of panics.** A label outside of the vocabulary is an error, not a device assert that ends the CUDA
//!   context.
//!
//! # Features
//!
//! | feature | default | gives |
//! |---|---|---|
//! | (none) | | [`align`] and [`weights`]: pure Rust, builds in seconds |
//! | `data` | yes | [`data`]: records, prompts, encoding with Hugging Face [`tokenizers`], collation |
//! | `parquet` | | [`RecordReader`] reads Parquet files |
//! | `rayon` | yes | [`Aligner::align_all`] on all cores |
//! | `torch` | yes | [`loss`] and tensors, through [`tch`]; needs libtorch |
//! | `doc-only` | | type-check and document without libtorch |

#![warn(rustdoc::broken_intra_doc_links)]

pub mod align;
#[cfg(feature = "torch")]
mod cuda;
#[cfg(feature = "data")]
pub mod data;
mod error;
#[cfg(feature = "torch")]
pub mod loss;
mod side;
pub mod weights;

pub use align::{Aligner, Alignment, EditOp, EditTag, Granularity, Span, distance, editops};
#[cfg(feature = "torch")]
pub use cuda::load_cuda;
#[cfg(feature = "data")]
pub use data::{
    Batch, Batching, ChatOptions, ChatTemplate, EncodedPair, Example, Fields, Format, LabelledTexts, LabelledToken,
    Message, PackedBatch, PairEncoder, PromptTemplate, RawRecord, RecordReader, RenderedAnswer, RenderedPair,
    SpaRecord, TextComparer, collate, hide_caught_panics, model_files, pack,
};
#[cfg(all(feature = "data", feature = "torch"))]
pub use data::{BatchTensors, PackedInputs, PackedTensors, packing_error};
pub use error::{Error, Result};
#[cfg(feature = "torch")]
pub use loss::{
    Anchored, AnchoredOutput, AnswerSums, Answers, Asft, CandidateUnlikelihood, Chord, Cispo, ClassSummary, Cpo, Dft,
    Distillation, Divergence, Dpo, Dro, Eaft, Figa, FigaLoss, Focal, Gate, Grpo, ImportanceSampling, Ipo, LmHead,
    LossOutput, LossStats, LossSummary, ModelOutput, Needs, Npo, Objective, OnRollout, Orpo, Pairs, Penalty,
    PreferenceBatch, PreferenceLoss, PreferenceOutput, PreferenceStats, PreferenceSummary, Ratio, Reduction, Reference,
    Rlmec, RlmecOnRollout, Rollout, Rows, Sapo, Scores, SimNpo, SimPo, Tail, Tdpo, Terms, TokenLoss, TopKDistillation,
    Unlikelihood, WeightedNll, figa_loss, fused_linear_figa_loss, linear_loss, log_probs, logits_loss, rows_loss,
};
pub use side::Side;
pub use weights::{EditWeights, FigaWeights, IGNORE_INDEX, TokenLabel, label_tokens};

// Their types are in our signatures.
#[cfg(feature = "data")]
pub use serde_json;
#[cfg(feature = "torch")]
pub use tch;
#[cfg(feature = "data")]
pub use tokenizers;

/// A page of `docs` with links and images that lead somewhere in rustdoc: build.rs has written it.
#[cfg(any(doc, doctest))]
macro_rules! page {
    ($name:literal) => {
        include_str!(concat!(env!("OUT_DIR"), "/", $name, ".md"))
    };
}

/// Further reading.
#[cfg(any(doc, doctest))]
pub mod docs {
    #[doc = page!("figa")]
    pub mod figa {}

    #[doc = page!("choosing")]
    pub mod choosing {}

    // Pages link to each other, so that only their examples depend on features.
    #[cfg(any(not(doctest), feature = "torch"))]
    #[doc = page!("losses")]
    pub mod losses {}

    #[cfg(any(not(doctest), all(feature = "data", feature = "torch")))]
    #[doc = page!("training")]
    pub mod training {}

    #[doc = page!("scaling")]
    pub mod scaling {}

    #[doc = page!("finetune")]
    pub mod finetune {}

    #[doc = page!("results")]
    pub mod results {}

    #[doc = page!("design")]
    pub mod design {}

    #[doc = page!("reliability")]
    pub mod reliability {}
}

/// The examples of the README, compiled and run.
#[cfg(all(doctest, feature = "data", feature = "torch"))]
#[doc = include_str!("../README.md")]
struct Readme;
