//! A whole training run, to be read from top to bottom.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use figa_loss::tch::nn::{self, Module, ModuleT, OptimizerConfig};
use figa_loss::tch::{self, Device, Kind, Tensor};
use figa_loss::tokenizers::models::bpe::{BPE, BpeTrainer};
use figa_loss::tokenizers::{AddedToken, Tokenizer, models::TrainerWrapper, pre_tokenizers::byte_level::ByteLevel};
use figa_loss::{
    EncodedPair, Example, FigaLoss, IGNORE_INDEX, PairEncoder, PromptTemplate, SpaRecord, TokenLabel, collate,
};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

const EOS: &str = "<eos>";
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/spa_tiny.jsonl");

/// Trains a small transformer on the original answers, then with the FIGA loss, and compares.
#[derive(Parser)]
struct Args {
    /// SPA records to train on (.json or .jsonl)
    #[arg(long, default_value = TINY, hide_default_value = true)]
    data: PathBuf,
    /// SPA records to test on; without it, the last sixth of --data is held out
    #[arg(long)]
    eval: Option<PathBuf>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Steps of learning the original answers
    #[arg(long, default_value_t = 400)]
    learn_steps: usize,
    /// Steps with the FIGA loss
    #[arg(long, default_value_t = 100)]
    figa_steps: usize,
    /// Pairs per step
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Seed of weights and data order
    #[arg(long, default_value_t = 0)]
    seed: i64,
}

fn main() -> Result<()> {
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
    let encode =
        |records: &[SpaRecord]| records.iter().map(|record| encoder.encode(record)).collect::<Result<Vec<_>, _>>();
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

    // 1. Learn the original answers: after this the model believes its mistakes. All weights 1 and no gate is plain cross-entropy.
    let cross_entropy = FigaLoss { gate: None, ..FigaLoss::default() };
    let mut optimizer = nn::AdamW::default().build(&vs, 1e-3)?;
    let bar = progress("learn", args.learn_steps);
    let mut batches = Batches::new(&train, args.batch);
    for step in 1..=args.learn_steps {
        let pairs = batches.next(&mut rng);
        let rows = collate(pairs.iter().map(|pair| &pair.original), encoder.eos_id())?.to_tensors(device)?;
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
    let mut batches = Batches::new(&train, args.batch);
    for step in 1..=args.figa_steps {
        let pairs = batches.next(&mut rng);
        let rows = collate(pairs.iter().flat_map(|pair| [&pair.original, &pair.revised]), encoder.eos_id())?
            .to_tensors(device)?;
        let output = FigaLoss::default().forward(&model.forward(&rows.input_ids), &rows.labels, &rows.weights)?;
        optimizer.backward_step_clip_norm(&output.loss, 1.0);
        let (added, removed, gated) = (&output.added, &output.removed, &output.gated);
        let line = format!(
            "figa {step:>4}  loss {:7.4}  added {:>4} nll {:5.2}  removed {:>3} nll {:5.2}  gated {:>3}",
            output.loss.double_value(&[]),
            added.count()?,
            added.mean_nll()?.unwrap_or(f64::NAN),
            removed.count()?,
            removed.mean_nll()?.unwrap_or(f64::NAN),
            gated.count()?,
        );
        bar.suspend(|| println!("{line}"));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let after = [evaluate(&model, &train, device)?, evaluate(&model, &held_out, device)?];

    println!("\n                                    train              held out");
    println!("                               before   after     before   after");
    for (name, score) in Scores::ROWS {
        let [a, b] = [score(&before[0]), score(&after[0])];
        let [c, d] = [score(&before[1]), score(&after[1])];
        println!("{name:<30} {a:>6.4}  {b:>6.4}     {c:>6.4}  {d:>6.4}");
    }
    Ok(())
}

fn parse_device(name: &str) -> Result<Device> {
    Ok(match name {
        "auto" => Device::cuda_if_available(),
        "cpu" => Device::Cpu,
        _ => {
            let index = if name == "cuda" { Some(0) } else { name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) };
            let index = index.with_context(|| format!("--device: expected auto, cpu, cuda or cuda:N, got {name:?}"))?;
            let found = tch::Cuda::device_count() as usize;
            ensure!(
                index < found,
                "--device {name}: libtorch finds {found} CUDA devices; use --device cpu, or see the README on CUDA"
            );
            Device::Cuda(index)
        }
    })
}

fn load(args: &Args) -> Result<(Vec<SpaRecord>, Vec<SpaRecord>)> {
    let mut train = SpaRecord::read(&args.data)?;
    let held_out = match &args.eval {
        Some(path) => SpaRecord::read(path)?,
        None => train.split_off(train.len() - train.len() / 6),
    };
    if train.is_empty() || held_out.is_empty() {
        bail!("{} pairs to train on and {} held out; both need at least one", train.len(), held_out.len());
    }
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
    let texts = records.iter().flat_map(|r| [&r.instruction, &r.input, &r.original_output, &r.revised_output]);
    tokenizer
        .train(&mut TrainerWrapper::from(trainer), texts.map(String::as_str))
        .map_err(anyhow::Error::from_boxed)?;
    Ok(tokenizer)
}

/// Endless shuffled epochs.
struct Batches<'a> {
    pairs: Vec<&'a EncodedPair>,
    size: usize,
    next: usize,
}

