//! The command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use figa_cli::{FieldArgs, PromptArgs};
use figa_loss::tch::{Device, Kind};
use serde::{Deserialize, Serialize};

use crate::generate::Sampling;
use crate::json;
use crate::method::{METHODS, Method, MethodParser};
use crate::ranks::Ranks;
use crate::rows::Layout;

/// The arguments of a run, kept beside its results.
const RUN_FILE: &str = "run.json";

/// Fine-tune a pretrained language model on pairs of an original and a revised answer.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct CommandLine {
    /// What to do other than training.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to train.
    #[command(flatten)]
    pub train: Args,
}

/// A command other than training.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure a model, without training it.
    Evaluate(EvaluateArgs),
    /// Write a model's own answers to prompts.
    Rollout(RolloutArgs),
}

/// The arguments of a run.
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
    /// What is measured.
    #[command(flatten)]
    #[serde(flatten)]
    pub measure: MeasureArgs,
    /// Also evaluate every STEPS steps
    #[arg(long, value_name = "STEPS")]
    pub eval_every: Option<usize>,
    /// Training methods, separated by commas, with settings of their own if they need some: figa,figa+gamma=0.1+gate=none,dpo+beta=0.3.
    /// FIGA and its variants have paper (all weights of the paper; comes first), alpha, beta, gamma, eos (the weight of EOS), gate (its limit in nats, or none), anchor (the
    /// factor of figa-kl), aligner, granularity (token, word or phrase:N) and labels=shuffled, a control; losses of pairs have
    /// beta, changed and kept (what such tokens weigh), aligner, granularity and labels
    #[arg(long, value_parser = MethodParser, value_delimiter = ',', default_value = "figa")]
    pub method: Vec<Method>,
    /// Train with every method, all from the same model, with the same data order and budget; for some of them, use --method
    /// figa,dpo
    #[arg(long, conflicts_with = "method")]
    pub compare: bool,
    /// Optimizer steps
    #[arg(long, default_value_t = 60)]
    pub steps: usize,
    /// Train until the model has computed this many tokens, instead of for a number of steps: methods differ in what they compute
    #[arg(long, value_name = "TOKENS", conflicts_with = "steps")]
    pub budget: Option<usize>,
    /// Pairs per step
    #[arg(long, value_name = "PAIRS", default_value_t = 4)]
    pub batch: usize,
    /// Peak learning rate, reached after a tenth of the steps
    #[arg(long, default_value_t = 3e-5)]
    pub lr: f64,
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
    /// Hold trainable parameters in bf16 as well and round their updates stochastically: 12 bytes a parameter in place of 16
    #[arg(long, requires = "bf16")]
    pub bf16_weights: bool,
    /// Compute each layer once more in the backward pass, in place of keeping what it has computed: less memory, more time
    #[arg(long)]
    pub checkpoint_activations: bool,
    /// Of several processes, each holds a part of the optimizer's moments: less memory, more communication
    #[arg(long)]
    pub zero1: bool,
    /// Measure where the time of a step goes, and what packed rows and the fused loss save, without training
    #[arg(long)]
    pub profile: bool,
    /// What the model computes.
    #[command(flatten)]
    #[serde(flatten)]
    pub rows: RowArgs,
}

/// Measure a model on pairs of an original and a revised answer, without training it.
#[derive(Debug, Clone, clap::Args)]
pub struct EvaluateArgs {
    /// Folder with config.json, model.safetensors (or its shards) and tokenizer.json, or a hub id (owner/name)
    #[arg(long)]
    pub model: String,
    /// Records to evaluate on (.jsonl or .json, also compressed; .parquet)
    #[arg(long)]
    pub eval: PathBuf,
    /// Also write scores and answers to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Seed of sampled answers
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// What is measured.
    #[command(flatten)]
    pub measure: MeasureArgs,
    /// What the model computes.
    #[command(flatten)]
    pub rows: RowArgs,
}

/// Write a model's own answers to prompts, as records for `figa curate`.
#[derive(Debug, Clone, clap::Args, Serialize, Deserialize)]
pub struct RolloutArgs {
    /// Folder with config.json, model.safetensors (or its shards) and tokenizer.json, or a hub id (owner/name)
    #[arg(long)]
    pub model: String,
    /// Records to answer; they need no answers (.jsonl or .json, also compressed; .parquet)
    #[arg(long)]
    pub prompts: PathBuf,
    /// File for the records with their answers, in JSON lines; must not exist. If a command was stopped, the same one continues it
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Maximum number of tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 200)]
    pub max_tokens: usize,
    /// How tokens are chosen.
    #[command(flatten)]
    #[serde(flatten)]
    pub sampling: SamplingArgs,
    /// Seed of sampled answers
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// What the model computes.
    #[command(flatten)]
    #[serde(flatten)]
    pub rows: RowArgs,
}

impl RolloutArgs {
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.max_tokens > 0, "--max-tokens: expected at least 1, got 0");
        self.sampling.check()?;
        self.rows.check()
    }
}

/// What an evaluation measures.
#[derive(Debug, Clone, clap::Args, Serialize, Deserialize)]
pub struct MeasureArgs {
    /// Control text, unrelated to the pairs, whose perplexity is measured [default: a page about a lighthouse]
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// Number of evaluation records to generate answers for
    #[arg(long, default_value_t = 100)]
    pub answers: usize,
    /// How tokens are chosen.
    #[command(flatten)]
    #[serde(flatten)]
    pub sampling: SamplingArgs,
}

