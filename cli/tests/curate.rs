//! `figa curate`: what is kept, what falls and why, and what commands are asked.
#![cfg(unix)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder that commands run in.
struct Folder(TempDir);

impl Folder {
    /// With the records in `pairs.jsonl`.
    fn new(records: &[Value]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("pairs.jsonl", records.iter().map(|record| format!("{record}\n")).collect::<String>());
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn lines(&self, name: &str) -> usize {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().count()
    }

    /// The counts, or the error.
    fn curate(&self, args: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_figa"));
        let common = ["curate", "pairs.jsonl", "--json", "--out", "kept.jsonl"];
        let output = command.current_dir(self.0.path()).args(common).args(args).output().unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }

    /// The ids of the records that are kept, and the reason that others fell for; all that must add up.
    fn ids(&self, args: &[&str]) -> (String, Vec<(String, u64)>) {
        let _ = fs::remove_file(self.path("kept.jsonl"));
        let counts = self.curate(args).unwrap();
        let fell = counts["fell"].as_object().unwrap();
        let fell: Vec<(String, u64)> =
            fell.iter().map(|(reason, fell)| (reason.clone(), fell.as_u64().unwrap())).collect();
        let sum = fell.iter().map(|(_, fell)| fell).sum::<u64>();
        let count = |name: &str| counts[name].as_u64().unwrap();
        assert_eq!(count("read"), count("bad") + sum + count("kept"), "{counts}");
        let kept = self.read("kept.jsonl");
        assert_eq!(count("kept"), kept.lines().count() as u64);
        let id = |line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
        (kept.lines().map(id).collect(), fell.into_iter().filter(|(_, fell)| *fell > 0).collect())
    }
}

fn pair(id: &str, original: &str, revised: &str) -> Value {
    json!({"id": id, "instruction": "i", "output": "o", "original_output": original, "revised_output": revised})
}

fn fell(reasons: &[(&str, u64)]) -> Vec<(String, u64)> {
    reasons.iter().map(|(reason, count)| (reason.to_string(), *count)).collect()
}

fn kept(ids: &str, reasons: &[(&str, u64)]) -> (String, Vec<(String, u64)>) {
    (ids.to_owned(), fell(reasons))
}

#[test]
fn thresholds_are_strict() {
    let scored = |id: &str, original: f64, reference: f64| {
        let mut record = pair(id, "x", "y");
        (record["r0"], record["r1"]) = (original.into(), reference.into());
        record
    };
    let folder = Folder::new(&[
        scored("a", 0.9, 4.0),
        scored("b", 1.0, 4.0),
        scored("c", 0.5, 3.0),
        scored("d", 0.5, 3.1),
        scored("e", -1.0, 4.0),
        scored("f", -1.0, 4.5),
    ]);
    let fields = ["--score-original", "r0", "--score-reference", "r1"];
    let ids = |args: &[&str]| folder.ids(&[&fields, args].concat());
    assert_eq!(ids(&["--max-original", "1"]), kept("acdef", &[("original_score", 1)]));
    assert_eq!(ids(&["--max-original", "-0.5"]), kept("ef", &[("original_score", 4)]));
    assert_eq!(ids(&["--min-reference", "3"]), kept("abdef", &[("reference_score", 1)]));
    assert_eq!(ids(&["--min-gap", "5"]), kept("f", &[("score_gap", 5)]));
    let all = ids(&["--max-original", "1", "--min-reference", "3", "--min-gap", "2.6"]);
    assert_eq!(all, kept("aef", &[("original_score", 1), ("reference_score", 1), ("score_gap", 1)]));
}

#[test]
fn length_counts_words_of_both_answers() {
    let folder = Folder::new(&[
        pair("a", "one", "one two"),
        pair("b", "one two", "one\n two"),
        pair("c", "one two three", "one two three"),
        pair("d", "one two", "one two three four"),
    ]);
    assert_eq!(folder.ids(&["--min-words", "2"]), kept("bcd", &[("too_short", 1)]));
    assert_eq!(folder.ids(&["--max-words", "3"]), kept("abc", &[("too_long", 1)]));
    assert_eq!(folder.ids(&["--min-words", "2", "--max-words", "2"]), kept("b", &[("too_long", 2), ("too_short", 1)]));
}

#[test]
fn edits_are_measured_in_words_and_told_apart() {
    let folder = Folder::new(&[
        pair("n", "one two", "one  two"),
        pair("i", "one two three", "one two three four five"),
        pair("d", "one two three", "one two"),
        pair("s", "one two", "one deux"),
        pair("m", "one two three", "un two"),
    ]);
    let edits = |kinds: &str| folder.ids(&["--edits", kinds]).0;
    for (kind, id) in [("none", "n"), ("insertion", "i"), ("deletion", "d"), ("substitution", "s"), ("mixed", "m")] {
        assert_eq!(edits(kind), id);
    }
    assert_eq!(folder.ids(&["--edits", "mixed,deletion"]), kept("dm", &[("edit_kind", 3)]));
    // n 0, i 2/8, d 1/5, s 2/4, m 3/5: the ends belong to it.
    assert_eq!(folder.ids(&["--min-edit-ratio", "0.25"]), kept("ism", &[("edit_ratio_low", 2)]));
    assert_eq!(folder.ids(&["--max-edit-ratio", "0.5"]), kept("nids", &[("edit_ratio_high", 1)]));
    assert_eq!(folder.ids(&["--min-edit-ratio", "0.251", "--max-edit-ratio", "0.499"]).0, "");
}

#[test]
fn duplicates_have_the_same_prompt_and_answers() {
    let with = |id: &str, field: &str, value: &str| {
        let mut record = pair(id, "x", "y");
        record[field] = value.into();
        record
    };
    let folder = Folder::new(&[
        pair("a", "x", "y"),
        with("b", "output", "another reference"),
        with("c", "instruction", "another"),
        with("d", "input", "i"),
        with("e", "revised_output", "z"),
        with("f", "original_output", "z"),
        with("g", "instruction", "another"),
    ]);
    assert_eq!(folder.ids(&["--unique"]), kept("acdef", &[("duplicate", 2)]));
    assert_eq!(folder.ids(&[]), kept("abcdefg", &[]));
}

/// `words` words that no other text has, but for one word in so many that is changed.
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
    let folder = Folder::new(&[
        record("a", prompt.clone(), answer.clone()),
        // 3 of 300 words: 9 of 298 shingles are others, similarity 0.94.
        record("b", prompt.clone(), text(2, 300, &[50, 100, 200])),
        // 16 of 300 words: 48 shingles, similarity 0.72.
        record("c", prompt.clone(), text(2, 300, &(0..16).map(|at| 5 + 18 * at).collect::<Vec<_>>())),
        record("d", text(3, 100, &[]), answer.clone()),
        record("e", prompt.clone(), text(4, 300, &[])),
        // The prompt is the same but for 1 of 100 words: 3 of 98 shingles, similarity 0.94.
        record("f", text(1, 100, &[40]), answer.clone()),
    ]);
    assert_eq!(folder.ids(&["--unique-within", "0.85"]), kept("acde", &[("near_duplicate", 2)]));
    assert_eq!(folder.ids(&["--unique-within", "0.6"]), kept("ade", &[("near_duplicate", 3)]));
    assert_eq!(folder.ids(&["--unique-within", "1"]), kept("abcdef", &[]));
    assert!(folder.curate(&["--unique-within", "0.4"]).unwrap_err().contains("expected a number from 0.5 to 1"));
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
        let counts = Folder::new(&records).curate(&["--unique-within", threshold]).unwrap();
        let kept = counts["kept"].as_u64().unwrap() - 100;
        assert!(expected.contains(&kept), "{threshold}, {changes} changes: {kept} of 100 kept");
    }
}

