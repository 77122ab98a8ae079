//! What the program measures.

use serde::{Deserialize, Serialize};

/// Which direction of a metric is the good one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Better {
    Higher,
    Lower,
}

/// One number that an evaluation measures.
pub struct Metric {
    /// Names its figure's file and heads its column.
    pub key: &'static str,
    /// Says in words what it is, with its unit.
    pub name: &'static str,
    /// None: neither direction is better.
    pub better: Option<Better>,
}

const fn metric(key: &'static str, name: &'static str, better: Better) -> Metric {
    Metric { key, name, better: Some(better) }
}

/// In the order of the tables.
pub const METRICS: [Metric; 9] = [
    metric("revised_likelier", "revised answer likelier, share", Better::Higher),
    metric("p_added", "p of added tokens, mean", Better::Higher),
    metric("p_removed", "p of removed tokens, mean", Better::Lower),
    metric("p_kept", "p of kept tokens, mean", Better::Higher),
    metric("ppl_revised", "perplexity of revised answers", Better::Lower),
    metric("ppl_untouched", "perplexity of the untouched text", Better::Lower),
    metric("exact_match", "greedy answer equals the revised one, share", Better::Higher),
    metric("edit_distance", "edit distance of the greedy answer to the revised one, tokens", Better::Lower),
    metric("copied", "greedy answer equals the original one, share", Better::Lower),
];

/// The scores of the model after some steps of training.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Evaluation {
    pub step: usize,
    /// One for each of [`METRICS`]. None: not measured at this step.
    pub scores: [Option<f64>; METRICS.len()],
}

/// An example from the evaluation set, with the model's greedy answers before and after training.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Answer {
    pub prompt: String,
    pub original: String,
    pub revised: String,
    pub before: String,
    pub after: String,
}

/// What one run, of one method with one seed, gave.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Outcome {
    pub method: String,
    pub seed: u64,
    /// In the order of the steps.
    pub evaluations: Vec<Evaluation>,
    /// One a step.
    pub losses: Vec<f64>,
    pub answers: Vec<Answer>,
    /// Of training, without the evaluations.
    pub seconds: f64,
}
