//! What one record may cost, as arguments of `figa`.

mod common;

use common::{Folder, record};
use serde_json::Value;

/// A folder with a model, and with a good record behind one of three words.
fn folder() -> Folder {
    let folder = Folder::with_records([record("a", "a b a", "a"), record("a", "a", "b")]);
    folder.write_tokenizer(["a", "b"]);
    folder
}

const MODEL: [&str; 4] = ["--tokenizer", ".", "--eos", "</s>"];

#[test]
fn an_answer_beyond_the_bound_is_a_bad_record() {
    let folder = folder();
    let limit =
        |count: &str| format!("pairs.jsonl:1: the original answer has {count}, more than the limit of one answer, ");
    let end = "drop the record; fix it, or ";
    let bound = ["pairs.jsonl", "--max-answer", "3"];
    let label = [&["label", "--out", "l.jsonl"], &bound[..], &MODEL].concat();
    let stats = [&["stats"], &bound[..], &MODEL].concat();
    for arguments in [&label, &stats] {
        let error = folder.error(arguments);
        assert!(error.starts_with(&(limit("4 tokens") + "3: raise it (")) && error.contains(end), "{error}");
    }
    let error = folder.error(&[&["show"], &bound[..], &MODEL, &["--record", "1"]].concat());
    assert!(error.starts_with(&limit("4 tokens")), "{error}");
    // Words, without EOS.
    let curate = ["curate", "pairs.jsonl", "--out", "k.jsonl", "--max-answer", "2"];
    let error = folder.error(&curate);
    assert!(error.starts_with(&(limit("3 words") + "2: raise it (--max-answer)")) && error.contains(end), "{error}");

    let counts: Value = folder.json(&[&label[..], &["--skip-bad", "bad.jsonl", "--json"]].concat());
    assert_eq!((&counts["labelled"], &counts["rejected"]), (&1.into(), &1.into()));
    let counts: Value = folder.json(&[&curate[..], &["--skip-bad", "bad-k.jsonl", "--json"]].concat());
    assert_eq!((&counts["kept"], &counts["rejected"]), (&1.into(), &1.into()));
    folder.stdout(&[&["label", "pairs.jsonl", "--out", "all.jsonl", "--max-answer", "4"], &MODEL[..]].concat());
}

#[test]
fn a_full_or_missing_temporary_folder_is_named() {
    let folder = folder();
    folder.write("long.jsonl", "x".repeat(3 << 20));
    let arguments = [&["label", "long.jsonl", "--out", "l.jsonl", "--max-record", "1"], &MODEL[..]].concat();
    let error = folder.error(&arguments);
    assert!(error.starts_with("long.jsonl:1: the record has 3145728 bytes, more than the limit"), "{error}");
    assert!(error.contains(": raise it (--max-record)"), "{error}");
    let output = folder.figa(&arguments).env("TMPDIR", folder.path("none")).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let message = format!(
        "error: long.jsonl:1: a record longer than 1048576 bytes goes to the temporary folder {} (TMPDIR): ",
        folder.path("none").display()
    );
    assert!(!output.status.success() && error.starts_with(&message) && error.lines().count() == 1, "{error}");
}
