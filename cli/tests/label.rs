//! The command `figa label`.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::Folder;
use figa_loss::{FigaWeights, Granularity, PairEncoder, PromptTemplate, SpaRecord};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, RowAccessor};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

const WORDS: [&str; 8] = ["the", "cat", "sat", "on", "a", "mat", "and", "slept"];

/// A folder with a tokenizer of a few words.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write_tokenizer(WORDS);
    folder
}

/// The arguments of `figa label` with that tokenizer.
fn arguments<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["label", "--tokenizer", ".", "--eos", "</s>"], arguments].concat()
}

fn command(folder: &Folder, more: &[&str]) -> Command {
    folder.figa(&arguments(more))
}

fn label_error(folder: &Folder, more: &[&str]) -> String {
    folder.error(&arguments(more))
}

/// The counts that a successful run prints.
fn label_counts(folder: &Folder, more: &[&str]) -> Value {
    folder.json(&arguments(&[more, &["--json"]].concat()))
}

fn record(rng: &mut StdRng) -> SpaRecord {
    let words: Vec<&str> = (0..rng.random_range(1..30)).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect();
    let mut revised = words.clone();
    let at = rng.random_range(0..words.len());
    revised[at] = WORDS[rng.random_range(0..WORDS.len())];
    SpaRecord::new("Correct the sentence.", words.join(" "), revised.join(" "))
}

/// JSON lines with `count` records, of which every `bad`-th is invalid.
fn lines(seed: u64, count: usize, bad: usize) -> String {
    let mut rng = StdRng::seed_from_u64(seed);
    let line = |i: usize| match i % bad == bad - 1 {
        true => format!("{{\"instruction\": \"{i}\"}}\n"),
        false => serde_json::to_string(&record(&mut rng)).unwrap() + "\n",
    };
    (0..count).map(line).collect()
}

