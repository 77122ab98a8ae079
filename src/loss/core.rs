//! What every loss over tokens shares. It knows no loss by name.
//!
//! A loss is computed on [`Rows`](rows::Rows), the positions that predict a token with a label and a weight other than 0. They are
//! selected on the host, before anything is computed. For each row, [`odds`] takes one number from the logits, the
//! log-odds of the label, and an [`Objective`](objective::Objective) says what the row contributes and how that changes
//! with the log-odds. The [`driver`] runs it, on logits or on hidden states with a [`head`], and makes the result
//! differentiable.

pub(super) mod driver;
pub(super) mod head;
pub(super) mod inputs;
pub(super) mod objective;
pub(super) mod odds;
pub(super) mod rows;
