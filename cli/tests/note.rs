//! The line in which `figa label` says what its rows look like.

mod common;

use common::{Folder, record};
use serde_json::json;

#[test]
fn the_line_says_where_rows_differ_from_the_generation_prompt_and_what_is_never_read() {
    let mut with_tools = record("p", "a", "b");
    with_tools["tools"] = json!([{"name": "weather"}]);
    let folder = Folder::with_records([with_tools]);
    folder.write_tokenizer(["p", "a", "b", "think", "weather"]);
    folder.write("tokenizer_config.json", r#"{"eos_token": "</s>"}"#);
    let line = |template: &str, out: &str| {
        folder.write("chat_template.jinja", template);
        let summary = folder.stdout(&["label", "pairs.jsonl", "--tokenizer", ".", "--tools", "tools", "--out", out]);
        summary.lines().next().unwrap().to_owned()
    };
    let turns =
        "{% for m in messages %}{% if m.role == 'assistant' %}think {% endif %}{{ m.content }} </s>{% endfor %}";
    assert_eq!(
        line(turns, "a.jsonl"),
        ".: the prompt is the chat template; rows begin with \"p\" and end with \"</s>\"; the rows differ from generation \
         prompt + answer: the answer stands between \"p </s>think \" and \" </s>\"; the chat template never reads the tools"
    );
    assert!(!line(&format!("{{{{ tools[0].name }}}} {turns}"), "b.jsonl").contains("never reads"));
}
