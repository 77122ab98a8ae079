//! Rows: token ids with their labels and weights.

use crate::error::{Error, Result};
use crate::side::Side;
use crate::weights::{IGNORE_INDEX, TokenLabel};

/// One row of a batch: token ids, and a label, a weight and a [`TokenLabel`] for each of them.
///
/// ```
/// use figa_loss::{Example, TokenLabel};
///
/// let labels = vec![TokenLabel::Ignored, TokenLabel::Ignored, TokenLabel::Substituted];
/// let row = Example::new(vec![1, 5, 8], vec![-100, -100, 8], vec![0.0, 0.0, 1.0], labels)?;
/// assert_eq!((row.len(), row.is_empty(), row.input_ids()), (3, false, &[1, 5, 8][..]));
/// assert_eq!((row.labels()[2], row.weights()[2], row.token_labels()[2]), (8, 1.0, TokenLabel::Substituted));
/// assert_eq!(row.active().collect::<Vec<_>>(), [false, false, true]);
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    input_ids: Vec<u32>,
    labels: Vec<i64>,
    weights: Vec<f32>,
    token_labels: Vec<TokenLabel>,
}

impl Example {
    /// A row from its parts.
    ///
    /// # Errors
    /// [`Error::Value`] if the lists differ in length.
    pub fn new(
        input_ids: Vec<u32>,
        labels: Vec<i64>,
        weights: Vec<f32>,
        token_labels: Vec<TokenLabel>,
    ) -> Result<Self> {
        let len = input_ids.len();
        for (argument, actual) in
            [("labels", labels.len()), ("weights", weights.len()), ("token_labels", token_labels.len())]
        {
            if actual != len {
                let actual = format!("{actual} entries for {len} ids");
                return Err(Error::Value { argument, expected: "one entry for each of input_ids", actual });
            }
        }
        Ok(Self { input_ids, labels, weights, token_labels })
    }

    /// The same row with other weights.
    ///
    /// ```
    /// use figa_loss::{Example, TokenLabel};
    ///
    /// let row = Example::new(vec![1, 5], vec![-100, 5], vec![0.0, 0.0], vec![TokenLabel::Kept; 2])?;
    /// assert_eq!(row.with_weights(vec![0.0, 1.0])?.weights(), [0.0, 1.0]);
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`] if the row and the weights differ in length.
    pub fn with_weights(self, weights: Vec<f32>) -> Result<Self> {
        Self::new(self.input_ids, self.labels, weights, self.token_labels)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Prompt, answer and EOS, if the row is [complete](Self::is_complete).
    pub fn input_ids(&self) -> &[u32] {
        &self.input_ids
    }

    /// The token's own id in the answer, [`IGNORE_INDEX`] in the prompt; unshifted, as in Hugging Face.
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// The signed weight of each token.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// What the revision did to each token.
    pub fn token_labels(&self) -> &[TokenLabel] {
        &self.token_labels
    }

    /// Whether the row holds the end of its answer. It does not where a maximum length cuts the row, or where the answer
    /// itself was [cut off](crate::SpaRecord::is_truncated).
    pub fn is_complete(&self) -> bool {
        self.token_labels.last() == Some(&TokenLabel::Eos)
    }

    /// Which tokens are active: those with a weight other than 0 and a label, except the first, which nothing predicts.
    ///
    /// If the gate skips none of them, their number is the denominator of
    /// [`Reduction::ActiveTokens`](crate::Reduction::ActiveTokens). Gradient accumulation can count it beforehand.
    pub fn active(&self) -> impl Iterator<Item = bool> {
        (0..self.len()).map(|at| self.is_active(at))
    }

    /// Whether the token in a place is [`active`](Self::active); false behind the end.
    pub fn is_active(&self, at: usize) -> bool {
        at > 0 && self.weights.get(at).is_some_and(|&weight| weight != 0.0) && self.labels[at] != IGNORE_INDEX
    }
}

impl AsRef<Example> for Example {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// The two rows of a record.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EncodedPair {
    /// The row that is penalised where the revision removed something.
    pub original: Example,
    /// The row that is rewarded where the revision added something.
    pub revised: Example,
}

impl EncodedPair {
    /// A pair of rows.
    pub fn new(original: Example, revised: Example) -> Self {
        Self { original, revised }
    }

    /// The row of one side.
    ///
    /// ```
    /// # use figa_loss::{EncodedPair, Example, Side};
    /// # let row = |id| Example::new(vec![id], vec![1], vec![1.0], vec![figa_loss::TokenLabel::Kept]);
    /// let pair = EncodedPair::new(row(5)?, row(6)?);
    /// assert_eq!(pair.row(Side::Revised).input_ids(), [6]);
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    pub fn row(&self, side: Side) -> &Example {
        match side {
            Side::Original => &self.original,
            Side::Revised => &self.revised,
        }
    }

    /// Both rows, the original first.
    ///
    /// ```
    /// # use figa_loss::{EncodedPair, Example, Side};
    /// # let row = |id| Example::new(vec![id], vec![1], vec![1.0], vec![figa_loss::TokenLabel::Kept]);
    /// # let pairs = [EncodedPair::new(row(5)?, row(6)?)];
    /// let batch = figa_loss::collate(pairs.iter().flat_map(EncodedPair::rows), 0);
    /// assert_eq!(batch.input_ids, [5, 6]);
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    pub fn rows(&self) -> [&Example; 2] {
        Side::ALL.map(|side| self.row(side))
    }
}
