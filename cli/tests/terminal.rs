//! Nothing that a stranger has written controls a terminal, whichever command shows it.
#![cfg(unix)]

mod common;

use std::fs;

use common::{Folder, lines, record};
use serde_json::{Value, json};

/// Sets the title of a terminal, clears it, and reorders or hides what follows.
const UNSAFE: &str = "\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\u{2066}\u{200b}\u{feff}\u{e0041}\u{7f}";

const TOKENIZER: [&str; 6] = ["--tokenizer", "tokenizer.json", "--eos", "</s>", "--prompt", "plain"];

/// Runs a command and checks what it prints; returns that.
fn shown(folder: &Folder, arguments: &[&str]) -> String {
    let output = folder.run(arguments);
    let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let is_unsafe = |character: char| match character.is_ascii() {
        true => character.is_control() && character != '\n',
        false => UNSAFE.contains(character),
    };
    assert!(!shown.contains(is_unsafe), "{arguments:?}: {shown:?}");
    shown
}

/// A run that shows the unsafe text, as escapes.
fn escaped(folder: &Folder, arguments: &[&str]) {
    let shown = shown(folder, arguments);
    assert!(shown.contains("u{202e}"), "{arguments:?} does not show it: {shown}");
}

fn folder() -> Folder {
    let folder = Folder::with_records([record("p", "a b", "a c")]);
    folder.write_tokenizer(["p", "a", "b", "c", UNSAFE]);
    folder
}

#[test]
fn names_of_files() {
    let folder = folder();
    let bad = format!("bad{UNSAFE}.jsonl");
    let good = format!("good{UNSAFE}.jsonl");
    let out = |name: &str| format!("{name}{UNSAFE}.jsonl");
    folder.write(&bad, "{\n");
    fs::copy(folder.path("pairs.jsonl"), folder.path(&good)).unwrap();
    let with_tokenizer = |arguments: &[&str]| escaped(&folder, &[arguments, &TOKENIZER].concat());
    for inputs in [&*bad, &good.replace(".jsonl", ".txt"), &format!("none{UNSAFE}.jsonl"), &format!("none{UNSAFE}*")] {
        with_tokenizer(&["stats", inputs]);
        with_tokenizer(&["label", inputs, "--out", "none.jsonl"]);
        with_tokenizer(&["show", inputs, "--record", "1"]);
        escaped(&folder, &["curate", inputs, "--out", "none.jsonl"]);
        escaped(&folder, &["show", inputs, "--html", "none.html"]);
    }
    with_tokenizer(&["stats", &good, &bad, "--skip-bad"]);
    with_tokenizer(&["label", &good, "--out", &out("label")]);
    with_tokenizer(&["label", &good, "--out", &out("label"), "--resume"]);
    with_tokenizer(&["label", &good, &bad, "--out", &out("rest"), "--skip-bad", &out("rejected")]);
    escaped(&folder, &["curate", &good, "--out", &out("curate")]);
    escaped(&folder, &["curate", &good, "--out", &out("curate"), "--resume"]);
    escaped(&folder, &["curate", &good, &bad, "--out", &out("kept"), "--skip-bad", &out("bad-again")]);
    escaped(&folder, &["show", &good, "--html", &format!("page{UNSAFE}.html")]);
    with_tokenizer(&["stats", &good, "--svg", &format!("none{UNSAFE}/x.svg")]);
    escaped(&folder, &["stats", &good, "--tokenizer", &format!("none{UNSAFE}")]);
}

#[test]
fn arguments() {
    let folder = folder();
    for arguments in [
        &[UNSAFE][..],
        &["label", &format!("--x{UNSAFE}")],
        &["stats", "pairs.jsonl", "--tokenizer", "t", "--aligner", UNSAFE],
        &["curate", "pairs.jsonl", "--out", "k.jsonl", "--min-gap", UNSAFE],
        &["curate", "pairs.jsonl", "--out", "k.jsonl", "--original", UNSAFE],
        &["show", "a", UNSAFE],
        &["completions", UNSAFE],
    ] {
        escaped(&folder, arguments);
    }
}

