//! Fine-tunes a pretrained LLM in Hugging Face layout with the FIGA loss, and evaluates it before and after.
//!
//! ```text
//! cargo run --release --example finetune -- --model DIR --data pairs.jsonl --eval held_out.jsonl
//! ```
//!
//! DIR holds `config.json`, `model.safetensors` (or its shards) and `tokenizer.json` of a model of the Llama family, see
//! `llama.rs`. The pairs are SPA records.

mod llama;

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use figa_loss::tch::nn::{self, OptimizerConfig};
use figa_loss::tch::{self, Device, Kind, Tensor};
use figa_loss::tokenizers::Tokenizer;
use figa_loss::{
    EncodedPair, Example, FigaLoss, IGNORE_INDEX, PairEncoder, PromptTemplate, Reduction, SpaRecord, TokenLabel,
    collate,
};
use indicatif::{ProgressBar, ProgressStyle};
use llama::Llama;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

/// Fine-tunes a pretrained LLM on pairs of answers.
#[derive(Parser)]
struct Args {
    /// Folder with config.json, model.safetensors (or its shards) and tokenizer.json
    #[arg(long)]
    model: PathBuf,
    /// SPA records to train on (.json or .jsonl)
    #[arg(long)]
    data: PathBuf,
    /// SPA records to evaluate on, before and after
    #[arg(long)]
    eval: PathBuf,
    #[arg(long, value_enum, default_value = "figa")]
    method: Method,
    /// The token that ends an answer
    #[arg(long, default_value = "<|im_end|>")]
    eos: String,
    #[arg(long, default_value_t = 60)]
    steps: usize,
    /// Pairs per step
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Pairs per forward pass; a step adds up as many passes as it takes
    #[arg(long, default_value_t = 4)]
    micro_batch: usize,
    /// Learning rate at its peak, after a tenth of the steps
    #[arg(long, default_value_t = 1e-5)]
    lr: f64,
    /// Tokens per row, at most
    #[arg(long, default_value_t = 256)]
    max_length: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Compute in bf16 rather than f32
    #[arg(long)]
    bf16: bool,
    /// Stay on the CPU even if there is a GPU
    #[arg(long)]
    cpu: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Method {
    /// Both answers, weighted token by token
    Figa,
    /// Cross-entropy on the revised answers
    Sft,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.batch > 0 && args.micro_batch > 0 && args.steps > 0, "--batch, --micro-batch and --steps: at least 1");
    let device = if args.cpu { Device::Cpu } else { Device::cuda_if_available() };
    let mut rng = StdRng::seed_from_u64(args.seed);
    let model = Llama::load(&args.model, device, if args.bf16 { Kind::BFloat16 } else { Kind::Float })?;

    // Records -> rows of token ids, labels and signed weights.
    let tokenizer = Tokenizer::from_file(args.model.join("tokenizer.json"))
        .map_err(|error| anyhow!("{}: {error}", args.model.join("tokenizer.json").display()))?;
    let (tokens, vocab) = (tokenizer.get_vocab_size(true) as i64, model.config.vocab_size);
    ensure!(tokens <= vocab, "the tokenizer has {tokens} tokens, but the model's vocabulary only {vocab}");
    let context = model.config.max_position_embeddings;
    ensure!(args.max_length as i64 <= context, "--max-length: the model knows {context} positions at most");
    let mut encoder = PairEncoder::new(tokenizer, &args.eos)?;
    encoder.template = PromptTemplate::Plain;
    encoder.max_length = Some(args.max_length);
    let read = |path: &PathBuf| -> Result<Vec<EncodedPair>> {
        let records = SpaRecord::read(path)?;
        ensure!(!records.is_empty(), "{}: there are no records", path.display());
        let numbered = records.iter().zip(1..);
        numbered
            .map(|(record, n)| encoder.encode(record).with_context(|| format!("{}: record {n}", path.display())))
            .collect()
    };
    let (train, held_out) = (read(&args.data)?, read(&args.eval)?);
    let parameters: usize = model.vs.trainable_variables().iter().map(Tensor::numel).sum();
    println!("{} pairs, {} held out; {parameters} parameters on {device:?}", train.len(), held_out.len());

