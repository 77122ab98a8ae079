//! A whole training run, to be read from top to bottom: a small causal transformer learns the original answers, mistakes
//! included, and then unlearns the mistakes with FIGA.
//!
//! ```text
//! make demo
//! cargo run --release --example train -- --help
//! ```
//!
//! The first command trains on the embedded data, 20 s on 2 cores after the build; the second lists the options. The
//! output ends with (CPU, seed 0; the last digits depend on the machine):
//!
//! ```text
//!                                   train            held out
//!                                before    after   before    after
//! p of added tokens, mean        0.0000   0.8219   0.0000   0.4072
//! p of removed tokens, mean      0.9726   0.0334   0.5355   0.0379
//! p of kept tokens, mean         0.4126   0.5657   0.0959   0.1304
//! revised likelier, share        0.0000   0.9867   0.0111   0.6000
//! ```
//!
//! The records are of one kind: answers in which verbs do not agree with their subjects ("They was late."), and their
//! corrections. The model first learns to make these mistakes, also in held-out answers, none of whose nouns, main
//! verbs, adjectives and names occurs in training: it says "was" with a probability of one half. After FIGA it has
//! unlearned them there as well, and prefers three fifths of the corrected answers, before hardly any.
//!
//! The gate stops each penalty at p = 0.549; that removed tokens fall further is what the rewards do to them: "were"
//! takes the place of "was". Kept tokens are held by a weight of their own, `gamma`, which the paper does not have: for a
//! model this small, everything else would be forgotten.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use figa_loss::tch::nn::{self, Module, ModuleT, OptimizerConfig};
use figa_loss::tch::{self, Device, Kind, Tensor};
use figa_loss::tokenizers::models::bpe::{BPE, BpeTrainer};
use figa_loss::tokenizers::{AddedToken, Tokenizer, models::TrainerWrapper, pre_tokenizers::byte_level::ByteLevel};
use figa_loss::{
    ClassSummary, EncodedPair, FigaLoss, IGNORE_INDEX, LossSummary, PairEncoder, PromptTemplate, SpaRecord, TokenLabel,
    collate,
};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};

const EOS: &str = "<eos>";
const AGREEMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/agreement.jsonl");

/// Trains a small transformer on the original answers, then with the FIGA loss, and compares.
#[derive(Parser)]
struct Args {
    /// SPA records to train on (.jsonl or .json, also compressed)
    #[arg(long, default_value = AGREEMENT, hide_default_value = true)]
    data: PathBuf,
    /// SPA records to test on; without it, the last sixth of --data is held out
    #[arg(long)]
    eval: Option<PathBuf>,
    /// auto, cpu or cuda
    #[arg(long, default_value = "auto")]
    device: String,
    /// Steps of learning the original answers
    #[arg(long, default_value_t = 400)]
    learn_steps: usize,
    /// Steps with the FIGA loss
    #[arg(long, default_value_t = 120)]
    figa_steps: usize,
    /// Pairs per step
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Seed of weights and data order
    #[arg(long, default_value_t = 0)]
    seed: i64,
}

