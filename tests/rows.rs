//! Rows of chat models: what `PairEncoder` makes of a conversation is what `transformers` renders for it.
#![cfg(feature = "data")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use figa_loss::serde_json::{Map, Value, json};
use figa_loss::tokenizers::{AddedToken, Tokenizer};
use figa_loss::{
    ChatOptions, ChatTemplate, Example, Granularity, IGNORE_INDEX, LabelledTexts, LabelledToken, Message, PairEncoder,
    PromptTemplate, Side, SpaRecord, TokenLabel,
};
use proptest::prelude::*;
use serde::Deserialize;
use tempfile::TempDir;

const FIXTURES: &str = "tests/fixtures";

/// A conversation with two answers, and what `transformers` renders for it (fixtures/chat_templates.py).
#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: String,
    messages: Vec<Message>,
    tools: Option<Value>,
    documents: Option<Value>,
    #[serde(default)]
    variables: Map<String, Value>,
    original: Message,
    revised: Message,
    renderings: Option<Renderings>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Renderings {
    original: String,
    revised: String,
    prompt: Option<String>,
}

/// The special tokens of a family.
#[derive(Deserialize)]
struct Family {
    bos_token: Option<String>,
    eos_token: Option<String>,
    added: Vec<String>,
    /// What ends an answer; null if the template renders no such token.
    end: Value,
}

impl Case {
    fn all() -> Vec<Self> {
        let lines = fs::read_to_string(Path::new(FIXTURES).join("chat_templates.jsonl")).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn name(&self) -> String {
        format!("{}, {}", self.template, self.conversation)
    }

    fn record(&self) -> SpaRecord {
        let mut record = SpaRecord::new("", "", "");
        record.messages = self.messages.clone();
        (record.tools, record.documents) = (self.tools.clone(), self.documents.clone());
        record.chat_template_kwargs = self.variables.clone();
        (record.original_output, record.revised_output) = (self.original.clone(), self.revised.clone());
        record
    }
}

impl Family {
    fn all() -> BTreeMap<String, Self> {
        let json = fs::read_to_string(Path::new(FIXTURES).join("chat_templates.json")).unwrap();
        serde_json::from_str(&json).unwrap()
    }

    /// A folder of a model with this template.
    fn folder(&self, template: &str) -> TempDir {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        let source = format!("{FIXTURES}/chat_templates/{template}.jinja");
        fs::copy(source, path("chat_template.jinja")).unwrap();
        let config = json!({ "bos_token": self.bos_token, "eos_token": self.eos_token });
        fs::write(path("tokenizer_config.json"), config.to_string()).unwrap();
        let mut tokenizer = Tokenizer::from_file(format!("{FIXTURES}/tokenizers/byte_level.json")).unwrap();
        let tokens = self.added.iter().chain(&self.bos_token).chain(&self.eos_token);
        let tokens: Vec<AddedToken> = tokens.map(|token| AddedToken::from(token.clone(), true)).collect();
        tokenizer.add_special_tokens(tokens).unwrap();
        tokenizer.save(path("tokenizer.json"), false).unwrap();
        folder
    }

    fn encoder(&self, template: &str) -> PairEncoder {
        let folder = self.folder(template);
        let eos = self.eos_token.is_none().then_some("</s>");
        let mut encoder = PairEncoder::read(folder.path(), eos).unwrap();
        let mut options = ChatOptions::default();
        options.date = Some("2026-01-02T03:04:05".into());
        let template = ChatTemplate::read(folder.path(), &options).unwrap().unwrap();
        encoder.template = PromptTemplate::Chat(template);
        encoder
    }
}

fn decoded(encoder: &PairEncoder, ids: &[u32]) -> String {
    encoder.tokenizer().decode(ids, false).unwrap()
}

/// Whether the rendering of an answer lacks a part of it: its text, its reasoning, or the name of the tool it calls.
fn is_incomplete(answer: &Message, rendering: &str) -> bool {
    let reasoning = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|name| answer.get(name)?.as_str());
    let text = answer.text();
    let (within, rest) = text.rsplit_once("</think>").unwrap_or(("", &text));
    let call = answer.get("tool_calls").and_then(|calls| calls[0]["function"]["name"].as_str());
    let within = within.trim_start_matches("<think>").trim();
    [reasoning, Some(within), Some(rest.trim()), call].into_iter().flatten().any(|part| !rendering.contains(part))
}

