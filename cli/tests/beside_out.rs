//! Files beside the output: those of a user, links that somebody has planted, and names that are given twice.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::{Folder, lines, record};

const LABEL: [&str; 8] = ["label", "pairs.jsonl", "--tokenizer", ".", "--eos", "</s>", "--out", "l.jsonl"];
const REVISER: &str = r#"while read -r line; do echo '{"revised_output": "a mat"}'; done"#;
const CURATE: [&str; 6] = ["curate", "pairs.jsonl", "--reviser", REVISER, "--out", "k.jsonl"];

/// A folder with a model, two pairs and a file that must stay as it is.
fn folder() -> Folder {
    let folder = Folder::with_records([record("a", "the cat", "a cat"), record("a", "the mat", "a mat")]);
    folder.write_tokenizer(["the", "cat", "a", "mat"]);
    folder.write("mine.txt", "mine");
    folder
}

/// A folder with the folder `l.jsonl.partial` of a run that stopped at a bad record in its second segment.
fn stopped() -> Folder {
    let folder = folder();
    let mut records = vec![record("a", "the cat", "a cat"); 5000];
    records[4500]["revised_output"] = 1.into();
    folder.write("pairs.jsonl", lines(records.clone()));
    folder.error(&LABEL);
    records[4500] = records[0].clone();
    folder.write("pairs.jsonl", lines(records));
    folder
}

/// Both with `--resume` and without it.
fn refused(folder: &Folder, arguments: &[&str], parts: &[&str]) {
    for arguments in [arguments, &[arguments, &["--resume"]].concat()] {
        let error = folder.error(arguments);
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
    assert_eq!(folder.text("mine.txt"), "mine");
}

/// What can stand in the place of a file; each is made of `mine.txt`.
fn plant(folder: &Folder, kind: &str, name: &str) {
    let path = folder.path(name);
    if path.is_file() {
        fs::remove_file(&path).unwrap();
    }
    match kind {
        "it is a link" => symlink(folder.path("mine.txt"), path).unwrap(),
        "the file has a second name" => fs::hard_link(folder.path("mine.txt"), path).unwrap(),
        "it is no regular file" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        _ => assert!(fs::write(&path, "").and_then(|()| std::os::unix::fs::chown(path, Some(4321), None)).is_ok()),
    }
}

fn kinds() -> Vec<&'static str> {
    let mut kinds = vec!["it is a link", "the file has a second name", "it is no regular file"];
    // Only root can give a file away.
    let file = tempfile::NamedTempFile::new().unwrap();
    if std::os::unix::fs::chown(file.path(), Some(4321), None).is_ok() {
        kinds.push("it belongs to another user");
    }
    kinds
}

#[test]
fn a_folder_that_is_not_of_an_unfinished_run_stays_as_it_is() {
    let folder = folder();
    let partial = "l.jsonl.partial";
    let is_none = |reason: &str| {
        let end = "name another file, or move that away";
        refused(&folder, &LABEL, &[&format!("--out: {partial} is not the folder of an unfinished run ({reason}"), end]);
    };
    fs::create_dir(folder.path(partial)).unwrap();
    for name in ["thesis.txt", "lines", "000000.parquet", "rejected", "whole.parquet"] {
        let path = format!("{partial}/{name}");
        folder.write(&path, "mine");
        is_none(&format!("it holds {name} but no state.json"));
        assert_eq!(folder.text(&path), "mine");
        folder.remove(&path);
    }
    folder.write(&format!("{partial}/lock"), "mine");
    is_none("it holds lock but no state.json");
    folder.remove(&format!("{partial}/lock"));
    folder.write(&format!("{partial}/state.json"), "{\"out\": \"other.jsonl\"}");
    is_none("its state.json does not name l.jsonl");
    // A run of another output is there; it can continue.
    assert_eq!(fs::read_dir(folder.path(partial)).unwrap().count(), 1);
    fs::rename(folder.path(partial), folder.path("elsewhere")).unwrap();
    symlink(folder.path("elsewhere"), folder.path(partial)).unwrap();
    is_none("it is a link");
    folder.remove(partial);
    symlink(folder.path("nothing"), folder.path(partial)).unwrap();
    is_none("it is a link");
    assert!(!folder.exists("nothing"));
    folder.remove(partial);
    folder.write(partial, "mine");
    is_none("it is no folder");
    assert_eq!(folder.text(partial), "mine");
    folder.remove(partial);
    if kinds().contains(&"it belongs to another user") {
        fs::create_dir(folder.path(partial)).unwrap();
        std::os::unix::fs::chown(folder.path(partial), Some(4321), None).unwrap();
        is_none("it belongs to another user");
        fs::remove_dir(folder.path(partial)).unwrap();
    }
    // An empty folder has nothing to lose.
    fs::create_dir(folder.path(partial)).unwrap();
    folder.stdout(&LABEL);
    assert!(!folder.exists(partial));
}