impl<'a> Batches<'a> {
    fn new(pairs: &'a [EncodedPair], size: usize) -> Self {
        Self { size: size.min(pairs.len()), next: pairs.len(), pairs: pairs.iter().collect() }
    }

    fn next(&mut self, rng: &mut StdRng) -> &[&'a EncodedPair] {
        if self.next + self.size > self.pairs.len() {
            self.pairs.shuffle(rng);
            self.next = 0;
        }
        self.next += self.size;
        &self.pairs[self.next - self.size..self.next]
    }
}

const MAX_LENGTH: usize = 256;
const WIDTH: i64 = 128;
const HEADS: i64 = 4;
const LAYERS: usize = 3;

/// A decoder-only transformer with tied embeddings. Rows are padded on the right, so causal attention is all the masking it needs.
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
            x = x + attended.transpose(1, 2).reshape([batch, seq, WIDTH]).apply(out);
            x = &x + mlp.forward_t(&norms[1].forward(&x), true);
        }
        self.norm.forward(&x).matmul(&self.tokens.ws.tr())
    }
}

/// What the model thinks of a set of pairs.
struct Scores {
    added: f64,
    removed: f64,
    kept: f64,
    revised_likelier: f64,
}

impl Scores {
    const ROWS: [(&str, fn(&Self) -> f64); 4] = [
        ("mean p of added tokens", |s| s.added),
        ("mean p of removed tokens", |s| s.removed),
        ("mean p of kept tokens", |s| s.kept),
        ("pairs with revised likelier", |s| s.revised_likelier),
    ];
}

fn evaluate(model: &Model, pairs: &[EncodedPair], device: Device) -> Result<Scores> {
    let _no_grad = tch::no_grad_guard();
    let mut sums = [(0.0, 0usize); 3];
    let mut revised_likelier = 0;
    for chunk in pairs.chunks(16) {
        let examples: Vec<&Example> = chunk.iter().flat_map(|pair| [&pair.original, &pair.revised]).collect();
        let rows = collate(examples.iter().copied(), 0)?.to_tensors(device)?;
        // log p of every token given those before it; the first token has none.
        let log_p = model.forward(&rows.input_ids).log_softmax(-1, Kind::Float).slice(1, 0, -1, 1);
        let log_p = log_p.gather(2, &rows.input_ids.slice(1, 1, None, 1).unsqueeze(2), false).squeeze_dim(2);
        let log_p = Vec::<Vec<f64>>::try_from(log_p.to_device(Device::Cpu).to_kind(Kind::Double))?;
        let mut answers = Vec::new();
        for (row, (example, log_p)) in examples.iter().zip(&log_p).enumerate() {
            let response =
                || example.token_labels.iter().skip(1).zip(log_p).filter(|(label, _)| **label != TokenLabel::Ignored);
            answers.push(response().map(|(_, log_p)| log_p).sum::<f64>());
            let is_original = row % 2 == 0;
            for (label, log_p) in response() {
                let class = match label {
                    TokenLabel::Kept if is_original => continue, // counted in the revised row
                    TokenLabel::Kept => 2,
                    TokenLabel::Eos | TokenLabel::Ignored => continue,
                    _ => usize::from(is_original),
                };
                sums[class].0 += log_p.exp();
                sums[class].1 += 1;
            }
        }
        revised_likelier += answers.chunks(2).filter(|pair| pair[1] > pair[0]).count();
    }
    let [added, removed, kept] = sums.map(|(sum, count)| sum / count as f64);
    Ok(Scores { added, removed, kept, revised_likelier: revised_likelier as f64 / pairs.len() as f64 })
}

fn progress(name: &'static str, steps: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {elapsed} eta {eta}").expect("a valid template");
    ProgressBar::new(steps as u64).with_style(style).with_prefix(name)
}
