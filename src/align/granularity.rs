//! Words and phrases: an alignment of tokens, widened. Widening only adds changed tokens.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::{Alignment, Span};
use crate::error::{Error, Result};

/// What counts as one change.
///
/// `Display` writes and `FromStr` reads `token`, `word` and `phrase:N`.
///
/// ```
/// use figa_loss::Granularity;
///
/// assert_eq!("phrase:2".parse::<Granularity>()?, Granularity::Phrase(2));
/// assert_eq!(Granularity::Word.to_string(), "word");
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Granularity {
    /// Each token by itself.
    #[default]
    Token,
    /// A word with a changed token in it counts as changed throughout, and so does the word in the same place on the
    /// other side.
    Word,
    /// Changes with at most this many kept tokens between them join, and the tokens between them count as changed on
    /// both sides.
    Phrase(usize),
}

impl fmt::Display for Granularity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token => write!(formatter, "token"),
            Self::Word => write!(formatter, "word"),
            Self::Phrase(gap) => write!(formatter, "phrase:{gap}"),
        }
    }
}

impl FromStr for Granularity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = match text.split_once(':') {
            None if text == "token" => Some(Self::Token),
            None if text == "word" => Some(Self::Word),
            Some(("phrase", gap)) => gap.parse().ok().map(Self::Phrase),
            _ => None,
        };
        let expected = "token, word or phrase:N";
        found.ok_or_else(|| Error::Value { argument: "granularity", expected, actual: format!("{text:?}") })
    }
}

impl Granularity {
    /// Widens an alignment of tokens. An insertion or deletion that joins tokens of the other side becomes a replace.
    ///
    /// For each token, `original_words` and `revised_words` hold the number of its word, as
    /// [`Encoding::get_word_ids`] returns them. A token without a number, or beyond the end of the list, is a word of
    /// its own. Only [`Word`](Self::Word) reads them.
    ///
    /// [`Encoding::get_word_ids`]: https://docs.rs/tokenizers/latest/tokenizers/tokenizer/struct.Encoding.html
    ///
    /// ```
    /// use figa_loss::{Aligner, Granularity};
    ///
    /// // un|happy man became happy man
    /// let tokens = Aligner::Levenshtein.align(&["un", "happy", " man"], &["happy", " man"]);
    /// let words = Granularity::Word.widen(tokens, &[Some(0), Some(0), Some(1)], &[Some(0), Some(1)])?;
    /// assert_eq!(words.removed(), [true, true, false]);
    /// assert_eq!(words.added(), [true, false]);
    ///
    /// let tokens = Aligner::Levenshtein.align(&["the", "cat", "sat", "down"], &["a", "cat", "lay", "down"]);
    /// assert_eq!(tokens.removed(), [true, false, true, false]);
    /// let phrases = Granularity::Phrase(1).widen(tokens, &[], &[])?;
    /// assert_eq!(phrases.removed(), [true, true, true, false]);
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`] for a list with more entries than the alignment has tokens on that side.
    pub fn widen(
        self,
        alignment: Alignment,
        original_words: &[Option<u32>],
        revised_words: &[Option<u32>],
    ) -> Result<Alignment> {
        match self {
            Self::Token => Ok(alignment),
            Self::Word => words(&alignment, original_words, revised_words),
            Self::Phrase(max_gap) => Ok(phrases(&alignment, max_gap)),
        }
    }
}

fn phrases(alignment: &Alignment, max_gap: usize) -> Alignment {
    let mut spans: Vec<Span> = Vec::with_capacity(alignment.spans.len());
    for span in &alignment.spans {
        match spans.last_mut() {
            Some(last) if span.original.start - last.original.end <= max_gap => {
                *last = Span::covering(last.original.start..span.original.end, last.revised.start..span.revised.end);
            }
            _ => spans.push(span.clone()),
        }
    }
    Alignment::new(alignment.removed.len(), alignment.added.len(), spans)
}

fn words(alignment: &Alignment, original_words: &[Option<u32>], revised_words: &[Option<u32>]) -> Result<Alignment> {
    let mut original = Sequence::new("original_words", original_words, &alignment.removed)?;
    let mut revised = Sequence::new("revised_words", revised_words, &alignment.added)?;
    let kept = |changed: &[bool]| (0..changed.len()).filter(|&at| !changed[at]).collect::<Vec<_>>();
    let (kept_original, kept_revised) = (kept(&alignment.removed), kept(&alignment.added));
    original.match_kept(&kept_original, &kept_revised);
    revised.match_kept(&kept_revised, &kept_original);

    // A mark on one side marks the matching tokens on the other, and back, until nothing changes. Each word is visited
    // once.
    let mut pending: Vec<(bool, usize)> = Vec::new();
    pending.extend((0..alignment.removed.len()).filter(|&at| alignment.removed[at]).map(|at| (true, at)));
    pending.extend((0..alignment.added.len()).filter(|&at| alignment.added[at]).map(|at| (false, at)));
    while let Some((on_original, at)) = pending.pop() {
        let side = if on_original { &mut original } else { &mut revised };
        let Some(word) = side.word_of[at].take() else { continue };
        for at in word {
            side.word_of[at] = None;
            side.changed[at] = true;
            pending.extend(side.matching[at].map(|other| (!on_original, other)));
        }
    }
    Ok(from_masks(&original.changed, &revised.changed))
}

/// The alignment with these masks, which keep the same number of tokens on both sides.
fn from_masks(removed: &[bool], added: &[bool]) -> Alignment {
    let mut spans = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < removed.len() || j < added.len() {
        let run = |mask: &[bool], from: usize| from + mask[from..].iter().take_while(|&&changed| changed).count();
        let (original, revised) = (i..run(removed, i), j..run(added, j));
        (i, j) = (original.end + 1, revised.end + 1);
        if !(original.is_empty() && revised.is_empty()) {
            spans.push(Span::covering(original, revised));
        }
    }
    Alignment::new(removed.len(), added.len(), spans)
}

/// One of the two sequences while marks spread.
struct Sequence {
    changed: Vec<bool>,
    /// The word of each token; `None` once the word is marked.
    word_of: Vec<Option<Range<usize>>>,
    /// The token on the other side that each kept token equals.
    matching: Vec<Option<usize>>,
}

impl Sequence {
    fn new(argument: &'static str, words: &[Option<u32>], changed: &[bool]) -> Result<Self> {
        let len = changed.len();
        if words.len() > len {
            let actual = format!("{} for {len} tokens", words.len());
            return Err(Error::Value { argument, expected: "at most one entry for each token", actual });
        }
        let mut word_of: Vec<Option<Range<usize>>> = (0..len).map(|at| Some(at..at + 1)).collect();
        let mut start = 0;
        for run in words.chunk_by(|a, b| a.is_some() && a == b) {
            let word = start..start + run.len();
            start = word.end;
            word_of[word.clone()].fill(Some(word));
        }
        Ok(Self { changed: changed.to_vec(), word_of, matching: vec![None; len] })
    }

    fn match_kept(&mut self, own: &[usize], others: &[usize]) {
        for (&own, &other) in own.iter().zip(others) {
            self.matching[own] = Some(other);
        }
    }
}
