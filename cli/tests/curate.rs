//! `figa curate`: which records are kept or dropped, and what commands are asked.
#![cfg(unix)]

mod common;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use common::{Folder, lines};
use serde_json::{Value, json};

const ARGUMENTS: [&str; 4] = ["curate", "pairs.jsonl", "--out", "kept.jsonl"];

fn run(folder: &Folder, arguments: &[&str]) -> Output {
    folder.run(&[&ARGUMENTS[..], &["--json"], arguments].concat())
}

/// The counts, or the error.
fn curate(folder: &Folder, arguments: &[&str]) -> Result<Value, String> {
    let output = run(folder, arguments);
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

/// The number of lines in a file, which may be absent.
fn line_count(folder: &Folder, name: &str) -> usize {
    fs::read_to_string(folder.path(name)).unwrap_or_default().lines().count()
}

/// The ids of the kept records, and how many were dropped for each reason. The counts must add up.
fn kept_ids(folder: &Folder, arguments: &[&str]) -> (String, Vec<(String, u64)>) {
    let _ = fs::remove_file(folder.path("kept.jsonl"));
    let counts = curate(folder, arguments).unwrap();
    let dropped = counts["dropped"].as_object().unwrap();
    let dropped = dropped.iter().map(|(reason, count)| (reason.clone(), count.as_u64().unwrap()));
    let dropped: Vec<(String, u64)> = dropped.collect();
    let sum = dropped.iter().map(|(_, count)| count).sum::<u64>();
    let count = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(count("records"), count("rejected") + sum + count("kept"), "{counts}");
    let kept = folder.text("kept.jsonl");
    assert_eq!(count("kept"), kept.lines().count() as u64);
    let id = |line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    (kept.lines().map(id).collect(), dropped.into_iter().filter(|(_, count)| *count > 0).collect())
}

fn pair(id: &str, original: &str, revised: &str) -> Value {
    json!({"id": id, "instruction": "i", "output": "o", "original_output": original, "revised_output": revised})
}

fn kept(ids: &str, reasons: &[(&str, u64)]) -> (String, Vec<(String, u64)>) {
    (ids.to_owned(), reasons.iter().map(|(reason, count)| (reason.to_string(), *count)).collect())
}

#[test]
fn thresholds_are_strict() {
    let scored = |id: &str, original: f64, reference: f64| {
        let mut record = pair(id, "x", "y");
        (record["r0"], record["r1"]) = (original.into(), reference.into());
        record
    };
    let folder = Folder::with_records([
        scored("a", 0.9, 4.0),
        scored("b", 1.0, 4.0),
        scored("c", 0.5, 3.0),
        scored("d", 0.5, 3.1),
        scored("e", -1.0, 4.0),
        scored("f", -1.0, 4.5),
    ]);
    let fields = ["--score-original", "r0", "--score-reference", "r1"];
    let ids = |args: &[&str]| kept_ids(&folder, &[&fields, args].concat());
    assert_eq!(ids(&["--max-original", "1"]), kept("acdef", &[("original_score", 1)]));
    assert_eq!(ids(&["--max-original", "-0.5"]), kept("ef", &[("original_score", 4)]));
    assert_eq!(ids(&["--min-reference", "3"]), kept("abdef", &[("reference_score", 1)]));
    assert_eq!(ids(&["--min-gap", "5"]), kept("f", &[("score_gap", 5)]));
    let all = ids(&["--max-original", "1", "--min-reference", "3", "--min-gap", "2.6"]);
    assert_eq!(all, kept("aef", &[("original_score", 1), ("reference_score", 1), ("score_gap", 1)]));
}

#[test]
fn length_counts_words_of_both_answers() {
    let folder = Folder::with_records([
        pair("a", "one", "one two"),
        pair("b", "one two", "one\n two"),
        pair("c", "one two three", "one two three"),
        pair("d", "one two", "one two three four"),
    ]);
    assert_eq!(kept_ids(&folder, &["--min-words", "2"]), kept("bcd", &[("too_short", 1)]));
    assert_eq!(kept_ids(&folder, &["--max-words", "3"]), kept("abc", &[("too_long", 1)]));
    assert_eq!(
        kept_ids(&folder, &["--min-words", "2", "--max-words", "2"]),
        kept("b", &[("too_short", 1), ("too_long", 2)])
    );
}

#[test]
fn edits_are_measured_in_words_and_classified() {
    let folder = Folder::with_records([
        pair("n", "one two", "one  two"),
        pair("i", "one two three", "one two three four five"),
        pair("d", "one two three", "one two"),
        pair("s", "one two", "one deux"),
        pair("m", "one two three", "un two"),
    ]);
    let edits = |kinds: &str| kept_ids(&folder, &["--edits", kinds]).0;
    for (kind, id) in [("none", "n"), ("insertion", "i"), ("deletion", "d"), ("substitution", "s"), ("mixed", "m")] {
        assert_eq!(edits(kind), id);
    }
    assert_eq!(kept_ids(&folder, &["--edits", "mixed,deletion"]), kept("dm", &[("edit_kind", 3)]));
    // n 0, i 2/8, d 1/5, s 2/4, m 3/5: the ends belong to it.
    assert_eq!(kept_ids(&folder, &["--min-edit-ratio", "0.25"]), kept("ism", &[("edit_ratio_low", 2)]));
    assert_eq!(kept_ids(&folder, &["--max-edit-ratio", "0.5"]), kept("nids", &[("edit_ratio_high", 1)]));
    assert_eq!(kept_ids(&folder, &["--min-edit-ratio", "0.251", "--max-edit-ratio", "0.499"]).0, "");
}

#[test]
fn duplicates_have_the_same_prompt_and_answers() {
    let with = |id: &str, field: &str, value: &str| {
        let mut record = pair(id, "x", "y");
        record[field] = value.into();
        record
    };
    let folder = Folder::with_records([
        pair("a", "x", "y"),
        with("b", "output", "another reference"),
        with("c", "instruction", "another"),
        with("d", "input", "i"),
        with("e", "revised_output", "z"),
        with("f", "original_output", "z"),
        with("g", "instruction", "another"),
    ]);
    assert_eq!(kept_ids(&folder, &["--unique"]), kept("acdef", &[("duplicate", 2)]));
    assert_eq!(kept_ids(&folder, &[]), kept("abcdefg", &[]));
}

/// `words` words that no other text has, except at the positions in `changed`.
fn text(topic: usize, words: usize, changed: &[usize]) -> String {
    let word = |at| if changed.contains(&at) { format!("changed{at}") } else { format!("w{topic}x{at}") };
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn near_duplicates_are_similar_in_prompt_and_answers() {
    let record = |id: &str, prompt: String, answer: String| {
        let revised = format!("{answer} end");
        json!({"id": id, "instruction": prompt, "original_output": answer, "revised_output": revised})
    };
    let (prompt, answer) = (text(1, 100, &[]), text(2, 300, &[]));
    let folder = Folder::with_records([
        record("a", prompt.clone(), answer.clone()),
        // 3 of 300 words: 9 of 298 shingles differ, similarity 0.94.
        record("b", prompt.clone(), text(2, 300, &[50, 100, 200])),
        // 16 of 300 words: 48 shingles, similarity 0.72.
        record("c", prompt.clone(), text(2, 300, &(0..16).map(|at| 5 + 18 * at).collect::<Vec<_>>())),
        record("d", text(3, 100, &[]), answer.clone()),
        record("e", prompt.clone(), text(4, 300, &[])),
        // The prompt is the same but for 1 of 100 words: 3 of 98 shingles, similarity 0.94.
        record("f", text(1, 100, &[40]), answer.clone()),
    ]);
    assert_eq!(kept_ids(&folder, &["--unique-within", "0.85"]), kept("acde", &[("near_duplicate", 2)]));
    assert_eq!(kept_ids(&folder, &["--unique-within", "0.6"]), kept("ade", &[("near_duplicate", 3)]));
    assert_eq!(kept_ids(&folder, &["--unique-within", "1"]), kept("abcdef", &[]));
    assert!(curate(&folder, &["--unique-within", "0.4"]).unwrap_err().contains("expected a number from 0.5 to 1"));
}

/// Many pairs of texts whose similarity is clearly above the threshold, near it, or clearly below.
#[test]
fn estimates_are_close() {
    for (threshold, changes, expected) in [
        ("0.9", 5, 0..=3),      // 0.95
        ("0.9", 10, 25..=65),   // 0.904
        ("0.9", 20, 97..=100),  // 0.82
        ("0.7", 20, 0..=3),     // 0.82
        ("0.7", 60, 97..=100),  // 0.54
        ("0.5", 45, 0..=3),     // 0.63
        ("0.5", 100, 97..=100), // 0.33
    ] {
        let mut records = vec![];
        for topic in 0..100 {
            let changed: Vec<usize> = (0..changes).map(|at| 1 + at * 600 / changes).collect();
            for changed in [&[][..], &changed] {
                let answer = text(topic, 600, changed);
                records.push(json!({"instruction": "i", "original_output": answer, "revised_output": ""}));
            }
        }
        let counts = curate(&Folder::with_records(records), &["--unique-within", threshold]).unwrap();
        let kept = counts["kept"].as_u64().unwrap() - 100;
        assert!(expected.contains(&kept), "{threshold}, {changes} changes: {kept} of 100 kept");
    }
}

#[test]
fn kept_records_keep_their_bytes() {
    let folder = Folder::new();
    let first = " {\"revised_output\" :\"b\", \"x\": 1.0e2,\t\"original_output\":\"\\u0061\", \"instruction\":\"i\"}\r";
    let second = r#"{"instruction":"é","original_output":"a","revised_output":"b","z":12345678901234567890123}"#;
    folder.write("pairs.jsonl", format!("\u{feff}{first}\n\n{second}"));
    let counts = curate(&folder, &[]).unwrap();
    assert_eq!(folder.text("kept.jsonl"), format!("{first}\n{second}\n"));
    assert_eq!((counts["records"].as_u64(), counts["blank_lines"].as_u64()), (Some(2), Some(1)));
    // An element of an array may take several lines.
    folder.write(
        "pairs.json",
        "[\n {\"instruction\": \"i\",\r\n  \"original_output\": \"a\",\n  \"revised_output\": \"b\"}\n]",
    );
    folder.remove("kept.jsonl");
    folder.write("pairs.jsonl", "");
    curate(&folder, &["pairs.json"]).unwrap();
    let line = "{\"instruction\": \"i\",    \"original_output\": \"a\",   \"revised_output\": \"b\"}\n";
    assert_eq!(folder.text("kept.jsonl"), line);
}

#[test]
fn bad_records_stop_the_run_or_are_rejected() {
    let folder = Folder::new();
    let good = pair("a", "x", "y");
    let bad = [b"{\"instruction\": \xff}\r".as_slice(), b" {\"instruction\": 1}", b"[]"];
    let lines = [good.to_string().as_bytes(), bad[0], b"", bad[1], bad[2], good.to_string().as_bytes()].join(&b'\n');
    folder.write("pairs.jsonl", lines);
    let error = curate(&folder, &[]).unwrap_err();
    assert!(error.contains("pairs.jsonl:2:") && error.contains("--skip-bad FILE"), "{error}");
    assert!(!folder.exists("kept.jsonl") && folder.names() == ["pairs.jsonl"]);

    let counts = curate(&folder, &["--skip-bad", "bad.jsonl"]).unwrap();
    assert_eq!(fs::read(folder.path("bad.jsonl")).unwrap(), [bad.join(&b'\n'), vec![b'\n']].concat());
    assert_eq!([&counts["records"], &counts["rejected"], &counts["kept"]], [5, 3, 2]);
    folder.remove("kept.jsonl");
    let error = curate(&folder, &["--skip-bad", "bad.jsonl"]).unwrap_err();
    assert!(error.contains("--skip-bad: bad.jsonl already exists"), "{error}");

    // So are records without a score.
    let mut scored = good.clone();
    scored["r"] = 1.into();
    folder.write("pairs.jsonl", format!("{scored}\n{good}\n"));
    let args = ["--score-original", "r", "--max-original", "2"];
    let error = curate(&folder, &args).unwrap_err();
    assert!(error.contains("pairs.jsonl:2: field `r`: expected a number, got nothing"), "{error}");
    let counts = curate(&folder, &[&args[..], &["--skip-bad", "unscored.jsonl"]].concat()).unwrap();
    assert_eq!([&counts["rejected"], &counts["kept"]], [1, 1]);
    assert_eq!(folder.text("unscored.jsonl"), format!("{good}\n"));
}

#[test]
fn contradictory_arguments_are_refused() {
    let folder = Folder::with_records([pair("a", "x", "y")]);
    for (args, message) in [
        (&["--max-original", "1"][..], "--max-original: needs scores: name their field with --score-original"),
        (
            &["--min-gap", "1", "--score-original", "r"],
            "--min-gap: needs scores: name their field with --score-reference",
        ),
        (&["--scorer", "true"], "--scorer: has no effect without --max-original"),
        (&["--min-words", "3", "--max-words", "2"], "--min-words: expected at most the value of --max-words"),
        (&["--skip-bad", "kept.jsonl"], "--out: kept.jsonl would be written twice: name another file"),
        (&["--max-edit-ratio", "1.5"], "expected a number from 0 to 1"),
        (&["--min-gap", "nan", "--scorer", "true"], "expected a number"),
        (&["--reviser-prompt", "p"], "--reviser <COMMAND>"),
        (&["--command-timeout", "5"], "--command-timeout: has no effect without --scorer or --reviser"),
    ] {
        let error = curate(&folder, args).unwrap_err();
        assert!(error.contains(message), "{args:?}: {error}");
    }
    folder.write("kept.jsonl", "mine");
    let error = curate(&folder, &[]).unwrap_err();
    assert!(error.contains("--out: kept.jsonl already exists"), "{error}");
    assert_eq!(folder.text("kept.jsonl"), "mine");
}

/// Scores are the digits that an answer begins with; notes each call.
const SCORER: &str = r#"while IFS= read -r line; do
    printf '%s\n' "$line" >> calls
    printf '%s\n' "$line" | sed 's/.*"answer":"\([-0-9.]*\).*/\1/'
done"#;

/// Puts "Well, " in front of the answer; notes each call.
const REVISER: &str = r#"while IFS= read -r line; do
    printf '%s\n' "$line" >> calls
    printf '%s\n' "$line" | sed 's/.*"original_output":"\([^"]*\)".*/{"revised_output": "Well, \1"}/'
done"#;

fn scored(id: &str, original: &str, reference: &str) -> Value {
    let mut record = pair(id, original, "x");
    record["output"] = reference.into();
    record
}

#[test]
fn a_scorer_is_asked_only_while_it_matters() {
    let folder = Folder::with_records([
        scored("a", "1 x", "4 x"),
        scored("b", "2 x", "9"),
        scored("c", "1", "3"),
        scored("d", "-1", "4"),
    ]);
    folder.write("scorer.sh", SCORER);
    let args = ["--scorer", "sh scorer.sh", "--max-original", "2", "--min-reference", "3", "--min-gap", "3"];
    let result = kept_ids(&folder, &args);
    assert_eq!(result, kept("d", &[("original_score", 1), ("reference_score", 1), ("score_gap", 1)]));
    let calls = folder.text("calls");
    assert_eq!(calls.lines().count(), 7);
    assert_eq!(calls.lines().next(), Some(r#"{"instruction":"i","input":"","answer":"1 x"}"#));
    assert!(!folder.exists("kept.jsonl.answers"));
}

#[test]
fn a_reviser_changes_one_field() {
    let folder = Folder::new();
    folder.write("reviser.sh", REVISER);
    let lines = [
        r#"{"z": 1.00, "original_output": "go home", "revised_output" : "old", "instruction": "i", "a": [ ",}"]}"#,
        r#"{"original_output":"so","instruction":"\u0069","n":{"revised_output":"inner"} }"#,
    ];
    folder.write("pairs.jsonl", lines.join("\n"));
    let counts = curate(&folder, &["--reviser", "sh reviser.sh", "--edits", "insertion"]).unwrap();
    assert_eq!([&counts["asked"], &counts["kept"]], [2, 2]);
    let revised = [
        r#"{"z":1.00,"original_output":"go home","revised_output":"Well, go home","instruction":"i","a":[ ",}"]}"#,
        r#"{"original_output":"so","instruction":"\u0069","n":{"revised_output":"inner"},"revised_output":"Well, so"}"#,
    ];
    assert_eq!(folder.text("kept.jsonl"), revised.join("\n") + "\n");
    // It was asked with a prompt for minimal edits.
    let calls = folder.text("calls");
    let request: Value = serde_json::from_str(calls.lines().next().unwrap()).unwrap();
    let keys: Vec<&String> = request.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["instruction", "input", "output", "original_output", "prompt"]);
    let prompt = request["prompt"].as_str().unwrap();
    assert!(prompt.contains("go home") && prompt.contains("as few words as you can"), "{prompt}");

    // A template can use all fields of the record.
    folder.write("prompt.j2", "{{ z }}: {{ original_output }}\n");
    folder.remove("kept.jsonl");
    let args = ["--reviser", "sh reviser.sh", "--reviser-prompt", "prompt.j2"];
    let error = curate(&folder, &args).unwrap_err();
    assert!(error.contains("pairs.jsonl:2: --reviser-prompt: prompt.j2, line 1: undefined value"), "{error}");
    folder.write("pairs.jsonl", lines[0]);
    folder.remove("calls");
    curate(&folder, &[&args[..], &["--resume"]].concat()).unwrap();
    assert_eq!(line_count(&folder, "calls"), 0);
    assert!(folder.text("kept.jsonl").contains("Well, go home"));
}

#[test]
fn a_reviser_ends_conversations() {
    let folder = Folder::new();
    folder.write("reviser.sh", r#"while read -r line; do echo '{"revised_output": "blue"}'; done"#);
    let rejected = r#"[{"role": "user", "content": "?"}, {"role": "assistant", "content": "red"}]"#;
    folder.write("pairs.jsonl", format!("{{\"chosen\": [], \"rejected\": {rejected}}}"));
    let names = ["--instruction", "prompt", "--original", "rejected", "--revised", "chosen"];
    curate(&folder, &[&names[..], &["--reviser", "sh reviser.sh"]].concat()).unwrap();
    let chosen = r#"[{"role":"user","content":"?"},{"role":"assistant","content":"blue"}]"#;
    assert_eq!(folder.text("kept.jsonl"), format!("{{\"chosen\":{chosen},\"rejected\":{rejected}}}\n"));
    fs::rename(folder.path("kept.jsonl"), folder.path("pairs.jsonl")).unwrap();
    assert_eq!(curate(&folder, &names).unwrap()["kept"], 1);
}

/// Ten records, one of which is dropped by its score.
fn ten() -> Vec<Value> {
    (0..10).map(|id| scored(&id.to_string(), &format!("{} x", if id == 3 { 8 } else { 1 }), "9 y")).collect()
}

const BOTH: [&str; 6] = ["--scorer", "sh scorer.sh", "--max-original", "5", "--reviser", "sh reviser.sh"];

/// The output of an uninterrupted run, and its number of requests.
fn uninterrupted() -> (String, usize) {
    let folder = Folder::with_records(ten());
    folder.write("scorer.sh", SCORER);
    folder.write("reviser.sh", REVISER);
    curate(&folder, &BOTH).unwrap();
    (folder.text("kept.jsonl"), line_count(&folder, "calls"))
}

#[test]
fn a_resumed_run_asks_only_for_missing_answers() {
    let (whole, calls) = uninterrupted();
    assert_eq!(calls, 19);
    let folder = Folder::with_records(ten());
    folder.write("scorer.sh", SCORER);
    // Exits at the fifth record, as long as there is no file `fixed`.
    let exiting = REVISER.replace("do\n", "do\n[ -e fixed ] || [ $(( n = n + 1 )) -lt 5 ] || exit 3\n");
    folder.write("reviser.sh", exiting);
    let error = curate(&folder, &BOTH).unwrap_err();
    for part in
        ["--reviser \"sh reviser.sh\"", "pairs.jsonl:6", "exit status: 3", "10 answers are in kept.jsonl.answers"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!folder.exists("kept.jsonl"));
    let asked = line_count(&folder, "calls");

    let error = curate(&folder, &BOTH).unwrap_err();
    assert!(
        error.contains("kept.jsonl.answers holds the answers of an unfinished run: continue it with --resume"),
        "{error}"
    );
    // As if the run was killed while it wrote a line.
    let mut log = fs::read(folder.path("kept.jsonl.answers")).unwrap();
    log.truncate(log.len() - 4);
    folder.write("kept.jsonl.answers", log);
    let resumed = [&BOTH[..], &["--resume"]].concat();
    let error = curate(&folder, &resumed).unwrap_err();
    assert!(error.contains("pairs.jsonl:10") && error.contains("18 answers are in kept.jsonl.answers"), "{error}");
    folder.write("fixed", "");
    let counts = curate(&folder, &resumed).unwrap();
    assert_eq!([&counts["recalled"], &counts["asked"]], [18, 1]);
    // The cut answer was asked for twice.
    assert_eq!(line_count(&folder, "calls"), calls + 1);
    assert_eq!(asked, 10);
    assert_eq!(folder.text("kept.jsonl"), whole);
    assert!(!folder.exists("kept.jsonl.answers"));
}

#[test]
fn a_killed_run_can_be_resumed() {
    let (whole, calls) = uninterrupted();
    let folder = Folder::with_records(ten());
    folder.write("scorer.sh", SCORER);
    // Creates the file `stuck` at the fourth record, and does not answer.
    folder.write(
        "reviser.sh",
        format!("n=0; {}", REVISER.replace("do\n", "do\n[ $((n += 1)) -lt 4 ] || { touch stuck; exec sleep 5; }\n")),
    );
    let mut run = folder.figa(&[&ARGUMENTS[..], &BOTH].concat()).spawn().unwrap();
    while !folder.exists("stuck") {
        thread::sleep(Duration::from_millis(10));
    }
    for arguments in [&BOTH[..], &[&BOTH[..], &["--resume"]].concat()] {
        let error = curate(&folder, arguments).unwrap_err();
        assert_eq!(error, "error: --out: another run is writing kept.jsonl.answers\n");
    }
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(!folder.exists("kept.jsonl"));
    folder.write("reviser.sh", REVISER);
    let error = curate(&folder, &[&BOTH[..], &["--resume", "--reviser", "cat"]].concat()).unwrap_err();
    assert!(error.contains("cannot be used multiple times"), "{error}");
    curate(&folder, &[&BOTH[..], &["--resume"]].concat()).unwrap();
    assert_eq!((folder.text("kept.jsonl"), line_count(&folder, "calls")), (whole, calls));
    // Nothing remains to be done.
    let again = folder.stdout(&[&ARGUMENTS[..], &BOTH, &["--resume"]].concat());
    assert_eq!(again, "kept.jsonl is complete\n");
}

#[test]
fn answers_of_another_run_are_refused() {
    let folder = Folder::with_records(ten());
    folder.write("scorer.sh", SCORER);
    folder.write("reviser.sh", "read -r line; exit 1");
    curate(&folder, &BOTH).unwrap_err();
    let log = folder.text("kept.jsonl.answers");
    // Behind the line that says whose answers they are.
    assert_eq!(log.lines().count(), 2);
    let resume = |args: &[&str]| curate(&folder, &[args, &["--resume"]].concat());

    let changed = "kept.jsonl.answers:2 is not the answer about pairs.jsonl:1";
    let mut other = BOTH;
    other[1] = "sh ./scorer.sh";
    let error = resume(&other).unwrap_err();
    assert!(error.contains(changed), "{error}");
    let mut records = ten();
    records[0]["original_output"] = "2 x".into();
    folder.write("pairs.jsonl", lines(records));
    let error = resume(&BOTH).unwrap_err();
    assert!(error.contains(changed) && error.contains("has changed"), "{error}");
    folder.write("pairs.jsonl", "");
    let error = resume(&BOTH).unwrap_err();
    assert!(error.contains("holds more answers than this run asks for"), "{error}");
    assert_eq!(folder.text("kept.jsonl.answers"), log);
    // An answer that is longer than what is read at a time.
    let header = log.lines().next().unwrap();
    folder.write("kept.jsonl.answers", format!("{header}\n{} {}\n", "0".repeat(16), "x".repeat(100_000)));
    let error = resume(&BOTH).unwrap_err();
    assert!(error.contains("holds more answers than this run asks for"), "{error}");
}

#[test]
fn errors_of_commands_name_the_command() {
    let folder = Folder::with_records([scored("a", "1", "2"), scored("b", "1", "2")]);
    let long = "x".repeat(300);
    for (script, message) in [
        ("read -r line; echo hello; cat >/dev/null", "expected a line with a number, got \"hello\""),
        ("read -r line; echo nan; cat >/dev/null", "expected a line with a number, got \"nan\""),
        ("exit 7", "expected one line of output for each line of input, but it ended (exit status: 7)"),
        ("read -r line; exec >&-; read -r line", "but it closed its input or output"),
        ("read -r line; printf 1", "ended (exit status: 0) within a line: \"1\""),
        (
            "read -r line; printf '1\\n2\\n'; cat >/dev/null",
            "it printed more than one line for one line of input: \"1\", \"2\"",
        ),
        ("read -r line; printf '\\377\\n'; cat >/dev/null", "its answer is not UTF-8"),
        (&format!("read -r line; echo {long}; cat >/dev/null"), &format!("{:?}...", &long[..200])),
    ] {
        let error = curate(&folder, &["--max-original", "5", "--scorer", script]).unwrap_err();
        assert!(error.starts_with("error: --scorer \"") && error.contains("pairs.jsonl:"), "{error}");
        assert!(error.contains(message) && error.lines().count() == 1, "{script}: {error}");
        let _ = fs::remove_file(folder.path("kept.jsonl.answers"));
    }
    let error = curate(&folder, &["--reviser", "read -r line; echo '{\"revised\": 1}'; cat >/dev/null"]).unwrap_err();
    assert!(error.contains("expected a line {\"revised_output\": \"...\"}, got"), "{error}");
    // A greeting that looks like an answer shifts all answers by one.
    let script = "echo 1; while read -r line; do echo 2; done";
    let error = curate(&folder, &["--max-original", "5", "--scorer", script]).unwrap_err();
    assert!(
        error.contains("it printed a line without being asked")
            || error.contains("it printed more than one line for one line of input"),
        "{error}"
    );
    assert!(!folder.exists("kept.jsonl"));
    let _ = fs::remove_file(folder.path("kept.jsonl.answers"));
    // Without a reference there is nothing to score.
    folder.write("pairs.jsonl", pair("a", "1", "2").to_string().replace("\"o\"", "null"));
    let error = curate(&folder, &["--min-reference", "5", "--scorer", "true"]).unwrap_err();
    assert!(error.contains("field `output`: expected a reference answer to score"), "{error}");
}

/// Requests and answers longer than a pipe holds, and a command that writes before it has read all.
#[test]
fn long_lines_pass() {
    let folder = Folder::with_records([pair("a", &"a_long_line_of_words ".repeat(50_000), "")]);
    let answer = "head -c 300000 /dev/zero | tr '\\0' x";
    let script = format!("printf '{{\"revised_output\": \"'; {answer}; echo '\"}}'; cat >/dev/null");
    let counts = curate(&folder, &["--reviser", &script]).unwrap();
    assert_eq!(counts["kept"], 1);
    assert!(folder.text("kept.jsonl").contains(&"x".repeat(300_000)));
}

/// A command that prints and never reads its line, one that reads and never prints, and one that does neither. What they print
/// follows the first byte of the line: before that, they have not been asked.
#[test]
fn commands_that_are_stuck_are_errors() {
    let folder = Folder::with_records([pair("a", &"long-".repeat(200_000), "")]);
    for (script, message) in [
        ("head -c 1 > /dev/null; exec yes", "it printed more than one line for one line of input: \"y\", \"y"),
        (
            "head -c 1 > /dev/null; echo 1; exec sleep 1000",
            "it has answered, and has not read its line of input for 1 s (--command-timeout)",
        ),
        (
            "exec cat > /dev/null",
            "expected one line of output for each line of input, but it closed its input or output",
        ),
        ("read -r line; exec sleep 1000", "no answer for 1 s (--command-timeout)"),
        ("exec tr -d '\\n'", "no answer for 1 s (--command-timeout)"),
    ] {
        let error =
            curate(&folder, &["--max-original", "5", "--scorer", script, "--command-timeout", "1"]).unwrap_err();
        let place = "pairs.jsonl:1: ";
        let error = error
            .strip_prefix("error: --scorer ")
            .and_then(|error| error.split_once(place))
            .unwrap_or_else(|| panic!("{error}"))
            .1;
        assert!(error.starts_with(message) && error.lines().count() == 1, "{script}: {error}");
    }
}

/// The ids of processes that a command has noted in the file `processes`, as soon as there are so many.
fn processes(folder: &Folder, count: usize) -> Vec<String> {
    while line_count(folder, "processes") < count {
        thread::sleep(Duration::from_millis(10));
    }
    folder.text("processes").lines().map(str::to_owned).collect()
}

/// Waits until the processes have ended: a busy machine delays even those that were killed. Perhaps nobody has waited
/// for them yet.
fn assert_ended(folder: &Folder) {
    let end = Instant::now() + Duration::from_secs(60);
    for id in processes(folder, 2) {
        loop {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                break;
            }
            assert!(Instant::now() < end, "{stat}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Notes the shell of a command and a process in its background, which would never end.
const ENDLESS: &str = "echo $$ >> processes; sleep 1000 > /dev/null & echo $! >> processes; ";

#[test]
fn commands_end_with_the_run() {
    for (rest, is_fine) in [
        ("while read -r line; do echo 1; done", true),
        ("exit 3", false),
        ("echo x; sleep 1000", false),
        ("trap '' TERM; echo x; while :; do sleep 1; done", false),
    ] {
        let folder = Folder::with_records([scored("a", "1", "2")]);
        let script = format!("{ENDLESS}{rest}");
        let result = curate(&folder, &["--max-original", "5", "--scorer", &script]);
        assert_eq!(result.is_ok(), is_fine, "{result:?}");
        assert_ended(&folder);
    }
}

#[test]
fn commands_end_with_a_signal_to_the_program() {
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let folder = Folder::with_records([scored("a", "1", "2")]);
        let script = format!("{ENDLESS}exec sleep 1000");
        let mut run = folder.figa(&[&ARGUMENTS[..], &["--max-original", "5", "--scorer", &script]].concat());
        // Where a script runs the tests in the background, the program would ignore signals from the keyboard.
        // SAFETY: `signal` may be called between fork and exec, and with the default action it has no preconditions.
        unsafe {
            run.pre_exec(move || match libc::signal(number, libc::SIG_DFL) {
                libc::SIG_ERR => Err(io::Error::last_os_error()),
                _ => Ok(()),
            })
        };
        let mut run = run.stderr(Stdio::piped()).spawn().unwrap();
        processes(&folder, 2);
        assert!(Command::new("kill").args(["-s", name, &run.id().to_string()]).status().unwrap().success());
        let status = run.wait().unwrap();
        assert_eq!(status.signal(), Some(number), "{status}");
        assert_ended(&folder);
    }
}

/// Fields that nobody reads may hold what cannot be read.
#[test]
fn one_record_does_not_stop_a_run() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let reviser = ["--reviser", r#"while read -r line; do echo '{"revised_output": "the bus"}'; done"#];
    let fine = r#""instruction": "i", "original_output": "the car""#;
    for (other, is_template_fine) in [
        (format!("\"x\": {deep}"), false),
        ("\"x\": 1e400".into(), false),
        ("\"x\": \"\\ud800\"".into(), false),
        ("\"x\": 1, \"x\": 2".into(), true),
        ("\"x\": 1, \"revised_output\": 1, \"revised_output\": 1e400".into(), true),
    ] {
        let folder = Folder::new();
        folder.write("pairs.jsonl", format!("{{{fine}, {other}}}\n{{{fine}, \"x\": 1}}\n"));
        folder.write_tokenizer(["the", "car", "bus"]);
        let counts = curate(&folder, &reviser).unwrap();
        assert_eq!([&counts["kept"], &counts["asked"]], [2, 2], "{other}");
        // What is kept can be read.
        let label = ["label", "kept.jsonl", "--tokenizer", "tokenizer.json", "--eos", "</s>", "--prompt", "plain"];
        assert_eq!(folder.json(&[&label[..], &["--out", "labels.jsonl", "--json"]].concat())["labelled"], 2);

        // A template that uses the field makes the record a bad one.
        folder.remove("kept.jsonl");
        folder.write("prompt.j2", "{{ x }}");
        let arguments = [&reviser[..], &["--reviser-prompt", "prompt.j2", "--skip-bad", "bad.jsonl"]].concat();
        let counts = curate(&folder, &arguments).unwrap();
        assert_eq!(counts["kept"], if is_template_fine { 2 } else { 1 }, "{other}");
        let reasons = folder.text("bad.jsonl.why.jsonl");
        assert!(
            is_template_fine
                || reasons.contains("--reviser-prompt: prompt.j2, line 1: cannot deserialize: the field `x`: "),
            "{reasons}"
        );
    }
}

/// Nobody is asked about a record that would be bad with any answer, and an answer can make a record bad.
#[test]
fn a_record_with_its_revision_can_be_read_by_every_command() {
    let folder = Folder::new();
    let lines = [
        r#"{"instruction": "i", "original_output": "a", "data": {"chosen": "b", "n": 1e400}}"#,
        r#"{"original_output": "\n\nHuman: a\n\nAssistant: b"}"#,
        r#"{"instruction": "i", "original_output": "a"}"#,
    ];
    folder.write("pairs.jsonl", lines.join("\n"));
    let reviser = r#"while read -r line; do printf '%s\n' '{"revised_output": "c\n\nHuman: d"}'; done"#;
    let arguments = ["--revised", "data.chosen", "--skip-bad", "bad.jsonl", "--reviser", reviser];
    let counts = curate(&folder, &arguments).unwrap();
    assert_eq!([&counts["kept"], &counts["rejected"], &counts["asked"]], [1, 2, 2]);
    assert_eq!(folder.text("bad.jsonl"), lines[..2].join("\n") + "\n");
    let reasons = folder.text("bad.jsonl.why.jsonl");
    assert!(
        reasons.contains("number out of range") && reasons.contains("does not end with a turn of the assistant"),
        "{reasons}"
    );
}

#[test]
fn the_table_has_a_line_for_each_step() {
    let folder = Folder::with_records([pair("a", "x", "y"), pair("b", "x", "y"), pair("c", "x z", "y z")]);
    let table = folder.stdout(&[&ARGUMENTS[..], &["--unique", "--max-words", "1"]].concat());
    let expected = "   dropped  remaining
                    3  records and 0 blank lines read
         0          3  bad records
         1          2  --max-words 1: an answer is longer
         1          1  --unique: an earlier record has the same prompt and answers
                    1  written to kept.jsonl
";
    assert_eq!(table, expected);
}
