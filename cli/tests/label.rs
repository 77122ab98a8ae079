//! The command `figa label`, as a person or a script calls it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use figa_loss::tokenizers::models::wordlevel::WordLevel;
use figa_loss::tokenizers::{Tokenizer, pre_tokenizers::whitespace::Whitespace};
use figa_loss::{PairEncoder, PromptTemplate, SpaRecord};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, RowAccessor};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

const WORDS: [&str; 8] = ["the", "cat", "sat", "on", "a", "mat", "and", "slept"];

struct World(tempfile::TempDir);

impl World {
    /// A folder with a tokenizer of a few words.
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        let vocab = ["</s>", "<unk>"].iter().chain(&WORDS).zip(0..).map(|(word, id)| (word.to_string(), id)).collect();
        let model = WordLevel::builder().vocab(vocab).unk_token("<unk>".into()).build().unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(Whitespace));
        tokenizer.save(world.path("tokenizer.json"), false).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_figa"));
        command.current_dir(self.0.path()).args(["label", "--tokenizer", ".", "--eos", "</s>"]).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The counts that it prints.
    fn counts(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The one line that it ends with.
    fn error(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("error: ") && error.trim_end().lines().count() == 1, "{error}");
        error["error: ".len()..].trim_end().to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The names of the files that are there.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn record(rng: &mut StdRng) -> SpaRecord {
    let words: Vec<&str> = (0..rng.random_range(1..30)).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect();
    let mut revised = words.clone();
    let at = rng.random_range(0..words.len());
    revised[at] = WORDS[rng.random_range(0..WORDS.len())];
    SpaRecord::new("Correct the sentence.", words.join(" "), revised.join(" "))
}

/// So many records, every `bad`-th of them broken.
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
    let world = World::new();
    let mut rng = StdRng::seed_from_u64(1);
    let records: Vec<SpaRecord> = (0..50).map(|_| record(&mut rng)).collect();
    world.write("pairs.json", serde_json::to_string_pretty(&records).unwrap());
    let options =
        ["pairs.json", "--prompt", "plain", "--beta", "0.25", "--granularity", "phrase:2", "--max-length", "20"];
    let counts = world.counts(&[&options[..], &["--out", "labels.jsonl"]].concat());
    world.counts(&[&options[..], &["--out", "labels.parquet"]].concat());

    let mut encoder = PairEncoder::read(world.path("tokenizer.json"), Some("</s>")).unwrap();
    encoder.template = PromptTemplate::Plain;
    encoder.weights.beta = 0.25;
    encoder.granularity = figa_loss::Granularity::Phrase(2);
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
    assert_eq!(json_rows(&world.read("labels.jsonl")), expected);
    assert_eq!(parquet_rows(&world.path("labels.parquet")), expected);
    assert_eq!(
        counts,
        json!({
            "records": 50, "labelled": 50, "set_aside": 0, "blank_lines": 0,
            "tokens": tokens, "active_tokens": active, "cut_rows": cut,
        })
    );
    assert_eq!(world.names(), ["labels.jsonl", "labels.parquet", "pairs.json", "tokenizer.json"]);
}