#[test]
fn files_in_the_folder_are_not_opened_through_links() {
    for name in ["lock", "state.json", "lines", "rejected", "rejected.why.jsonl"] {
        for kind in kinds() {
            let folder = stopped();
            plant(&folder, kind, &format!("l.jsonl.partial/{name}"));
            let arguments = [&LABEL[..], &["--skip-bad", "bad.jsonl", "--resume"]].concat();
            let error = folder.error(&arguments);
            assert!(error.contains(&format!("l.jsonl.partial/{name}: {kind}")), "{error}");
            assert_eq!(folder.text("mine.txt"), "mine");
            assert!(!folder.exists("l.jsonl"));
        }
    }
}

#[test]
fn segments_are_not_read_through_links() {
    for kind in kinds() {
        let folder = stopped();
        let mut label = LABEL.to_vec();
        *label.last_mut().unwrap() = "l.parquet";
        let pairs = folder.text("pairs.jsonl");
        folder.write("pairs.jsonl", pairs.clone() + "{\n");
        folder.error(&label);
        folder.write("pairs.jsonl", pairs);
        plant(&folder, kind, "l.parquet.partial/000000.parquet");
        let error = folder.error(&[&label[..], &["--resume"]].concat());
        assert!(error.contains(&format!("l.parquet.partial/000000.parquet: {kind}")), "{error}");
        assert!(!folder.exists("l.parquet"));
    }
}

#[test]
fn what_a_run_has_not_written_survives_it() {
    let folder = stopped();
    folder.write("l.jsonl.partial/thesis.txt", "mine");
    folder.write("bad.jsonl.partial", "mine");
    folder.write("l.jsonl.partial-old", "mine");
    folder.stdout(&[&LABEL[..], &["--skip-bad", "bad.jsonl", "--resume"]].concat());
    let left: Vec<_> =
        fs::read_dir(folder.path("l.jsonl.partial")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["thesis.txt"]);
    assert_eq!(folder.text("bad.jsonl.partial"), "mine");
    assert_eq!(folder.text("l.jsonl.partial-old"), "mine");
}

#[test]
fn an_output_that_exists_is_not_replaced() {
    let folder = stopped();
    let resume = [&LABEL[..], &["--resume", "--skip-bad", "bad.jsonl"]].concat();
    for (name, flag) in [("bad.jsonl", "--skip-bad"), ("bad.jsonl.why.jsonl", "--skip-bad")] {
        for target in ["mine.txt", "nothing"] {
            symlink(folder.path(target), folder.path(name)).unwrap();
            let exists = format!("{flag}: {name} already exists: name another file, or remove it");
            assert_eq!(folder.error(&resume), exists);
            folder.remove(name);
        }
    }
    symlink(folder.path("nothing"), folder.path("k.jsonl")).unwrap();
    assert_eq!(folder.error(&CURATE), "--out: k.jsonl already exists: name another file, or remove it");
    assert_eq!((folder.text("mine.txt").as_str(), folder.exists("nothing")), ("mine", false));
}

#[test]
fn answers_are_not_taken_from_or_written_to_another_file() {
    let folder = folder();
    let other = "--out: k.jsonl.answers does not hold the answers of a run with the output k.jsonl";
    for content in ["mine", "mine\n", "", "\n", "{\"answers_for\":\"other.jsonl\",\"files\":[]}\n", "\u{0}", "é"] {
        folder.write("k.jsonl.answers", content);
        refused(&folder, &CURATE, &[other]);
        assert_eq!(folder.text("k.jsonl.answers"), content);
    }
    folder.remove("k.jsonl.answers");
    for kind in kinds() {
        plant(&folder, kind, "k.jsonl.answers");
        refused(&folder, &CURATE, &["--out: k.jsonl.answers: ", kind]);
        folder.remove("k.jsonl.answers");
    }
    symlink(folder.path("nothing"), folder.path("k.jsonl.answers")).unwrap();
    refused(&folder, &CURATE, &["--out: k.jsonl.answers: it is a link"]);
    assert!(!folder.exists("nothing"));
}

