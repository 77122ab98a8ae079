//! The text of both rows of a record, as the model sees them.
//!
//! A chat template renders the whole conversation three times: with the original answer, with the revised one, and with
//! a placeholder for it. The common beginning of the three texts is the prompt; it includes the header that the template
//! puts in front of an answer. What the three texts have in common at their end is the end of the turn. If a template
//! renders only the messages in front of the answer, its text is the prompt, and the answers follow it unchanged.

use serde_json::Value;

use super::chat::{ChatTemplate, Conversation, REASONING_FIELDS};
use super::prompt::PromptTemplate;
use super::record::{Message, SpaRecord};
use crate::error::{Error, Result};
use crate::side::Side;

/// The end of a model's reasoning within the text of an answer.
const END_OF_REASONING: &str = "</think>";

/// The place of its errors.
const CHAT_TEMPLATE: &str = "chat template";

/// The texts of the two rows of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RenderedPair {
    /// The text in front of both answers.
    pub prompt: String,
    /// What follows it in the row of the original answer.
    pub original: RenderedAnswer,
    /// What follows it in the row of the revised answer.
    pub revised: RenderedAnswer,
    /// Whether the answers were cut off ([`SpaRecord::is_truncated`]): nothing follows them, and their rows have no EOS.
    pub is_truncated: bool,
}

/// The text of a row behind its prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RenderedAnswer {
    /// The answer as it is rendered, and what the template puts behind it.
    pub text: String,
    /// How many bytes of the text are the answer.
    pub len: usize,
}

impl RenderedPair {
    /// The text of one side.
    pub fn answer(&self, side: Side) -> &RenderedAnswer {
        match side {
            Side::Original => &self.original,
            Side::Revised => &self.revised,
        }
    }
}

impl RenderedAnswer {
    /// The text of a message, which nothing follows.
    fn as_written(message: &Message) -> Self {
        let text = message.text().into_owned();
        Self { len: text.len(), text }
    }

    /// The answer as it is rendered.
    pub fn content(&self) -> &str {
        &self.text[..self.len]
    }
}

/// Renders both rows of a record. A part of an answer that the template drops is an error, except its reasoning if
/// `drop_reasoning`.
pub(super) fn render(template: &PromptTemplate, record: &SpaRecord, drop_reasoning: bool) -> Result<RenderedPair> {
    let mut pair = match template {
        PromptTemplate::Chat(chat) => ChatRows::new(chat, record).render(drop_reasoning)?,
        _ => without_chat(template.render(record)?, record)?,
    };
    if record.is_truncated {
        pair.is_truncated = true;
        for answer in [&mut pair.original, &mut pair.revised] {
            answer.text.truncate(answer.len);
        }
    }
    Ok(pair)
}

/// Both rows of a record of texts.
fn without_chat(prompt: String, record: &SpaRecord) -> Result<RenderedPair> {
    let answer = |message: &Message| {
        if !message.is_text() {
            return Err(Error::Conversation { what: "an answer that is more than a text".into() });
        }
        Ok(RenderedAnswer::as_written(message))
    };
    let (original, revised) = (answer(&record.original_output)?, answer(&record.revised_output)?);
    Ok(RenderedPair { prompt, original, revised, is_truncated: false })
}

/// The conversation in front of the answers, and the header of the next one.
pub(super) fn generation_prompt(chat: &ChatTemplate, record: &SpaRecord) -> Result<String> {
    let rows = ChatRows::new(chat, record);
    Ok(rows.texts(&[None], true)?.remove(0))
}

/// A conversation with its two answers.
#[derive(Clone)]
struct ChatRows<'a> {
    chat: &'a ChatTemplate,
    record: &'a SpaRecord,
    messages: Vec<Message>,
    original: Message,
    revised: Message,
}

impl<'a> ChatRows<'a> {
    fn new(chat: &'a ChatTemplate, record: &'a SpaRecord) -> Self {
        let messages = match record.messages.is_empty() {
            true => vec![Message::new("user", record.question())],
            false => record.messages.clone(),
        };
        let answer = |message: &Message| match record.is_dialogue() {
            // The space behind `Assistant:`.
            true => message.with_text(message.text().trim().to_owned()),
            false => message.clone(),
        };
        let (original, revised) = (answer(&record.original_output), answer(&record.revised_output));
        Self { chat, record, messages, original, revised }
    }