#[test]
fn kept_records_are_written_as_they_came() {
    let folder = Folder::new(&[]);
    let first = " {\"revised_output\" :\"b\", \"x\": 1.0e2,\t\"original_output\":\"\\u0061\", \"instruction\":\"i\"}\r";
    let second = r#"{"instruction":"é","original_output":"a","revised_output":"b","z":12345678901234567890123}"#;
    folder.write("pairs.jsonl", format!("\u{feff}{first}\n\n{second}"));
    let counts = folder.curate(&[]).unwrap();
    assert_eq!(folder.read("kept.jsonl"), format!("{first}\n{second}\n"));
    assert_eq!((counts["read"].as_u64(), counts["blank_lines"].as_u64()), (Some(2), Some(1)));
    // An element of an array may take several lines.
    folder.write(
        "pairs.json",
        "[\n {\"instruction\": \"i\",\r\n  \"original_output\": \"a\",\n  \"revised_output\": \"b\"}\n]",
    );
    fs::remove_file(folder.path("kept.jsonl")).unwrap();
    folder.write("pairs.jsonl", "");
    folder.curate(&["pairs.json"]).unwrap();
    let line = "{\"instruction\": \"i\",    \"original_output\": \"a\",   \"revised_output\": \"b\"}\n";
    assert_eq!(folder.read("kept.jsonl"), line);
}

