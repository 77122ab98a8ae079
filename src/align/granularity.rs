//! Alignments of words and phrases, by widening an alignment of tokens. What the tokens mark stays marked.

use std::ops::Range;

use super::{Alignment, EditTag, Span};
use crate::error::{Error, Result};

/// What counts as changed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Granularity {
    /// Each token for itself.
    #[default]
    Token,
    /// A word with a changed token in it: [`Alignment::words`].
    Word,
    /// Changes and what is between them, if that is at most so many tokens: [`Alignment::phrases`].
    Phrase(usize),
}

impl Granularity {
    /// Widens an alignment of tokens. For each token, `original_words` and `revised_words` hold the number of its word,
    /// as [`Encoding::get_word_ids`] returns them; tokens without a number, and such behind the end of the list, stand
    /// for themselves. Only [`Word`](Self::Word) looks at them.
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
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`] for more numbers than the alignment has tokens.
    pub fn widen(
        self,
        alignment: Alignment,
        original_words: &[Option<u32>],
        revised_words: &[Option<u32>],
    ) -> Result<Alignment> {
        match self {
            Self::Token => Ok(alignment),
            Self::Word => alignment.words(&ranges(original_words), &ranges(revised_words)),
            Self::Phrase(max_gap) => Ok(alignment.phrases(max_gap)),
        }
    }
}

/// Runs of tokens of the same word.
fn ranges(words: &[Option<u32>]) -> Vec<Range<usize>> {
    let mut start = 0;
    let runs = words.chunk_by(|a, b| a.is_some() && a == b).map(|run| {
        start += run.len();
        start - run.len()..start
    });
    runs.collect()
}

impl Alignment {
    /// The alignment of phrases: changes with at most `max_gap` kept items between them join, and the items between
    /// them count as changed on both sides.
    ///
    /// ```
    /// use figa_loss::Aligner;
    ///
    /// let tokens = Aligner::Levenshtein.align(&["the", "cat", "sat", "down"], &["a", "cat", "lay", "down"]);
    /// assert_eq!(tokens.removed(), [true, false, true, false]);
    /// assert_eq!(tokens.phrases(1).removed(), [true, true, true, false]);
    /// ```
    pub fn phrases(&self, max_gap: usize) -> Alignment {
        let mut spans: Vec<Span> = Vec::with_capacity(self.spans.len());
        for span in &self.spans {
            match spans.last_mut() {
                Some(last) if span.original.start - last.original.end <= max_gap => {
                    last.original.end = span.original.end;
                    last.revised.end = span.revised.end;
                }
                _ => spans.push(span.clone()),
            }
        }
        for span in &mut spans {
            span.tag = tag(&span.original, &span.revised);
        }
        let mut phrases = Alignment::default();
        phrases.set(self.removed.len(), self.added.len(), spans);
        phrases
    }

    /// The alignment of words: a word with a changed item in it counts as changed throughout, and so does the word that
    /// held the same place on the other side. Items outside of all words stand for themselves.
    ///
    /// `original_words` and `revised_words` are ranges of items in ascending order.
    ///
    /// ```
    /// use figa_loss::Aligner;
    ///
    /// // un|happy man became happy man
    /// let tokens = Aligner::Levenshtein.align(&["un", "happy", " man"], &["happy", " man"]);
    /// let words = tokens.words(&[0..2, 2..3], &[0..1, 1..2])?;
    /// assert_eq!(words.removed(), [true, true, false]);
    /// assert_eq!(words.added(), [true, false]);
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`] for a range that overlaps the one before, or goes beyond the items, or ends before it starts.
    pub fn words(&self, original_words: &[Range<usize>], revised_words: &[Range<usize>]) -> Result<Alignment> {
        let kept = |changed: &[bool]| (0..changed.len()).filter(|&at| !changed[at]).collect::<Vec<_>>();
        let (kept_original, kept_revised) = (kept(&self.removed), kept(&self.added));
        let mut original = Side::new("original_words", original_words, &self.removed)?;
        let mut revised = Side::new("revised_words", revised_words, &self.added)?;
        original.partners(&kept_original, &kept_revised);
        revised.partners(&kept_revised, &kept_original);

        // What is marked on one side marks on the other, and back, until nothing changes. Each word takes part once.
        let mut pending: Vec<(bool, usize)> = Vec::new();
        pending.extend((0..self.removed.len()).filter(|&at| self.removed[at]).map(|at| (true, at)));
        pending.extend((0..self.added.len()).filter(|&at| self.added[at]).map(|at| (false, at)));
        while let Some((on_original, at)) = pending.pop() {
            let side = if on_original { &mut original } else { &mut revised };
            let Some(word) = side.word_of[at].take() else { continue };
            for at in word {
                side.word_of[at] = None;
                side.changed[at] = true;
                pending.extend(side.partner[at].map(|partner| (!on_original, partner)));
            }
        }
        Ok(Alignment::from_masks(&original.changed, &revised.changed))
    }

    /// The alignment with these masks, which keep as many items on one side as on the other.
    fn from_masks(removed: &[bool], added: &[bool]) -> Alignment {
        let mut spans = Vec::new();
        let (mut i, mut j) = (0, 0);
        while i < removed.len() || j < added.len() {
            let run = |mask: &[bool], from: usize| from + mask[from..].iter().take_while(|&&changed| changed).count();
            let (original, revised) = (i..run(removed, i), j..run(added, j));
            (i, j) = (original.end + 1, revised.end + 1);
            if !(original.is_empty() && revised.is_empty()) {
                spans.push(Span { tag: tag(&original, &revised), original, revised });
            }
        }
        let mut alignment = Alignment::default();
        alignment.set(removed.len(), added.len(), spans);
        alignment
    }
}

fn tag(original: &Range<usize>, revised: &Range<usize>) -> EditTag {
    match (original.is_empty(), revised.is_empty()) {
        (true, _) => EditTag::Insert,
        (_, true) => EditTag::Delete,
        _ => EditTag::Replace,
    }
}

/// One sequence of the two.
struct Side {
    changed: Vec<bool>,
    /// The word that each item is in; none once it has been marked.
    word_of: Vec<Option<Range<usize>>>,
    /// The item that each kept item is the same as, on the other side.
    partner: Vec<Option<usize>>,
}

impl Side {
    fn new(argument: &'static str, words: &[Range<usize>], changed: &[bool]) -> Result<Self> {
        let len = changed.len();
        let mut word_of: Vec<Option<Range<usize>>> = (0..len).map(|at| Some(at..at + 1)).collect();
        let mut end = 0;
        for word in words {
            if word.start < end || word.end < word.start || word.end > len {
                let expected = "ascending ranges within the sequence that do not overlap";
                let actual = format!("{word:?} behind item {end}, with {len} items");
                return Err(Error::Value { argument, expected, actual });
            }
            word_of[word.clone()].fill(Some(word.clone()));
            end = word.end;
        }
        Ok(Self { changed: changed.to_vec(), word_of, partner: vec![None; len] })
    }

    fn partners(&mut self, own: &[usize], others: &[usize]) {
        for (&own, &other) in own.iter().zip(others) {
            self.partner[own] = Some(other);
        }
    }
}
