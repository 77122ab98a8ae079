//! The texts that a user reads. After an intended change, `cargo insta review` or `INSTA_UPDATE=always cargo test`
//! updates the files in `snapshots`.
#![cfg(unix)]

mod common;

use common::{Folder, record};
use insta::assert_snapshot;
use serde_json::json;

const TOKENIZER: [&str; 6] = ["--tokenizer", "tokenizer.json", "--eos", "</s>", "--prompt", "plain"];

/// Three pairs, a tokenizer, a bad record, and a file that must not be overwritten.
fn folder() -> Folder {
    let scored = json!({
        "id": "c", "instruction": "p p p", "original_output": "a b c d", "revised_output": "a c d", "score": 2,
    });
    let folder = Folder::with_records([record("p q", "a b c", "a d c e"), record("p", "a b", "a b"), scored]);
    folder.write_tokenizer(["p", "q", "a", "b", "c", "d", "e"]);
    folder.write("bad.jsonl", "{\"instruction\": \"p\", \"original_output\": 1}\n");
    folder.write("empty.jsonl", "\n");
    folder.write("taken.jsonl", "mine");
    folder
}

/// Makes escape sequences readable.
fn visible_escapes(text: &str) -> String {
    text.replace('\u{1b}', "␛")
}

#[test]
fn help() {
    let folder = Folder::new();
    assert_snapshot!("help_figa", folder.stdout(&["--help"]));
    for command in ["label", "show", "stats", "curate", "completions"] {
        assert_snapshot!(format!("help_{command}"), folder.stdout(&[command, "--help"]));
    }
    assert_snapshot!("help_label_short", folder.stdout(&["label", "-h"]));
}

#[test]
fn errors() {
    let folder = folder();
    // The bad record comes after a segment that is kept.
    folder.write("stopped.jsonl", common::lines(vec![record("p", "a", "b"); 4096]) + "{}\n");
    let tokenizer = TOKENIZER.join(" ");
    let label = format!("label {tokenizer} --out labels.jsonl");
    let stats = format!("stats {tokenizer}");
    let curate = "curate pairs.jsonl --out kept.jsonl";
    let commands = [
        format!("{label} none.jsonl"),
        format!("{label} pairs.csv"),
        format!("{label} none-*.jsonl"),
        format!("{label} bad.jsonl"),
        format!("{label} stopped.jsonl"),
        format!("{label} pairs.jsonl"),
        format!("{label} pairs.jsonl --resume --beta=-1"),
        format!("{label} stopped.jsonl --resume --beta 0.1"),
        format!("label {tokenizer} pairs.jsonl --out labels.csv"),
        format!("label {tokenizer} pairs.jsonl --out taken.jsonl"),
        "label pairs.jsonl --tokenizer none.json --out new.jsonl".into(),
        "label pairs.jsonl --tokenizer . --out new.jsonl".into(),
        "label pairs.jsonl --tokenizer . --eos </s> --prompt chat --out new.jsonl".into(),
        format!("label {tokenizer} pairs.jsonl --max-length 2 --out new.jsonl"),
        format!("{label} pairs.jsonl --drop-reasoning"),
        "show one".into(),
        "show pairs.jsonl --record 1 --date 2026-01-02".into(),
        "show pairs.jsonl taken.jsonl".into(),
        "show pairs.jsonl --record 9".into(),
        "show pairs.jsonl --html taken.jsonl".into(),
        "show empty.jsonl --html page.html".into(),
        "show a b --tokenizer none.json".into(),
        format!("{stats} bad.jsonl"),
        format!("{stats} bad.jsonl --skip-bad"),
        format!("{stats} pairs.jsonl --svg none/figure.svg"),
        format!("{curate} bad.jsonl"),
        format!("{curate} --max-original 1"),
        format!("{curate} --score-original score"),
        format!("{curate} --score-original score --max-original 1"),
        format!("{curate} --scorer cat --min-reference 1"),
        format!("{curate} --scorer cat --max-original 1"),
        format!("{curate} --min-words 2 --max-words 1"),
        format!("{curate} --reviser cat --reviser-prompt none.j2"),
        "curate pairs.jsonl --out kept.csv".into(),
        "curate pairs.jsonl --out taken.jsonl".into(),
        "curate pairs.jsonl --out none/kept.jsonl".into(),
    ];
    let errors = commands.map(|command| {
        let arguments: Vec<&str> = command.split(' ').collect();
        format!("$ figa {command}\n{}\n", folder.error(&arguments))
    });
    assert_snapshot!("errors", errors.join("\n"));
}

