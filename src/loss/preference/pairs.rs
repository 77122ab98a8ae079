//! Which answers belong together.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::loss::core::odds::tiny;
use crate::loss::core::row_tensors::send_list;
use crate::loss::core::rows::Rows;

/// Pairs of sequences: a chosen and a rejected answer to the same prompt each. A sequence may be in several pairs.
///
/// ```
/// use figa_loss::Pairs;
///
/// // As `EncodedPair::rows` has them: original, revised, original, revised.
/// assert_eq!(Pairs::alternating(2), Pairs::new(&[(1, 0), (3, 2)]));
/// // As TRL has them: all chosen ones, then all rejected ones.
/// assert_eq!(Pairs::halves(2), Pairs::new(&[(0, 2), (1, 3)]));
/// // For losses without a chosen answer.
/// let forget = Pairs::rejected(3);
/// assert_ne!(forget, Pairs::alternating(3));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    chosen: Vec<i64>,
    rejected: Vec<i64>,
}

impl Pairs {
    /// Pairs of sequences, the chosen one first.
    pub fn new(pairs: &[(i64, i64)]) -> Self {
        let (chosen, rejected) = pairs.iter().copied().unzip();
        Self { chosen, rejected }
    }

    /// Sequences `2i` rejected and `2i + 1` chosen: the original and the revised answer.
    pub fn alternating(pairs: i64) -> Self {
        Self {
            chosen: (0..pairs).map(|pair| 2 * pair + 1).collect(),
            rejected: (0..pairs).map(|pair| 2 * pair).collect(),
        }
    }

    /// Sequences `i` chosen and `pairs + i` rejected.
    pub fn halves(pairs: i64) -> Self {
        Self { chosen: (0..pairs).collect(), rejected: (pairs..2 * pairs).collect() }
    }

    /// Sequences `0..sequences` rejected, and none chosen.
    pub fn rejected(sequences: i64) -> Self {
        Self { chosen: vec![], rejected: (0..sequences).collect() }
    }

    pub(super) fn check(&self, sequences: i64, is_paired: bool) -> Result<()> {
        if let Some(outside) = self.chosen.iter().chain(&self.rejected).find(|&n| !(0..sequences).contains(n)) {
            let (expected, actual) = ("sequences that the rows have", format!("{outside} of {sequences}"));
            return Err(Error::Value { argument: "pairs", expected, actual });
        }
        if is_paired && self.chosen.len() != self.rejected.len() {
            let actual = format!("{} chosen and {} rejected", self.chosen.len(), self.rejected.len());
            return Err(Error::Value { argument: "pairs", expected: "a chosen answer for each rejected one", actual });
        }
        Ok(())
    }

    pub(super) fn to_device(&self, device: Device) -> Result<(Tensor, Tensor)> {
        Ok((send_list(&self.chosen, device)?, send_list(&self.rejected, device)?))
    }

    /// What the sums over pairs and over tokens of chosen answers are divided by, given `sum |w|` of each sequence: at least
    /// numbers that divide 0.
    pub(super) fn denominators(&self, sizes: &[f64]) -> (f64, f64) {
        let tokens: f64 = self.chosen.iter().map(|&sequence| sizes[sequence as usize]).sum();
        (self.rejected.len().max(1) as f64, tokens.max(tiny(Kind::Float)))
    }

    /// For each of so many sequences, which group it is in: those of a pair are in the same, and so are pairs that share a
    /// sequence. `None` for a sequence in no pair.
    pub(super) fn groups(&self, sequences: usize, is_paired: bool) -> Vec<Option<usize>> {
        // The least sequence of each group, found from any other through sequences between them.
        let mut least: Vec<usize> = (0..sequences).collect();
        fn find(least: &mut [usize], mut sequence: usize) -> usize {
            while least[sequence] != sequence {
                least[sequence] = least[least[sequence]];
                sequence = least[sequence];
            }
            sequence
        }
        for (&chosen, &rejected) in self.chosen.iter().zip(&self.rejected).filter(|_| is_paired) {
            let (a, b) = (find(&mut least, chosen as usize), find(&mut least, rejected as usize));
            least[a.max(b)] = a.min(b);
        }
        let (mut group_of, mut number_of) = (vec![None; sequences], vec![None; sequences]);
        let mut groups = 0;
        let mut members: Vec<usize> = self.chosen.iter().chain(&self.rejected).map(|&n| n as usize).collect();
        members.sort_unstable();
        for sequence in members {
            let number = &mut number_of[find(&mut least, sequence)];
            if number.is_none() {
                *number = Some(groups);
                groups += 1;
            }
            group_of[sequence] = *number;
        }
        group_of
    }

    /// The pairs of some groups.
    pub(super) fn of_groups(&self, group_of: &[Option<usize>], groups: &Range<usize>) -> Self {
        let is_inside = |&sequence: &i64| group_of[sequence as usize].is_some_and(|group| groups.contains(&group));
        let inside = |list: &[i64]| list.iter().copied().filter(is_inside).collect();
        Self { chosen: inside(&self.chosen), rejected: inside(&self.rejected) }
    }

    /// The rows without those that both answers of a pair begin with: in front of the first label or weight that differs.
    /// After the same prompt, they have the same logits, and cancel in the difference of both sums.
    pub(super) fn without_common_prefix(&self, rows: &Rows) -> Rows {
        let sequences = rows.by_sequence();
        let mut skipped: Vec<usize> = sequences.iter().map(|sequence| sequence.rows.len()).collect();
        let pairs =
            || self.chosen.iter().zip(&self.rejected).map(|(&chosen, &rejected)| (chosen as usize, rejected as usize));
        for (chosen, rejected) in pairs() {
            let (a, b) = (&sequences[chosen], &sequences[rejected]);
            let shared = a.labels.iter().zip(&b.labels).take_while(|(a, b)| a == b).count();
            let both = a.rows.iter().zip(&b.rows);
            let common = both.take_while(|(a, b)| a.token == b.token && a.token.0 < shared).count();
            skipped[chosen] = skipped[chosen].min(common);
            skipped[rejected] = skipped[rejected].min(common);
        }
        // Both answers of a pair skip the same number of rows.
        while let Some((chosen, rejected)) = pairs().find(|&(chosen, rejected)| skipped[chosen] != skipped[rejected]) {
            let least = skipped[chosen].min(skipped[rejected]);
            (skipped[chosen], skipped[rejected]) = (least, least);
        }
        // A sequence in no pair has no row in the loss.
        let kept = sequences.iter().zip(&skipped).flat_map(|(sequence, &skipped)| &sequence.rows[skipped..]);
        let mut kept: Vec<usize> = kept.map(|row| row.index).collect();
        kept.sort_unstable();
        rows.select(&kept)
    }
}
