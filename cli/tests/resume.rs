//! Runs of `figa label` that stop and are resumed: what may have changed meanwhile, and what must not.

mod common;

use std::fs::{self, File};
use std::process::Stdio;

use common::{Folder, lines, record};
use serde_json::Value;

/// More than a segment holds.
const RECORDS: usize = 5000;
/// In the second segment.
const BAD: usize = 4500;

/// A folder with a model, and with records of which some cannot be read.
fn folder(bad: &[usize]) -> Folder {
    let folder = Folder::new();
    folder.write_tokenizer(["the", "cat", "sat", "on", "a", "mat"]);
    folder.write("pairs.jsonl", text(bad));
    folder
}

fn text(bad: &[usize]) -> String {
    let words = ["the", "cat", "sat", "on", "a", "mat"];
    let word = |i: usize| words[i % words.len()];
    let record =
        |i: usize| record(word(i), &format!("{} {}", word(i / 6), word(i / 36)), &format!("{} a", word(i / 6)));
    let mut records: Vec<Value> = (0..RECORDS).map(record).collect();
    for &at in bad {
        records[at]["revised_output"] = 1.into();
    }
    lines(records)
}

fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["label", "--tokenizer", ".", "--eos", "</s>"], more].concat()
}

fn error(folder: &Folder, more: &[&str]) -> String {
    folder.error(&arguments(more))
}

/// The output of a run that nothing interrupts.
fn uninterrupted(out: &str) -> Vec<u8> {
    let folder = folder(&[]);
    folder.stdout(&arguments(&["pairs.jsonl", "--out", out]));
    folder.bytes(out)
}

#[test]
fn a_run_continues_once_the_bad_record_is_fixed() {
    for out in ["l.jsonl", "l.parquet"] {
        let folder = folder(&[BAD]);
        let run = ["pairs.jsonl", "--out", out];
        let message = error(&folder, &run);
        assert!(message.starts_with("pairs.jsonl:4501: "), "{message}");
        assert!(message.ends_with("with --skip-bad FILE, and continue with --resume"), "{message}");
        assert_eq!(
            error(&folder, &run),
            format!("--out: {out}.partial holds an unfinished run: continue it with --resume, or remove it")
        );
        // Further records may come as well.
        folder.write("pairs.jsonl", text(&[]));
        folder.stdout(&arguments(&[&run[..], &["--resume"]].concat()));
        assert!(folder.bytes(out) == uninterrupted(out), "{out} differs");
        assert!(!folder.exists(&format!("{out}.partial")));
    }
}

