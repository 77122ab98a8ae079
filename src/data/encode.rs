//! From a record to two rows: the original answer with its penalties, the revised one with its rewards.

use std::fs;
use std::path::{Path, PathBuf};

use tokenizers::{Encoding, PostProcessorWrapper, Token, Tokenizer};

use super::chat;
use super::prompt::PromptTemplate;
use super::record::SpaRecord;
use crate::align::{Aligner, Granularity};
use crate::error::{Error, Result};
use crate::side::Side;
use crate::weights::{FigaWeights, IGNORE_INDEX, TokenLabel, label_tokens};

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

    /// Prompt, answer and EOS.
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

    /// Which tokens are active: those with a weight other than 0 and a label, except the first, which nothing predicts.
    ///
    /// If the gate skips none of them, their number is the denominator of
    /// [`Reduction::ActiveTokens`](crate::Reduction::ActiveTokens). Gradient accumulation can count it beforehand.
    pub fn active(&self) -> impl Iterator<Item = bool> {
        let tokens = self.weights.iter().zip(&self.labels).enumerate();
        tokens.map(|(at, (&weight, &label))| at > 0 && weight != 0.0 && label != IGNORE_INDEX)
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

/// Turns records into rows. Set its public fields to configure it.
///
/// * Prompt and answer are tokenized together, as the model will see them. A token belongs to the answer if it
///   covers at least one of the answer's bytes, so a token that straddles the boundary belongs to the answer.
/// * Only the tokens of the answers are aligned, EOS included, and before anything is cut: a token keeps its true
///   label even if `max_length` cuts its counterpart off.
/// * Each row ends in EOS, which is not repeated where the answer's text already ends in it. Of the special tokens
///   that the tokenizer adds to a text, those in front (BOS) stay, and EOS replaces those behind. BOS is not repeated
///   either where the prompt's text begins with it, as that of a chat template may.
#[derive(Debug, Clone)]
pub struct PairEncoder {
    tokenizer: Tokenizer,
    /// The special tokens that the tokenizer adds in front of a text.
    bos_ids: Vec<u32>,
    eos_id: u32,
    /// The prompt in front of both answers; [`PromptTemplate::Alpaca`] by default.
    pub template: PromptTemplate,
    /// How to find the changes; [`Aligner::Levenshtein`] by default.
    pub aligner: Aligner,
    /// What counts as one change; [`Granularity::Token`] by default. Words are those of the tokenizer's pre-tokenizer;
    /// EOS is not part of one.
    pub granularity: Granularity,
    /// What the changes weigh.
    pub weights: FigaWeights,
    /// Rows are cut after this many tokens; `None`, the default, cuts nothing.
    pub max_length: Option<usize>,
}

impl PairEncoder {
    /// An encoder with default settings. It switches off the tokenizer's padding and truncation, and its post-processor,
    /// which may trim the offsets that separate prompt and answer. The encoder adds BOS itself.
    ///
    /// # Errors
    /// [`Error::Model`] if the tokenizer has no token `eos_token`.
    pub fn new(mut tokenizer: Tokenizer, eos_token: &str) -> Result<Self> {
        let eos_id = tokenizer.token_to_id(eos_token).ok_or_else(|| Error::Model {
            place: "tokenizer".into(),
            message: format!("has no token {eos_token:?}; name the token that ends the model's answers"),
        })?;
        tokenizer.with_padding(None).with_truncation(None).map_err(Error::Tokenizer)?;
        let bos_ids = tokens_in_front(&tokenizer)?;
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        Ok(Self {
            tokenizer,
            bos_ids,
            eos_id,
            template: PromptTemplate::default(),
            aligner: Aligner::default(),
            granularity: Granularity::default(),
            weights: FigaWeights::default(),
            max_length: None,
        })
    }

    /// An encoder with the `tokenizer.json` of a model's folder, or with the file of that name. `eos_token` ends an
    /// answer; if it is `None`, the folder's `tokenizer_config.json` or `config.json` names it.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Model`] for an invalid one or where no file names an EOS.
    pub fn read(path: impl AsRef<Path>, eos_token: Option<&str>) -> Result<Self> {
        let file = tokenizer_file(path.as_ref());
        let folder = file.parent().unwrap_or(Path::new(""));
        let tokenizer = read_tokenizer(&file)?;
        let eos_token = match eos_token {
            Some(token) => Some(token.to_owned()),
            None => chat::eos_token(folder, |id| tokenizer.id_to_token(id))?,
        };
        let eos_token = eos_token.ok_or_else(|| Error::Model {
            place: folder.display().to_string(),
            message: "names no eos_token: name the token that ends an answer (eos_token, or --eos of a program)".into(),
        })?;
        Self::new(tokenizer, &eos_token)
    }

    /// The id of the end-of-sequence token. It also serves as the `pad_id` of [`collate`](super::collate), which marks
    /// padding by length, never by id.
    pub fn eos_id(&self) -> u32 {
        self.eos_id
    }

    /// The tokenizer, without its post-processor.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Encodes, aligns and weighs one record.
    ///
    /// # Errors
    /// Those of [`PromptTemplate::render`]; [`Error::Tokenizer`] if tokenization fails, [`Error::EmptyPrompt`] for a
    /// prompt without tokens, [`Error::PromptTooLong`] if `max_length` leaves no token of a answer, [`Error::Value`]
    /// for weights that are not finite or negative.
    pub fn encode(&self, record: &SpaRecord) -> Result<EncodedPair> {
        self.weights.validate()?;
        let prompt = self.template.render(record)?;
        let original = self.row(&prompt, &record.original_output, Side::Original)?;
        let revised = self.row(&prompt, &record.revised_output, Side::Revised)?;
        let alignment = self.aligner.align(original.answer(), revised.answer());
        let alignment = self.granularity.widen(alignment, &original.words, &revised.words)?;
        let finish = |row: Row, side| {
            let labels = label_tokens(&alignment, side, row.answer(), &self.eos_id)?;
            self.finish(row, side, &labels)
        };
        Ok(EncodedPair::new(finish(original, Side::Original)?, finish(revised, Side::Revised)?))
    }

    fn row(&self, prompt: &str, answer: &str, side: Side) -> Result<Row> {
        let encoding = self.tokenizer.encode(format!("{prompt}{answer}"), false).map_err(Error::Tokenizer)?;
        let in_prompt = encoding.get_offsets().iter().take_while(|&&(_, end)| end <= prompt.len()).count();
        let has_bos = encoding.get_ids()[..in_prompt].starts_with(&self.bos_ids);
        let bos_ids = if has_bos { &[][..] } else { &self.bos_ids };
        let mut ids = [bos_ids, encoding.get_ids()].concat();
        let prompt_tokens = bos_ids.len() + in_prompt;
        if prompt_tokens == 0 {
            return Err(Error::EmptyPrompt { side });
        }
        if ids.len() == prompt_tokens || ids.last() != Some(&self.eos_id) {
            ids.push(self.eos_id);
        }
        Ok(Row { ids, prompt_tokens, words: encoding.get_word_ids()[in_prompt..].to_vec() })
    }

    fn finish(&self, row: Row, side: Side, answer_labels: &[TokenLabel]) -> Result<Example> {
        let Row { ids: mut input_ids, prompt_tokens, .. } = row;
        let mut token_labels = vec![TokenLabel::Ignored; prompt_tokens];
        token_labels.extend_from_slice(answer_labels);
        if let Some(max_length) = self.max_length {
            if prompt_tokens >= max_length {
                return Err(Error::PromptTooLong { side, prompt_tokens, max_length });
            }
            input_ids.truncate(max_length);
            token_labels.truncate(max_length);
        }
        let weights = token_labels.iter().map(|&label| self.weights.weight(side, label)).collect();
        let labels = input_ids.iter().map(|&id| i64::from(id)).enumerate();
        let labels = labels.map(|(i, id)| if i < prompt_tokens { IGNORE_INDEX } else { id }).collect();
        Example::new(input_ids, labels, weights, token_labels)
    }
}

/// The file of a tokenizer that may be named by its folder.
pub(super) fn tokenizer_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("tokenizer.json") } else { path.into() }
}

pub(super) fn read_tokenizer(file: &Path) -> Result<Tokenizer> {
    let json = fs::read(file).map_err(|reason| Error::Io { path: file.into(), reason })?;
    let invalid = |error| Error::Model { place: file.display().to_string(), message: format!("no tokenizer: {error}") };
    Tokenizer::from_bytes(json).map_err(invalid)
}

/// The ids of prompt, answer and EOS.
struct Row {
    ids: Vec<u32>,
    prompt_tokens: usize,
    /// The word of each token of the answer; EOS has none.
    words: Vec<Option<u32>>,
}

impl Row {
    fn answer(&self) -> &[u32] {
        &self.ids[self.prompt_tokens..]
    }
}

/// The special tokens that the tokenizer's post-processor adds in front of any text.
fn tokens_in_front(tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let text = Encoding::from_tokens(vec![Token::new(0, String::new(), (0, 0))], 0);
    let text = tokenizer.post_process(text, None, true).map_err(Error::Tokenizer)?;
    let special = text.get_special_tokens_mask().iter().take_while(|&&special| special == 1);
    Ok(text.get_ids().iter().zip(special).map(|(&id, _)| id).collect())
}