fn json_rows(bytes: &[u8]) -> Vec<Value> {
    bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

/// A Parquet file as the same JSON.
fn parquet_rows(path: &Path) -> Vec<Value> {
    let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    let number = |field: &Field| match field {
        Field::Long(number) => json!(number),
        Field::Float(number) => json!(number),
        other => panic!("{other:?}"),
    };
    let row = |row: parquet::record::Row| {
        let columns = row.get_column_iter().enumerate().map(|(i, (name, field))| {
            let value = match row.get_list(i) {
                Ok(list) => list.elements().iter().map(number).collect(),
                Err(_) => number(field),
            };
            (name.clone(), value)
        });
        Value::Object(columns.collect())
    };
    reader.get_row_iter(None).unwrap().map(|found| row(found.unwrap())).collect()
}

#[test]
fn labels_are_those_of_the_encoder() {
    let folder = folder();
    let mut rng = StdRng::seed_from_u64(1);
    let records: Vec<SpaRecord> = (0..50).map(|_| record(&mut rng)).collect();
    folder.write("pairs.json", serde_json::to_string_pretty(&records).unwrap());
    // Numbers that an f32 holds exactly.
    let weights = ["--beta", "0.25", "--gamma", "0.25", "--eos-weight", "0.5"];
    let options = ["pairs.json", "--prompt", "plain", "--granularity", "phrase:2", "--max-length", "20"];
    let options = [&options[..], &weights].concat();
    let counts = label_counts(&folder, &[&options[..], &["--out", "labels.jsonl"]].concat());
    label_counts(&folder, &[&options[..], &["--out", "labels.parquet"]].concat());

    let mut encoder = PairEncoder::read(folder.path("tokenizer.json"), Some("</s>")).unwrap();
    encoder.template = PromptTemplate::Plain;
    encoder.weights = FigaWeights { beta: 0.25, gamma: 0.25, eos: 0.5, ..FigaWeights::new() };
    encoder.granularity = Granularity::Phrase(2);
    encoder.max_length = Some(20);
    let (mut tokens, mut active, mut cut) = (0, 0, 0);
    let expected: Vec<Value> = records
        .iter()
        .zip(1..)
        .map(|(record, number)| {
            let pair = encoder.encode(record).unwrap();
            for row in [&pair.original, &pair.revised] {
                tokens += row.input_ids().len();
                active += row.weights().iter().filter(|&&weight| weight != 0.0).count();
                cut += usize::from(*row.input_ids().last().unwrap() != encoder.eos_id());
            }
            json!({
                "record": number,
                "original_input_ids": pair.original.input_ids(),
                "original_labels": pair.original.labels(),
                "original_weights": pair.original.weights(),
                "revised_input_ids": pair.revised.input_ids(),
                "revised_labels": pair.revised.labels(),
                "revised_weights": pair.revised.weights(),
            })
        })
        .collect();
    assert!(cut > 0 && active > 50);
    assert_eq!(json_rows(&folder.bytes("labels.jsonl")), expected);
    assert_eq!(parquet_rows(&folder.path("labels.parquet")), expected);
    let mut counts = counts;
    let counts = counts.as_object_mut().unwrap();
    let mut take = |name: &str| counts.remove(name).unwrap().as_f64().unwrap();
    let [added, removed, kept, eos] = ["added", "removed", "kept", "eos"].map(|name| take(&format!("{name}_tokens")));
    let [added_per_pair, removed_per_pair] = ["added", "removed"].map(|name| take(&format!("{name}_tokens_per_pair")));
    assert!(added > 0.0 && removed > 0.0);
    assert_eq!([added_per_pair, removed_per_pair], [added / 50.0, removed / 50.0]);
    let share = 0.5 * eos / (added + 0.25 * kept + 0.5 * eos);
    assert!((take("eos_share_of_reward") - share).abs() < 1e-6, "{share}");
    assert_eq!(
        Value::from(counts.clone()),
        json!({
            "records": 50, "labelled": 50, "rejected": 0, "blank_lines": 0,
            "tokens": tokens, "active_tokens": active, "cut_rows": cut,
            "rows": ".: the prompt is plain; rows begin with \"<unk>\" and are cut off",
        })
    );
    assert_eq!(folder.names(), ["labels.jsonl", "labels.parquet", "pairs.json", "tokenizer.json"]);
}

#[test]
fn bad_records_stop_the_run_or_are_rejected_byte_for_byte() {
    let folder = folder();
    let good = serde_json::to_string(&record(&mut StdRng::seed_from_u64(2))).unwrap();
    let empty = r#"{"instruction": "i", "original_output": "", "revised_output": ""}"#;
    let bad: [&[u8]; 6] = [
        b"{\"instruction\": \"i\" ",
        b"{\"instruction\": \"\xff\", \"original_output\": \"a\", \"revised_output\": \"b\"}",
        b"{\"instruction\": \"i\", \"original_output\": \"a\"}\r",
        b"\0",
        b"[1]",
        b"{\"instruction\": \"the the the the the the the the the\", \"original_output\": \"a\", \
          \"revised_output\": \"b\"}",
    ];
    let text =
        [good.as_bytes(), b"", bad[0], bad[1], empty.as_bytes(), bad[2], b" ", bad[3], bad[4], bad[5], good.as_bytes()];
    folder.write("pairs.jsonl", text.join(&b"\n"[..]));
    let options = ["pairs.jsonl", "--prompt", "plain", "--max-length", "9", "--out", "labels.jsonl"];
    let error = label_error(&folder, &options);
    assert!(error.starts_with("pairs.jsonl:3:") && error.contains("--skip-bad FILE"), "{error}");
    let skip = [&options[..], &["--skip-bad", "bad.jsonl"]].concat();
    let counts = label_counts(&folder, &skip);
    let of = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!((of("records"), of("labelled"), of("rejected"), of("blank_lines")), (9, 3, 6, 2));
    assert_eq!(folder.bytes("bad.jsonl"), [&bad.join(&b"\n"[..])[..], b"\n"].concat());
    let rows = json_rows(&folder.bytes("labels.jsonl"));
    assert_eq!(rows.iter().map(|row| row["record"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 4, 9]);
}

#[test]
fn nothing_is_overwritten_and_errors_say_what_to_do() {
    let folder = folder();
    folder.write("pairs.jsonl", lines(3, 3, usize::MAX));
    folder.write("taken.jsonl", "mine");
    let with = |more: &[&str]| label_error(&folder, &[&["pairs.jsonl"], more].concat());
    let exists = "taken.jsonl already exists: name another file, or remove it";
    assert_eq!(with(&["--out", "taken.jsonl"]), format!("--out: {exists}"));
    assert_eq!(with(&["--out", "l.jsonl", "--skip-bad", "taken.jsonl"]), format!("--skip-bad: {exists}"));
    assert_eq!(with(&["--out", "l.csv"]), "--out: expected a name that ends in .jsonl or .parquet, got l.csv");
    assert_eq!(with(&["--out", "l.jsonl", "--alpha=-1"]), "weights.alpha: expected a finite number >= 0, got -1");
    let error = with(&["--out", "l.jsonl", "--prompt", "chat"]);
    assert!(error.contains("--prompt chat: ") && error.contains("has no chat template"), "{error}");
    assert!(label_error(&folder, &["none.jsonl", "--out", "l.jsonl"]).starts_with("none.jsonl: No such file"));
    assert_eq!(
        label_error(&folder, &["none*.jsonl", "--out", "l.jsonl"]),
        "inputs: expected a file, or a pattern that matches at least one, got none*.jsonl"
    );
    let error = label_error(&folder, &["a[.jsonl", "--out", "l.jsonl"]);
    assert!(error.starts_with("inputs: a[.jsonl is not a valid pattern: "), "{error}");
    assert_eq!(folder.bytes("taken.jsonl"), b"mine");
    folder.usage_error(&arguments(&["pairs.jsonl"]));
    let error = folder.error(&["label", "pairs.jsonl", "--tokenizer", "tokenizer.json", "--out", "l.jsonl"]);
    assert!(error.contains("--eos"), "{error}");

    // No records give a complete file without rows.
    folder.write("none.jsonl", "");
    for out in ["none-labels.jsonl", "none-labels.parquet"] {
        assert_eq!(label_counts(&folder, &["none.jsonl", "--out", out])["records"], 0);
    }
    assert_eq!(parquet_rows(&folder.path("none-labels.parquet")), Vec::<Value>::new());
}

#[test]
fn standard_input_is_read_as_it_comes() {
    let folder = folder();
    let text = lines(6, 20, usize::MAX);
    folder.write("pairs.jsonl", &text);
    label_counts(&folder, &["pairs.jsonl", "--out", "file.jsonl"]);
    let records: Vec<&str> = text.lines().collect();
    // Lines or an array, with something in front of the first record; the text comes in pieces.
    let array = format!("\u{feff}\n [{}]\n", records.join(",\n"));
    for (name, text) in [("lines", format!("\u{feff}\n{text}")), ("array", array)] {
        let out = format!("{name}.jsonl");
        let mut child = command(&folder, &["-", "--out", &out, "--json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for piece in [&text.as_bytes()[..1], &text.as_bytes()[1..4], &text.as_bytes()[4..]] {
            stdin.write_all(piece).unwrap();
            stdin.flush().unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{name}");
        assert_eq!(folder.bytes(&out), folder.bytes("file.jsonl"), "{name}");
        let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(counts["blank_lines"], u64::from(name == "lines"));
    }
}

/// For a long run: `KILLS=200 cargo test --release -p figa-cli --test label killed`. `SEED=...` repeats a run.
#[test]
fn a_run_that_is_killed_and_resumed_writes_the_same_bytes() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (kills, seed) = (number("KILLS").unwrap_or(12), number("SEED").unwrap_or_else(|| rand::rng().random()));
    println!("SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = folder();
    folder.write("pairs.jsonl", lines(7, 30_000, 100));
    let mut done = 0;
    for out in ["labels.jsonl", "labels.parquet"] {
        let options = ["pairs.jsonl", "--out", out, "--skip-bad", "bad.jsonl", "--resume"];
        let begin = Instant::now();
        let counts = label_counts(&folder, &options);
        let duration = begin.elapsed();
        let (expected, bad) = (folder.bytes(out), ["bad.jsonl", "bad.jsonl.why.jsonl"].map(|name| folder.bytes(name)));
        assert_eq!((counts["labelled"].as_u64(), counts["rejected"].as_u64()), (Some(29_700), Some(300)));
        while done < kills / if out == "labels.jsonl" { 2 } else { 1 } {
            folder.remove(out);
            folder.remove("bad.jsonl");
            folder.remove("bad.jsonl.why.jsonl");
            let last = loop {
                let mut child =
                    command(&folder, &[&options[..], &["--json"]].concat()).stdout(Stdio::piped()).spawn().unwrap();
                thread::sleep(Duration::from_secs_f64(duration.as_secs_f64() * rng.random_range(0.0..1.2)));
                child.kill().unwrap();
                let output = child.wait_with_output().unwrap();
                if output.status.success() {
                    break output;
                }
                done += 1;
                // Complete or absent.
                assert!(!folder.exists(out) || folder.bytes(out) == expected);
            };
            assert!(folder.bytes(out) == expected, "{out} differs");
            let again = ["bad.jsonl", "bad.jsonl.why.jsonl"].map(|name| folder.bytes(name));
            assert!(again == bad, "the rejected records differ");
            let last = String::from_utf8(last.stdout).unwrap();
            assert!(last.contains("is complete") || serde_json::from_str::<Value>(&last).unwrap() == counts, "{last}");
            assert!(!folder.exists(&format!("{out}.partial")));
        }
        folder.remove("bad.jsonl");
        folder.remove("bad.jsonl.why.jsonl");
    }
    println!("killed {done} times");
}
