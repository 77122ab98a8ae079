//! A record becomes two rows: the original response with its penalties and the revised one with its rewards.

use std::fs;
use std::path::Path;

use tokenizers::{Encoding, PostProcessorWrapper, Token, Tokenizer};

use super::chat;
use super::prompt::PromptTemplate;
use super::record::SpaRecord;
use crate::align::{Aligner, Granularity};
use crate::error::{Error, Result};
use crate::weights::{FigaWeights, IGNORE_INDEX, Side, TokenLabel, label_tokens};

/// One row of a batch. All four lists have one entry per token.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Prompt, response and EOS.
    pub input_ids: Vec<u32>,
    /// The token's own id in the response, [`IGNORE_INDEX`] in the prompt; unshifted, as in Hugging Face.
    pub labels: Vec<i64>,
    /// The signed weight of each token.
    pub weights: Vec<f32>,
    /// Why it has that weight.
    pub token_labels: Vec<TokenLabel>,
}

impl Example {
    /// Which tokens are learnt from: those with a weight other than 0 and a label, but for the first, which nothing
    /// predicts. Their number is what [`Reduction::ActiveTokens`](crate::Reduction::ActiveTokens) divides by if the gate
    /// spares none, and what gradient accumulation can count beforehand.
    ///
    /// ```
    /// use figa_loss::Example;
    ///
    /// let row = Example {
    ///     input_ids: vec![1, 5, 8],
    ///     labels: vec![-100, 5, 8],
    ///     weights: vec![0.0, 0.0, 1.0],
    ///     token_labels: vec![],
    /// };
    /// assert_eq!(row.active().collect::<Vec<_>>(), [false, false, true]);
    /// ```
    pub fn active(&self) -> impl Iterator<Item = bool> {
        let tokens = self.weights.iter().zip(&self.labels).enumerate();
        tokens.map(|(at, (&weight, &label))| at > 0 && weight != 0.0 && label != IGNORE_INDEX)
    }
}

/// The two rows of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedPair {
    /// The row that is penalised where the revision removed something.
    pub original: Example,
    /// The row that is rewarded where the revision added something.
    pub revised: Example,
}

/// Turns records into rows. Change its public fields to configure it.
///
/// * Prompt and response are tokenized in one go, as the model will see them. A token belongs to the response if it
///   covers at least one of its bytes, so a token that straddles the boundary counts as response.
/// * The response's tokens alone are aligned, EOS included, and before anything is cut: a token keeps its true label
///   even if `max_length` cuts its counterpart off.
/// * Each row ends in EOS, which is not repeated where the response's text already ends in it. Of the special tokens
///   that the tokenizer itself puts around a text, those in front (BOS) stay, and EOS replaces those behind. BOS is not
///   repeated either where the prompt's text begins with it, as that of a chat template may.
#[derive(Debug, Clone)]
pub struct PairEncoder {
    tokenizer: Tokenizer,
    /// The special tokens in front of a text.
    bos_ids: Vec<u32>,
    eos_id: u32,
    /// The prompt in front of both responses; [`PromptTemplate::Alpaca`] by default.
    pub template: PromptTemplate,
    /// How to find the changes; [`Aligner::Levenshtein`] by default.
    pub aligner: Aligner,
    /// What counts as changed together; [`Granularity::Token`] by default. Words are those of the tokenizer's
    /// pre-tokenizer; EOS is none.
    pub granularity: Granularity,
    /// What the changes weigh.
    pub weights: FigaWeights,
    /// Rows are cut after so many tokens; `None`, the default, cuts nothing.
    pub max_length: Option<usize>,
}

