//! What every loss over tokens shares. It knows no loss by name.
//!
//! A loss is computed on [`Rows`](rows::Rows), the positions that predict a token with a label and a weight other than 0. They are
//! selected on the host, before anything is computed. A [`pass`] over their logits, those of a [`source`], [`measure`]s
//! each row: the log-odds of the label ([`odds`]) and whatever else a loss asks for. An
//! [`Objective`](objective::Objective) or a closure computes the loss from these [`scores`]. The [`driver`] runs it, on logits
//! or on hidden states with a [`head`], and makes the result differentiable.

mod autocast;
pub(super) mod divergence;
pub(super) mod driver;
pub(super) mod head;
pub(super) mod inputs;
mod measure;
pub(super) mod objective;
pub(super) mod odds;
mod pass;
pub(super) mod row_tensors;
pub(super) mod rows;
pub(super) mod scores;
pub(super) mod source;
mod surrogate;
