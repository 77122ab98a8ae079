//! From a record to two rows: the original answer with its penalties, the revised one with its rewards.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use tokenizers::{Encoding, PostProcessorWrapper, Token, Tokenizer};

use super::compare::{LabelledText, LabelledTexts, MAX_ANSWER_TOKENS, check_lengths};
use super::example::{EncodedPair, Example};
use super::model_folder::ModelFolder;
use super::prompt::PromptTemplate;
use super::record::SpaRecord;
use super::render::{RenderedPair, render};
use super::tokenizer;
use super::words::word_numbers;
use crate::align::{Aligner, Alignment, Granularity};
use crate::error::{Error, Result};
use crate::side::Side;
use crate::weights::{FigaWeights, IGNORE_INDEX, TokenLabel, label_tokens};

/// Turns records into rows. Set its public fields to configure it.
///
/// * With a chat template, a row is what the template renders for the whole conversation with its answer, up to the end
///   of the answer's turn. The prompt is what the renderings of both answers, and of any other, begin with. With the other
///   templates, a row is the prompt, the answer and EOS.
/// * Prompt and answer are tokenized together, as the model will see them. A token belongs to the answer if it
///   covers at least one of the answer's bytes, so a token that straddles the boundary belongs to the answer; but an added
///   token that begins in the prompt belongs to the prompt.
/// * Only the tokens of the answers are aligned, EOS included, and before anything is cut: a token keeps its true
///   label even if `max_length` cuts its counterpart off.
/// * Each row ends in EOS, unless the record says that its answers were cut off: the first special or other added token
///   that the template puts after the answer, unless it is white space, or else the encoder's own, which is not repeated
///   where the text already ends in it. EOS is known by its place, and the two rows may end in different tokens.
/// * Special tokens that the tokenizer puts in front of a text (BOS) are added unless the prompt begins with them, and
///   unless a chat template renders the row; as in `transformers`, its text is all there is.
#[derive(Debug, Clone)]
pub struct PairEncoder {
    tokenizer: Tokenizer,
    /// How many bytes its normalizer makes of one, at worst.
    growth: f64,
    /// The special and other added tokens.
    added_ids: HashSet<u32>,
    /// The special tokens that the tokenizer adds in front of a text.
    bos_ids: Vec<u32>,
    eos_id: u32,
    stop_ids: Vec<u32>,
    /// The prompt in front of both answers; [`PromptTemplate::Alpaca`] by default.
    pub template: PromptTemplate,
    /// Whether the chat template may drop the reasoning of an answer; by default this is an error.
    pub drop_reasoning: bool,
    /// How to find the changes; [`Aligner::Levenshtein`] by default.
    pub aligner: Aligner,
    /// What counts as one change; [`Granularity::Token`] by default. Words are those of the text (UAX 29); EOS is not
    /// part of one.
    pub granularity: Granularity,
    /// What the changes weigh.
    pub weights: FigaWeights,
    /// Rows are cut after this many tokens; `None`, the default, cuts nothing.
    pub max_length: Option<usize>,
    /// An answer of more tokens is an error; 131,072 by default. The time to align two unrelated answers grows with the
    /// square of their length.
    pub max_answer_tokens: usize,
}

