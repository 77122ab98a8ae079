//! What the rows of a run look like, in one line, so that nobody trains on a wrong prompt unawares.

use std::path::Path;

use figa_loss::{
    ChatTemplate, EncodedPair, Fields, PairEncoder, PromptTemplate, RenderedPair, Result, Side, SpaRecord,
};

use crate::encoding::lowercase;
use crate::terminal::one_line;

/// How many characters of a text a line quotes.
const QUOTED_CHARS: usize = 60;

/// The line about the rows of a run, as the first of them show it.
pub fn note(
    encoder: &PairEncoder,
    model: &Path,
    fields: &Fields,
    record: &SpaRecord,
    rendered: &RenderedPair,
    pair: &EncodedPair,
) -> Result<String> {
    let row = pair.row(Side::Revised);
    let name = |id: Option<&u32>| id.and_then(|id| encoder.tokenizer().id_to_token(*id)).unwrap_or_default();
    let first = name(row.input_ids().first());
    let last = match row.is_complete() {
        true => format!("end with {:?}", name(row.input_ids().last())),
        false => "are cut off".to_owned(),
    };
    let prompt = match &encoder.template {
        PromptTemplate::Chat(template) => match template.date() {
            Some(date) => format!("the prompt is the chat template, which sees the date {date}"),
            None => "the prompt is the chat template".to_owned(),
        },
        PromptTemplate::Alpaca => "the prompt is that of Alpaca".to_owned(),
        other => format!("the prompt is {}", lowercase(other)),
    };
    let mut line = format!("{}: {prompt}; rows begin with {first:?} and {last}", model.display());
    if let PromptTemplate::Chat(template) = &encoder.template {
        if differs(encoder, record, rendered)? {
            let [before, after] = ends(rendered);
            line += &format!(
                "; the rows differ from generation prompt + answer: the answer stands between {before:?} and {after:?}"
            );
        }
        line += &unread(template, fields);
    }
    Ok(one_line(&line))
}

/// The fields that the records have for the chat template, and that it never reads.
fn unread(template: &ChatTemplate, fields: &Fields) -> String {
    let named = [("tools", &fields.tools), ("documents", &fields.documents)];
    let unread = named.into_iter().filter(|(name, field)| field.is_some() && !template.mentions(name));
    unread.map(|(name, _)| format!("; the chat template never reads the {name}")).collect()
}

/// Whether a row is another text than the prompt for generation and the answer.
fn differs(encoder: &PairEncoder, record: &SpaRecord, rendered: &RenderedPair) -> Result<bool> {
    let answers = [(Side::Original, &record.original_output), (Side::Revised, &record.revised_output)];
    let mut as_written = answers.iter().map(|(side, answer)| rendered.answer(*side).content() == answer.text());
    // A template may reject the conversation without its answer.
    let generation = encoder.template.render(record).unwrap_or_default();
    Ok(generation != rendered.prompt || !as_written.all(|same| same))
}

/// The end of the prompt, and what follows the answer.
fn ends(rendered: &RenderedPair) -> [String; 2] {
    let (prompt, answer) = (&rendered.prompt, rendered.answer(Side::Revised));
    let from = prompt.char_indices().rev().take(QUOTED_CHARS).last().map_or(0, |(at, _)| at);
    [prompt[from..].to_owned(), answer.text[answer.len..].chars().take(QUOTED_CHARS).collect()]
}