    let before = evaluate(&model, &held_out, args.micro_batch, device)?;
    let mut optimizer = nn::AdamW { wd: 0.0, ..Default::default() }.build(&model.vs, args.lr)?;
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {elapsed} eta {eta}  {msg}")?;
    let bar = ProgressBar::new(args.steps as u64).with_style(style);
    let mut order: Vec<usize> = vec![];
    for step in 0..args.steps {
        while order.len() < args.batch {
            let mut epoch: Vec<usize> = (0..train.len()).collect();
            epoch.shuffle(&mut rng);
            order.splice(0..0, epoch);
        }
        let pairs = order.split_off(order.len() - args.batch);
        let pairs: Vec<Vec<Example>> = pairs.into_iter().map(|pair| rows(args.method, &train[pair])).collect();
        // Divided by the count of the whole step, micro-batches add up to its gradient.
        let active: usize = pairs.iter().flatten().map(active_tokens).sum();
        let loss = FigaLoss { reduction: Reduction::External(active.max(1) as f64), ..config(args.method) };
        let mut total = 0.0;
        optimizer.zero_grad();
        for pairs in pairs.chunks(args.micro_batch) {
            let batch = collate(pairs.iter().flatten(), encoder.eos_id())?.to_tensors(device)?;
            let hidden = model.forward(&batch.input_ids);
            let output = loss.forward_linear(&hidden, model.lm_head(), &batch.labels, &batch.weights)?;
            output.loss.backward();
            total += output.loss.double_value(&[]);
        }
        ensure!(total.is_finite(), "step {}: the loss is {total}", step + 1);
        optimizer.set_lr(args.lr * schedule(step, args.steps));
        optimizer.clip_grad_norm(1.0);
        optimizer.step();
        bar.set_message(format!("loss {total:.4}"));
        bar.suspend(|| println!("step {:>4}  loss {total:8.4}  active {active:>5}", step + 1));
        bar.inc(1);
    }
    bar.finish_and_clear();

    let after = evaluate(&model, &held_out, args.micro_batch, device)?;
    println!("\nheld out                        before    after");
    for ((name, before), after) in SCORES.iter().zip(before).zip(after) {
        println!("{name:<30} {before:>7.4}  {after:>7.4}");
    }
    Ok(())
}

/// The rows that a method learns from.
fn rows(method: Method, pair: &EncodedPair) -> Vec<Example> {
    match method {
        Method::Figa => vec![pair.original.clone(), pair.revised.clone()],
        Method::Sft => vec![all_weights_one(&pair.revised)],
    }
}

fn config(method: Method) -> FigaLoss {
    match method {
        Method::Figa => FigaLoss::default(),
        Method::Sft => FigaLoss { gate: None, ..FigaLoss::default() },
    }
}

fn all_weights_one(example: &Example) -> Example {
    let weights = example.labels.iter().map(|&label| if label == IGNORE_INDEX { 0.0 } else { 1.0 }).collect();
    Example { weights, ..example.clone() }
}

fn active_tokens(example: &Example) -> usize {
    example.weights.iter().zip(&example.labels).skip(1).filter(|&(&w, &l)| w != 0.0 && l != IGNORE_INDEX).count()
}

/// Linear warm-up over a tenth of the steps, then a cosine to 0.
fn schedule(step: usize, steps: usize) -> f64 {
    let warm_up = steps.div_ceil(10);
    if step < warm_up {
        return (step + 1) as f64 / warm_up as f64;
    }
    let done = (step - warm_up) as f64 / (steps - warm_up) as f64;
    0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

const SCORES: [&str; 5] = [
    "p of added tokens, mean",
    "p of removed tokens, mean",
    "p of kept tokens, mean",
    "revised likelier, share",
    "perplexity of revised answers",
];

/// The [`SCORES`] of a model on some pairs.
fn evaluate(model: &Llama, pairs: &[EncodedPair], micro_batch: usize, device: Device) -> Result<[f64; 5]> {
    let _no_grad = tch::no_grad_guard();
    let single = FigaLoss { gate: None, reduction: Reduction::None, ..FigaLoss::default() };
    let (mut sums, mut counts) = ([0.0; 3], [0; 3]);
    let (mut revised_likelier, mut revised_nll, mut revised_tokens) = (0, 0.0, 0);
    for pairs in pairs.chunks(micro_batch) {
        let rows: Vec<Example> =
            pairs.iter().flat_map(|pair| [&pair.original, &pair.revised]).map(all_weights_one).collect();
        let batch = collate(&rows, 0)?.to_tensors(device)?;
        let hidden = model.forward(&batch.input_ids);
        let nll = single.forward_linear(&hidden, model.lm_head(), &batch.labels, &batch.weights)?.loss;
        let nll = Vec::<Vec<f64>>::try_from(nll.to_kind(Kind::Double).to_device(Device::Cpu))?;
        for (rows, nll) in rows.chunks(2).zip(nll.chunks(2)) {
            let mut answers = [0.0; 2];
            for side in 0..2 {
                for (label, nll) in rows[side].token_labels.iter().zip(&nll[side]) {
                    if *label == TokenLabel::Ignored {
                        continue;
                    }
                    answers[side] += nll;
                    let class = match label {
                        TokenLabel::Inserted | TokenLabel::Substituted if side == 1 => 0,
                        TokenLabel::Deleted | TokenLabel::Substituted => 1,
                        TokenLabel::Kept if side == 1 => 2,
                        _ => continue,
                    };
                    sums[class] += (-nll).exp();
                    counts[class] += 1;
                }
            }
            revised_likelier += usize::from(answers[1] < answers[0]);
            revised_nll += answers[1];
            revised_tokens += rows[1].token_labels.iter().filter(|&&label| label != TokenLabel::Ignored).count();
        }
    }
    let mean = |class: usize| sums[class] / f64::from(counts[class]);
    let (likelier, perplexity) =
        (revised_likelier as f64 / pairs.len() as f64, (revised_nll / revised_tokens as f64).exp());
    Ok([mean(0), mean(1), mean(2), likelier, perplexity])
}