/// How the tokens of answers are chosen.
#[derive(Debug, Clone, Copy, clap::Args, Serialize, Deserialize)]
pub struct SamplingArgs {
    /// Sample the answers at this temperature; 0 for greedy answers
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Sample from the likeliest tokens that have this probability together
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f64,
}

/// How records become rows that a model computes.
#[derive(Debug, Clone, clap::Args, Serialize, Deserialize)]
pub struct RowArgs {
    /// Pairs per forward pass; gradients accumulate over the passes of a step
    #[arg(long, value_name = "PAIRS", default_value_t = 4)]
    pub micro_batch: usize,
    /// Compute both answers of a pair in rows of their own, instead of one row that shares what they begin with
    #[arg(long)]
    pub separate_rows: bool,
    /// Maximum number of tokens per row; longer rows are truncated
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    pub max_length: usize,
    /// Compute in bf16; trainable parameters stay in f32
    #[arg(long)]
    pub bf16: bool,
    /// Use the CPU even if there is a GPU
    #[arg(long)]
    pub cpu: bool,
    /// The names of the records' fields.
    #[command(flatten)]
    #[serde(flatten)]
    pub fields: FieldArgs,
    /// The text that the model sees.
    #[command(flatten)]
    #[serde(flatten)]
    pub prompt: PromptArgs,
}

impl SamplingArgs {
    pub(crate) fn with_seed(self, seed: u64) -> Sampling {
        Sampling { temperature: self.temperature, top_p: self.top_p, seed }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let Self { temperature, top_p, .. } = self;
        ensure!(
            temperature.is_finite() && *temperature >= 0.0,
            "--temperature: expected a number of at least 0, got {temperature}"
        );
        ensure!(*top_p > 0.0 && *top_p <= 1.0, "--top-p: expected a number above 0 and at most 1, got {top_p}");
        Ok(())
    }
}

impl RowArgs {
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.micro_batch > 0, "--micro-batch: expected at least 1, got 0");
        ensure!(self.max_length > 1, "--max-length: expected at least 2, got {}", self.max_length);
        Ok(())
    }

    pub(crate) fn layout(&self) -> Layout {
        if self.separate_rows { Layout::Separate } else { Layout::Packed }
    }

    pub(crate) fn device(&self, ranks: &Ranks) -> Result<Device> {
        device_of(ranks.count(), if self.cpu { Device::Cpu } else { Device::cuda_if_available() })
    }

    /// The dtype of the computation.
    pub(crate) fn kind(&self) -> Kind {
        if self.bf16 { Kind::BFloat16 } else { Kind::Float }
    }
}

/// The device of a run, given the one that there is. Processes sum their gradients on the CPU, and a run that has a GPU
/// should not leave it out unasked.
fn device_of(processes: usize, device: Device) -> Result<Device> {
    ensure!(
        processes == 1 || device == Device::Cpu,
        "{processes} processes compute on the CPU only, and there is a GPU: start one process, or give all of them --cpu \
         (when resuming a run, FIGA_LOSS_CUDA=0)"
    );
    Ok(device)
}

impl Args {
    /// Checks the arguments, or reads those of the run to resume. A program that was restarted by its launcher resumes its run.
    pub(crate) fn resolve(mut self, was_restarted: bool) -> Result<Self> {
        if was_restarted && self.out.as_ref().is_some_and(|out| out.join(RUN_FILE).exists()) {
            self.resume = self.out.take();
        }
        if let Some(folder) = self.resume.take() {
            let args: Self = json::read(&folder.join(RUN_FILE)).context("--resume: expected the folder of a run")?;
            // The folder may have moved.
            return Ok(Self { out: Some(folder), ..args });
        }
        self.check()?;
        if self.compare {
            self.method = METHODS.to_vec();
        }
        Ok(self)
    }

    fn check(&self) -> Result<()> {
        for (name, number) in [
            ("batch", self.batch),
            ("steps", self.steps),
            ("save-every", self.save_every),
            ("seeds", self.seeds as usize),
            ("eval-every", self.eval_every.unwrap_or(1)),
            ("budget", self.budget.unwrap_or(1)),
        ] {
            ensure!(number > 0, "--{name}: expected at least 1, got 0");
        }
        self.measure.sampling.check()?;
        self.rows.check()?;
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

    pub(crate) fn model(&self) -> Result<&str> {
        self.model.as_deref().context("--model is missing")
    }

    pub(crate) fn data(&self) -> Result<&Path> {
        self.data.as_deref().context("--data is missing")
    }

    pub(crate) fn out(&self) -> Result<&Path> {
        self.out.as_deref().context("--out is missing")
    }
}

#[cfg(test)]
mod tests {
    use figa_loss::tch::Device;

    use super::device_of;

    #[test]
    fn processes_do_not_leave_out_a_gpu_unasked() {
        for (processes, device) in [(1, Device::Cpu), (2, Device::Cpu), (1, Device::Cuda(0))] {
            assert_eq!(device_of(processes, device).unwrap(), device);
        }
        assert_eq!(
            device_of(2, Device::Cuda(0)).unwrap_err().to_string(),
            "2 processes compute on the CPU only, and there is a GPU: start one process, or give all of them --cpu (when \
             resuming a run, FIGA_LOSS_CUDA=0)"
        );
    }
}
