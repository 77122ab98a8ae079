//! Expressions and statements of Jinja, against jinja2 with the settings of `transformers` (fixtures/jinja.py).
#![cfg(feature = "data")]

use std::collections::BTreeSet;
use std::fs;

use figa_loss::{ChatOptions, ChatTemplate, Message};
use serde::Deserialize;
use tempfile::TempDir;

/// A template, and what jinja2 makes of it.
#[derive(Deserialize)]
struct Case {
    template: String,
    text: Option<String>,
    error: Option<String>,
}

const MESSAGES: &str = r#"[
    {"role": "user", "content": " Hi <you>\n"},
    {"role": "assistant", "content": null, "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": {"b": [1, 2.5, null, true], "a": "é\"\\"}}}
    ]},
    {"role": "tool", "content": "4", "name": "f"}
]"#;

/// Templates of the fixture that render differently here: what minijinja lacks and chat templates do not use, such as
/// `wordwrap`, `Markup`, or the representation of views and ranges. A template that has come to agree must leave the list.
fn known_differences() -> BTreeSet<String> {
    serde_json::from_str(&fs::read_to_string("tests/fixtures/jinja_differences.json").unwrap()).unwrap()
}

#[test]
fn templates_render_as_in_python() {
    let messages: Vec<Message> = serde_json::from_str(MESSAGES).unwrap();
    let cases = fs::read_to_string("tests/fixtures/jinja.jsonl").unwrap();
    let mut known = known_differences();
    let mut wrong = vec![];
    for line in cases.lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let folder = TempDir::new().unwrap();
        let config = serde_json::json!({ "chat_template": case.template, "bos_token": "<s>", "eos_token": "</s>" });
        fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let text = ChatTemplate::read(folder.path(), &ChatOptions::default())
            .and_then(|template| template.unwrap().render(&messages, true))
            .map_err(|error| error.to_string());
        let is_same = match (&text, &case.text) {
            (Ok(text), Some(expected)) => text == expected,
            (Err(_), None) => true,
            _ => false,
        };
        if is_same == known.remove(&case.template) {
            let Case { template, text: expected, error } = case;
            wrong.push(format!("{template}\n  python: {expected:?} {error:?}\n  here:   {text:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} are not as expected:\n{}", wrong.len(), wrong.join("\n"));
    assert!(known.is_empty(), "no such cases: {known:?}");
}