/// What stands for EOS while rows are aligned: the rows may end in different tokens.
const END: u32 = u32::MAX;

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
        let growth = tokenizer::growth(&tokenizer).map_err(failed)?;
        let bos_ids = tokens_in_front(&tokenizer)?;
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        Ok(Self {
            added_ids: tokenizer.get_added_tokens_decoder().into_keys().collect(),
            tokenizer,
            growth,
            bos_ids,
            eos_id,
            stop_ids: vec![eos_id],
            template: PromptTemplate::default(),
            drop_reasoning: false,
            aligner: Aligner::default(),
            granularity: Granularity::default(),
            weights: FigaWeights::default(),
            max_length: None,
            max_answer_tokens: MAX_ANSWER_TOKENS,
        })
    }

    /// An encoder with the `tokenizer.json` of a model's folder, or with the file of that name. `eos_token` ends an
    /// answer where the template does not; if it is `None`, the folder names it: in `tokenizer_config.json` or
    /// `special_tokens_map.json`, or else by its id in `generation_config.json` or `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Model`] for an invalid one, for a folder without
    /// `tokenizer.json`, or where no file names an EOS.
    pub fn read(path: impl AsRef<Path>, eos_token: Option<&str>) -> Result<Self> {
        let folder = ModelFolder::open(path.as_ref())?;
        let tokenizer = folder.tokenizer()?;
        let stop_ids = folder.eos_ids()?;
        let named = match eos_token {
            Some(token) => Some(token.to_owned()),
            None => folder.special_tokens()?.remove("eos_token"),
        };
        let eos_token = named.or_else(|| tokenizer.id_to_token(*stop_ids.first()?)).ok_or_else(|| Error::Setting {
            place: path.as_ref().display().to_string(),
            message: "names no eos_token: pass the token that ends an answer".into(),
            setting: "eos_token",
        })?;
        let mut encoder = Self::new(tokenizer, &eos_token).map_err(|error| match error {
            Error::Tokenizer(reason) => folder.invalid_tokenizer(&reason.to_string()),
            other => other,
        })?;
        encoder.stop_ids.extend(stop_ids.into_iter().filter(|&id| id != encoder.eos_id));
        Ok(encoder)
    }

    /// The id of the end-of-sequence token. It also serves as the `pad_id` of [`collate`](super::collate), which marks
    /// padding by length, never by id.
    pub fn eos_id(&self) -> u32 {
        self.eos_id
    }

    /// The ids that stop a generated answer: EOS, and those of the folder's `generation_config.json`.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The tokenizer, without its post-processor.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The texts of both rows, before they are tokenized.
    ///
    /// ```no_run
    /// use figa_loss::{PairEncoder, PromptTemplate, RenderedAnswer, RenderedPair, Side, SpaRecord};
    ///
    /// let mut encoder = PairEncoder::read("path/to/model", None)?;
    /// encoder.template = PromptTemplate::for_model("path/to/model", &Default::default())?;
    /// encoder.drop_reasoning = true;
    /// encoder.max_answer_tokens = 4096;
    /// let record = SpaRecord::new("Colour?", "It is green.", "It is blue.");
    /// let pair: RenderedPair = encoder.render(&record)?;
    /// if pair.prompt != encoder.template.render(&record)? {
    ///     println!("the prompt of the rows is not the prompt for generation");
    /// }
    /// let answer: &RenderedAnswer = pair.answer(Side::Revised);
    /// println!("{} | {} | {}", pair.prompt, answer.content(), &answer.text[answer.len..]);
    /// let rows = encoder.encode_rendered(&pair)?;
    /// assert_eq!(rows, encoder.encode(&record)?);
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`PromptTemplate::render`]; with a chat template [`Error::Model`] if it drops a part of an answer.
    pub fn render(&self, record: &SpaRecord) -> Result<RenderedPair> {
        render(&self.template, record, self.drop_reasoning)
    }

    /// Encodes, aligns and weighs one record.
    ///
    /// # Errors
    /// Those of [`render`](Self::render); [`Error::Tokenizer`] if tokenization fails, [`Error::EmptyPrompt`] for a
    /// prompt without tokens, [`Error::PromptTooLong`] if `max_length` leaves no token of an answer,
    /// [`Error::AnswerTooLong`] beyond `max_answer_tokens`, [`Error::Value`] for a weight that is negative or not finite.
    pub fn encode(&self, record: &SpaRecord) -> Result<EncodedPair> {
        self.encode_rendered(&self.render(record)?)
    }

    /// [`encode`](Self::encode) for texts that [`render`](Self::render) has returned.
    ///
    /// # Errors
    /// Those of `encode`, except those of rendering.
    pub fn encode_rendered(&self, rendered: &RenderedPair) -> Result<EncodedPair> {
        let [original, revised] = self.rows(rendered)?.rows;
        Ok(EncodedPair::new(self.finish(original, Side::Original)?, self.finish(revised, Side::Revised)?))
    }

    /// The rows of a record as labelled tokens with their texts, to look at them. Nothing is cut.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn compare(&self, record: &SpaRecord) -> Result<LabelledTexts> {
        let Rows { prompt, rows, alignment } = self.rows(&self.render(record)?)?;
        let name = |id: &u32| self.tokenizer.id_to_token(*id).unwrap_or_default();
        let texts = Side::ALL.map(|side| {
            let row = &rows[side.index()];
            let names = row.answer().iter().map(name);
            LabelledText::new(row.text.clone(), side, names, &row.ranges, &row.labels, &self.weights)
        });
        Ok(LabelledTexts::new(prompt, texts, alignment))
    }

    /// Both rows, labelled, and what changed between them.
    fn rows(&self, rendered: &RenderedPair) -> Result<Rows> {
        self.weights.validate()?;
        let texts = Side::ALL.map(|side| Text::new(rendered, side));
        let encode = |text: &Text| tokenizer::encode(&self.tokenizer, self.growth, &text.whole).map_err(failed);
        let encodings = [encode(&texts[0])?, encode(&texts[1])?];
        // Where the answers begin with different special tokens, the texts of those may begin alike.
        let starts = Side::ALL.map(|side| self.start_of_answer(&texts[side.index()], &encodings[side.index()]));
        let prompt = starts[0].min(starts[1]);
        let row = |side: Side| self.row(&texts[side.index()], &encodings[side.index()], prompt, side);
        let mut rows = [row(Side::Original)?, row(Side::Revised)?];
        let keys = rows.each_ref().map(Row::keys);
        check_lengths(keys.each_ref().map(|keys| keys.len()), self.max_answer_tokens)?;
        let mut alignment = self.aligner.align(&keys[0], &keys[1]);
        if self.granularity == Granularity::Word {
            // EOS, beyond the end of the list, is no part of a word.
            let words = rows.each_ref().map(|row| word_numbers(&row.text, &row.ranges[..row.without_eos()]));
            alignment = self.granularity.widen(alignment, &words[0], &words[1])?;
        } else {
            alignment = self.granularity.widen(alignment, &[], &[])?;
        }
        for side in Side::ALL {
            rows[side.index()].labels = label_tokens(&alignment, side, &keys[side.index()], &END)?;
        }
        Ok(Rows { prompt: rendered.prompt[..prompt].to_owned(), rows, alignment })
    }

    /// Where the answer begins: behind the prompt, or at an added token that begins in the prompt's text and ends in more
    /// than white space of the answer.
    fn start_of_answer(&self, text: &Text, encoding: &Encoding) -> usize {
        let end = text.prompt_end;
        let straddles = |&(id, (start, stop)): &(&u32, (usize, usize))| {
            let swallowed = text.whole.get(end..stop).unwrap_or_default();
            start < end && !swallowed.trim().is_empty() && self.added_ids.contains(id)
        };
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets().iter().copied());
        tokens.skip_while(|(_, (_, stop))| *stop <= end).find(straddles).map_or(end, |(_, (start, _))| start)
    }

    /// The row of a text whose answer begins at `start`.
    fn row(&self, text: &Text, encoding: &Encoding, start: usize, side: Side) -> Result<Row> {
        let Text { whole, content_end, is_truncated, .. } = text;
        let (ids, offsets) = (encoding.get_ids(), encoding.get_offsets());
        let is_added = |at: usize| self.added_ids.contains(&ids[at]);
        let is_prompt = |at: &usize| offsets[*at].1 <= start || is_added(*at) && offsets[*at].0 < start;
        let in_prompt = (0..ids.len()).take_while(is_prompt).count();
        let bos_ids = match self.template {
            PromptTemplate::Chat(_) => &[][..],
            _ if ids[..in_prompt].starts_with(&self.bos_ids) => &[],
            _ => &self.bos_ids,
        };
        let prompt_tokens = bos_ids.len() + in_prompt;
        if prompt_tokens == 0 {
            return Err(Error::EmptyPrompt { side });
        }
        // Some tokenizers have added tokens for runs of white space.
        let is_end = |&at: &usize| {
            let (from, to) = offsets[at];
            to > *content_end && is_added(at) && !whole.get(from..to).unwrap_or_default().trim().is_empty()
        };
        let end = (in_prompt..ids.len()).find(is_end);
        let kept = end.map_or(ids.len(), |end| end + 1);
        let clipped = |&(from, to): &(usize, usize)| from.max(start) - start..to.max(start) - start;
        let mut ranges: Vec<Range<usize>> = offsets[in_prompt..kept].iter().map(clipped).collect();
        let mut ids = [bos_ids, &ids[..kept]].concat();
        let mut text = whole[start..].to_owned();
        if let Some(last) = ranges.last().filter(|_| end.is_some()) {
            text.truncate(last.end);
        } else if !is_truncated && (ranges.is_empty() || ids.last() != Some(&self.eos_id)) {
            ids.push(self.eos_id);
            ranges.push(text.len()..text.len());
        }
        Ok(Row { ids, prompt_tokens, text, ranges, has_eos: !is_truncated, labels: vec![] })
    }

    fn finish(&self, row: Row, side: Side) -> Result<Example> {
        let Row { ids: mut input_ids, prompt_tokens, labels: answer_labels, .. } = row;
        let mut token_labels = vec![TokenLabel::Ignored; prompt_tokens];
        token_labels.extend_from_slice(&answer_labels);
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

/// The text of a row, before it is tokenized.
struct Text {
    /// The prompt, the answer, and what the template puts after it.
    whole: String,
    prompt_end: usize,
    content_end: usize,
    /// Whether the answer was cut off: there is no EOS.
    is_truncated: bool,
}

impl Text {
    fn new(pair: &RenderedPair, side: Side) -> Self {
        let (prompt, answer) = (&pair.prompt, pair.answer(side));
        Self {
            whole: format!("{prompt}{}", answer.text),
            prompt_end: prompt.len(),
            content_end: prompt.len() + answer.len,
            is_truncated: pair.is_truncated,
        }
    }
}

/// Both rows of a record.
struct Rows {
    prompt: String,
    rows: [Row; 2],
    alignment: Alignment,
}

/// The tokens of a row.
struct Row {
    /// Prompt, answer and, if there is one, EOS.
    ids: Vec<u32>,
    prompt_tokens: usize,
    /// The text after the prompt, up to the end of EOS.
    text: String,
    /// Where each token of the answer, EOS included, is in that text.
    ranges: Vec<Range<usize>>,
    has_eos: bool,
    /// The labels of the answer, once it is aligned.
    labels: Vec<TokenLabel>,
}

impl Row {
    fn answer(&self) -> &[u32] {
        &self.ids[self.prompt_tokens..]
    }

    /// What is aligned: the answer, with the same end on both sides.
    fn keys(&self) -> Vec<u32> {
        let mut keys = self.answer().to_vec();
        if self.has_eos {
            keys[self.without_eos()] = END;
        }
        keys
    }

    /// How many tokens the answer has without EOS.
    fn without_eos(&self) -> usize {
        self.ranges.len() - usize::from(self.has_eos)
    }
}

fn failed(reason: String) -> Error {
    Error::Tokenizer(reason.into())
}

/// The special tokens that the tokenizer's post-processor adds in front of any text.
fn tokens_in_front(tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let text = Encoding::from_tokens(vec![Token::new(0, String::new(), (0, 0))], 0);
    let text = tokenizer::run(|| tokenizer.post_process(text, None, true)).map_err(failed)?;
    let special = text.get_special_tokens_mask().iter().take_while(|&&special| special == 1);
    Ok(text.get_ids().iter().zip(special).map(|(&id, _)| id).collect())
}
