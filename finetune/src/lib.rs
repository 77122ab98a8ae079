//! Fine-tunes a pretrained language model in Hugging Face layout with the FIGA loss, and reports what has changed.
//!
//! ```text
//! cargo run --release -p figa-finetune -- --model DIR --data pairs.jsonl --eval held_out.jsonl --out RUN
//! cargo run --release -p figa-finetune -- --model DIR --data pairs.jsonl --eval held_out.jsonl --out RUN --compare
//! cargo run --release -p figa-finetune -- --resume RUN
//! cargo run --release -p figa-finetune -- evaluate --model DIR --eval held_out.jsonl
//! cargo run --release -p figa-finetune -- rollout --model DIR --prompts prompts.jsonl --out answers.jsonl
//! ```
//!
//! # From arguments to report
//!
//! 1. `args` checks the command line, or reads that of the run to resume.
//! 2. `experiment` reads everything that the runs share. [`hub`] finds the model, [`decoder`] loads it, and [`encode`]
//!    turns records into rows. `inputs` is what a resumed run must find unchanged.
//! 3. `train` is the loop, for each [`method`] and seed. `reference` holds what some methods need of the base model.
//!    `schedule` selects the pairs of a step, `rows` makes batches of them, `loss` computes their [`gradients`] and `stats`, [`adamw`] updates
//!    the parameters, `log` and `progress` report, and `checkpoint` saves.
//! 4. `evaluate` scores a model on held-out pairs, with answers from [`generate`], and on a control text.
//!    `metrics` lists the scores; `word_edits` defines one of them.
//! 5. `summary` groups the outcomes by method. `table`, `figures` with `plot`, and `report` show them.
//!
//! `measure` evaluates a model without training it, and `rollout` writes a model's own answers to prompts. `clock` measures the parts of a step, and `json` reads and writes files. [`ranks`] divides all work among the processes that a launcher has started. With `--profile`, `profile` replaces steps 3
//! to 5.
//!
//! # The folder of a run
//!
//! | file | content |
//! |---|---|
//! | `run.json` | the arguments |
//! | `inputs.json` | hashes of the model and the data, which a resumed run must find unchanged |
//! | `reference.safetensors` | the log-probabilities of all answers under the base model, for methods that need them |
//! | `metrics.jsonl` | a line for each step |
//! | `lock` | locked while a process trains |
//! | `checkpoint-N/` | during training: model, optimizer, metrics and progress after step N |
//! | `model/` | after training: the model, which `transformers` can load |
//! | `outcome.json` | losses, scores and answers |
//! | `baseline.json` | scores and answers of the base model |
//! | `report.html`, `figures/` | scores, curves and answers to look at |
//!
//! With several methods or seeds, each run has a subfolder for its metrics, checkpoints, model and outcome.

pub mod adamw;
mod args;
mod checkpoint;
mod clock;
pub mod decoder;
pub mod encode;
mod evaluate;
mod experiment;
mod figures;
pub mod generate;
pub mod gradients;
pub mod hub;
mod inputs;
mod json;
mod log;
mod loss;
mod measure;
pub mod method;
mod metrics;
mod plot;
mod profile;
mod progress;
pub mod ranks;
mod reference;
mod report;
mod rollout;
mod rows;
mod schedule;
mod stats;
mod summary;
mod table;
mod train;
mod word_edits;

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};

pub use self::args::{Args, Command, CommandLine};
use self::decoder::Decoder;
use self::experiment::Experiment;
pub use self::measure::evaluate;
use self::ranks::Ranks;
pub use self::rollout::rollout;
use self::table::Table;
use self::train::Run;

/// Runs the program. Returns `false` if `interrupted`, which is asked after each step, ended it early.
///
/// # Errors
/// One line that names the argument or file, and what to do.
pub fn run(args: Args, interrupted: &dyn Fn() -> bool) -> Result<bool> {
    let args = args.resolve(Ranks::were_restarted()?)?;
    let ranks = &Ranks::from_env()?;
    let (experiment, base_model) = Experiment::prepare(&args, ranks)?;
    if args.profile {
        ensure!(ranks.count() == 1, "--profile: expected one process, found {}", ranks.count());
        for &method in &args.method {
            print!("{}\n{}", method.name, profile::profile(&experiment, &base_model, method)?);
        }
        return Ok(true);
    }
    let out = args.out()?;
    let mut held = None;
    ranks.from_first(|| {
        fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        held = Some(lock(out)?);
        checkpoint::remove_partial(out)?;
        let mut saved = args.clone();
        // A run that resumes this one has the same clock.
        saved.rows.prompt.date = experiment.encoder.date().map(str::to_owned);
        saved.save()?;
        experiment.inputs.keep(out)
    })?;
    train_all(&experiment, base_model, out, interrupted)
}

/// Keeps other processes out of the folder of a run.
fn lock(out: &Path) -> Result<File> {
    let path = out.join("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    ensure!(file.try_lock().is_ok(), "--out: another process is training in {}", out.display());
    Ok(file)
}

fn train_all(experiment: &Experiment, base_model: Decoder, out: &Path, interrupted: &dyn Fn() -> bool) -> Result<bool> {
    let is_first = experiment.ranks.is_first();
    let shows_report = is_first && experiment.evaluator.is_some();
    let mut base_model = Some(base_model);
    let mut outcomes = vec![];
    for run in runs(experiment.args, out) {
        let Some(outcome) = train::train(experiment, &run, &mut base_model, interrupted)? else {
            if is_first {
                println!("saved; resume with --resume {}", out.display());
            }
            return Ok(false);
        };
        outcomes.push(outcome);
        if shows_report {
            report::write(out, &experiment.facts(), &outcomes)?;
        }
    }
    if shows_report {
        println!("{}\n{}", Table::new(&outcomes), out.join("report.html").display());
    }
    Ok(true)
}

/// All runs: every method with the first seed, then with the next one.
fn runs(args: &Args, out: &Path) -> Vec<Run> {
    let seeds = args.seed..args.seed.saturating_add(args.seeds);
    let runs = seeds.flat_map(|seed| args.method.iter().map(move |&method| (method, seed)));
    let mut runs: Vec<Run> =
        runs.map(|(method, seed)| Run { method, seed, folder: out.join(format!("{}-{seed}", method.name)) }).collect();
    if let [only] = &mut runs[..] {
        only.folder = out.to_owned();
    }
    runs
}