/// Whether a rendering shows a list of parts itself, where only their text is meant.
fn shows_parts(rendering: &str) -> bool {
    ["'type': 'text'", "\"type\": \"text\""].iter().any(|shown| rendering.contains(shown))
}

#[test]
fn rows_are_what_transformers_renders() {
    let families = Family::all();
    assert!(families.len() >= 30);
    let mut encoders: BTreeMap<&str, PairEncoder> = BTreeMap::new();
    let mut wrong = vec![];
    let cases = Case::all();
    for case in &cases {
        let family = &families[&case.template];
        let encoder = encoders.entry(&case.template).or_insert_with(|| family.encoder(&case.template));
        if let Err(problem) = check(encoder, family, case) {
            wrong.push(format!("{}: {problem}", case.name()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn check(encoder: &PairEncoder, family: &Family, case: &Case) -> Result<(), String> {
    let record = case.record();
    let rendered = encoder.render(&record);
    let Some(expected) = &case.renderings else {
        return match rendered {
            // Their texts are joined where the template expects a string.
            Ok(rendered) if case.conversation == "parts" => match rendered.prompt.contains("First line. Second.") {
                true => Ok(()),
                false => Err(rendered.prompt),
            },
            Ok(_) => Err(format!("expected an error: {}", case.error.as_deref().unwrap_or_default())),
            Err(_) => Ok(()),
        };
    };
    let rendered = match rendered {
        Ok(rendered) => rendered,
        Err(error) => {
            let is_right =
                is_incomplete(&case.original, &expected.original) || is_incomplete(&case.revised, &expected.revised);
            return if is_right { Ok(()) } else { Err(error.to_string()) };
        }
    };
    if shows_parts(&expected.revised) {
        let is_joined = rendered.prompt.contains("First line. Second.") && !shows_parts(&rendered.prompt);
        return if is_joined { Ok(()) } else { Err(rendered.prompt) };
    }
    if let Some(prompt) = &expected.prompt {
        let generation = encoder.template.render(&record).map_err(|error| error.to_string())?;
        if generation != *prompt {
            return Err(format!("the prompt for generation is\n  {generation:?}, expected\n  {prompt:?}"));
        }
    }
    let pair = encoder.encode(&record).map_err(|error| error.to_string())?;
    for (side, expected) in [(Side::Original, &expected.original), (Side::Revised, &expected.revised)] {
        let text = format!("{}{}", rendered.prompt, rendered.answer(side).text);
        if text != *expected {
            return Err(format!("{side} text\n  {text:?}, expected\n  {expected:?}"));
        }
        check_row(encoder, family, case, pair.row(side), &rendered.prompt, expected)
            .map_err(|problem| format!("{side} row: {problem}\n  {expected:?}"))?;
    }
    Ok(())
}

/// Checks the boundary, the end and the weights of a row.
fn check_row(
    encoder: &PairEncoder,
    family: &Family,
    case: &Case,
    row: &Example,
    prompt: &str,
    expected: &str,
) -> Result<(), String> {
    let (ids, labels) = (row.input_ids(), row.labels());
    let prompt_tokens = labels.iter().take_while(|&&label| label == IGNORE_INDEX).count();
    if labels[prompt_tokens..].contains(&IGNORE_INDEX) || row.weights()[..prompt_tokens].iter().any(|&w| w != 0.0) {
        return Err("a prompt token is learnt, or an answer token is not".into());
    }
    // A token may straddle the boundary, and then belongs to the answer.
    let in_prompt = decoded(encoder, &ids[..prompt_tokens]);
    if !prompt.starts_with(&in_prompt) || decoded(encoder, &ids[..prompt_tokens + 1]).len() <= prompt.len() {
        return Err(format!("the prompt's tokens are {in_prompt:?}"));
    }
    let last = encoder.tokenizer().id_to_token(ids[ids.len() - 1]).unwrap();
    if row.token_labels().last() != Some(&TokenLabel::Eos)
        || row.token_labels().iter().filter(|l| **l == TokenLabel::Eos).count() != 1
    {
        return Err("expected one EOS, at the end".into());
    }
    let ends: Vec<&str> = match &family.end {
        Value::Array(ends) => ends.iter().filter_map(Value::as_str).collect(),
        end => end.as_str().into_iter().collect(),
    };
    let text = decoded(encoder, ids);
    let is_call = case.original.get("tool_calls").or(case.revised.get("tool_calls")).is_some();
    if ends.is_empty() {
        // The end is not the template's.
        let eos = family.eos_token.as_deref().unwrap_or("</s>");
        return if text == format!("{expected}{eos}") { Ok(()) } else { Err(format!("is {text:?}")) };
    }
    if !expected.starts_with(&text) {
        return Err(format!("is {text:?}"));
    }
    if !ends.contains(&&*last) && !is_call {
        return Err(format!("ends in {last:?}, expected one of {ends:?}"));
    }
    Ok(())
}

/// An encoder with this chat template.
fn with_template(source: &str) -> PairEncoder {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
    let tokenizer = Path::new(FIXTURES).join("tokenizers/byte_level.json");
    let mut encoder = PairEncoder::read(tokenizer, Some("<|im_end|>")).unwrap();
    encoder.template = PromptTemplate::for_model(folder.path(), &ChatOptions::default()).unwrap();
    encoder
}

const TURNS: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ CONTENT }}<|im_end|>\n{% endfor %}";

#[test]
fn parts_that_a_template_cannot_read_are_joined() {
    let parts = [json!({"type": "text", "text": "A "}), json!({"type": "input_text", "text": "B"})];
    for parts in [&parts[..], &[json!("A "), json!({"text": "B"})]] {
        let message = json!({"role": "user", "content": parts});
        let mut record = SpaRecord::new("", "a", "b");
        record.messages = vec![serde_json::from_value(message).unwrap()];
        let strings = ["m.content", "m.content.strip()", "m.content if m.content is string else ''"];
        let texts = "(m.content if m.content is string else (m.content | map(attribute='text') | join))";
        for content in strings.into_iter().chain([texts]) {
            let encoder = with_template(&TURNS.replace("CONTENT", content));
            let prompt = encoder.render(&record).unwrap().prompt;
            assert!(prompt.contains("user\nA B<|im_end|>"), "{content}: {prompt}");
        }
    }
}

#[test]
fn a_call_that_is_not_shown_is_an_error() {
    let turns = TURNS.replace("CONTENT", "m.content or m.tool_calls[0].function.name");
    let call = |arguments: Value| {
        let calls = json!([{"function": {"name": "w", "arguments": arguments}}]);
        let call = json!({"role": "assistant", "content": null, "tool_calls": calls});
        let mut record = SpaRecord::new("q", "a", "b");
        record.revised_output = serde_json::from_value(call).unwrap();
        record
    };
    let complete = turns.replace(".name", " | tojson");
    for arguments in [json!({"city": "Oslo"}), json!("{\"city\": \"Oslo\"}")] {
        let error = with_template(&turns).render(&call(arguments.clone())).unwrap_err().to_string();
        assert!(error.contains("drops the call of \"w\", or an argument, of the revised answer"), "{error}");
        with_template(&complete).render(&call(arguments)).unwrap();
    }
    // Without a template there is nobody to show it.
    let mut record = call(json!({}));
    let parts = json!([{"type": "text", "text": "x"}]);
    let fields = json!({"role": "assistant", "content": parts, "tool_calls": [{"function": {"name": "w"}}]});
    record.original_output = serde_json::from_value(fields).unwrap();
    let mut encoder = with_template(&turns);
    encoder.template = PromptTemplate::Plain;
    let error = encoder.render(&record).unwrap_err().to_string();
    assert!(error.contains("an answer that is more than a text"), "{error}");
}

/// The number of the word between white space that each token begins in.
fn words_between_spaces(texts: &LabelledTexts, side: Side) -> Vec<Option<u32>> {
    let text = texts.text(side);
    let number = |token: &LabelledToken| {
        let shown = text.get(token.range.clone())?;
        let first = token.range.start + shown.len() - shown.trim_start().len();
        let is_word = first < token.range.end && token.label != TokenLabel::Eos;
        let end = first + text[first..].chars().next()?.len_utf8();
        is_word.then(|| text[..end].split_whitespace().count() as u32)
    };
    texts.tokens(side).iter().map(number).collect()
}

/// A conversation of random texts, and a template that is put together from parts which real ones have.
fn random_pair() -> impl Strategy<Value = (String, SpaRecord)> {
    let text = || "[ a-zé日{}<&'\n]{0,12}[a-z?]";
    let system = prop_oneof![Just(""), Just("{% if loop.first and m.role == 'system' %}S:{% endif %}")];
    let content = prop_oneof![Just("m.content"), Just("m.content | trim"), Just("m['content'].strip()")];
    let header = prop_oneof![Just("\n"), Just("\n<think>\n\n</think>\n\n"), Just(" channel=final\n"), Just(" ")];
    let end = prop_oneof![Just("<|im_end|>\n"), Just(" </s>"), Just("<|im_end|>\n<|endoftext|>"), Just("\n"), Just("")];
    let generation = prop_oneof![Just("<|im_start|>assistant\n"), Just("<|im_start|>assistant\n<think>\n"), Just("")];
    let template = (system, content, header, end, generation).prop_map(|(system, content, header, end, generation)| {
        let escaped = |text: &str| text.replace('\n', "\\n");
        format!(
            "{{{{ '<s>' }}}}{{% for m in messages %}}{system}{{{{ '<|im_start|>' ~ m.role }}}}\
             {{% if m.role == 'assistant' %}}{{% generation %}}{{{{ '{}' ~ {content} ~ '{}' }}}}{{% endgeneration %}}\
             {{% else %}}{{{{ '\\n' ~ m.content ~ '<|im_end|>\\n' }}}}{{% endif %}}{{% endfor %}}\
             {{% if add_generation_prompt %}}{{{{ '{}' }}}}{{% endif %}}",
            escaped(header),
            escaped(end),
            escaped(generation),
        )
    });
    let turns = prop::collection::vec(text(), 0..3);
    (template, turns, text(), text(), any::<bool>()).prop_map(|(template, turns, original, revised, is_repeated)| {
        let mut record = SpaRecord::new("", original.clone(), revised);
        for (at, text) in turns.into_iter().enumerate() {
            record.messages.push(Message::new(if at % 2 == 0 { "user" } else { "assistant" }, text));
        }
        // The answer may occur in the prompt.
        record.messages.push(Message::new("user", if is_repeated { original } else { "q".into() }));
        (template, record)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_row_is_the_rendering_up_to_the_end_of_the_turn((template, record) in random_pair()) {
        let encoder = with_template(&template);
        let PromptTemplate::Chat(chat) = &encoder.template else { unreachable!("the folder has a template") };
        let rendered = encoder.render(&record).unwrap();
        let pair = encoder.encode(&record).unwrap();
        for (side, answer) in [(Side::Original, &record.original_output), (Side::Revised, &record.revised_output)] {
            let expected = chat.render(&[&record.messages[..], std::slice::from_ref(answer)].concat(), false).unwrap();
            prop_assert_eq!(&format!("{}{}", rendered.prompt, rendered.answer(side).text), &expected);
            let written = answer.text();
            prop_assert_eq!(rendered.answer(side).content().trim(), written.trim());
            let row = pair.row(side);
            // Without an end of its own, the text is followed by EOS.
            let text = decoded(&encoder, row.input_ids());
            prop_assert!(expected.starts_with(&text) || text == format!("{expected}<|im_end|>"), "{text:?}, {expected:?}");
            let prompt = row.labels().iter().take_while(|&&label| label == IGNORE_INDEX).count();
            prop_assert!(row.weights()[..prompt].iter().all(|&weight| weight == 0.0));
            prop_assert!(rendered.prompt.starts_with(&decoded(&encoder, &row.input_ids()[..prompt])));
            prop_assert!(row.is_complete());
        }
    }

    #[test]
    fn rows_of_answers_that_were_cut_off_end_with_them(
        (template, mut record) in random_pair(),
        is_chat in any::<bool>(),
        granularity in prop_oneof![Just(Granularity::Token), Just(Granularity::Word)],
    ) {
        let mut encoder = with_template(&template);
        encoder.granularity = granularity;
        if !is_chat {
            (encoder.template, record.messages) = (PromptTemplate::Alpaca, vec![]);
        }
        record.is_truncated = true;
        let rendered = encoder.render(&record).unwrap();
        let pair = encoder.encode(&record).unwrap();
        for side in Side::ALL {
            let row = pair.row(side);
            let content = rendered.answer(side).content();
            prop_assert_eq!(&rendered.answer(side).text, content);
            let (text, end) = (decoded(&encoder, row.input_ids()), format!("{}{content}", rendered.prompt));
            prop_assert!(text.ends_with(&end), "{text:?}, {end:?}");
            prop_assert!(!row.is_complete() && !row.token_labels().contains(&TokenLabel::Eos));
        }
        // What has not changed is not rewarded as a change.
        record.revised_output = record.original_output.clone();
        let unchanged = encoder.encode(&record).unwrap().revised;
        prop_assert!(unchanged.weights().iter().all(|&weight| weight <= encoder.weights.gamma));
    }

    #[test]
    fn a_word_without_a_changed_token_is_left_alone(
        original in "([a-z]{1,9}[ .,]{1,2}){1,9}",
        revised in "([a-z]{1,9}[ .,]{1,2}){1,9}",
        at in 0usize..3,
    ) {
        // Most of the words stay.
        let words: Vec<&str> = original.split_inclusive(' ').collect();
        let mut mixed: Vec<&str> = words.clone();
        let place = at % mixed.len();
        mixed[place] = revised.split_inclusive(' ').next().unwrap();
        let record = SpaRecord::new("q", original.clone(), mixed.concat());
        for layout in ["byte_level", "metaspace", "llama_2", "word_piece", "unigram"] {
            let path = Path::new(FIXTURES).join(format!("tokenizers/{layout}.json"));
            let mut encoder = PairEncoder::read(path, Some("</s>")).unwrap();
            encoder.template = PromptTemplate::Plain;
            let tokens = encoder.compare(&record).unwrap();
            encoder.granularity = Granularity::Word;
            let widened = encoder.compare(&record).unwrap();
            // Words between white space hold those of Unicode, so they may only mark more.
            let [a, b] = Side::ALL.map(|side| words_between_spaces(&tokens, side));
            let coarse = Granularity::Word.widen(tokens.alignment().clone(), &a, &b).unwrap();
            for side in Side::ALL {
                let marks = [tokens.alignment(), widened.alignment(), &coarse].map(|alignment| alignment.changed(side));
                let is_between = marks[0].iter().zip(marks[1]).zip(marks[2]).all(|((a, b), c)| a <= b && b <= c);
                prop_assert!(is_between, "{layout}, {side}: {marks:?}");
            }
        }
    }
}
