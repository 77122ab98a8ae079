//! Batches of pairs of similar length.

use std::iter;

use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};

use super::example::{EncodedPair, Example};
use super::pack::packed_len;
use crate::error::{Error, Result};

/// Batches of pairs of similar length, to keep padding small, in a random order that the seed determines.
///
/// It works on a stream: it collects `window` pairs at a time and batches those.
///
/// ```
/// use figa_loss::{Batching, EncodedPair, Example};
///
/// use figa_loss::TokenLabel::Kept;
///
/// let row = |len| Example::new(vec![1; len], vec![1; len], vec![1.0; len], vec![Kept; len]);
/// let pair = |len| Ok(EncodedPair::new(row(len)?, row(len)?));
/// let mut batching = Batching::default();
/// batching.max_tokens = 40;
/// let batches = batching.batches([10, 3, 9, 2, 4].map(pair)).collect::<figa_loss::Result<Vec<_>>>()?;
/// // Two rows a pair: 10 and 9 fill a batch of 4 rows of 10 tokens, 2, 3 and 4 one of 6 rows of 4.
/// assert_eq!(batches.len(), 2);
/// // Packed, these pairs are one row each, without its last token: at most 9 in 5 rows are more than 40.
/// batching.packed = true;
/// assert_eq!(batching.batches([10, 3, 9, 2, 4].map(pair)).count(), 2);
/// batching.max_tokens = 45;
/// assert_eq!(batching.batches([10, 3, 9, 2, 4].map(pair)).count(), 1);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batching {
    /// The largest number of tokens in a batch, padding included: rows times the length of the longest. 8,192 by
    /// default.
    pub max_tokens: usize,
    /// Whether the pairs will be packed by [`pack`](super::pack::pack), with the active tokens as those that are needed: each
    /// is one row then, of the length that it has packed. False by default.
    pub packed: bool,
    /// How many pairs are sorted and shuffled at a time, and held in memory. 8,192 by default.
    pub window: usize,
    /// Determines the order.
    pub seed: u64,
}

impl Default for Batching {
    fn default() -> Self {
        Self { max_tokens: 8192, packed: false, window: 8192, seed: 0 }
    }
}

impl Batching {
    /// Batches the pairs; every pair is in one batch, with both of its rows.
    ///
    /// An error among the pairs is returned after the batches of the pairs before it. So is [`Error::Value`] for a pair
    /// that is longer than `max_tokens` by itself. A window of 0 is an [`Error::Value`] and ends the iterator.
    pub fn batches(
        self,
        pairs: impl IntoIterator<Item = Result<EncodedPair>>,
    ) -> impl Iterator<Item = Result<Vec<EncodedPair>>> {
        let mut pairs = pairs.into_iter().fuse();
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut ready = vec![];
        let mut error = (self.window == 0).then(|| Error::Value {
            argument: "window",
            expected: "at least 1 pair",
            actual: "0".into(),
        });
        iter::from_fn(move || {
            if ready.is_empty() && error.is_none() {
                let mut window = vec![];
                error = self.fill(&mut pairs, &mut window).err();
                window.shuffle(&mut rng);
                ready = self.cut(window);
                ready.shuffle(&mut rng);
            }
            ready.pop().map(Ok).or_else(|| error.take().map(Err))
        })
    }

    fn fill(&self, pairs: &mut impl Iterator<Item = Result<EncodedPair>>, window: &mut Vec<EncodedPair>) -> Result<()> {
        for pair in pairs.take(self.window) {
            let pair = pair?;
            let tokens = self.rows() * self.len(&pair);
            if tokens > self.max_tokens {
                let rows = if self.packed { "1 packed row of" } else { "2 rows, together" };
                let actual = format!("{} for a pair of {rows} {tokens} tokens", self.max_tokens);
                return Err(Error::Value { argument: "max_tokens", expected: "room for every pair", actual });
            }
            window.push(pair);
        }
        Ok(())
    }

    fn cut(&self, mut pairs: Vec<EncodedPair>) -> Vec<Vec<EncodedPair>> {
        pairs.sort_by_cached_key(|pair| self.len(pair));
        let mut batches: Vec<Vec<EncodedPair>> = vec![];
        for pair in pairs {
            let (rows, len) = (|batch: &Vec<EncodedPair>| self.rows() * (batch.len() + 1), self.len(&pair));
            match batches.last_mut().filter(|batch| rows(batch) * len <= self.max_tokens) {
                Some(batch) => batch.push(pair),
                None => batches.push(vec![pair]),
            }
        }
        batches
    }

    /// The rows of a pair.
    fn rows(&self) -> usize {
        if self.packed { 1 } else { 2 }
    }

    /// The length of the longest row of a pair.
    fn len(&self, pair: &EncodedPair) -> usize {
        match self.packed {
            true => packed_len(pair.rows(), Example::is_active),
            false => pair.original.len().max(pair.revised.len()),
        }
    }
}