#[test]
fn bad_records_stop_it_or_are_set_aside_byte_for_byte() {
    let world = World::new();
    let good = serde_json::to_string(&record(&mut StdRng::seed_from_u64(2))).unwrap();
    let empty = r#"{"instruction": "i", "original_output": "", "revised_output": ""}"#;
    let bad: [&[u8]; 6] = [
        b"{\"instruction\": \"i\" ",
        b"{\"instruction\": \"\xff\", \"original_output\": \"a\", \"revised_output\": \"b\"}",
        b"{\"instruction\": \"i\", \"original_output\": \"a\"}\r",
        b"\0",
        b"[1]",
        b"{\"instruction\": \"the the the the the the the the the\", \"original_output\": \"a\", \"revised_output\": \"b\"}",
    ];
    let text =
        [good.as_bytes(), b"", bad[0], bad[1], empty.as_bytes(), bad[2], b" ", bad[3], bad[4], bad[5], good.as_bytes()];
    world.write("pairs.jsonl", text.join(&b"\n"[..]));
    let options = ["pairs.jsonl", "--prompt", "plain", "--max-length", "9", "--out", "labels.jsonl"];
    let error = world.error(&options);
    assert!(error.starts_with("pairs.jsonl:3:") && error.contains("--skip-bad FILE"), "{error}");
    // What was begun can be gone on with, but with the same arguments only.
    let skip = [&options[..], &["--skip-bad", "bad.jsonl"]].concat();
    assert_eq!(
        world.error(&skip),
        "--out: labels.jsonl.partial holds an unfinished run: go on with --resume, or remove it"
    );
    let error = world.error(&[&skip[..], &["--resume"]].concat());
    assert_eq!(error, "--resume: labels.jsonl.partial was begun with other arguments");
    fs::remove_dir_all(world.path("labels.jsonl.partial")).unwrap();

    let counts = world.counts(&skip);
    let of = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!((of("records"), of("labelled"), of("set_aside"), of("blank_lines")), (9, 3, 6, 2));
    assert_eq!(world.read("bad.jsonl"), [&bad.join(&b"\n"[..])[..], b"\n"].concat());
    let rows = json_rows(&world.read("labels.jsonl"));
    assert_eq!(rows.iter().map(|row| row["record"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 4, 9]);
}

#[test]
fn nothing_is_overwritten_and_errors_say_what_to_do() {
    let world = World::new();
    world.write("pairs.jsonl", lines(3, 3, usize::MAX));
    world.write("taken.jsonl", "mine");
    let with = |more: &[&str]| world.error(&[&["pairs.jsonl"], more].concat());
    assert_eq!(with(&["--out", "taken.jsonl"]), "--out: taken.jsonl is there already: name another file, or remove it");
    let error = with(&["--out", "l.jsonl", "--skip-bad", "taken.jsonl"]);
    assert_eq!(error, "--skip-bad: taken.jsonl is there already: name another file, or remove it");
    assert_eq!(with(&["--out", "l.csv"]), "--out: expected a name that ends in .jsonl or .parquet, got l.csv");
    assert_eq!(with(&["--out", "l.jsonl", "--alpha=-1"]), "weights.alpha: expected a finite number >= 0, got -1");
    let error = with(&["--out", "l.jsonl", "--prompt", "chat"]);
    assert!(error.contains("--prompt chat: ") && error.contains("holds no chat template"), "{error}");
    assert!(world.error(&["none.jsonl", "--out", "l.jsonl"]).starts_with("none.jsonl: No such file"));
    assert_eq!(world.read("taken.jsonl"), b"mine");
    let usage = world.run(&["pairs.jsonl"]);
    assert_eq!(usage.status.code(), Some(2));
    let no_eos = Command::new(env!("CARGO_BIN_EXE_figa"))
        .current_dir(world.0.path())
        .args(["label", "pairs.jsonl", "--tokenizer", "tokenizer.json", "--out", "l.jsonl"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&no_eos.stderr).contains("say it with --eos"));

    // No records at all are a complete file of none.
    world.write("none.jsonl", "");
    for out in ["none-labels.jsonl", "none-labels.parquet"] {
        assert_eq!(world.counts(&["none.jsonl", "--out", out])["records"], 0);
    }
    assert_eq!(parquet_rows(&world.path("none-labels.parquet")), Vec::<Value>::new());
}

#[test]
fn an_input_that_has_changed_is_not_gone_on_with() {
    let world = World::new();
    world.write("pairs.jsonl", lines(4, 3, 3));
    world.error(&["pairs.jsonl", "--out", "l.jsonl"]);
    world.write("pairs.jsonl", lines(5, 4, usize::MAX));
    let error = world.error(&["pairs.jsonl", "--out", "l.jsonl", "--resume"]);
    assert_eq!(error, "--resume: pairs.jsonl has changed since; remove l.jsonl.partial to start again");
}

#[test]
fn standard_input_is_read_as_it_comes() {
    use std::io::Write;
    let world = World::new();
    let text = lines(6, 20, usize::MAX);
    world.write("pairs.jsonl", &text);
    world.counts(&["pairs.jsonl", "--out", "file.jsonl"]);
    let records: Vec<&str> = text.lines().collect();
    // Lines or an array, with something in front of the first record; the pieces come one by one.
    let array = format!("\u{feff}\n [{}]\n", records.join(",\n"));
    for (name, text) in [("lines", format!("\u{feff}\n{text}")), ("array", array)] {
        let out = format!("{name}.jsonl");
        let mut child = world
            .command(&["-", "--out", &out, "--json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for piece in [&text.as_bytes()[..1], &text.as_bytes()[1..4], &text.as_bytes()[4..]] {
            stdin.write_all(piece).unwrap();
            stdin.flush().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{name}");
        assert_eq!(world.read(&out), world.read("file.jsonl"), "{name}");
        let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(counts["blank_lines"], u64::from(name == "lines"));
    }
}

/// `KILLS=200 cargo test --release --no-default-features --features cli --test label killed` for a long run; `SEED=...`
/// repeats one.
#[test]
fn a_run_that_is_killed_and_gone_on_with_writes_the_same_bytes() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (kills, seed) = (number("KILLS").unwrap_or(12), number("SEED").unwrap_or_else(|| rand::rng().random()));
    println!("SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new();
    world.write("pairs.jsonl", lines(7, 30_000, 100));
    let mut done = 0;
    for out in ["labels.jsonl", "labels.parquet"] {
        let options = ["pairs.jsonl", "--out", out, "--skip-bad", "bad.jsonl", "--resume"];
        let begin = Instant::now();
        let counts = world.counts(&options);
        let unbroken = begin.elapsed();
        let (expected, bad) = (world.read(out), world.read("bad.jsonl"));
        assert_eq!((counts["labelled"].as_u64(), counts["set_aside"].as_u64()), (Some(29_700), Some(300)));
        while done < kills / if out == "labels.jsonl" { 2 } else { 1 } {
            fs::remove_file(world.path(out)).unwrap();
            fs::remove_file(world.path("bad.jsonl")).unwrap();
            let last = loop {
                let mut child =
                    world.command(&[&options[..], &["--json"]].concat()).stdout(Stdio::piped()).spawn().unwrap();
                std::thread::sleep(Duration::from_secs_f64(unbroken.as_secs_f64() * rng.random_range(0.0..1.2)));
                child.kill().unwrap();
                let output = child.wait_with_output().unwrap();
                if output.status.success() {
                    break output;
                }
                done += 1;
                // Complete or absent.
                assert!(!world.path(out).exists() || world.read(out) == expected);
            };
            assert!(world.read(out) == expected, "{out} differs");
            assert!(world.read("bad.jsonl") == bad, "the records set aside differ");
            let last = String::from_utf8(last.stdout).unwrap();
            assert!(last.contains("is complete") || serde_json::from_str::<Value>(&last).unwrap() == counts, "{last}");
            assert!(!world.path(&format!("{out}.partial")).exists());
        }
        fs::remove_file(world.path("bad.jsonl")).unwrap();
    }
    println!("killed {done} times");
}