fn main() -> Result<()> {
    figa_loss::load_cuda();
    let args = Args::parse();
    ensure!(args.batch > 0, "--batch: expected at least 1");
    let device = parse_device(&args.device)?;
    tch::manual_seed(args.seed);
    let mut rng = StdRng::seed_from_u64(args.seed as u64);

    // Records -> tokenizer -> pairs of rows with labels and signed weights.
    let (train, held_out) = load(&args)?;
    let mut encoder = PairEncoder::new(train_tokenizer(&train)?, EOS)?;
    encoder.template = PromptTemplate::Plain;
    encoder.max_length = Some(MAX_LENGTH);
    let encode = |records: &[SpaRecord]| -> Result<Vec<_>> {
        let pairs = records.iter().zip(1..);
        pairs.map(|(record, number)| encoder.encode(record).with_context(|| format!("record {number}"))).collect()
    };
    let (train, held_out) = (encode(&train)?, encode(&held_out)?);
    let vocab = encoder.tokenizer().get_vocab_size(true) as i64;

    let vs = nn::VarStore::new(device);
    let model = Model::new(&vs.root(), vocab);
    let parameters: usize = vs.trainable_variables().iter().map(|v| v.numel()).sum();
    println!(
        "{} pairs to train on, {} held out; {parameters} parameters, vocabulary {vocab}, {device:?}",
        train.len(),
        held_out.len()
    );

    // 1. Learn the original answers: after this the model believes its mistakes. All weights 1 and no gate is plain
    //    cross-entropy.
    let cross_entropy = FigaLoss::new().with_gate(None);
    let mut optimizer = nn::AdamW::default().build(&vs, 1e-3)?;
    let bar = progress("learn", args.learn_steps);
    for step in 1..=args.learn_steps {
        let pairs = train.choose_multiple(&mut rng, args.batch);
        let rows = collate(pairs.map(|pair| &pair.original), encoder.eos_id()).to_tensors(device)?;
        let weights = rows.labels.ne(IGNORE_INDEX).to_kind(Kind::Float);
        let output = cross_entropy.forward(&model.forward(&rows.input_ids), &rows.labels, &weights)?;
        optimizer.backward_step_clip_norm(&output.loss, 1.0);
        bar.suspend(|| println!("learn {step:>4}  loss {:7.4}", output.loss.double_value(&[])));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let before = [evaluate(&model, &train, device)?, evaluate(&model, &held_out, device)?];

    // 2. FIGA: both rows of each pair, weighted token by token.
    let mut optimizer = nn::AdamW::default().build(&vs, 3e-4)?;
    let bar = progress("figa", args.figa_steps);
    for step in 1..=args.figa_steps {
        let pairs = train.choose_multiple(&mut rng, args.batch);
        let rows = collate(pairs.flat_map(EncodedPair::rows), encoder.eos_id()).to_tensors(device)?;
        let output = FigaLoss::new().forward(&model.forward(&rows.input_ids), &rows.labels, &rows.weights)?;
        optimizer.backward_step_clip_norm(&output.loss, 1.0);
        let LossSummary { rewarded: added, penalised: removed, gated, .. } = output.stats.read()?;
        let nll = |class: ClassSummary| class.mean_nll.map_or("-".into(), |nll| format!("{nll:.2}"));
        let line = format!(
            "figa {step:>4}  loss {:7.4}  added {:>4} nll {:>5}  removed {:>3} nll {:>5}  gated {:>3}",
            output.loss.double_value(&[]),
            added.count,
            nll(added),
            removed.count,
            nll(removed),
            gated.count,
        );
        bar.suspend(|| println!("{line}"));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let after = [evaluate(&model, &train, device)?, evaluate(&model, &held_out, device)?];

    println!("\n{:<28}{:^18}{:^18}", "", "train", "held out");
    println!("{:<28}{:>9}{:>9}{:>9}{:>9}", "", "before", "after", "before", "after");
    for (row, name) in SCORES.iter().enumerate() {
        print!("{name:<28}");
        [before[0], after[0], before[1], after[1]].iter().for_each(|scores| print!("{:>9.4}", scores[row]));
        println!();
    }
    Ok(())
}

fn parse_device(name: &str) -> Result<Device> {
    match name {
        "auto" => Ok(Device::cuda_if_available()),
        "cpu" => Ok(Device::Cpu),
        "cuda" if tch::Cuda::is_available() => Ok(Device::Cuda(0)),
        "cuda" => bail!("--device cuda: libtorch finds no CUDA device; use --device cpu, or see the README"),
        _ => bail!("--device: expected auto, cpu or cuda, got {name:?}"),
    }
}

fn load(args: &Args) -> Result<(Vec<SpaRecord>, Vec<SpaRecord>)> {
    let mut train = SpaRecord::read(&args.data)?;
    let held_out = match &args.eval {
        Some(path) => SpaRecord::read(path)?,
        None => train.split_off(train.len() - train.len() / 6),
    };
    let counts = (train.len(), held_out.len());
    ensure!(
        counts.0 > 0 && counts.1 > 0,
        "{} pairs to train on, {} held out: both need at least one",
        counts.0,
        counts.1
    );
    Ok((train, held_out))
}

/// A byte-level BPE, trained on all that the model will see in training.
fn train_tokenizer(records: &[SpaRecord]) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let trainer = BpeTrainer::builder()
        .vocab_size(1500)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(EOS, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let texts = records.iter().flat_map(|record| {
        let answers = [&record.original_output, &record.revised_output].map(|answer| answer.text());
        [(&*record.instruction).into(), (&*record.input).into()].into_iter().chain(answers)
    });
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts).map_err(anyhow::Error::from_boxed)?;
    Ok(tokenizer)
}

const MAX_LENGTH: usize = 256;
const WIDTH: i64 = 128;
const HEADS: i64 = 4;
const LAYERS: usize = 3;

/// A decoder-only transformer with tied embeddings. Rows are padded on the right, so causal attention is all the
/// masking it needs.
struct Model {
    tokens: nn::Embedding,
    positions: nn::Embedding,
    blocks: Vec<Block>,
    norm: nn::LayerNorm,
}

struct Block {
    norms: [nn::LayerNorm; 2],
    qkv: nn::Linear,
    out: nn::Linear,
    mlp: nn::Sequential,
}

impl Model {
    fn new(p: &nn::Path, vocab: i64) -> Self {
        let small = nn::EmbeddingConfig { ws_init: nn::Init::Randn { mean: 0.0, stdev: 0.02 }, ..Default::default() };
        let block = |p: nn::Path| Block {
            norms: ["norm1", "norm2"].map(|name| nn::layer_norm(&p / name, vec![WIDTH], Default::default())),
            qkv: nn::linear(&p / "qkv", WIDTH, 3 * WIDTH, Default::default()),
            out: nn::linear(&p / "out", WIDTH, WIDTH, Default::default()),
            mlp: nn::seq()
                .add(nn::linear(&p / "up", WIDTH, 4 * WIDTH, Default::default()))
                .add_fn(|x| x.gelu("none"))
                .add(nn::linear(&p / "down", 4 * WIDTH, WIDTH, Default::default())),
        };
        Self {
            tokens: nn::embedding(p / "tokens", vocab, WIDTH, small),
            positions: nn::embedding(p / "positions", MAX_LENGTH as i64, WIDTH, small),
            blocks: (0..LAYERS).map(|layer| block(p / "block" / layer)).collect(),
            norm: nn::layer_norm(p / "norm", vec![WIDTH], Default::default()),
        }
    }

    /// `input_ids [B, S]` to `logits [B, S, V]`.
    fn forward(&self, input_ids: &Tensor) -> Tensor {
        let (batch, seq) = input_ids.size2().expect("input_ids is [B, S]");
        let mut x = self.tokens.forward(input_ids) + self.positions.ws.narrow(0, 0, seq);
        for Block { norms, qkv, out, mlp } in &self.blocks {
            let qkv = norms[0].forward(&x).apply(qkv).view([batch, seq, 3, HEADS, -1]).permute([2, 0, 3, 1, 4]);
            let attended = Tensor::scaled_dot_product_attention::<Tensor>(
                &qkv.get(0),
                &qkv.get(1),
                &qkv.get(2),
                None,
                0.0,
                true,
                None,
                false,
            );
            x = &x + attended.transpose(1, 2).reshape([batch, seq, WIDTH]).apply(out);
            x = &x + mlp.forward_t(&norms[1].forward(&x), true);
        }
        self.norm.forward(&x).matmul(&self.tokens.ws.tr())
    }
}

const SCORES: [&str; 4] =
    ["p of added tokens, mean", "p of removed tokens, mean", "p of kept tokens, mean", "revised likelier, share"];

/// The [`SCORES`] of a model on some pairs. EOS counts for neither class.
fn evaluate(model: &Model, pairs: &[EncodedPair], device: Device) -> Result<[f64; 4]> {
    let _no_grad = tch::no_grad_guard();
    let (mut sums, mut counts, mut revised_likelier) = ([0.0; 3], [0; 3], 0);
    for pairs in pairs.chunks(16) {
        let rows = collate(pairs.iter().flat_map(EncodedPair::rows), 0).to_tensors(device)?;
        // log p of every token, given those before it; the first token of a row has none.
        let log_p = model.forward(&rows.input_ids).log_softmax(-1, Kind::Float).slice(1, 0, -1, 1);
        let log_p = log_p.gather(2, &rows.input_ids.slice(1, 1, None, 1).unsqueeze(2), false).squeeze_dim(2);
        let log_p = Vec::<Vec<f64>>::try_from(log_p.to_kind(Kind::Double).to_device(Device::Cpu))?;
        for (pair, log_p) in pairs.iter().zip(log_p.chunks(2)) {
            let mut answers = [0.0; 2];
            for (side, example) in pair.rows().into_iter().enumerate() {
                for (label, log_p) in example.token_labels().iter().skip(1).zip(&log_p[side]) {
                    let class = match label {
                        TokenLabel::Ignored => continue,
                        TokenLabel::Inserted | TokenLabel::Substituted if side == 1 => Some(0),
                        TokenLabel::Deleted | TokenLabel::Substituted => Some(1),
                        TokenLabel::Kept if side == 1 => Some(2),
                        _ => None,
                    };
                    answers[side] += log_p;
                    if let Some(class) = class {
                        sums[class] += log_p.exp();
                        counts[class] += 1;
                    }
                }
            }
            revised_likelier += usize::from(answers[1] > answers[0]);
        }
    }
    let mean = |class: usize| sums[class] / f64::from(counts[class]);
    Ok([mean(0), mean(1), mean(2), revised_likelier as f64 / pairs.len() as f64])
}

fn progress(name: &'static str, steps: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {elapsed} eta {eta}").expect("a valid template");
    ProgressBar::new(steps as u64).with_style(style).with_prefix(name)
}
