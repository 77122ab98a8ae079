//! Fine-tunes a pretrained LLM in Hugging Face layout with the FIGA loss, and shows what has changed.
//!
//! ```text
//! cargo run --release --example finetune -- --model DIR --data pairs.jsonl --eval held_out.jsonl --out RUN
//! cargo run --release --example finetune -- --model DIR --data pairs.jsonl --eval held_out.jsonl --out RUN --compare
//! cargo run --release --example finetune -- --resume RUN
//! ```
//!
//! From top to bottom: `pairs.rs` turns records into rows, `llama.rs` is the model, `train.rs` the loop, `evaluate.rs`
//! the scores, `report.rs` the table and the page. `RUN` then holds
//!
//! | file | |
//! |---|---|
//! | `run.json` | the arguments |
//! | `metrics.jsonl` | a line a step |
//! | `checkpoint-N/` | while it trains: model, optimizer and how far it has come |
//! | `model/` | in the end: the model, as `transformers` loads it |
//! | `outcome.json` | losses, scores, answers |
//! | `report.html`, `figures/` | the same to look at |
//!
//! With several methods or seeds, each has a folder of its own in `RUN` for all but `run.json` and the report.

pub mod adamw;
mod aside;
mod checkpoint;
mod evaluate;
mod figures;
pub mod generate;
pub mod hub;
pub mod llama;
mod outcome;
pub mod pairs;
mod profile;
mod report;
mod train;

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use evaluate::Evaluator;
use figa_loss::tch::{Device, Kind};
use llama::{Config, Llama, read_json};
use pairs::{Method, Pairs, Prompt};
use serde::{Deserialize, Serialize};
use train::Setup;

/// Fine-tunes a pretrained LLM on pairs of answers.
#[derive(Debug, Clone, Parser, Serialize, Deserialize)]
pub struct Args {
    /// Folder with config.json, model.safetensors (or its shards) and tokenizer.json, or a hub id (owner/name)
    #[arg(long, required_unless_present = "resume")]
    model: Option<String>,
    /// SPA records to train on (.json or .jsonl)
    #[arg(long, required_unless_present = "resume")]
    data: Option<PathBuf>,
    /// Folder for all that comes out; must not hold a run yet
    #[arg(long, required_unless_present_any = ["resume", "profile"])]
    out: Option<PathBuf>,
    /// Go on with the run in this folder, by the arguments that it was started with
    #[arg(long, value_name = "RUN", exclusive = true)]
    #[serde(skip)]
    resume: Option<PathBuf>,
    /// SPA records to evaluate on, before and after
    #[arg(long)]
    eval: Option<PathBuf>,
    /// A text that has nothing to do with the pairs, for its perplexity [default: a page about a lighthouse]
    #[arg(long)]
    text: Option<PathBuf>,
    /// How many of the records to evaluate on are answered greedily as well
    #[arg(long, default_value_t = 100)]
    answers: usize,
    /// Evaluate after every so many steps as well
    #[arg(long)]
    eval_every: Option<usize>,
    /// One or several, with commas between them
    #[arg(long, value_enum, value_delimiter = ',', default_value = "figa")]
    method: Vec<Method>,
    /// All methods, from the same start, with the same data order and budget
    #[arg(long, conflicts_with = "method")]
    compare: bool,
    /// How the model is asked [default: its chat template if it has one, else Alpaca's prompt]
    #[arg(long, value_enum)]
    prompt: Option<Prompt>,
    /// The token that ends an answer [default: the eos_token of the model]
    #[arg(long)]
    eos: Option<String>,
    #[arg(long, default_value_t = 60)]
    steps: usize,
    /// Pairs per step
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Pairs per forward pass; a step adds up as many passes as it takes
    #[arg(long, default_value_t = 4)]
    micro_batch: usize,
    /// Learning rate at its peak, after a tenth of the steps
    #[arg(long, default_value_t = 1e-5)]
    lr: f64,
    /// Tokens per row, at most; what is longer is cut
    #[arg(long, default_value_t = 256)]
    max_length: usize,
    /// Leave the embeddings and the layers below this one as they are, to save memory and time
    #[arg(long, value_name = "LAYER", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    freeze_below: i64,
    /// Write a checkpoint after every so many steps, in place of the one before
    #[arg(long, default_value_t = 500)]
    save_every: usize,
    /// The order of the data
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Train each method from so many seeds
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Compute in bf16; what learns stays in f32
    #[arg(long)]
    bf16: bool,
    /// Stay on the CPU even if there is a GPU
    #[arg(long)]
    cpu: bool,
    /// Train nothing, but tell where a step's time goes, and what the fused loss saves
    #[arg(long)]
    profile: bool,
}

impl Args {
    fn check(&self) -> Result<()> {
        for (name, number) in [
            ("batch", self.batch),
            ("micro-batch", self.micro_batch),
            ("steps", self.steps),
            ("save-every", self.save_every),
            ("seeds", self.seeds as usize),
            ("eval-every", self.eval_every.unwrap_or(1)),
        ] {
            ensure!(number > 0, "--{name}: expected at least 1, got 0");
        }
        ensure!(self.max_length > 1, "--max-length: expected at least 2, got {}", self.max_length);
        ensure!(self.lr.is_finite() && self.lr > 0.0, "--lr: expected a number > 0, got {}", self.lr);
        Ok(())
    }

