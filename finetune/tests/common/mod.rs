//! What the tests share: tiny checkpoints, and a folder to train in.

// Each test file is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use figa_finetune::decoder::{Decoder, Load};
use figa_finetune::{Args, run};
use figa_loss::tch::{Device, Kind, Tensor};
use figa_loss::tokenizers::models::wordlevel::WordLevel;
use figa_loss::tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use figa_loss::tokenizers::{AddedToken, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The checkpoints of `checkpoints.py`.
pub const CHECKPOINTS: [&str; 16] = [
    "llama2",
    "llama3",
    "llama-bias",
    "llama-yarn",
    "llama-dynamic",
    "qwen2",
    "qwen2-window",
    "qwen3",
    "mistral",
    "smollm3",
    "phi3",
    "phi3-longrope",
    "gemma2",
    "gemma3",
    "olmo2",
    "granite",
];

/// The ids of the vocabulary: three special tokens, then the words `w3` to `w39`.
const WORDS: std::ops::Range<u32> = 3..40;

pub fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints").join(name)
}

pub fn load(folder: &Path) -> Decoder {
    let (device, kind) = (Device::Cpu, Kind::Float);
    Decoder::load(folder, Load { device, kind, weights: kind, freeze_below: 0 }).unwrap()
}

pub fn never() -> bool {
    false
}

/// A folder with a checkpoint, its tokenizer, and records in the words of the tokenizer.
pub struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    pub fn new(name: &str) -> Self {
        let sandbox = Self { folder: tempfile::tempdir().unwrap() };
        let model = sandbox.path("model");
        fs::create_dir(&model).unwrap();
        for file in fs::read_dir(checkpoint(name)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), model.join(file.file_name())).unwrap();
        }
        tokenizer().save(model.join("tokenizer.json"), false).unwrap();
        let records = (0..10).map(|number| format!("{}\n", record(number)));
        fs::write(sandbox.path("pairs.jsonl"), records.collect::<String>()).unwrap();
        sandbox
    }

    pub fn root(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text_path(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Changes the tensors of the checkpoint.
    pub fn change_tensors(&self, change: impl Fn(&str, Tensor) -> Tensor) {
        for shard in fs::read_dir(self.path("model")).unwrap() {
            let path = shard.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let tensors = Tensor::read_safetensors(&path).unwrap().into_iter();
                let tensors: Vec<_> = tensors.map(|(name, tensor)| (name.clone(), change(&name, tensor))).collect();
                Tensor::write_safetensors(&tensors, &path).unwrap();
            }
        }
    }

    /// The command line of a short run into the folder `out`. `more` may override `--name=value` arguments.
    pub fn command(&self, out: &str, more: &[&str]) -> Vec<String> {
        let (model, pairs, out) = (self.text_path("model"), self.text_path("pairs.jsonl"), self.text_path(out));
        let fixed = ["finetune", "--model", &model, "--data", &pairs, "--out", &out, "--cpu"];
        let mut short =
            vec!["--steps=6", "--batch=3", "--micro-batch=2", "--lr=0.01", "--max-length=12", "--prompt=plain"];
        short.retain(|default| {
            let (name, _) = default.split_once('=').unwrap();
            // A budget takes the place of the steps.
            let is_given = |given: &str| given == name || (given, name) == ("--budget", "--steps");
            !more.iter().any(|given| given.split_once('=').is_some_and(|(given, _)| is_given(given)))
        });
        fixed.iter().chain(&short).chain(more).map(|&argument| argument.to_owned()).collect()
    }

    pub fn args(&self, out: &str, more: &[&str]) -> Args {
        Args::try_parse_from(self.command(out, more)).unwrap()
    }

    pub fn run(&self, out: &str, more: &[&str]) -> Result<bool> {
        run(self.args(out, more), &never)
    }

    /// Starts a run and interrupts it after some steps.
    pub fn run_interrupted(&self, out: &str, more: &[&str], steps: usize) {
        let taken = std::cell::Cell::new(0);
        let interrupted = || {
            taken.set(taken.get() + 1);
            taken.get() == steps
        };
        assert!(!run(self.args(out, more), &interrupted).unwrap());
    }

    pub fn resume(&self, out: &str) -> Result<bool> {
        run(Args::try_parse_from(["finetune", "--resume", &self.text_path(out)]).unwrap(), &never)
    }

    /// The error message of a run, with the folder of the sandbox as `[folder]`.
    pub fn error(&self, out: &str, more: &[&str]) -> String {
        let error = format!("{:#}", self.run(out, more).unwrap_err());
        assert!(!error.contains('\n'), "{error}");
        error.replace(self.root(), "[folder]")
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The tensors of the trained model, as bytes.
    pub fn trained(&self, out: &str) -> Vec<u8> {
        self.bytes(&format!("{out}/model/model.safetensors"))
    }

    /// The lines of a metrics file without their times.
    pub fn metrics(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap();
        text.lines().map(|line| without_seconds(serde_json::from_str(line).unwrap())).collect()
    }

    /// An outcome without its time.
    pub fn outcome(&self, name: &str) -> Value {
        without_seconds(serde_json::from_slice(&self.bytes(name)).unwrap())
    }
}

fn without_seconds(mut value: Value) -> Value {
    value.as_object_mut().unwrap().remove("seconds").unwrap();
    value
}

fn tokenizer() -> Tokenizer {
    let special = [("[UNK]", 0), ("<s>", 1), ("</s>", 2)].map(|(token, id)| (token.to_owned(), id));
    let vocab = special.into_iter().chain(WORDS.map(|id| (format!("w{id}"), id))).collect();
    let model = WordLevel::builder().vocab(vocab).unk_token("[UNK]".into()).build().unwrap();
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
    tokenizer.add_special_tokens([AddedToken::from("</s>", true)]).unwrap();
    tokenizer
}

fn record(number: usize) -> Value {
    let word = |k: usize| format!("w{}", 3 + (7 * number + 5 * k) % WORDS.len());
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(word);
    json!({
        "instruction": format!("{a} {b}"), "output": "",
        "original_output": format!("{c} {d} {e}"), "revised_output": format!("{c} {a} {e} {b}"),
    })
}
