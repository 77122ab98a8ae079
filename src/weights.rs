//! From an [`Alignment`] to one signed weight per token.
//!
//! | token | in | label | weight | default | paper |
//! |---|---|---|---|---|---|
//! | added | revised | [`Inserted`](TokenLabel::Inserted), [`Substituted`](TokenLabel::Substituted) | `+alpha` | +1.0 | +1.0 |
//! | kept | revised | [`Kept`](TokenLabel::Kept) | `+gamma` | +0.3 | 0 |
//! | first EOS, even when kept | revised | [`Eos`](TokenLabel::Eos) | `+eos` | +0.3 | +1.0 |
//! | removed | original | [`Deleted`](TokenLabel::Deleted), [`Substituted`](TokenLabel::Substituted) | `-beta` | -0.5 | -0.5 |
//! | kept | original | [`Kept`](TokenLabel::Kept) | 0 | 0 | 0 |
//! | first EOS | original | [`Eos`](TokenLabel::Eos) | 0, never penalised | 0 | 0 |
//! | prompt | both | [`Ignored`](TokenLabel::Ignored) | 0 | 0 | 0 |
//!
//! The weight carries the sign, so a batch is plain rows: nothing has to record which rows are the good ones.

use std::fmt;
use std::str::FromStr;

use crate::align::{Alignment, EditTag};
use crate::error::{Error, Result};
use crate::side::Side;

/// The label of a position that is no target, -100 as in PyTorch and Hugging Face.
pub const IGNORE_INDEX: i64 = -100;

/// What the revision did to a token. (The *label* of a position, in `labels`, is the id of the token to predict.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenLabel {
    /// Part of the prompt.
    Ignored,
    /// The same token on both sides.
    Kept,
    /// A revised token where the original has none.
    Inserted,
    /// An original token where the revision has none.
    Deleted,
    /// A token that was replaced (original side), or the token that replaced it (revised side).
    Substituted,
    /// The first end-of-sequence token of an answer, whatever the alignment says about it.
    Eos,
}

