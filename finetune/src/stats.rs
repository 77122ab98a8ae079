//! What is counted in a step: by pass, and over all passes and processes.

use anyhow::Result;
use figa_loss::{LossStats, LossSummary, PreferenceStats, PreferenceSummary};

use crate::ranks::Ranks;

/// What is known of a step, over all processes.
pub struct Totals {
    pub loss: f64,
    pub computed: usize,
    pub gated: i64,
    pub kl: Option<f64>,
    pub accuracy: Option<f64>,
    pub margin: Option<f64>,
}

/// Counts and means of a step, as far as its loss has them.
#[derive(Default)]
pub struct Stats {
    /// Tokens that the model computes, padding included.
    pub computed: usize,
    pub tokens: Option<LossStats>,
    pub anchor: Option<LossStats>,
    pub pairs: Option<PreferenceStats>,
}

impl Stats {
    /// The counts of two passes.
    pub fn add(self, other: Self) -> Result<Self> {
        fn add<T>(one: Option<T>, other: Option<T>, sum: fn(&T, &T) -> figa_loss::Result<T>) -> Result<Option<T>> {
            Ok(match (one, other) {
                (Some(one), Some(other)) => Some(sum(&one, &other)?),
                (one, other) => one.or(other),
            })
        }
        Ok(Self {
            computed: self.computed + other.computed,
            tokens: add(self.tokens, other.tokens, LossStats::add)?,
            anchor: add(self.anchor, other.anchor, LossStats::add)?,
            pairs: add(self.pairs, other.pairs, PreferenceStats::add)?,
        })
    }

    /// The sums over all processes, with that of the loss.
    pub fn totals(self, loss: f64, ranks: &Ranks) -> Result<Totals> {
        let tokens: Option<LossSummary> = self.tokens.map(|stats| stats.read()).transpose()?;
        let anchor: Option<LossSummary> = self.anchor.map(|stats| stats.read()).transpose()?;
        let pairs: Option<PreferenceSummary> = self.pairs.map(|stats| stats.read()).transpose()?;
        // A mean as its sum and the number of its values.
        let sum = |mean: Option<f64>, count: i64| mean.map_or([0.0; 2], |mean| [mean * count as f64, count as f64]);
        let rewarded = anchor.or(tokens).map(|tokens| tokens.rewarded);
        let kl = rewarded.map_or([0.0; 2], |class| sum(class.mean_kl, class.count));
        let accuracy = pairs.map_or([0.0; 2], |pairs| sum(pairs.accuracy, pairs.pairs));
        let margin = pairs.map_or([0.0; 2], |pairs| sum(pairs.mean_margin, pairs.pairs));
        let gated = tokens.map_or(0, |tokens| tokens.gated.count);
        let counts = [loss, self.computed as f64, gated as f64];
        let mut all = [&counts[..], &kl, &accuracy, &margin].concat();
        ranks.sum(&mut all)?;
        let mean = |at: usize| (all[at + 1] > 0.0).then(|| all[at] / all[at + 1]);
        let [loss, computed, gated] = [all[0], all[1], all[2]];
        let (computed, gated) = (computed as usize, gated as i64);
        Ok(Totals { loss, computed, gated, kl: mean(3), accuracy: mean(5), margin: mean(7) })
    }
}
