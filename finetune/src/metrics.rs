//! What the program measures, and the files that store it.

use serde::{Deserialize, Serialize};

use crate::clock::Seconds;
use crate::word_edits::EditCounts;

/// The direction in which a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// A number that an evaluation measures.
pub struct Metric {
    /// The name of its score, and of its figure's file.
    pub key: &'static str,
    /// The full name with its unit.
    pub name: &'static str,
    pub better: Better,
    /// Reads the score.
    pub score: fn(&Scores) -> Option<f64>,
}

impl Metric {
    /// The key in words.
    pub fn words(&self) -> String {
        self.key.replace('_', " ")
    }
}

const fn metric(key: &'static str, name: &'static str, better: Better, score: fn(&Scores) -> Option<f64>) -> Metric {
    Metric { key, name, better, score }
}

/// All metrics, in the order of the table.
pub const METRICS: [Metric; 10] = {
    use Better::{Higher, Lower};
    [
        metric("revised_likelier", "revised answer likelier, share", Higher, |s| s.revised_likelier),
        metric("p_added", "p of added tokens, mean", Higher, |s| s.p_added),
        metric("p_removed", "p of removed tokens, mean", Lower, |s| s.p_removed),
        metric("p_kept", "p of kept tokens, mean", Higher, |s| s.p_kept),
        metric("ppl_revised", "perplexity of revised answers", Lower, |s| s.ppl_revised),
        metric("ppl_control", "perplexity of the control text", Lower, |s| s.ppl_control),
        metric("exact_match", "greedy answer equals the revised one, share", Higher, |s| s.exact_match),
        metric("edit_distance", "edit distance of the greedy answer to the revised one, tokens", Lower, |s| {
            s.edit_distance
        }),
        metric("word_edits", "F0.5 of the answer's word edits", Higher, |s| s.word_edits),
        metric("copied", "greedy answer equals the original one, share", Lower, |s| s.copied),
    ]
};

/// The score of each of [`METRICS`]; `None` if it was not measured or is not finite.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scores {
    pub revised_likelier: Option<f64>,
    pub p_added: Option<f64>,
    pub p_removed: Option<f64>,
    pub p_kept: Option<f64>,
    pub ppl_revised: Option<f64>,
    pub ppl_control: Option<f64>,
    pub exact_match: Option<f64>,
    pub edit_distance: Option<f64>,
    pub word_edits: Option<f64>,
    pub copied: Option<f64>,
}

/// The scores of one answer.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AnswerScores {
    pub exact_match: bool,
    pub copied: bool,
    pub edit_distance: usize,
    pub word_edits: EditCounts,
}

/// The scores of a model after some steps of training.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Evaluation {
    pub step: usize,
    pub scores: Scores,
}

/// A line of `metrics.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The number of steps taken, this one included.
    pub step: usize,
    /// The mean over the ungated tokens, or over the pairs.
    pub loss: f64,
    pub lr: f64,
    /// The norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens in the rows, without padding.
    pub tokens: usize,
    /// Tokens that the model computed, padding included.
    pub computed: usize,
    /// Tokens with a weight.
    pub active: usize,
    /// Active tokens that the gate skips.
    pub gated: i64,
    /// The mean divergence from the base model, for a method that limits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// The share of pairs whose revised answer is ahead, for a loss of pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// By how much it is ahead, on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    pub seconds: Seconds,
    /// Present if the model was evaluated after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
}

/// A record of the evaluation set, with the greedy answers before and after training.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    pub prompt: String,
    pub original: String,
    pub revised: String,
    pub before: String,
    pub after: String,
}

/// The results of one run: the contents of `outcome.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    pub method: String,
    pub seed: u64,
    /// Ordered by step; the first one is that of the base model.
    pub evaluations: Vec<Evaluation>,
    /// The loss of each step.
    pub losses: Vec<f64>,
    pub answers: Vec<Answer>,
    /// Time spent on training, without the evaluations.
    pub seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_reads_the_score_of_its_key() {
        for Metric { key, score, .. } in &METRICS {
            let scores: Scores = serde_json::from_value(serde_json::json!({ *key: 0.5 })).unwrap();
            assert_eq!(score(&scores), Some(0.5), "{key}");
        }
        let keys = serde_json::to_value(Scores::default()).unwrap();
        assert_eq!(keys.as_object().unwrap().len(), METRICS.len());
    }
}