    fn out(&self) -> Result<&Path> {
        self.out.as_deref().context("--out is missing")
    }

    fn methods(&self) -> Vec<Method> {
        if self.compare { Method::value_variants().to_vec() } else { self.method.clone() }
    }
}

/// What the untouched perplexity is measured on without --text.
const TEXT: &str = include_str!("untouched.txt");

/// Does what the arguments say. `false` if it was interrupted.
pub fn run(mut args: Args, interrupted: &dyn Fn() -> bool) -> Result<bool> {
    if let Some(folder) = args.resume.take() {
        args = read_json(&folder.join("run.json")).context("--resume: expected the folder of a run")?;
        args.out = Some(folder); // it may have moved
    } else {
        args.check()?;
        if let Some(out) = &args.out
            && !args.profile
        {
            let taken = out.join("run.json");
            ensure!(!taken.exists(), "--out: {} holds a run; --resume it, or name another folder", out.display());
        }
    }
    let setup = prepare(&args, interrupted)?;
    if args.profile {
        for method in args.methods() {
            print!("{}\n{}", method.name(), profile::profile(&setup, method, args.seed)?);
        }
        return Ok(true);
    }
    let out = args.out()?;
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    aside::json(&out.join("run.json"), &args)?;

    let seeds = args.seed..args.seed.saturating_add(args.seeds);
    let runs: Vec<(Method, u64)> =
        seeds.flat_map(|seed| args.methods().into_iter().map(move |method| (method, seed))).collect();
    let mut outcomes = vec![];
    for &(method, seed) in &runs {
        let folder = match runs.len() {
            1 => out.to_owned(),
            _ => out.join(format!("{}-{seed}", method.name())),
        };
        let Some(outcome) = train::train(&setup, method, seed, &folder)? else {
            println!("saved; go on with --resume {}", out.display());
            return Ok(false);
        };
        outcomes.push(outcome);
        if setup.evaluator.is_some() {
            report::write(out, &facts(&setup), &outcomes)?;
        }
    }
    if setup.evaluator.is_some() {
        println!("{}\n{}", report::table(&outcomes), out.join("report.html").display());
    }
    Ok(true)
}

/// Reads all there is to read, so that what is wrong shows before anything is computed.
fn prepare<'a>(args: &'a Args, interrupted: &'a dyn Fn() -> bool) -> Result<Setup<'a>> {
    let source = hub::folder(args.model.as_deref().context("--model is missing")?)?;
    let device = if args.cpu { Device::Cpu } else { Device::cuda_if_available() };
    let kind = if args.bf16 { Kind::BFloat16 } else { Kind::Float };
    let config = Config::read(&source)?;
    let pairs = Pairs::new(&source, &config, args.prompt, args.eos.as_deref(), args.max_length)?;
    let data = args.data.clone().context("--data is missing")?;
    let (records, train) = pairs.read(&data)?;
    let cut = pairs.cut(&train);
    println!("{}: {} pairs, {cut} rows cut at {} tokens; {device:?}", data.display(), train.len(), args.max_length);
    let mut evaluator = None;
    if let Some(path) = &args.eval {
        let held_out = pairs.read(path)?;
        let cut = pairs.cut(&held_out.1);
        println!("{}: {} pairs, {cut} rows cut at {} tokens", path.display(), held_out.1.len(), args.max_length);
        let text = match &args.text {
            Some(path) => fs::read_to_string(path).with_context(|| path.display().to_string())?,
            None => TEXT.to_owned(),
        };
        let text = evaluate::text_rows(&pairs.ids(&text)?, args.max_length);
        evaluator = Some(Evaluator::new(held_out, text, args.answers, args.micro_batch, device));
    }
    let model = Llama::load(&source, device, kind, args.freeze_below)?;
    Ok(Setup {
        args,
        source,
        source_kind: model.source_kind,
        model: Some(model).into(),
        device,
        kind,
        pairs,
        records,
        data,
        evaluator,
        start: OnceCell::new(),
        interrupted,
    })
}

/// What a reader of the report wants to know of the run.
fn facts(setup: &Setup) -> Vec<(String, String)> {
    let args = setup.args;
    let facts = [
        ("model", args.model.clone().unwrap_or_default()),
        ("data", format!("{}, {} pairs", setup.data.display(), setup.records.len())),
        ("held out", args.eval.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
        ("budget", format!("{} steps of {} pairs, rows of at most {} tokens", args.steps, args.batch, args.max_length)),
        ("learning rate", format!("{:e}, warm-up over a tenth of the steps, then a cosine to 0", args.lr)),
        ("device", format!("{:?}, {:?}", setup.device, setup.kind)),
        ("figa-loss", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).to_vec()
}