#[test]
fn a_changed_reviser_prompt_is_named() {
    let folder = folder();
    folder.write("prompt.j2", "Revise {{ original_output }}");
    // Answers once, then ends.
    let reviser = r#"read -r line; echo '{"revised_output": "a mat"}'"#;
    let run = ["curate", "pairs.jsonl", "--reviser", reviser, "--reviser-prompt", "prompt.j2", "--out", "k.jsonl"];
    folder.error(&run);
    folder.write("prompt.j2", "Revise  {{ original_output }}");
    let message =
        "--resume: prompt.j2 has changed since the run began: restore it, or remove k.jsonl.answers to ask again";
    assert_eq!(folder.error(&[&run[..], &["--resume"]].concat()), message);
}

/// The run was killed between its renames: some outputs have their names, and the answers are still there.
#[test]
fn a_run_of_curate_that_was_killed_at_its_end_can_be_resumed() {
    let mut pairs = folder().text("pairs.jsonl");
    pairs += "{\n";
    let run = [&CURATE[..], &["--skip-bad", "bad.jsonl", "--resume"]].concat();
    let whole = folder();
    whole.write("pairs.jsonl", &pairs);
    whole.stdout(&run);
    let outputs = ["bad.jsonl", "bad.jsonl.why.jsonl", "k.jsonl"];
    for delivered in 0..=outputs.len() {
        let folder = folder();
        folder.write("pairs.jsonl", &pairs);
        // The bad record comes after all answers.
        folder.error(&CURATE);
        assert!(folder.exists("k.jsonl.answers"));
        for name in &outputs[..delivered] {
            folder.write(name, whole.text(name));
        }
        folder.stdout(&run);
        for name in outputs {
            assert_eq!(folder.text(name), whole.text(name), "{name}");
        }
        assert!(!folder.exists("k.jsonl.answers"));
    }
    // Another content is not that of the run.
    let folder = folder();
    folder.write("pairs.jsonl", &pairs);
    folder.error(&CURATE);
    folder.write("bad.jsonl", "mine");
    assert_eq!(folder.error(&run), "--skip-bad: bad.jsonl already exists: name another file, or remove it");
    assert_eq!(folder.text("bad.jsonl"), "mine");
    assert!(folder.exists("k.jsonl.answers"));
}

#[test]
fn a_name_that_is_given_twice_is_refused_in_any_spelling() {
    let folder = folder();
    fs::create_dir(folder.path("sub")).unwrap();
    symlink(folder.path("."), folder.path("here")).unwrap();
    let input = fs::read(folder.path("pairs.jsonl")).unwrap();
    let error = |command: &[&str]| folder.error(&[command, &["--resume"]].concat());
    for spelling in ["pairs.jsonl", "./pairs.jsonl", "sub/../pairs.jsonl", "here/pairs.jsonl"] {
        let end = " is an input: name another file";
        let mut label = LABEL.to_vec();
        *label.last_mut().unwrap() = spelling;
        assert_eq!(error(&label), format!("--out: {spelling}{end}"));
        let skip_bad = ["--skip-bad", spelling];
        assert_eq!(error(&[&LABEL[..], &skip_bad].concat()), format!("--skip-bad: {spelling}{end}"));
        assert_eq!(error(&[&CURATE[..], &skip_bad].concat()), format!("--skip-bad: {spelling}{end}"));
    }
    symlink(folder.path("pairs.jsonl"), folder.path("link.jsonl")).unwrap();
    fs::hard_link(folder.path("pairs.jsonl"), folder.path("hard.jsonl")).unwrap();
    for name in ["link.jsonl", "hard.jsonl"] {
        let message = error(&[&CURATE[..4], &["--out", name]].concat());
        assert!(message.contains("is an input") || message.contains("already exists"), "{message}");
        error(&[&LABEL[..], &["--skip-bad", name]].concat());
    }
    let twice = |path: &Path| format!("{} would be written twice: name another file", path.display());
    for (command, skip_bad) in [
        (&LABEL[..], "./l.jsonl"),
        (&LABEL, "here/l.jsonl.partial"),
        (&LABEL, "l.jsonl.partial/bad.jsonl"),
        (&CURATE, "here/k.jsonl"),
        (&CURATE, "./k.jsonl.answers"),
    ] {
        let message = error(&[command, &["--skip-bad", skip_bad]].concat());
        assert!(message.contains("would be written twice: name another file"), "{message}");
    }
    let mut label = LABEL.to_vec();
    *label.last_mut().unwrap() = "x.why.jsonl";
    let message = error(&[&label[..], &["--skip-bad", "here/x"]].concat());
    assert_eq!(message, format!("--out: {}", twice(Path::new("x.why.jsonl"))));
    assert_eq!(folder.bytes("pairs.jsonl"), input);
    assert!(!folder.exists("l.jsonl.partial"));
}
