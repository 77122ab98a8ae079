//! The losses: token-weighted objectives, computed on active rows only.
//!
//! | loss | when |
//! |---|---|
//! | [`figa_loss`] | a model gives you logits |
//! | [`fused_linear_figa_loss`] | you hold hidden states and the head: the same loss without the logits, at a fraction of the cost |
//! | [`FigaLoss`] | another gate, penalty or denominator; statistics by class of token |
//! | [`TokenLoss`] | another loss of tokens: [`WeightedNll`], [`Unlikelihood`], [`CandidateUnlikelihood`], [`Dft`], [`Chord`], [`Focal`], [`Eaft`]; with a teacher [`Distillation`], [`TopKDistillation`], [`Asft`]; on samples [`ImportanceSampling`], [`Grpo`], [`Cispo`], [`Sapo`], [`Dro`], [`Rlmec`] |
//! | [`PreferenceLoss`] | pairs of answers: [`Dpo`], [`Ipo`], [`SimPo`], [`Cpo`], [`Orpo`], [`Tdpo`]; answers to forget: [`Npo`], [`SimNpo`] |
//! | [`Anchored`] | any loss of tokens, and kept tokens that stay as likely as they are |
//! | [`linear_loss`], [`Objective`] | a loss of your own |
//!
//! The page [`losses`](crate::docs::losses) says which one is for what.
//!
//! # FIGA
//!
//! With `logits [B, S, V]`, `labels [B, S]` and `weights [B, S]`, where labels and weights have the positions of
//! `input_ids` and the shift by one happens inside (`logits[:, :-1]` against `labels[:, 1:]` and `weights[:, 1:]`):
//!
//! ```text
//! nll_t = -log softmax(logits_t)[label_t]            in f32, or f64 for f64 logits
//! w_t   = 0 where label_t = ignore_index
//! w_t   = 0 where w_t < 0 and nll_t > gate           the gate, 0.6 nats by default
//! loss  = sum_t w_t * nll_t / max(1, count_t(w_t != 0))
//! ```
//!
//! A positive weight makes a token likelier, a negative one less likely, and a token of weight 0 does not matter: its
//! logits may even be infinite or NaN. The gate ends a penalty once the model gives the token a probability of less than
//! `exp(-0.6) = 0.549`; without it the loss is unbounded below. Where no token is active, the loss is 0 and its gradient
//! is zero.
//!
//! # How it is computed
//!
//! Only the active rows are computed, those with a label and a weight other than 0. They are selected on the host. Labels
//! and weights on the CPU are read without waiting for the GPU; others are copied to the host first.
//!
//! `loss/core` holds what every loss needs: rows, what is known of each, the head, and the driver that computes the gradient. A
//! loss is a formula on it, a few lines on what a row or a pair of answers costs. A [`Reduction`] divides the sum, and a
//! [`LossOutput`] holds the result.

mod closure;
mod core;
mod distill;
mod figa;
mod output;
mod policy;
mod preference;
mod reduction;
mod supervised;
mod token_loss;

pub use self::core::divergence::{Divergence, Reference};
pub use self::core::head::LmHead;
pub use self::core::objective::{Objective, Terms};
pub use self::core::rows::Rows;
pub use self::core::scores::{Needs, Scores};
pub use self::core::source::ModelOutput;
pub use closure::{linear_loss, log_probs, logits_loss, rows_loss};
pub use distill::{Anchored, AnchoredOutput, Asft, Distillation, Tail, TopKDistillation};
pub use figa::{Figa, FigaLoss, Gate, Penalty, figa_loss, fused_linear_figa_loss};
pub use output::{ClassSummary, LossOutput, LossStats, LossSummary};
pub use policy::{Cispo, Dro, Grpo, ImportanceSampling, OnRollout, Ratio, Rlmec, RlmecOnRollout, Rollout, Sapo};
pub use preference::{
    AnswerSums, Answers, Cpo, Dpo, Ipo, Npo, Orpo, Pairs, PreferenceBatch, PreferenceLoss, PreferenceOutput,
    PreferenceStats, PreferenceSummary, SimNpo, SimPo, Tdpo,
};
pub use reduction::Reduction;
pub use supervised::{CandidateUnlikelihood, Chord, Dft, Eaft, Focal, Unlikelihood, WeightedNll};
pub use token_loss::TokenLoss;
