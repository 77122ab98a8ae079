//! The folder of a model: its chat template and its EOS token.
#![cfg(feature = "data")]

use std::fs;
use std::path::Path;

use figa_loss::{ChatOptions, ChatTemplate, Error, Message, PairEncoder};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// A folder whose tokenizer_config.json has this chat template.
fn with_template(template: impl Into<serde_json::Value>) -> TempDir {
    let config = serde_json::json!({
        "chat_template": template.into(),
        "bos_token": "<s>",
        "eos_token": { "__type": "AddedToken", "content": "</s>", "lstrip": false },
        "pad_token": null,
    });
    folder(&[("tokenizer_config.json", &config.to_string())])
}

fn says(content: &str) -> [Message; 1] {
    [Message::new("user", content)]
}

fn rendered(template: &str) -> Result<String, String> {
    let folder = with_template(template);
    let text = ChatTemplate::read(folder.path(), &ChatOptions::default())
        .and_then(|template| template.unwrap().render(&says(" Hi <you>\n"), true));
    text.map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), ""))
}

#[test]
fn chat_templates_render_as_in_python() {
    let cases = [
        // Lines that hold only tags are not rendered, nor is the last line break. The template has a default system
        // message.
        (
            "{% for message in messages %}\n  {% if loop.first and message.role != 'system' %}\nSystem: Help.\n  \
             {% endif %}\n{{ message['role'] }}:{{ message.content }}\r\n{% endfor %}\n{% if add_generation_prompt %}\n\
             assistant:\n{% endif %}\n",
            "System: Help.\nuser: Hi <you>\n\nassistant:\n",
        ),
        ("{{ bos_token + '[INST] ' + messages[0]['content'].strip() + ' [/INST]' }}", "<s>[INST] Hi <you> [/INST]"),
        ("{{ messages[0].content | trim ~ eos_token }}{{ pad_token }}{{ unk_token is defined }}", "Hi <you></s>False"),
        ("{{ messages }}{{ tools }}", "[{'role': 'user', 'content': ' Hi <you>\\n'}]None"),
        (
            "{{ messages | tojson }}{{ {'b': [1, none], 'a': {}} | tojson(indent=1) }}",
            "[{\"role\": \"user\", \"content\": \" Hi <you>\\n\"}]{\n \"b\": [\n  1,\n  null\n ],\n \"a\": {}\n}",
        ),
        ("{% if tools is iterable and tools | length > 0 %}tools{% endif %}.", "."),
        ("generation{%- generation -%} answer {%- endgeneration %}.", "generationanswer."),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ strftime_now('%Y') | int > 2000 }}", "True"),
        ("{{ raw }}{% generation %}x{% endgeneration %}{{ '\u{7f}' | tojson(ensure_ascii=true) }}", "x\"\\u007f\""),
    ];
    for (template, expected) in cases {
        assert_eq!(rendered(template).unwrap(), expected, "{template}");
    }
}

#[test]
fn errors_of_chat_templates_name_the_line_and_the_reason() {
    let place = "/tokenizer_config.json, chat_template, line 2: ";
    let error = rendered("{% if messages %}\n{{ raise_exception('No user here') }}{% endif %}").unwrap_err();
    assert_eq!(error, format!("{place}No user here"));
    for template in [
        "\n{% if %}",
        "\n{% macro m() %}{{ varargs }}{% endmacro %}{{ m(1,,2) }}",
        "\n{{ messages[0].content.nothing() }}",
        "\n{{ strftime_now('%') }}",
        "\n{{ 1 / 0 }}",
    ] {
        let error = rendered(template).unwrap_err();
        assert!(error.starts_with(place) && !error.contains('\n'), "{error}");
    }
    for folder in [folder(&[]), with_template(()), with_template([(); 0].to_vec())] {
        assert!(ChatTemplate::read(folder.path(), &ChatOptions::default()).unwrap().is_none());
    }
    let broken = folder(&[("tokenizer_config.json", "{")]);
    let error = ChatTemplate::read(broken.path(), &ChatOptions::default()).err().unwrap().to_string();
    assert!(error.contains("tokenizer_config.json: EOF"), "{error}");
}

