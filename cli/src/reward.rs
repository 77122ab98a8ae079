//! The reward that weights give in a file of pairs, and warnings of weights that have not been measured on such pairs.

use figa_loss::{EncodedPair, FigaWeights, Side, TokenLabel};
use serde::{Deserialize, Serialize};

/// The added tokens a pair of the files that the page on results measures.
const MEASURED: [f64; 2] = [1.0, 5.0];
/// The share of EOS in the reward from which weights without `gamma` have failed.
const EOS_SHARE: f64 = 0.1;

/// Tokens by what can be rewarded or penalised.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeCounts {
    /// Inserted or substituted in the revised answers.
    added_tokens: u64,
    /// Deleted or substituted in the original answers.
    removed_tokens: u64,
    /// Of the revised answers.
    kept_tokens: u64,
    /// Of the revised answers.
    eos_tokens: u64,
}

/// The numbers to judge weights by.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Reward {
    added_tokens_per_pair: f64,
    removed_tokens_per_pair: f64,
    /// Of all that is rewarded.
    eos_share_of_reward: f64,
    #[serde(skip)]
    weights: FigaWeights,
}

impl ChangeCounts {
    pub fn of(pair: &EncodedPair) -> Self {
        let count = |side, expected: &[TokenLabel]| {
            pair.row(side).token_labels().iter().filter(|label| expected.contains(label)).count() as u64
        };
        Self {
            added_tokens: count(Side::Revised, &[TokenLabel::Inserted, TokenLabel::Substituted]),
            removed_tokens: count(Side::Original, &[TokenLabel::Deleted, TokenLabel::Substituted]),
            kept_tokens: count(Side::Revised, &[TokenLabel::Kept]),
            eos_tokens: count(Side::Revised, &[TokenLabel::Eos]),
        }
    }

    pub fn add(&mut self, other: Self) {
        self.added_tokens += other.added_tokens;
        self.removed_tokens += other.removed_tokens;
        self.kept_tokens += other.kept_tokens;
        self.eos_tokens += other.eos_tokens;
    }

    /// The reward that the weights give in this many pairs; `None` where there is no pair.
    pub fn reward(&self, pairs: u64, weights: FigaWeights) -> Option<Reward> {
        let rewarded = |weight: f32, tokens: u64| f64::from(weight) * tokens as f64;
        let eos = rewarded(weights.eos, self.eos_tokens);
        let all = rewarded(weights.alpha, self.added_tokens) + rewarded(weights.gamma, self.kept_tokens) + eos;
        (pairs > 0).then(|| Reward {
            added_tokens_per_pair: self.added_tokens as f64 / pairs as f64,
            removed_tokens_per_pair: self.removed_tokens as f64 / pairs as f64,
            eos_share_of_reward: if all > 0.0 { eos / all } else { 0.0 },
            weights,
        })
    }
}

impl Reward {
    /// The numbers in one line.
    pub fn text(&self) -> String {
        format!(
            "changed tokens a pair: {:.1} added, {:.1} removed; EOS is {:.1} % of the reward ({})",
            self.added_tokens_per_pair,
            self.removed_tokens_per_pair,
            100.0 * self.eos_share_of_reward,
            self.weights
        )
    }

    /// Warnings before a training with these weights on these pairs.
    pub fn warnings(&self) -> Vec<String> {
        let [least, most] = MEASURED;
        let (added, eos) = (self.added_tokens_per_pair, self.eos_share_of_reward);
        let mut warnings = vec![];
        if self.weights.gamma == 0.0 && (eos > EOS_SHARE || added < most) {
            warnings.push(format!(
                "warning: without a weight for kept tokens (gamma 0), training has failed on pairs like these, with EOS above \
                 {:.0} % of the reward or fewer than {most} added tokens a pair: take --weights default",
                100.0 * EOS_SHARE
            ));
        }
        if !(least..=most).contains(&added) {
            warnings.push(format!(
                "note: weights have been measured on pairs with {least} to {most} added tokens, and these have {added:.1}"
            ));
        }
        warnings
    }
}