#[test]
fn bad_records_stop_the_run_or_are_set_aside() {
    let folder = Folder::new(&[]);
    let good = pair("a", "x", "y");
    let bad = [b"{\"instruction\": \xff}\r".as_slice(), b" {\"instruction\": 1}", b"[]"];
    let lines = [good.to_string().as_bytes(), bad[0], b"", bad[1], bad[2], good.to_string().as_bytes()].join(&b'\n');
    folder.write("pairs.jsonl", lines);
    let error = folder.curate(&[]).unwrap_err();
    assert!(error.contains("pairs.jsonl:2:") && error.contains("--skip-bad FILE"), "{error}");
    assert!(!folder.path("kept.jsonl").exists() && !folder.path("kept.jsonl.partial").exists());

    let counts = folder.curate(&["--skip-bad", "bad.jsonl"]).unwrap();
    assert_eq!(fs::read(folder.path("bad.jsonl")).unwrap(), [bad.join(&b'\n'), vec![b'\n']].concat());
    assert_eq!([&counts["read"], &counts["bad"], &counts["kept"]], [5, 3, 2]);
    fs::remove_file(folder.path("kept.jsonl")).unwrap();
    let error = folder.curate(&["--skip-bad", "bad.jsonl"]).unwrap_err();
    assert!(error.contains("--skip-bad: bad.jsonl is there already"), "{error}");

    // So are records without a score.
    let mut scored = good.clone();
    scored["r"] = 1.into();
    folder.write("pairs.jsonl", format!("{scored}\n{good}\n"));
    let args = ["--score-original", "r", "--max-original", "2"];
    let error = folder.curate(&args).unwrap_err();
    assert!(error.contains("pairs.jsonl:2: field `r`: expected a number, got \"nothing\""), "{error}");
    let counts = folder.curate(&[&args[..], &["--skip-bad", "unscored.jsonl"]].concat()).unwrap();
    assert_eq!([&counts["bad"], &counts["kept"]], [1, 1]);
    assert_eq!(folder.read("unscored.jsonl"), format!("{good}\n"));
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let folder = Folder::new(&[pair("a", "x", "y")]);
    for (args, message) in [
        (&["--max-original", "1"][..], "--max-original: needs scores: name their field with --score-original"),
        (
            &["--min-gap", "1", "--score-original", "r"],
            "--min-gap: needs scores: name their field with --score-reference",
        ),
        (&["--scorer", "true"], "scores are of no use without --max-original"),
        (&["--min-words", "3", "--max-words", "2"], "--min-words: expected at most --max-words"),
        (&["--max-edit-ratio", "1.5"], "expected a number from 0 to 1"),
        (&["--min-gap", "nan", "--scorer", "true"], "expected a number"),
        (&["--reviser-prompt", "p"], "--reviser <COMMAND>"),
    ] {
        let error = folder.curate(args).unwrap_err();
        assert!(error.contains(message), "{args:?}: {error}");
    }
    folder.write("kept.jsonl", "mine");
    let error = folder.curate(&[]).unwrap_err();
    assert!(error.contains("--out: kept.jsonl is there already"), "{error}");
    assert_eq!(folder.read("kept.jsonl"), "mine");
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
fn a_scorer_is_asked_as_long_as_it_matters() {
    let folder = Folder::new(&[
        scored("a", "1 x", "4 x"),
        scored("b", "2 x", "9"),
        scored("c", "1", "3"),
        scored("d", "-1", "4"),
    ]);
    folder.write("scorer.sh", SCORER);
    let args = ["--scorer", "sh scorer.sh", "--max-original", "2", "--min-reference", "3", "--min-gap", "3"];
    let result = folder.ids(&args);
    assert_eq!(result, kept("d", &[("original_score", 1), ("reference_score", 1), ("score_gap", 1)]));
    let calls = folder.read("calls");
    assert_eq!(calls.lines().count(), 7);
    assert_eq!(calls.lines().next(), Some(r#"{"instruction":"i","input":"","answer":"1 x"}"#));
    assert!(!folder.path("kept.jsonl.answers").exists());
}

#[test]
fn a_reviser_changes_one_field() {
    let folder = Folder::new(&[]);
    folder.write("reviser.sh", REVISER);
    let lines = [
        r#"{"z": 1.0, "original_output": "go home", "revised_output" : "old", "instruction": "i", "a": [",}"]}"#,
        r#"{"original_output":"so","instruction":"\u0069","n":{"revised_output":"inner"} }"#,
    ];
    folder.write("pairs.jsonl", lines.join("\n"));
    let counts = folder.curate(&["--reviser", "sh reviser.sh", "--edits", "insertion"]).unwrap();
    assert_eq!([&counts["asked"], &counts["kept"]], [2, 2]);
    let first = lines[0].replace("\"old\"", "\"Well, go home\"");
    let second = lines[1].replace(" }", ", \"revised_output\": \"Well, so\" }");
    assert_eq!(folder.read("kept.jsonl"), format!("{first}\n{second}\n"));
    // It was asked with a prompt for minimal edits.
    let calls = folder.read("calls");
    let request: Value = serde_json::from_str(calls.lines().next().unwrap()).unwrap();
    let keys: Vec<&String> = request.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["input", "instruction", "original_output", "output", "prompt"]);
    let prompt = request["prompt"].as_str().unwrap();
    assert!(prompt.contains("go home") && prompt.contains("as few words as you can"), "{prompt}");

    // A prompt of one's own sees every field.
    folder.write("prompt.j2", "{{ z }}: {{ original_output }}\n");
    fs::remove_file(folder.path("kept.jsonl")).unwrap();
    let args = ["--reviser", "sh reviser.sh", "--reviser-prompt", "prompt.j2"];
    let error = folder.curate(&args).unwrap_err();
    assert!(error.contains("pairs.jsonl:2: --reviser-prompt: prompt.j2, line 1: undefined value"), "{error}");
    folder.write("pairs.jsonl", lines[0]);
    fs::remove_file(folder.path("calls")).unwrap();
    folder.curate(&[&args[..], &["--resume"]].concat()).unwrap();
    assert_eq!(folder.lines("calls"), 0);
    assert!(folder.read("kept.jsonl").contains("Well, go home"));
}

#[test]
fn a_reviser_ends_conversations() {
    let folder = Folder::new(&[]);
    folder.write("reviser.sh", r#"while read -r line; do echo '{"revised_output": "blue"}'; done"#);
    let record =
        r#"{"chosen": [], "rejected": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "red"}]}"#;
    folder.write("pairs.jsonl", record);
    let names = ["--instruction", "prompt", "--original", "rejected", "--revised", "chosen"];
    folder.curate(&[&names[..], &["--reviser", "sh reviser.sh"]].concat()).unwrap();
    let chosen = r#"[{"role":"user","content":"?"},{"role":"assistant","content":"blue"}]"#;
    assert_eq!(folder.read("kept.jsonl"), format!("{}\n", record.replace("[]", chosen)));
    fs::rename(folder.path("kept.jsonl"), folder.path("pairs.jsonl")).unwrap();
    assert_eq!(folder.curate(&names).unwrap()["kept"], 1);
}

/// Ten records, of which one falls by its score.
fn ten() -> Vec<Value> {
    (0..10).map(|id| scored(&id.to_string(), &format!("{} x", if id == 3 { 8 } else { 1 }), "9 y")).collect()
}

const BOTH: [&str; 6] = ["--scorer", "sh scorer.sh", "--max-original", "5", "--reviser", "sh reviser.sh"];

/// What an unbroken run writes, and how often it asks.
fn unbroken() -> (String, usize) {
    let folder = Folder::new(&ten());
    folder.write("scorer.sh", SCORER);
    folder.write("reviser.sh", REVISER);
    folder.curate(&BOTH).unwrap();
    (folder.read("kept.jsonl"), folder.lines("calls"))
}

#[test]
fn a_run_that_broke_asks_only_the_rest() {
    let (whole, calls) = unbroken();
    assert_eq!(calls, 19);
    let folder = Folder::new(&ten());
    folder.write("scorer.sh", SCORER);
    // Dies at the fifth record that it is asked about, the first time.
    let dying = REVISER.replace("do\n", "do\n[ -e mended ] || [ $(( n = n + 1 )) -lt 5 ] || exit 3\n");
    folder.write("reviser.sh", dying);
    let error = folder.curate(&BOTH).unwrap_err();
    for part in
        ["--reviser \"sh reviser.sh\"", "pairs.jsonl:6", "exit status: 3", "10 answers are in kept.jsonl.answers"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!folder.path("kept.jsonl").exists());
    let asked = folder.lines("calls");

    let error = folder.curate(&BOTH).unwrap_err();
    assert!(
        error.contains("kept.jsonl.answers holds the answers of an unfinished run: go on with --resume"),
        "{error}"
    );
    // The run was killed within a line.
    let mut log = fs::read(folder.path("kept.jsonl.answers")).unwrap();
    log.truncate(log.len() - 4);
    folder.write("kept.jsonl.answers", log);
    let resumed = [&BOTH[..], &["--resume"]].concat();
    let error = folder.curate(&resumed).unwrap_err();
    assert!(error.contains("pairs.jsonl:10") && error.contains("18 answers are in kept.jsonl.answers"), "{error}");
    folder.write("mended", "");
    let counts = folder.curate(&resumed).unwrap();
    assert_eq!([&counts["recalled"], &counts["asked"]], [18, 1]);
    // The torn answer was asked for twice.
    assert_eq!(folder.lines("calls"), calls + 1);
    assert_eq!(asked, 10);
    assert_eq!(folder.read("kept.jsonl"), whole);
    assert!(!folder.path("kept.jsonl.answers").exists());
}

#[test]
fn a_run_that_was_killed_goes_on() {
    let (whole, calls) = unbroken();
    let folder = Folder::new(&ten());
    folder.write("scorer.sh", SCORER);
    // Says that it is there, and never answers.
    folder.write(
        "reviser.sh",
        format!("n=0; {}", REVISER.replace("do\n", "do\n[ $((n += 1)) -lt 4 ] || { touch stuck; exec sleep 5; }\n")),
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_figa"));
    let common = ["curate", "pairs.jsonl", "--json", "--out", "kept.jsonl"];
    let mut run = command.current_dir(folder.0.path()).args(common).args(BOTH).spawn().unwrap();
    while !folder.path("stuck").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let error = folder.curate(&[&BOTH[..], &["--resume"]].concat()).unwrap_err();
    assert!(error.contains("another run is writing it"), "{error}");
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(!folder.path("kept.jsonl").exists());
    folder.write("reviser.sh", REVISER);
    let error = folder.curate(&[&BOTH[..], &["--resume", "--reviser", "cat"]].concat()).unwrap_err();
    assert!(error.contains("cannot be used multiple times"), "{error}");
    folder.curate(&[&BOTH[..], &["--resume"]].concat()).unwrap();
    assert_eq!((folder.read("kept.jsonl"), folder.lines("calls")), (whole, calls));
    // Nothing is left to do then.
    let mut command = Command::new(env!("CARGO_BIN_EXE_figa"));
    let again = command.current_dir(folder.0.path()).args(common).args(BOTH).arg("--resume").output().unwrap();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), "kept.jsonl is complete\n");
}

#[test]
fn answers_of_another_run_are_refused() {
    let folder = Folder::new(&ten());
    folder.write("scorer.sh", SCORER);
    folder.write("reviser.sh", "read -r line; exit 1");
    folder.curate(&BOTH).unwrap_err();
    let log = folder.read("kept.jsonl.answers");
    assert_eq!(log.lines().count(), 1);
    let resume = |args: &[&str]| folder.curate(&[args, &["--resume"]].concat());

    let changed = "kept.jsonl.answers:1 does not answer what is asked about pairs.jsonl:1";
    let mut other = BOTH;
    other[1] = "sh ./scorer.sh";
    let error = resume(&other).unwrap_err();
    assert!(error.contains(changed), "{error}");
    let mut records = ten();
    records[0]["original_output"] = "2 x".into();
    folder.write("pairs.jsonl", records.iter().map(|record| format!("{record}\n")).collect::<String>());
    let error = resume(&BOTH).unwrap_err();
    assert!(error.contains(changed) && error.contains("has changed"), "{error}");
    folder.write("pairs.jsonl", "");
    let error = resume(&BOTH).unwrap_err();
    assert!(error.contains("holds answers to more than is asked"), "{error}");
    assert_eq!(folder.read("kept.jsonl.answers"), log);
}

#[test]
fn commands_that_misbehave_are_named() {
    let folder = Folder::new(&[scored("a", "1", "2"), scored("b", "1", "2")]);
    let long = "x".repeat(300);
    for (script, message) in [
        ("read -r line; echo hello; cat >/dev/null", "expected a line with a number, got \"hello\""),
        ("read -r line; echo nan; cat >/dev/null", "expected a line with a number, got \"nan\""),
        ("exit 7", "expected one line in answer to each line, but it ended (exit status: 7)"),
        ("read -r line; exec >&-; read -r line", "but it closed its input or output"),
        ("read -r line; printf 1", "ended (exit status: 0) within a line: \"1\""),
        ("read -r line; printf '1\\n2\\n'; cat >/dev/null", "it has answered one line with several: \"1\", \"2\""),
        ("read -r line; printf '\\377\\n'; cat >/dev/null", "its answer is no UTF-8"),
        (&format!("read -r line; echo {long}; cat >/dev/null"), &format!("{:?} and so on", &long[..200])),
    ] {
        let error = folder.curate(&["--max-original", "5", "--scorer", script]).unwrap_err();
        assert!(error.starts_with("error: --scorer \"") && error.contains("pairs.jsonl:"), "{error}");
        assert!(error.contains(message) && error.lines().count() == 1, "{script}: {error}");
        let _ = fs::remove_file(folder.path("kept.jsonl.answers"));
    }
    let error = folder.curate(&["--reviser", "read -r line; echo '{\"revised\": 1}'; cat >/dev/null"]).unwrap_err();
    assert!(error.contains("expected a line {\"revised_output\": \"...\"}, got"), "{error}");
    // A greeting that looks like an answer moves all answers by one.
    let script = "echo 1; while read -r line; do echo 2; done";
    let error = folder.curate(&["--max-original", "5", "--scorer", script]).unwrap_err();
    assert!(
        error.contains("a line that nobody asked for") || error.contains("it has answered one line with several"),
        "{error}"
    );
    assert!(!folder.path("kept.jsonl").exists());
    let _ = fs::remove_file(folder.path("kept.jsonl.answers"));
    // Without a reference there is nothing to score.
    folder.write("pairs.jsonl", pair("a", "1", "2").to_string().replace("\"o\"", "null"));
    let error = folder.curate(&["--min-reference", "5", "--scorer", "true"]).unwrap_err();
    assert!(error.contains("field `output`: expected a reference answer to score"), "{error}");
}

/// Requests and answers longer than a pipe holds, and a command that writes before it has read all.
#[test]
fn long_lines_pass() {
    let folder = Folder::new(&[pair("a", &"long ".repeat(200_000), "")]);
    let answer = "head -c 300000 /dev/zero | tr '\\0' x";
    let script = format!("printf '{{\"revised_output\": \"'; {answer}; echo '\"}}'; cat >/dev/null");
    let counts = folder.curate(&["--reviser", &script]).unwrap();
    assert_eq!(counts["kept"], 1);
    assert!(folder.read("kept.jsonl").contains(&"x".repeat(300_000)));
}

#[test]
fn the_table_names_each_step() {
    let folder = Folder::new(&[pair("a", "x", "y"), pair("b", "x", "y"), pair("c", "x z", "y z")]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_figa"));
    let args = ["curate", "pairs.jsonl", "--out", "kept.jsonl", "--unique", "--max-words", "1"];
    let output = command.current_dir(folder.0.path()).args(args).output().unwrap();
    let expected = "      fell       left
                    3  records and 0 blank lines read
         0          3  bad records
         1          2  --max-words 1: an answer is longer
         1          1  --unique: the same prompt and answers came before
                    1  kept in kept.jsonl
";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