    fn render(&self, drop_reasoning: bool) -> Result<RenderedPair> {
        let [letter, other] = self.unused_letters();
        let placeholder = Message::new("assistant", letter);
        let texts = self.texts(&[Some(&self.original), Some(&self.revised), Some(&placeholder)], false)?;
        let [original, revised, model] = &texts[..] else { unreachable!("three texts") };
        if original == model && revised == model && self.original.is_text() && self.revised.is_text() {
            return self.without_template();
        }
        let prompt = common_prefix(original, revised).min(common_prefix(revised, model));
        if model.find(letter) != Some(prompt) && prompt < self.end_of_messages(model, &placeholder, other)? {
            return Err(self.failed("renders the messages in front of the answers differently for the two answers"));
        }
        let answer = |text: &str, message: &Message, side| {
            let end = text.len() - common_suffix(&text[prompt..], &model[prompt..]);
            self.check_rendered(&text[..prompt], &text[prompt..end], message, side, drop_reasoning)?;
            Ok::<_, Error>(RenderedAnswer { text: text[prompt..].to_owned(), len: end - prompt })
        };
        Ok(RenderedPair {
            original: answer(original, &self.original, Side::Original)?,
            revised: answer(revised, &self.revised, Side::Revised)?,
            prompt: original[..prompt].to_owned(),
            is_truncated: false,
        })
    }

    /// Both rows where the template renders no answers at all: they follow its prompt as they are.
    fn without_template(&self) -> Result<RenderedPair> {
        let prompt = self.texts(&[None], true)?.remove(0);
        let [original, revised] = [&self.original, &self.revised].map(RenderedAnswer::as_written);
        Ok(RenderedPair { prompt, original, revised, is_truncated: false })
    }

    /// The texts of the conversation with each of these messages at its end.
    ///
    /// Parts go to the template as they are. A template that expects a string raises an error, shows the list itself, or
    /// drops it: then the texts of the parts are joined.
    fn texts(&self, last: &[Option<&Message>], add_generation_prompt: bool) -> Result<Vec<String>> {
        let texts = self.texts_of(&self.messages, last, add_generation_prompt);
        if !self.messages.iter().chain(last.iter().copied().flatten()).any(Message::has_parts) {
            return texts;
        }
        let reads_parts = |(text, last): (&String, &Option<&Message>)| {
            let mut messages = self.messages.iter().chain(*last).filter(|message| message.has_parts());
            messages.all(|message| message.parts().any(|part| holds(text, part))) && !shows_parts(text)
        };
        match &texts {
            Ok(list) if list.iter().zip(last).all(reads_parts) => texts,
            _ => {
                let joined = |message: &Message| match message.has_parts() {
                    true => message.with_text(message.text().into_owned()),
                    false => message.clone(),
                };
                let messages: Vec<Message> = self.messages.iter().map(joined).collect();
                let last: Vec<Option<Message>> = last.iter().map(|it| it.map(joined)).collect();
                let last: Vec<Option<&Message>> = last.iter().map(Option::as_ref).collect();
                self.texts_of(&messages, &last, add_generation_prompt)
            }
        }
    }

    fn texts_of(&self, messages: &[Message], last: &[Option<&Message>], header: bool) -> Result<Vec<String>> {
        let SpaRecord { tools, documents, chat_template_kwargs, .. } = self.record;
        let conversation = Conversation {
            messages,
            tools: tools.as_ref(),
            documents: documents.as_ref(),
            variables: Some(chat_template_kwargs),
        };
        self.chat.render_all(&conversation, last, header)
    }

    /// Two letters that occur nowhere in the answers and the last message, and have no upper case.
    fn unused_letters(&self) -> [char; 2] {
        let messages = [Some(&self.original), Some(&self.revised), self.messages.last()].into_iter().flatten();
        let used: String = messages.flat_map(|message| message.fields().values().map(ToString::to_string)).collect();
        // Yi syllables, then all of Hangul.
        let letters = ('\u{a000}'..='\u{a48c}').chain('\u{ac00}'..='\u{d7a3}');
        let mut unused = letters.filter(|&letter| !used.contains(letter));
        [(); 2].map(|()| unused.next().unwrap_or('\u{a000}'))
    }