#[test]
fn usage_errors() {
    let commands = [
        "",
        "label",
        "label a.jsonl --tokenizer . --out l.jsonl --aligner diff",
        "label a.jsonl --tokenizer . --out l.jsonl --granularity sentence",
        "label a.jsonl --tokenizer . --out l.jsonl --granularity phrase:x",
        "label a.jsonl --tokenizer . --out l.jsonl --max-record 0",
        "show a.jsonl --record 0",
        "show a.jsonl --sample 3",
        "curate a.jsonl --out k.jsonl --max-edit-ratio 2",
        "curate a.jsonl --out k.jsonl --unique-within 0.1",
        "curate a.jsonl --out k.jsonl --min-gap nan",
        "curate a.jsonl --out k.jsonl --edits all",
        "curate a.jsonl --out k.jsonl --scorer x --score-original y",
    ];
    let errors = commands.map(|command| {
        let arguments: Vec<&str> = command.split_whitespace().collect();
        format!("$ figa {command}\n{}", Folder::new().usage_error(&arguments))
    });
    assert_snapshot!("usage_errors", errors.join("\n"));
}

#[test]
fn label_summary() {
    let folder = folder();
    let arguments = [&["label", "pairs.jsonl", "bad.jsonl", "--out", "labels.jsonl"], &TOKENIZER[..]].concat();
    let summary = folder.stdout(&[&arguments[..], &["--skip-bad", "rejected.jsonl"]].concat());
    let again = folder.stdout(&[&arguments[..], &["--skip-bad", "rejected.jsonl", "--resume"]].concat());
    assert_snapshot!("label_summary", summary + &again);
    assert_snapshot!("label_rows", folder.text("labels.jsonl"));
}

#[test]
fn show_on_a_terminal() {
    let folder = folder();
    let texts = ["show", "He go  home.\nTwo lines,\tone tab.", "He goes home now.\nOne line,\tone tab."];
    assert_snapshot!("show_without_colour", folder.stdout(&texts));
    let output = folder.figa(&texts).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert_snapshot!("show_with_colour", visible_escapes(str::from_utf8(&output.stdout).unwrap()));
    assert_snapshot!("show_record", folder.stdout(&["show", "pairs.jsonl", "--record", "3"]));
}

/// A tokenizer of bytes: `é` is two tokens, and a space belongs to the token after it.
#[test]
fn show_overlapping_tokens_and_leading_spaces() {
    let folder = Folder::new();
    let vocab = json!({"Ã": 0, "©": 1, "Ġ": 2, "a": 3, "b": 4, "Ġa": 5, "Ġb": 6, "è": 7, "¨": 8});
    let tokenizer = json!({
        "model": {"type": "BPE", "vocab": vocab, "merges": ["Ġ a", "Ġ b"]},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
    });
    folder.write("tokenizer.json", tokenizer.to_string());
    let shown = folder.stdout(&["show", "aé  a b", "bè a a", "--tokenizer", "tokenizer.json"]);
    assert_snapshot!("show_overlapping_tokens", shown);
}

#[test]
fn show_page() {
    let folder = folder();
    let long = "word ".repeat(20);
    folder.write(
        "pairs.jsonl",
        common::lines([
            record("Correct <b>this</b>.", &format!("{long}has a\nerror"), &format!("{long}has an error")),
            json!({
                "original_output": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "so"}],
                "revised_output": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "so"}],
            }),
        ]),
    );
    folder.stdout(&["show", "pairs.jsonl", "--html", "page.html", "--granularity", "phrase:1"]);
    let page = folder.text("page.html");
    // The style is in page.css.
    let (head, rest) = page.split_once("<style>").unwrap();
    let (_, body) = rest.split_once("</style>").unwrap();
    assert_snapshot!("show_page", format!("{head}<style></style>{body}"));
}

#[test]
fn stats_tables() {
    let folder = folder();
    let arguments =
        [&["stats", "pairs.jsonl", "bad.jsonl", "--skip-bad", "--max-length", "4"], &TOKENIZER[..]].concat();
    assert_snapshot!("stats", folder.stdout(&arguments));
    assert_snapshot!("stats_json", folder.stdout(&[&arguments[..], &["--json"]].concat()));
}

#[test]
fn curate_tables() {
    let folder = folder();
    let scorer = "while read -r line; do echo 1; done";
    let arguments = [
        "curate",
        "pairs.jsonl",
        "pairs.jsonl",
        "bad.jsonl",
        "--skip-bad",
        "rejected.jsonl",
        "--scorer",
        scorer,
        "--max-original",
        "2",
        "--min-words",
        "1",
        "--max-words",
        "4",
        "--min-edit-ratio",
        "0.1",
        "--edits",
        "insertion,deletion,mixed",
        "--unique",
        "--unique-within",
        "0.9",
    ];
    assert_snapshot!("curate", folder.stdout(&[&arguments[..], &["--out", "kept.jsonl"]].concat()));
    folder.remove("rejected.jsonl");
    folder.remove("rejected.jsonl.why.jsonl");
    let json = folder.stdout(&[&arguments[..], &["--out", "again.jsonl", "--json"]].concat());
    assert_snapshot!("curate_json", json);
}