#[test]
fn what_records_hold() {
    let folder = folder();
    let with = |field: &str, value: Value| {
        let mut record = record("p", "a b", "a c");
        record[field] = value;
        record
    };
    let message = |role: &str| json!([{"role": role, "content": "a"}]);
    for (at, bad) in [
        with("original_output", message(UNSAFE)),
        with("original_output", json!([{"role": "assistant", "content": [{"type": UNSAFE}]}])),
        with("revised_output", json!({"role": "assistant", UNSAFE: 1})),
    ]
    .into_iter()
    .enumerate()
    {
        folder.write("bad.jsonl", lines([bad]));
        let (out, rejected) = (format!("{at}.jsonl"), format!("{at}-bad.jsonl"));
        shown(&folder, &[&["label", "bad.jsonl", "--out", &out], &TOKENIZER[..]].concat());
        shown(&folder, &["curate", "bad.jsonl", "--out", &out, "--skip-bad", &rejected]);
        shown(&folder, &["show", "bad.jsonl", "--record", "1"]);
        shown(&folder, &[&["stats", "bad.jsonl"], &TOKENIZER[..]].concat());
    }
    folder.write("bad.jsonl", format!("{{\"a{UNSAFE}\": {UNSAFE}}}\n"));
    shown(&folder, &["curate", "bad.jsonl", "--out", "none.jsonl"]);

    let text = format!("{UNSAFE} a");
    folder.write("pairs.jsonl", lines([record(&text, &text, "a b")]));
    escaped(&folder, &["show", "pairs.jsonl", "--record", "1"]);
    escaped(&folder, &[&["show", "pairs.jsonl", "--record", "1"], &TOKENIZER[..]].concat());
    escaped(
        &folder,
        &["curate", "pairs.jsonl", "--out", "n.jsonl", "--score-original", "instruction", "--max-original", "1"],
    );
    folder.write("messages.jsonl", lines([with("instruction", message(UNSAFE))]));
    escaped(&folder, &["show", "messages.jsonl", "--record", "1"]);
    folder.stdout(&["show", "pairs.jsonl", "--html", "page.html"]);
    let page = folder.text("page.html");
    assert!(page.contains("u{202e}") && !page.contains('\u{202e}') && !page.contains('\u{1b}'), "{page}");
    assert!(page.contains("default-src 'none'"), "no script, wherever it comes from");
}

#[test]
fn models() {
    let folder = folder();
    let tokenizer: Value = serde_json::from_slice(&folder.bytes("tokenizer.json")).unwrap();
    let stats = ["stats", "pairs.jsonl", "--tokenizer", "."];
    folder.write("tokenizer_config.json", json!({"eos_token": UNSAFE}).to_string());
    // A token of the vocabulary, shown as the end of rows.
    escaped(&folder, &["label", "pairs.jsonl", "--tokenizer", ".", "--prompt", "plain", "--out", "l.jsonl"]);
    shown(&folder, &["label", "pairs.jsonl", "--tokenizer", ".", "--prompt", "plain", "--out", "j.jsonl", "--json"]);
    for template in [
        "{% UNSAFE %}",
        "{{ {}['UNSAFE'].x.y }}",
        "{{ raise_exception('UNSAFE') }}",
        "{% include 'UNSAFE' %}",
        "{{ 'UNSAFE' | int | bad }}",
    ] {
        folder.write("chat_template.jinja", template.replace("UNSAFE", UNSAFE));
        shown(&folder, &stats);
        shown(&folder, &["show", "pairs.jsonl", "--record", "1", "--tokenizer", "."]);
    }
    folder.write("prompt.j2", format!("{{{{ x['{UNSAFE}'] }}}}"));
    let prompt = ["--reviser", "cat", "--reviser-prompt", "prompt.j2"];
    shown(&folder, &[&["curate", "pairs.jsonl", "--out", "k.jsonl"], &prompt[..]].concat());
    for (field, value) in [
        ("version", json!(UNSAFE)),
        ("pre_tokenizer", json!({"type": UNSAFE})),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": format!("({UNSAFE}")}, "behavior": "Isolated", "invert": false}),
        ),
        ("model", json!({"type": "BPE", "vocab": {"a": 0}, "merges": [format!("{UNSAFE} b")]})),
    ] {
        let mut tokenizer = tokenizer.clone();
        tokenizer[field] = value;
        folder.write("bad.json", tokenizer.to_string());
        let bad = ["--tokenizer", "bad.json", "--eos", "</s>", "--prompt", "plain"];
        shown(&folder, &[&["stats", "pairs.jsonl"], &bad[..]].concat());
        shown(&folder, &["show", "a", "b", "--tokenizer", "bad.json"]);
    }
}

#[test]
fn commands() {
    let folder = folder();
    let curate = |line: &str| {
        escaped(&folder, &["curate", "pairs.jsonl", "--out", "k.jsonl", "--max-original", "1", "--scorer", line]);
        escaped(&folder, &["curate", "pairs.jsonl", "--out", "k.jsonl", "--reviser", line]);
    };
    curate(&format!("exit 1 # {UNSAFE}"));
    folder.write("answer", format!("{UNSAFE}\n"));
    curate("cat answer; cat > /dev/null");
    curate("cat answer answer; cat > /dev/null");
}