    /// Where the text of the last message in front of the answer ends, in the text with the placeholder; 0 if that
    /// message is not a text, or is not rendered.
    fn end_of_messages(&self, model: &str, placeholder: &Message, letter: char) -> Result<usize> {
        let Some((last, before)) = self.messages.split_last() else { return Ok(0) };
        let changed = [before, &[last.with_text(format!("{}{letter}", last.text()))]].concat();
        let text = Self { messages: changed, ..self.clone() }.texts(&[Some(placeholder)], false)?.remove(0);
        Ok(if text == model { 0 } else { common_prefix(&text, model) })
    }

    /// Checks that the template drops nothing of an answer.
    fn check_rendered(
        &self,
        prompt: &str,
        rendered: &str,
        answer: &Message,
        side: Side,
        drop_reasoning: bool,
    ) -> Result<()> {
        let text = answer.text();
        // The header may already hold how the answer begins, such as a tag.
        let text = without_overlap(prompt, &text);
        if !holds(rendered, text) {
            let rest = text.rsplit_once(END_OF_REASONING).map(|(_, rest)| rest);
            match rest {
                Some(rest) if holds(rendered, rest) && drop_reasoning => {}
                Some(rest) if holds(rendered, rest) => {
                    return Err(self.drops(side, &format!("the reasoning in front of {END_OF_REASONING}")));
                }
                _ if rendered.is_empty() => return Err(self.failed(&format!("renders nothing of the {side} answer"))),
                _ => return Err(self.failed(&format!("drops a part of the {side} answer"))),
            }
        }
        let reasoning = REASONING_FIELDS.into_iter().find_map(|name| Some((name, answer.get(name)?.as_str()?)));
        if let Some((name, _)) =
            reasoning.filter(|(_, text)| !drop_reasoning && !holds(rendered, without_overlap(prompt, text)))
        {
            return Err(self.drops(side, &format!("`{name}`")));
        }
        for call in answer.get("tool_calls").and_then(|calls| calls.as_array()).into_iter().flatten() {
            let call = if call["function"].is_object() { &call["function"] } else { call };
            let Some(name) = call["name"].as_str() else { continue };
            if !rendered.contains(name) || !strings(&call["arguments"]).iter().all(|text| holds(rendered, text)) {
                return Err(self.failed(&format!("drops the call of {name:?}, or an argument, of the {side} answer")));
            }
        }
        Ok(())
    }

    fn drops(&self, side: Side, what: &str) -> Error {
        Error::Setting {
            place: CHAT_TEMPLATE.into(),
            message: format!("drops {what} of the {side} answer; if that is meant, allow it"),
            setting: "drop_reasoning",
        }
    }

    fn failed(&self, what: &str) -> Error {
        Error::Model { place: CHAT_TEMPLATE.into(), message: what.into() }
    }
}

/// Whether a text shows a part itself, as Python or as JSON, instead of its text.
fn shows_parts(text: &str) -> bool {
    ["'text': ", "\"text\": ", "\"text\":"].iter().any(|key| text.contains(key))
}

/// How many bytes two texts have in common at the beginning, in whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// How many bytes two texts have in common at the end, in whole characters.
fn common_suffix(a: &str, b: &str) -> usize {
    a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// Whether a rendering holds the letters and digits of a text in their order. White space and escapes may differ.
fn holds(rendered: &str, text: &str) -> bool {
    let is_part = |counts: fn(&char) -> bool| {
        let mut rendered = rendered.chars();
        text.chars().filter(counts).all(|letter| rendered.any(|other| other == letter))
    };
    // With non-ASCII letters escaped, only the others can be found.
    is_part(|c| c.is_alphanumeric()) || rendered.contains("\\u") && is_part(char::is_ascii_alphanumeric)
}

/// The strings in the arguments of a call, which may be JSON in a string.
fn strings(arguments: &Value) -> Vec<String> {
    match arguments {
        Value::String(text) => match serde_json::from_str(text) {
            Ok(parsed @ (Value::Object(_) | Value::Array(_))) => strings(&parsed),
            _ => vec![text.clone()],
        },
        Value::Array(list) => list.iter().flat_map(strings).collect(),
        Value::Object(fields) => {
            fields.iter().flat_map(|(name, value)| [vec![name.clone()], strings(value)].concat()).collect()
        }
        _ => vec![],
    }
}

/// A text without the beginning that ends the prompt.
fn without_overlap<'t>(prompt: &str, text: &'t str) -> &'t str {
    let (prompt, text) = (prompt.trim_end(), text.trim_start());
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= prompt.len());
    let overlap = ends.filter(|&end| prompt.ends_with(&text[..end])).last();
    &text[overlap.unwrap_or(0)..]
}