#[test]
fn a_chat_template_may_be_in_a_list_or_in_a_file() {
    let named = |name: &str| serde_json::json!({ "name": name, "template": format!("{name} {{{{ bos_token }}}}") });
    let folder = with_template(vec![named("tool_use"), named("default")]);
    let render = |folder: &Path| {
        ChatTemplate::read(folder, &ChatOptions::default()).unwrap().unwrap().render(&says("Hi"), true).unwrap()
    };
    assert_eq!(render(folder.path()), "default <s>");
    fs::write(folder.path().join("chat_template.jinja"), "file {{ bos_token }}\n").unwrap();
    assert_eq!(render(folder.path()), "file <s>");
    fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(render(folder.path()), "file ");
}

#[test]
fn the_eos_token_is_named_by_its_text_or_its_id() {
    let tokenizer =
        r#"{"model": {"type": "WordLevel", "vocab": {"<unk>": 0, "</s>": 1, "<end>": 2}, "unk_token": "<unk>"}}"#;
    let eos = |files: &[(&str, &str)], eos_token| {
        let folder = folder(&[&[("tokenizer.json", tokenizer)], files].concat());
        PairEncoder::read(folder.path(), eos_token).map(|encoder| encoder.eos_id())
    };
    for (config, expected) in [
        (r#"{"eos_token": "</s>"}"#, Some(1)),
        (r#"{"eos_token": {"content": "</s>"}}"#, Some(1)),
        (r#"{"eos_token": null}"#, None),
        ("{}", None),
        ("[]", None),
    ] {
        assert_eq!(eos(&[("tokenizer_config.json", config)], None).ok(), expected, "{config}");
        let more = [("tokenizer_config.json", config), ("config.json", r#"{"eos_token_id": [2, 1]}"#)];
        assert_eq!(eos(&more, None).ok(), expected.or(Some(2)), "{config}");
    }
    assert_eq!(eos(&[("config.json", r#"{"eos_token_id": 2}"#)], Some("</s>")).unwrap(), 1);
    assert!(matches!(
        eos(&[("config.json", r#"{"eos_token_id": 3}"#)], None),
        Err(Error::Setting { setting: "eos_token", .. })
    ));
    let error = eos(&[], None).unwrap_err().to_string();
    assert!(error.contains("names no eos_token: pass the token that ends an answer"), "{error}");
    let error = eos(&[], Some("<eos>")).unwrap_err().to_string();
    assert_eq!(error, "tokenizer: has no token \"<eos>\"; name the token that ends the model's answers");
    let broken = folder(&[("tokenizer.json", "{}")]);
    let error = PairEncoder::read(broken.path().join("tokenizer.json"), None).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: not a valid tokenizer: ") && !error.contains('\n'), "{error}");
}

#[test]
#[cfg(unix)]
fn only_files_of_a_bounded_size_are_read() {
    let names = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"];
    let read = |path: &Path| {
        let read = PairEncoder::read(path, None).map(drop);
        read.and_then(|()| ChatTemplate::read(path, &ChatOptions::default()).map(drop)).unwrap_err().to_string()
    };
    type Make = fn(&Path);
    let kinds: [(Make, &str); 4] = [
        (|path| fs::create_dir(path).unwrap(), "expected a file, got a folder"),
        (|path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(), "got a pipe or a device"),
        (|path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success()), "got a pipe"),
        (|path| fs::File::create(path).unwrap().set_len(300 << 20).unwrap(), "a file of more than 256 MiB"),
    ];
    for name in names {
        for (make, reason) in kinds {
            let folder = folder(&[("tokenizer_config.json", r#"{"eos_token": "</s>"}"#)]);
            fs::copy("tests/fixtures/tokenizers/byte_level.json", folder.path().join("tokenizer.json")).unwrap();
            let path = folder.path().join(name);
            let _ = fs::remove_file(&path);
            make(&path);
            let error = read(folder.path());
            assert!(error.starts_with(path.to_str().unwrap()) && error.contains(reason), "{error}");
        }
    }
    let error = read(Path::new("/dev/zero"));
    assert!(error.starts_with("/dev/zero: expected a file, got a pipe or a device"), "{error}");
}