/// The label of every token of one answer.
///
/// `tokens` is the answer on that `side`, as it was aligned; its first item equal to `eos` becomes
/// [`TokenLabel::Eos`].
///
/// ```
/// use figa_loss::{Aligner, Side, TokenLabel, label_tokens};
///
/// const EOS: u32 = 0;
/// let (original, revised) = ([5, 6, 7, EOS], [5, 8, 7, 9, EOS]);
/// let alignment = Aligner::Levenshtein.align(&original, &revised);
///
/// use TokenLabel::{Deleted, Eos, Ignored, Inserted, Kept, Substituted};
/// let labels = label_tokens(&alignment, Side::Revised, &revised, &EOS)?;
/// assert_eq!(labels, [Kept, Substituted, Kept, Inserted, Eos]);
/// assert!(!labels.contains(&Deleted) && !labels.contains(&Ignored));
/// # Ok::<(), figa_loss::Error>(())
/// ```
///
/// # Errors
/// [`Error::Value`] if `tokens` and the alignment differ in length on that side.
pub fn label_tokens<T: Eq>(alignment: &Alignment, side: Side, tokens: &[T], eos: &T) -> Result<Vec<TokenLabel>> {
    let mut labels = vec![TokenLabel::Kept; alignment.changed(side).len()];
    if tokens.len() != labels.len() {
        let actual = format!("{} tokens, where {} {side} tokens were aligned", tokens.len(), labels.len());
        return Err(Error::Value {
            argument: "tokens",
            expected: "the sequence that was aligned on this side",
            actual,
        });
    }
    for span in alignment.spans() {
        labels[span.range(side)].fill(match span.tag {
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

/// What the changes weigh.
///
/// The default holds the kept tokens and suits revisions that change a few tokens of an answer; those of the
/// [paper](Self::paper) leave them alone. [`docs::choosing`](crate::docs::choosing) says when to take which.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FigaWeights {
    /// Reward of added tokens.
    pub alpha: f32,
    /// Penalty of removed tokens, as a positive number.
    pub beta: f32,
    /// Reward of the revised answer's kept tokens. With 0, nothing holds them.
    pub gamma: f32,
    /// Reward of the revised answer's EOS. EOS is kept in almost all pairs; where few other tokens change, a high reward
    /// teaches the model to end its answers early.
    pub eos: f32,
}

impl Default for FigaWeights {
    fn default() -> Self {
        Self::new()
    }
}

impl FigaWeights {
    /// The names that [`parse`](str::parse) takes, with the weights that they stand for.
    ///
    /// ```
    /// use figa_loss::FigaWeights;
    ///
    /// assert_eq!(FigaWeights::NAMED.map(|(name, _)| name), ["default", "paper"]);
    /// ```
    pub const NAMED: [(&str, Self); 2] = [("default", Self::new()), ("paper", Self::paper())];

    /// The default: `alpha` 1, `beta` 0.5, `gamma` 0.3, `eos` 0.3.
    ///
    /// ```
    /// use figa_loss::FigaWeights;
    ///
    /// const WEIGHTS: FigaWeights = FigaWeights { gamma: 0.1, ..FigaWeights::new() };
    /// assert_eq!((WEIGHTS.alpha, WEIGHTS.beta, WEIGHTS.eos), (1.0, 0.5, 0.3));
    /// ```
    pub const fn new() -> Self {
        Self { alpha: 1.0, beta: 0.5, gamma: 0.3, eos: 0.3 }
    }

    /// Those of the paper and its code: `alpha` 1, `beta` 0.5, `gamma` 0, `eos` 1. Meant for revisions that change a large
    /// part of an answer, and for long trainings.
    ///
    /// ```
    /// use figa_loss::FigaWeights;
    ///
    /// assert_eq!("paper".parse::<FigaWeights>()?, FigaWeights::paper());
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    pub const fn paper() -> Self {
        Self { alpha: 1.0, beta: 0.5, gamma: 0.0, eos: 1.0 }
    }

    /// Checks that all are finite and at least 0. A negative one would turn a reward into a penalty.
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
        for (argument, value) in [
            ("weights.alpha", self.alpha),
            ("weights.beta", self.beta),
            ("weights.gamma", self.gamma),
            ("weights.eos", self.eos),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::Value { argument, expected: "a finite number >= 0", actual: value.to_string() });
            }
        }
        Ok(())
    }

    /// The signed weight of a token.
    ///
    /// ```
    /// use figa_loss::{FigaWeights, Side, TokenLabel};
    ///
    /// let weights = FigaWeights::default();
    /// assert_eq!(weights.weight(Side::Revised, TokenLabel::Substituted), 1.0);
    /// assert_eq!(weights.weight(Side::Original, TokenLabel::Substituted), -0.5);
    /// ```
    pub fn weight(&self, side: Side, label: TokenLabel) -> f32 {
        match (side, label) {
            (Side::Revised, TokenLabel::Inserted | TokenLabel::Substituted) => self.alpha,
            (Side::Revised, TokenLabel::Kept) => self.gamma,
            (Side::Revised, TokenLabel::Eos) => self.eos,
            (Side::Original, TokenLabel::Deleted | TokenLabel::Substituted) => -self.beta,
            _ => 0.0,
        }
    }

    /// The weight of a token in an anchor, which keeps the model as it is where the revision changes nothing: 1 for kept
    /// tokens of the revised answer, 0 elsewhere.
    ///
    /// ```
    /// use figa_loss::{FigaWeights, Side, TokenLabel};
    ///
    /// let weights = FigaWeights::default();
    /// assert_eq!(weights.anchor(Side::Revised, TokenLabel::Kept), 1.0);
    /// assert_eq!(weights.anchor(Side::Original, TokenLabel::Kept), 0.0);
    /// ```
    pub fn anchor(&self, side: Side, label: TokenLabel) -> f32 {
        f32::from(side == Side::Revised && label == TokenLabel::Kept)
    }

    /// The signed weight of every token of one answer: [`label_tokens`], then [`weight`](Self::weight).
    ///
    /// ```
    /// use figa_loss::{Aligner, FigaWeights, Side};
    ///
    /// const EOS: u32 = 0;
    /// let (original, revised) = ([5, 6, 7, EOS], [5, 8, 7, EOS]);
    /// let alignment = Aligner::Levenshtein.align(&original, &revised);
    /// let weights = FigaWeights::default();
    /// assert_eq!(weights.of(&alignment, Side::Original, &original, &EOS)?, [0.0, -0.5, 0.0, 0.0]);
    /// assert_eq!(weights.of(&alignment, Side::Revised, &revised, &EOS)?, [0.3, 1.0, 0.3, 0.3]);
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`] if `tokens` and the alignment differ in length on that side.
    pub fn of<T: Eq>(&self, alignment: &Alignment, side: Side, tokens: &[T], eos: &T) -> Result<Vec<f32>> {
        let labels = label_tokens(alignment, side, tokens, eos)?;
        Ok(labels.into_iter().map(|label| self.weight(side, label)).collect())
    }
}

/// The four numbers, as in `alpha 1, beta 0.5, gamma 0.3, eos 0.3`.
impl fmt::Display for FigaWeights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alpha, beta, gamma, eos } = self;
        write!(formatter, "alpha {alpha}, beta {beta}, gamma {gamma}, eos {eos}")
    }
}

/// A name of [`FigaWeights::NAMED`].
///
/// ```
/// let error = "papre".parse::<figa_loss::FigaWeights>().unwrap_err();
/// assert_eq!(error.to_string(), "weights: expected \"default\" or \"paper\", got \"papre\"");
/// ```
impl FromStr for FigaWeights {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::NAMED.into_iter().find(|(other, _)| *other == name);
        let expected = "\"default\" or \"paper\"";
        found.map(|(_, weights)| weights).ok_or_else(|| Error::Value {
            argument: "weights",
            expected,
            actual: format!("{name:?}"),
        })
    }
}

/// Positive weights by what the revision did to a token, for losses of pairs: both answers are told apart by the loss, not by
/// the sign.
///
/// ```
/// use figa_loss::{EditWeights, TokenLabel};
///
/// let ddpo = EditWeights::ddpo();
/// assert_eq!((ddpo.weight(TokenLabel::Substituted), ddpo.weight(TokenLabel::Kept)), (3.0, 1.0));
/// assert_eq!(ddpo.weight(TokenLabel::Ignored), 0.0);
/// let edits = EditWeights { changed: 1.0, kept: 0.0 };
/// assert_eq!((edits.weight(TokenLabel::Inserted), edits.weight(TokenLabel::Eos)), (1.0, 0.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EditWeights {
    /// Inserted, deleted and substituted tokens.
    pub changed: f32,
    /// Kept tokens and the EOS.
    pub kept: f32,
}

impl EditWeights {
    /// Those of DDPO: 3 and 1, as in the code of RLHF-V. Its paper takes 5 for fine-grained corrections.
    pub const fn ddpo() -> Self {
        Self { changed: 3.0, kept: 1.0 }
    }

    /// The weight of a token of either answer.
    pub fn weight(&self, label: TokenLabel) -> f32 {
        match label {
            TokenLabel::Ignored => 0.0,
            TokenLabel::Kept | TokenLabel::Eos => self.kept,
            TokenLabel::Inserted | TokenLabel::Deleted | TokenLabel::Substituted => self.changed,
        }
    }
}
