//! Two texts, aligned and labelled to be looked at: without a prompt and without ids.

use std::ops::Range;
use std::path::Path;

use tokenizers::pre_tokenizers::whitespace::Whitespace;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

use super::model_folder::ModelFolder;
use super::words::word_numbers;
use crate::align::{Aligner, Alignment, Granularity};
use crate::error::{Error, Result};
use crate::side::Side;
use crate::weights::{FigaWeights, TokenLabel, label_tokens};

/// Aligns and labels the tokens of two texts. Set its public fields to configure it.
///
/// ```
/// use figa_loss::{LabelledTexts, LabelledToken, Side, TextComparer, TokenLabel};
///
/// let texts: LabelledTexts = TextComparer::default().compare("He go home.", "He goes home.")?;
/// let token: &LabelledToken = &texts.tokens(Side::Revised)[1];
/// assert_eq!((&*token.name, token.range.clone()), ("goes", 3..7));
/// assert_eq!((token.label, token.weight), (TokenLabel::Substituted, 1.0));
/// assert_eq!(texts.alignment().removed(), [false, true, false, false, false]);
///
/// let mut strict = TextComparer::default();
/// strict.max_answer_tokens = 2;
/// assert!(strict.compare("one two three", "one").is_err());
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TextComparer {
    /// Splits the texts; `None`, the default, splits them into words and punctuation.
    tokenizer: Option<Tokenizer>,
    /// How to find the changes; [`Aligner::Levenshtein`] by default.
    pub aligner: Aligner,
    /// What counts as one change; [`Granularity::Token`] by default.
    pub granularity: Granularity,
    /// What the changes weigh.
    pub weights: FigaWeights,
    /// A text of more tokens is an error, as for [`PairEncoder`](super::PairEncoder::max_answer_tokens).
    pub max_answer_tokens: usize,
}

/// The default of `max_answer_tokens`: aligning two unrelated answers of this length takes about a second.
pub(super) const MAX_ANSWER_TOKENS: usize = 1 << 17;

/// Two texts and their tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledTexts {
    prompt: String,
    texts: [LabelledText; 2],
    alignment: Alignment,
}

/// One of the two texts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LabelledText {
    text: String,
    tokens: Vec<LabelledToken>,
}

/// A token of a text, with its label and weight.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LabelledToken {
    /// Its name in the vocabulary; the names are what is aligned.
    pub name: String,
    /// Its bytes in the text. Tokens that share a character overlap.
    pub range: Range<usize>,
    /// What the revision did to it.
    pub label: TokenLabel,
    /// Its signed weight.
    pub weight: f32,
}

impl Default for TextComparer {
    fn default() -> Self {
        Self {
            tokenizer: None,
            aligner: Aligner::default(),
            granularity: Granularity::default(),
            weights: FigaWeights::default(),
            max_answer_tokens: MAX_ANSWER_TOKENS,
        }
    }
}

impl TextComparer {
    /// The name of the last token of each text, which has an empty range.
    pub const EOS: &str = "<eos>";

    /// Splits the texts with the tokenizer of a model's folder, or of a file `tokenizer.json`.
    ///
    /// ```no_run
    /// let comparer = figa_loss::TextComparer::with_tokenizer("path/to/model")?;
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Model`] for an invalid one.
    pub fn with_tokenizer(path: impl AsRef<Path>) -> Result<Self> {
        let tokenizer = ModelFolder::open(path.as_ref())?.tokenizer()?;
        Ok(Self { tokenizer: Some(tokenizer), ..Self::default() })
    }

    /// Aligns two texts, each followed by [`EOS`](Self::EOS).
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if tokenization fails, [`Error::AnswerTooLong`] beyond `max_answer_tokens`, [`Error::Value`] for
    /// a weight that is negative or not finite.
    pub fn compare(&self, original: &str, revised: &str) -> Result<LabelledTexts> {
        self.weights.validate()?;
        let pieces = [self.split(original)?, self.split(revised)?];
        check_lengths(pieces.each_ref().map(|pieces| pieces.names.len()), self.max_answer_tokens)?;
        let alignment = self.aligner.align(&pieces[0].names, &pieces[1].names);
        let alignment = self.granularity.widen(alignment, &pieces[0].words, &pieces[1].words)?;
        let label = |side: Side, text: &str| {
            let Pieces { names, ranges, .. } = &pieces[side.index()];
            let labels = label_tokens(&alignment, side, names, &Self::EOS.to_owned())?;
            Ok::<_, Error>(LabelledText::new(text.into(), side, names.iter().cloned(), ranges, &labels, &self.weights))
        };
        let texts = [label(Side::Original, original)?, label(Side::Revised, revised)?];
        Ok(LabelledTexts::new(String::new(), texts, alignment))
    }

    fn split(&self, text: &str) -> Result<Pieces> {
        let mut pieces = Pieces::default();
        if let Some(tokenizer) = &self.tokenizer {
            let encoding = tokenizer.encode(text, false).map_err(Error::Tokenizer)?;
            pieces.names = encoding.get_tokens().to_vec();
            pieces.ranges = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
            if self.granularity == Granularity::Word {
                pieces.words = word_numbers(text, &pieces.ranges);
            }
        } else {
            let mut words = PreTokenizedString::from(text);
            Whitespace.pre_tokenize(&mut words).map_err(Error::Tokenizer)?;
            // A word is one token here, so there is nothing to widen.
            for (name, (start, end), _) in words.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                pieces.names.push(name.to_owned());
                pieces.ranges.push(start..end);
            }
        }
        pieces.names.push(Self::EOS.into());
        pieces.ranges.push(text.len()..text.len());
        Ok(pieces)
    }
}

/// Checks that no answer has too many tokens to be aligned in a reasonable time.
pub(super) fn check_lengths(tokens: [usize; 2], max: usize) -> Result<()> {
    for (side, tokens) in Side::ALL.into_iter().zip(tokens) {
        if tokens > max {
            return Err(Error::AnswerTooLong { side, tokens, max });
        }
    }
    Ok(())
}

/// A text as tokens.
#[derive(Default)]
struct Pieces {
    names: Vec<String>,
    ranges: Vec<Range<usize>>,
    words: Vec<Option<u32>>,
}

impl LabelledText {
    pub(super) fn new(
        text: String,
        side: Side,
        names: impl Iterator<Item = String>,
        ranges: &[Range<usize>],
        labels: &[TokenLabel],
        weights: &FigaWeights,
    ) -> Self {
        let tokens = names.zip(ranges).zip(labels).map(|((name, range), &label)| LabelledToken {
            name,
            range: range.clone(),
            label,
            weight: weights.weight(side, label),
        });
        Self { text, tokens: tokens.collect() }
    }
}

impl LabelledTexts {
    pub(super) fn new(prompt: String, texts: [LabelledText; 2], alignment: Alignment) -> Self {
        Self { prompt, texts, alignment }
    }

    /// The text in front of both, as the model sees it; empty for texts that are compared alone.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// What changed between the tokens.
    pub fn alignment(&self) -> &Alignment {
        &self.alignment
    }

    /// The text of one side; with a chat template, its end of turn included.
    pub fn text(&self, side: Side) -> &str {
        &self.texts[side.index()].text
    }

    /// The tokens of one side.
    pub fn tokens(&self, side: Side) -> &[LabelledToken] {
        &self.texts[side.index()].tokens
    }
}
