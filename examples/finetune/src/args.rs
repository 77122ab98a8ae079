//! The command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use figa_cli::{FieldArgs, PromptArgs};
use serde::{Deserialize, Serialize};

use crate::json;
use crate::method::{METHODS, Method};
use crate::rows::Layout;

/// The arguments of a run, kept beside its results.
const RUN_FILE: &str = "run.json";

/// Fine-tune a pretrained language model on pairs of an original and a revised answer.
#[derive(Debug, Clone, Parser, Serialize, Deserialize)]
pub struct Args {
    /// Folder with config.json, model.safetensors (or its shards) and tokenizer.json, or a hub id (owner/name)
    #[arg(long, required_unless_present = "resume")]
    pub model: Option<String>,
    /// Records to train on (.jsonl or .json, also compressed; .parquet)
    #[arg(long, required_unless_present = "resume")]
    pub data: Option<PathBuf>,
    /// Folder for the results; must not contain a run yet
    #[arg(long, required_unless_present_any = ["resume", "profile"])]
    pub out: Option<PathBuf>,
    /// Resume the run in this folder with its original arguments
    #[arg(long, value_name = "RUN", exclusive = true)]
    #[serde(skip)]
    pub resume: Option<PathBuf>,
    /// Records to evaluate on before and after training (.jsonl or .json, also compressed; .parquet)
    #[arg(long)]
    pub eval: Option<PathBuf>,
    /// Control text, unrelated to the pairs, whose perplexity is measured [default: a page about a lighthouse]
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// Number of evaluation records to generate greedy answers for
    #[arg(long, default_value_t = 100)]
    pub answers: usize,
    /// Also evaluate every STEPS steps
    #[arg(long, value_name = "STEPS")]
    pub eval_every: Option<usize>,
    /// Training methods, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "figa")]
    pub method: Vec<Method>,
    /// Train with every method, all from the same model, with the same data order and budget; for some of them, use --method
    /// figa,dpo
    #[arg(long, conflicts_with = "method")]
    pub compare: bool,
    /// Optimizer steps
    #[arg(long, default_value_t = 60)]
    pub steps: usize,
    /// Pairs per step
    #[arg(long, value_name = "PAIRS", default_value_t = 8)]
    pub batch: usize,
    /// Pairs per forward pass; gradients accumulate over the passes of a step
    #[arg(long, value_name = "PAIRS", default_value_t = 4)]
    pub micro_batch: usize,
    /// Compute both answers of a pair in rows of their own, instead of one row that shares what they begin with
    #[arg(long)]
    pub separate_rows: bool,
    /// Peak learning rate, reached after a tenth of the steps
    #[arg(long, default_value_t = 1e-5)]
    pub lr: f64,
    /// Maximum number of tokens per row; longer rows are truncated
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    pub max_length: usize,
    /// Freeze the embeddings and the layers below this one, to save memory and time
    #[arg(long, value_name = "LAYER", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub freeze_below: i64,
    /// Write a checkpoint every STEPS steps, in place of the previous one
    #[arg(long, value_name = "STEPS", default_value_t = 500)]
    pub save_every: usize,
    /// Seed of the data order
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Number of seeds to train each method with, starting at --seed
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seeds: u64,
    /// Compute in bf16; trainable parameters stay in f32
    #[arg(long)]
    pub bf16: bool,
    /// Use the CPU even if there is a GPU
    #[arg(long)]
    pub cpu: bool,
    /// Measure where the time of a step goes, and what packed rows and the fused loss save, without training
    #[arg(long)]
    pub profile: bool,
    /// The names of the records' fields.
    #[command(flatten)]
    #[serde(flatten)]
    pub fields: FieldArgs,
    /// The text that the model sees.
    #[command(flatten)]
    #[serde(flatten)]
    pub prompt: PromptArgs,
}

impl Args {
    /// Checks the arguments, or reads those of the run to resume.
    pub(crate) fn resolve(mut self) -> Result<Self> {
        if let Some(folder) = self.resume.take() {
            let args: Self = json::read(&folder.join(RUN_FILE)).context("--resume: expected the folder of a run")?;
            // The folder may have moved.
            return Ok(Self { out: Some(folder), ..args });
        }
        self.check()?;
        Ok(self)
    }

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
        if let Some(out) = self.out.as_deref().filter(|_| !self.profile) {
            let occupied = out.join(RUN_FILE).exists();
            let out = out.display();
            ensure!(!occupied, "--out: {out} contains a run; resume it with --resume {out}, or choose another folder");
        }
        Ok(())
    }

    /// Saves the arguments for [`resume`](Self::resume).
    pub(crate) fn save(&self) -> Result<()> {
        json::write(&self.out()?.join(RUN_FILE), self)
    }

    pub(crate) fn layout(&self) -> Layout {
        if self.separate_rows { Layout::Separate } else { Layout::Packed }
    }

    pub(crate) fn model(&self) -> Result<&str> {
        self.model.as_deref().context("--model is missing")
    }

    pub(crate) fn data(&self) -> Result<&Path> {
        self.data.as_deref().context("--data is missing")
    }

    pub(crate) fn out(&self) -> Result<&Path> {
        self.out.as_deref().context("--out is missing")
    }

    pub(crate) fn methods(&self) -> &[Method] {
        if self.compare { &METHODS } else { &self.method }
    }
}
