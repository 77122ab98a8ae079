//! What the tests share: a folder in which they run `figa`, records, and a tokenizer of words.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A temporary folder in which `figa` runs.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A folder with these records in `pairs.jsonl`.
    pub fn with_records(records: impl IntoIterator<Item = Value>) -> Self {
        let folder = Self::new();
        folder.write("pairs.jsonl", lines(records));
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// The names of all files and folders, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Writes a `tokenizer.json` with one token per word; `</s>` is one of them.
    pub fn write_tokenizer(&self, words: impl IntoIterator<Item = impl Into<String>>) {
        let words = ["<unk>", "</s>"].map(String::from).into_iter().chain(words.into_iter().map(Into::into));
        let vocab: Map<String, Value> = words.zip(0..).map(|(word, id): (_, u32)| (word, json!(id))).collect();
        let model = json!({"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"});
        let tokenizer = json!({"model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}});
        self.write("tokenizer.json", tokenizer.to_string());
    }

    /// `figa` with these arguments, without input and without colours.
    pub fn figa(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_figa"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_remove("CLICOLOR_FORCE").env_remove("NO_COLOR");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.figa(arguments).output().unwrap()
    }

    /// What a successful run prints.
    pub fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a successful run prints as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(arguments)).unwrap()
    }

    /// The one line of a run that fails, without `error: `.
    pub fn error(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{arguments:?}: {error}");
        // Bad records that the run went past are named above it.
        let (last, rejected) = error.trim_end().rsplit_once('\n').map_or((error.trim_end(), ""), |(a, b)| (b, a));
        assert!(rejected.lines().all(|line| line.starts_with("rejected: ")), "{error}");
        last.strip_prefix("error: ").unwrap().to_owned()
    }

    /// The text of a run whose arguments cannot be parsed.
    pub fn usage_error(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}: {error}");
        error
    }
}

pub fn record(instruction: &str, original: &str, revised: &str) -> Value {
    json!({"instruction": instruction, "original_output": original, "revised_output": revised})
}

/// One line per record.
pub fn lines(records: impl IntoIterator<Item = Value>) -> String {
    records.into_iter().map(|record| format!("{record}\n")).collect()
}

/// The records of the examples.
pub fn example_records() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/spa_tiny.jsonl")
}
