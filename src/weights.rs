//! From an [`Alignment`] to one signed weight per token.
//!
//! | token | in | label | weight | default |
//! |---|---|---|---|---|
//! | added | revised | [`Inserted`](TokenLabel::Inserted), [`Substituted`](TokenLabel::Substituted) | `+alpha` | +1.0 |
//! | kept | revised | [`Kept`](TokenLabel::Kept) | `+gamma` | 0.0 |
//! | first EOS | revised | [`Eos`](TokenLabel::Eos) | `+alpha`, even when kept | +1.0 |
//! | removed | original | [`Deleted`](TokenLabel::Deleted), [`Substituted`](TokenLabel::Substituted) | `-beta` | -0.5 |
//! | kept | original | [`Kept`](TokenLabel::Kept) | 0 | 0 |
//! | first EOS | original | [`Eos`](TokenLabel::Eos) | 0, never penalised | 0 |
//! | prompt, padding | both | [`Ignored`](TokenLabel::Ignored) | 0 | 0 |
//!
//! The sign lives in the weight, so a batch is plain rows: nothing has to remember which rows were the good ones.
//!
//! ```
//! use figa_loss::{Aligner, FigaWeights, Side, TokenLabel, label_tokens};
//!
//! const EOS: u32 = 0;
//! let (original, revised) = ([5, 6, 7, EOS], [5, 8, 7, EOS]);
//! let alignment = Aligner::Levenshtein.align(&original, &revised);
//! let labels = label_tokens(&alignment, Side::Revised, &revised, &EOS)?;
//! assert_eq!(labels, [TokenLabel::Kept, TokenLabel::Substituted, TokenLabel::Kept, TokenLabel::Eos]);
//!
//! let weights = FigaWeights::default();
//! let signed: Vec<f32> = labels.iter().map(|&label| weights.weight(Side::Revised, label)).collect();
//! assert_eq!(signed, [0.0, 1.0, 0.0, 1.0]);
//! # Ok::<(), figa_loss::Error>(())
//! ```

use crate::align::{Alignment, EditTag};
use crate::error::{Error, Result};

/// The label of a position that is no target, -100 as in PyTorch and Hugging Face.
pub const IGNORE_INDEX: i64 = -100;

/// Which of the two responses a token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The model's own answer.
    Original,
    /// The improved answer.
    Revised,
}

/// What happened to a token in the revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenLabel {
    /// Prompt or padding: no part of a response.
    Ignored,
    /// The same token on both sides.
    Kept,
    /// A revised token that stands where nothing stood.
    Inserted,
    /// An original token that left without a successor.
    Deleted,
    /// A token that another one replaced (original side), or that replaced another one (revised side).
    Substituted,
    /// The first end-of-sequence token of a response, whatever the alignment says of it.
    Eos,
}

/// The label of every token of one response.
///
/// `tokens` is the response on that `side`, as it was aligned; its first item equal to `eos` becomes
/// [`TokenLabel::Eos`].
///
/// # Errors
/// [`Error::Value`] if `tokens` has another length than the alignment has on that side.
pub fn label_tokens<T: Eq>(alignment: &Alignment, side: Side, tokens: &[T], eos: &T) -> Result<Vec<TokenLabel>> {
    let mut labels = match side {
        Side::Original => vec![TokenLabel::Kept; alignment.removed().len()],
        Side::Revised => vec![TokenLabel::Kept; alignment.added().len()],
    };
    if tokens.len() != labels.len() {
        let actual = format!("{} of them for {} {side:?} tokens", tokens.len(), labels.len());
        return Err(Error::Value {
            argument: "tokens",
            expected: "the sequence that was aligned on this side",
            actual,
        });
    }
    for span in alignment.spans() {
        let range = match side {
            Side::Original => span.original.clone(),
            Side::Revised => span.revised.clone(),
        };
        labels[range].fill(match span.tag {
            EditTag::Replace => TokenLabel::Substituted,
            EditTag::Insert => TokenLabel::Inserted,
            EditTag::Delete => TokenLabel::Deleted,
        });
    }
    if let Some(first) = tokens.iter().position(|token| token == eos) {
        labels[first] = TokenLabel::Eos;
    }
    Ok(labels)
}

/// The paper's weights. The default is the paper's setting: `alpha` 1, `beta` 0.5, `gamma` 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FigaWeights {
    /// Reward of added tokens and of the revised response's EOS.
    pub alpha: f32,
    /// Penalty of removed tokens, as a positive number.
    pub beta: f32,
    /// Reward of the revised response's kept tokens.
    pub gamma: f32,
}

impl Default for FigaWeights {
    fn default() -> Self {
        Self { alpha: 1.0, beta: 0.5, gamma: 0.0 }
    }
}

impl FigaWeights {
    /// Are all three finite and at least 0? A negative one would turn reward into penalty.
    ///
    /// ```
    /// use figa_loss::FigaWeights;
    ///
    /// let error = FigaWeights { beta: -0.5, ..FigaWeights::default() }.validate().unwrap_err();
    /// assert_eq!(error.to_string(), "weights.beta: expected a finite number >= 0, got -0.5");
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`] that names the field.
    pub fn validate(&self) -> Result<()> {
        for (argument, value) in
            [("weights.alpha", self.alpha), ("weights.beta", self.beta), ("weights.gamma", self.gamma)]
        {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::Value { argument, expected: "a finite number >= 0", actual: value.to_string() });
            }
        }
        Ok(())
    }

    /// The signed weight of a token.
    pub fn weight(&self, side: Side, label: TokenLabel) -> f32 {
        match (side, label) {
            (Side::Revised, TokenLabel::Inserted | TokenLabel::Substituted | TokenLabel::Eos) => self.alpha,
            (Side::Revised, TokenLabel::Kept) => self.gamma,
            (Side::Original, TokenLabel::Deleted | TokenLabel::Substituted) => -self.beta,
            _ => 0.0,
        }
    }
}