impl PairEncoder {
    /// An encoder with default settings. Padding and truncation that the tokenizer's file may ask for are switched
    /// off; so is its post-processor, for it may trim the offsets that tell prompt and response apart. The encoder
    /// puts BOS in front itself.
    ///
    /// # Errors
    /// [`Error::MissingToken`] if the tokenizer does not know `eos_token`.
    pub fn new(mut tokenizer: Tokenizer, eos_token: &str) -> Result<Self> {
        let eos_id = tokenizer.token_to_id(eos_token).ok_or_else(|| Error::MissingToken { token: eos_token.into() })?;
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
    /// answer; without one, the folder's `tokenizer_config.json` or `config.json` says which token does.
    ///
    /// # Errors
    /// [`Error::ModelFile`] or [`Error::Io`] for a file that cannot be read, [`Error::NoEos`] where nothing names an EOS,
    /// and those of [`new`](Self::new).
    pub fn read(path: impl AsRef<Path>, eos_token: Option<&str>) -> Result<Self> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.into() };
        let folder = file.parent().unwrap_or(Path::new(""));
        let json = fs::read(&file).map_err(|reason| Error::Io { path: file.clone(), reason })?;
        let tokenizer = Tokenizer::from_bytes(json).map_err(|error| Error::ModelFile {
            place: file.display().to_string(),
            message: format!("no tokenizer: {error}"),
        })?;
        let eos_token = match eos_token {
            Some(token) => Some(token.to_owned()),
            None => chat::eos_token(folder, |id| tokenizer.id_to_token(id))?,
        };
        Self::new(tokenizer, &eos_token.ok_or(Error::NoEos { path: folder.into() })?)
    }

    /// The id of the end-of-sequence token. It also serves as the `pad_id` of [`collate`](super::collate): padding is
    /// told by length, never by id.
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
    /// [`Error::Tokenizer`] if tokenization fails, [`Error::PromptTooLong`] if `max_length` leaves no token of a
    /// response, [`Error::Value`] for weights that are not finite.
    pub fn encode(&self, record: &SpaRecord) -> Result<EncodedPair> {
        self.weights.validate()?;
        let prompt = self.template.render(record)?;
        let original = self.row(&prompt, &record.original_output, Side::Original)?;
        let revised = self.row(&prompt, &record.revised_output, Side::Revised)?;
        let alignment = self.aligner.align(original.response(), revised.response());
        let alignment = self.granularity.widen(alignment, &original.words, &revised.words)?;
        let finish = |row: Row, side| {
            let labels = label_tokens(&alignment, side, row.response(), &self.eos_id)?;
            self.finish(row, side, &labels)
        };
        Ok(EncodedPair { original: finish(original, Side::Original)?, revised: finish(revised, Side::Revised)? })
    }

    fn row(&self, prompt: &str, response: &str, side: Side) -> Result<Row> {
        let encoding = self.tokenizer.encode(format!("{prompt}{response}"), false).map_err(Error::Tokenizer)?;
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

    fn finish(&self, row: Row, side: Side, response_labels: &[TokenLabel]) -> Result<Example> {
        let Row { ids: mut input_ids, prompt_tokens, .. } = row;
        let mut token_labels = vec![TokenLabel::Ignored; prompt_tokens];
        token_labels.extend_from_slice(response_labels);
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
        Ok(Example { input_ids, labels, weights, token_labels })
    }
}

/// The ids of prompt, response and EOS.
struct Row {
    ids: Vec<u32>,
    prompt_tokens: usize,
    /// Which word each token of the response is in; EOS is in none.
    words: Vec<Option<u32>>,
}

impl Row {
    fn response(&self) -> &[u32] {
        &self.ids[self.prompt_tokens..]
    }
}

/// The special tokens that the tokenizer's post-processor puts in front of any text.
fn tokens_in_front(tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let text = Encoding::from_tokens(vec![Token::new(0, String::new(), (0, 0))], 0);
    let text = tokenizer.post_process(text, None, true).map_err(Error::Tokenizer)?;
    let special = text.get_special_tokens_mask().iter().take_while(|&&special| special == 1);
    Ok(text.get_ids().iter().zip(special).map(|(&id, _)| id).collect())
}