#[test]
fn a_run_from_standard_input_continues_if_it_skips_the_same_records() {
    let folder = folder(&[BAD]);
    let run = |text: &str| {
        folder.write("stdin", text);
        let mut command = folder.figa(&arguments(&["-", "--out", "l.jsonl", "--resume"]));
        let output = command.stdin(File::open(folder.path("stdin")).unwrap()).stderr(Stdio::piped()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert!(!run(&text(&[BAD])).0);
    for changed in [text(&[3]), lines([record("a", "the cat", "a cat")])] {
        let (succeeded, message) = run(&changed);
        assert!(
            !succeeded && message.contains("--resume: - has changed in front of where the run stopped"),
            "{message}"
        );
    }
    assert!(run(&text(&[])).0);
    assert!(folder.bytes("l.jsonl") == uninterrupted("l.jsonl"));
}

#[test]
fn a_changed_input_is_named() {
    let folder = folder(&[BAD]);
    fs::rename(folder.path("pairs.jsonl"), folder.path("pairs-2.jsonl")).unwrap();
    folder.write("pairs-1.jsonl", lines([record("a", "the cat", "a cat")]));
    let run = ["pairs-*.jsonl", "--out", "l.jsonl", "--resume"];
    error(&folder, &run);
    let changed = |name| {
        format!(
            "--resume: {name} has changed in front of where the run stopped: restore it, or remove l.jsonl.partial to \
             start again"
        )
    };
    folder.write("pairs-0.jsonl", lines([record("a", "the cat", "a cat")]));
    assert_eq!(error(&folder, &run), changed("pairs-1.jsonl"));
    folder.remove("pairs-0.jsonl");
    folder.write("pairs-2.jsonl", text(&[7]));
    assert_eq!(error(&folder, &run), changed("pairs-2.jsonl"));
    // A file behind what was read is none of those.
    folder.write("pairs-2.jsonl", text(&[]));
    folder.write("pairs-3.jsonl", lines([record("a", "the cat", "a cat")]));
    folder.stdout(&arguments(&run));
    assert_eq!(folder.text("l.jsonl").lines().count(), RECORDS + 2);
}

#[test]
fn a_changed_file_of_the_model_is_named() {
    let files = [
        ("tokenizer.json", ""),
        ("tokenizer_config.json", r#"{"eos_token": "</s>"}"#),
        ("special_tokens_map.json", r#"{"eos_token": "</s>"}"#),
        ("generation_config.json", r#"{"eos_token_id": 1}"#),
        ("config.json", r#"{"eos_token_id": 1}"#),
        ("chat_template.json", r#"{"chat_template": "{{ messages[0].content }} {{ messages[1].content }}"}"#),
        ("chat_template.jinja", "{{ messages[0].content }} {{ messages[1].content }}"),
        ("additional_chat_templates/other.jinja", "{{ messages[0].content }} {{ messages[1].content }}"),
    ];
    let folder = folder(&[BAD]);
    fs::create_dir(folder.path("additional_chat_templates")).unwrap();
    for (name, content) in &files[1..] {
        folder.write(name, content);
    }
    let run = ["pairs.jsonl", "--out", "l.jsonl", "--resume"];
    error(&folder, &run);
    for (name, _) in files {
        let content = folder.text(name);
        // The same values in other words, with the same length.
        folder.write(name, format!("{content} "));
        let message = error(&folder, &run);
        let expected =
            format!("--resume: ./{name} has changed since the run began: restore it, or remove l.jsonl.partial");
        assert!(message.starts_with(&expected), "{message}");
        if !["tokenizer.json", "chat_template.jinja"].contains(&name) {
            folder.remove(name);
            assert!(error(&folder, &run).starts_with(&expected), "{name}");
        }
        folder.write(name, content);
    }
    folder.write("additional_chat_templates/new.jinja", "new");
    assert!(error(&folder, &run).starts_with("--resume: ./additional_chat_templates/new.jinja has changed"));
    folder.remove("additional_chat_templates/new.jinja");
    folder.write("pairs.jsonl", text(&[]));
    folder.stdout(&arguments(&run));
}

#[test]
fn a_changed_argument_or_program_is_named() {
    let folder = folder(&[BAD]);
    let run = ["pairs.jsonl", "--out", "l.jsonl", "--resume"];
    error(&folder, &run);
    assert_eq!(
        error(&folder, &[&run[..], &["--max-length", "9"]].concat()),
        "--resume: --max-length is another one than in the run in l.jsonl.partial: repeat its arguments, or remove \
         l.jsonl.partial"
    );
    let message = error(&folder, &[&["pairs.jsonl"], &run[..]].concat());
    assert!(message.starts_with("--resume: inputs is another one than in the run in l.jsonl.partial: "), "{message}");
    // A bound is no such argument: no row depends on it.
    let message = error(&folder, &[&run[..], &["--max-answer", "99999999", "--max-record", "99"]].concat());
    assert!(message.starts_with("pairs.jsonl:4501: "), "{message}");
    let state = folder.text("l.jsonl.partial/state.json");
    folder.write("l.jsonl.partial/state.json", state.replace(env!("CARGO_PKG_VERSION"), "0.0.0"));
    assert!(error(&folder, &run).starts_with("--resume: the run in l.jsonl.partial is of figa 0.0.0, and this is "));
    // What the tokens weigh, and not a name that may come to mean something else.
    let mut state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["origin"]["arguments"]["weights"]["beta"], 0.5);
    folder.write("l.jsonl.partial/state.json", state.to_string());
    let message = error(&folder, &[&run[..], &["--weights", "paper"]].concat());
    assert!(
        message.starts_with("--resume: --weights is another one than in the run in l.jsonl.partial: "),
        "{message}"
    );
    state["origin"]["arguments"].as_object_mut().unwrap().remove("weights");
    folder.write("l.jsonl.partial/state.json", state.to_string());
    assert_eq!(
        error(&folder, &run),
        "--resume: the run in l.jsonl.partial does not say what its tokens weigh, as those of older versions: remove \
         l.jsonl.partial to start again"
    );
}

#[test]
fn a_file_for_bad_records_can_be_named_when_a_run_is_resumed() {
    let folder = folder(&[BAD]);
    let run = ["pairs.jsonl", "--out", "l.jsonl"];
    error(&folder, &run);
    let resume = |skip_bad: &[&'static str]| [&run[..], &["--resume"], skip_bad].concat();
    folder.stdout(&arguments(&resume(&["--skip-bad", "bad.jsonl"])));
    assert_eq!(folder.text("bad.jsonl"), text(&[BAD]).lines().nth(BAD).unwrap().to_owned() + "\n");
    assert_eq!(folder.text("l.jsonl").lines().count(), RECORDS - 1);

    // What is rejected already must not get lost. The last record stops the second run.
    folder.remove("l.jsonl");
    folder.remove("bad.jsonl");
    folder.remove("bad.jsonl.why.jsonl");
    folder.write("pairs.jsonl", text(&[5]) + "[\n");
    let run = ["pairs.jsonl", "broken.json", "--out", "l.jsonl"];
    let resume = |skip_bad: &[&'static str]| [&run[..], &["--resume"], skip_bad].concat();
    folder.write("broken.json", "[");
    assert!(error(&folder, &[&run[..], &["--skip-bad", "bad.jsonl"]].concat()).contains("broken.json:"));
    assert!(!folder.exists("bad.jsonl"));
    assert_eq!(
        error(&folder, &resume(&[])),
        "--resume: the run in l.jsonl.partial has rejected records: name a file for them with --skip-bad"
    );
    folder.write("broken.json", "[]");
    folder.stdout(&arguments(&resume(&["--skip-bad", "other.jsonl"])));
    assert_eq!(folder.text("other.jsonl").lines().count(), 2);
    assert_eq!(folder.text("other.jsonl.why.jsonl").lines().count(), 2);
}

#[test]
fn a_run_that_fails_in_its_first_segment_leaves_nothing() {
    let folder = folder(&[3]);
    let before = folder.names();
    let run = ["pairs.jsonl", "--out", "l.jsonl"];
    let message = error(&folder, &run);
    assert!(message.ends_with("fix it, or write bad records to a file with --skip-bad FILE"), "{message}");
    assert_eq!(folder.names(), before);
    folder.stdout(&arguments(&[&run[..], &["--skip-bad", "bad.jsonl"]].concat()));
    assert_eq!(folder.text("l.jsonl").lines().count(), RECORDS - 1);
}

/// The run has written everything and stored that it is finished, but was killed before or after one of its renames, or
/// while it removed its folder.
#[test]
fn a_run_that_was_killed_at_its_end_can_be_resumed() {
    for (out, finished) in [("l.jsonl", "lines"), ("l.parquet", "whole.parquet")] {
        let folder = folder(&[BAD]);
        error(&folder, &["pairs.jsonl", "--out", out]);
        let partial = format!("{out}.partial");
        let mut state: Value = serde_json::from_str(&folder.text(&format!("{partial}/state.json"))).unwrap();
        state["finished"] = true.into();
        state["rejected_bytes"] = 1.into();
        let delivered = [("rejected", "bad.jsonl"), ("rejected.why.jsonl", "bad.jsonl.why.jsonl"), (finished, out)];
        // How many of the files have their names, and how many a second name, as after a link or a copy.
        for (renamed, copied) in [(0, 0), (0, 1), (1, 1), (2, 2), (2, 3), (3, 3)] {
            fs::remove_dir_all(folder.path(&partial)).unwrap_or_default();
            fs::create_dir(folder.path(&partial)).unwrap();
            folder.write(&format!("{partial}/lock"), "");
            folder.write(&format!("{partial}/state.json"), state.to_string());
            folder.write(&format!("{partial}/state.json.partial-x1y2z3"), "{");
            for (at, (from, to)) in delivered.into_iter().enumerate() {
                fs::remove_file(folder.path(to)).unwrap_or_default();
                if at >= renamed {
                    folder.write(&format!("{partial}/{from}"), from);
                }
                if at < copied {
                    folder.write(to, from);
                }
            }
            let run = ["pairs.jsonl", "--out", out, "--resume", "--skip-bad", "bad.jsonl"];
            assert_eq!(folder.stdout(&arguments(&run)), format!("{out} is complete\n"));
            for (from, to) in delivered {
                assert_eq!(folder.text(to), from, "{renamed} {copied}");
            }
            assert!(!folder.exists(&partial));
        }
        // The folder is almost removed.
        fs::create_dir(folder.path(&partial)).unwrap();
        folder.write(&format!("{partial}/lock"), "");
        let run = ["pairs.jsonl", "--out", out, "--resume"];
        assert_eq!(folder.stdout(&arguments(&run)), format!("{out} is complete\n"));
        assert!(!folder.exists(&partial));
    }
}
