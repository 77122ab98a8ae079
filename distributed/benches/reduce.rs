//! What it takes to reduce gradients, and what that adds to a training step, beside PyTorch's
//! `DistributedDataParallel`.
//!
//! ```sh
//! cargo bench -p tch-c10d --bench reduce
//! cargo bench -p tch-c10d --bench reduce -- --layers 4 --rounds 3    # a smaller model, for a look
//! ```
//!
//! The model is a decoder with the shapes of SmolLM2-135M, in f32, with one thread a process. Processes stay alive and
//! take turns: in each round, each measurement once. Times are those of the slowest process, medians over the rounds.
//! What two processes take gives the rates that `scripts/scaling.py` needs. The comparison needs a `python3` with torch;
//! without one it is left out, and that is said.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use clap::Parser;
use tch::{Device, Kind, Tensor};
use tch_c10d::{ProcessGroup, ReduceOp, Reducer, ReducerOptions};

const VOCABULARY: i64 = 49_152;
const HIDDEN: i64 = 576;
const HEADS: i64 = 9;
const KV_HEADS: i64 = 3;
const HEAD: i64 = HIDDEN / HEADS;
const FEED_FORWARD: i64 = 1536;
const SEQUENCES: i64 = 2;
const TOKENS: i64 = 128;
/// Bytes of gradients that are reduced together, as in DDP.
const BUCKET_BYTES: usize = 25 << 20;

/// What a process can be asked to do.
const REDUCTIONS: [&str; 5] = ["one tensor", "one tensor, bf16", "each tensor", BUCKETS, NUMBER];
const BUCKETS: &str = "buckets of 25 MiB";
const NUMBER: &str = "a number";
const STEPS: [&str; 2] = ["step", "step, reduced"];

#[derive(Parser)]
struct Args {
    /// Layers of the model.
    #[arg(long, default_value_t = 30)]
    layers: usize,
    /// How often each measurement is made.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// The Python with the torch to compare with.
    #[arg(long, default_value = "python3")]
    python: String,
    /// Set by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    if std::env::var_os("RANK").is_some() {
        work(&args).unwrap_or_else(|error| panic!("{error}"));
        return;
    }
    let has_torch = Command::new(&args.python).args(["-c", "import torch.distributed"]).stderr(Stdio::null()).status();
    let has_torch = has_torch.is_ok_and(|status| status.success());
    if !has_torch {
        println!("{} has no torch: no comparison with PyTorch", args.python);
    }
    let parameters = shapes(args.layers).iter().map(|shape| shape.iter().product::<i64>()).sum::<i64>() as f64;
    let megabytes = parameters * 4e-6;
    println!("{} layers, {megabytes:.0} MB of gradients in f32, {} rounds", args.layers, args.rounds);
    let mut of_two = HashMap::new();
    for world_size in [1, 2, 4] {
        let times = Ranks::start(&args, world_size, false).times(&REDUCTIONS, args.rounds);
        for (what, times) in REDUCTIONS.iter().zip(&times) {
            let seconds = median(times);
            if world_size == 2 {
                of_two.insert(*what, seconds);
            }
            if *what == NUMBER {
                println!("{world_size} processes, all-reduce of {what}: {seconds:.6} s");
                continue;
            }
            let sent = if what.ends_with("bf16") { megabytes / 2.0 } else { megabytes };
            // What each process sends in a ring.
            let rate = 2.0 * (world_size - 1) as f64 / world_size as f64 * sent / seconds;
            println!("{world_size} processes, all-reduce of {what}: {seconds:.3} s, {rate:.0} MB/s sent by each");
        }
    }
    for world_size in [1, 2] {
        let mut programs = vec![("tch-c10d", Ranks::start(&args, world_size, false))];
        if has_torch {
            programs.push(("DDP in Python", Ranks::start(&args, world_size, true)));
        }
        let [step, added] = compare(programs, world_size, args.rounds);
        if world_size == 2 {
            let (tokens, buckets) = ((SEQUENCES * TOKENS) as f64, of_two[BUCKETS]);
            // One message compares the calls, and two reduce.
            let message = of_two[NUMBER] / 3.0;
            println!(
                "python3 scripts/scaling.py --counts 1 2 4 --parameters {parameters:.4e} --tokens {tokens} --flops {:.2e} \
                 --inside {:.2e} --message {message:.1e} --overlap {:.2}",
                6.0 * parameters * tokens / step,
                megabytes * 1e6 / buckets,
                1.0 - added / buckets
            );
        }
    }
}

/// Steps with and without a reduction, the programs in turn. Returns the seconds of our step, and those that its reduction
/// adds.
fn compare(mut programs: Vec<(&str, Ranks)>, world_size: usize, rounds: usize) -> [f64; 2] {
    for (_, ranks) in &mut programs {
        // The first ones do not count.
        ranks.times(&STEPS, 0);
    }
    let mut added: Vec<Vec<f64>> = vec![vec![]; programs.len()];
    let mut steps = added.clone();
    for _ in 0..rounds {
        for ((_, ranks), (added, steps)) in programs.iter_mut().zip(added.iter_mut().zip(&mut steps)) {
            let [plain, reduced] = STEPS.map(|step| ranks.time(step));
            added.push(reduced - plain);
            steps.push(plain);
        }
    }
    for ((name, _), (added, steps)) in programs.iter().zip(added.iter().zip(&steps)) {
        let (step, added) = (median(steps), median(added));
        println!("{world_size} processes, {name}: a step takes {step:.3} s, reducing its gradients adds {added:.3} s");
    }
    if let [ours, theirs] = &added[..] {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        println!("{world_size} processes: tch-c10d adds {:.2} times what DDP in Python adds", median(&ratios));
    }
    [median(&steps[0]), median(&added[0])]
}

fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

/// Processes of one group. Each reads what to do from its input, and answers with the seconds that it took.
struct Ranks(Vec<(Child, ChildStdin, Lines<BufReader<ChildStdout>>)>);

impl Ranks {
    fn start(args: &Args, world_size: usize, in_python: bool) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let start = |rank: usize| {
            let mut command = if in_python {
                let mut command = Command::new(&args.python);
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/ddp.py"));
                command
            } else {
                Command::new(std::env::current_exe().expect("a program knows its path"))
            };
            command.args(["--layers", &args.layers.to_string()]).env("OMP_NUM_THREADS", "1");
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", world_size.to_string());
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process starts");
            let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
            (child, input, BufReader::new(output).lines())
        };
        Self((0..world_size).map(start).collect())
    }

    /// How long the slowest process took.
    fn time(&mut self, what: &str) -> f64 {
        for (_, input, _) in &mut self.0 {
            writeln!(input, "{what}").expect("the process reads");
        }
        let seconds = |(_, _, output): &mut (_, _, Lines<_>)| {
            let line = output.next().expect("the process answers").expect("in UTF-8");
            line.parse::<f64>().unwrap_or_else(|_| panic!("expected seconds, got {line}"))
        };
        self.0.iter_mut().map(seconds).fold(0.0, f64::max)
    }

    /// The times of several measurements, which take turns. The first round does not count.
    fn times(&mut self, what: &[&str], rounds: usize) -> Vec<Vec<f64>> {
        let mut times = vec![vec![]; what.len()];
        for round in 0..=rounds {
            for (what, times) in what.iter().zip(&mut times) {
                let seconds = self.time(what);
                if round > 0 {
                    times.push(seconds);
                }
            }
        }
        times
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for (child, ..) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One of the processes.
fn work(args: &Args) -> tch_c10d::Result<()> {
    tch::set_num_threads(1);
    tch::manual_seed(1);
    let group = ProcessGroup::from_env()?;
    let parameter = |shape: &Vec<i64>| {
        let values = Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.02;
        values.set_requires_grad(true)
    };
    let parameters: Vec<Tensor> = shapes(args.layers).iter().map(parameter).collect();
    let mut gradients: Vec<Tensor> = vec![];
    let mut reducer = None;
    let ids = Tensor::randint(VOCABULARY, [SEQUENCES, TOKENS], (Kind::Int64, Device::Cpu));
    for what in std::io::stdin().lines().map_while(Result::ok) {
        if REDUCTIONS.contains(&&*what) && gradients.is_empty() {
            gradients = parameters.iter().map(Tensor::ones_like).collect();
        }
        if STEPS.contains(&&*what) && reducer.is_none() {
            reducer = Some(Reducer::new(&group, &parameters, ReducerOptions::default())?);
        }
        let mut tensors: Vec<Tensor> = match &*what {
            "one tensor" => vec![flat(&gradients)],
            "one tensor, bf16" => vec![flat(&gradients).to_kind(Kind::BFloat16)],
            NUMBER => vec![Tensor::zeros([1], (Kind::Float, Device::Cpu))],
            _ => vec![],
        };
        group.barrier()?;
        let start = Instant::now();
        match &*what {
            BUCKETS => reduce_in_buckets(&group, &gradients)?,
            "each tensor" => {
                let work: tch_c10d::Result<Vec<_>> =
                    gradients.iter_mut().map(|gradient| group.all_reduce(gradient, ReduceOp::Mean)).collect();
                work?.into_iter().try_for_each(tch_c10d::Work::wait)?;
            }
            "step" => loss(&parameters, &ids).backward(),
            "step, reduced" => reducer.as_ref().expect("made above").backward(&loss(&parameters, &ids))?,
            _ => tensors.iter_mut().try_for_each(|tensor| group.all_reduce(tensor, ReduceOp::Mean)?.wait())?,
        }
        println!("{}", start.elapsed().as_secs_f64());
        for gradient in parameters.iter().map(Tensor::grad).filter(Tensor::defined) {
            let _ = { gradient }.zero_();
        }
    }
    Ok(())
}

fn flat(tensors: &[Tensor]) -> Tensor {
    Tensor::cat(&tensors.iter().map(|tensor| tensor.view(-1)).collect::<Vec<_>>(), 0)
}

/// What a program does that has no reducer: it copies gradients together, and back.
fn reduce_in_buckets(group: &ProcessGroup, gradients: &[Tensor]) -> tch_c10d::Result<()> {
    let (mut buckets, mut bytes) = (vec![vec![]], 0);
    for gradient in gradients {
        if bytes > 0 && bytes + 4 * gradient.numel() > BUCKET_BYTES {
            buckets.push(vec![]);
            bytes = 0;
        }
        bytes += 4 * gradient.numel();
        buckets.last_mut().expect("never empty").push(gradient.shallow_clone());
    }
    for bucket in buckets {
        let mut reduced = flat(&bucket);
        group.all_reduce(&mut reduced, ReduceOp::Mean)?.wait()?;
        let sizes: Vec<i64> = bucket.iter().map(|gradient| gradient.numel() as i64).collect();
        for (gradient, part) in bucket.iter().zip(reduced.split_with_sizes(sizes, 0)) {
            gradient.view(-1).copy_(&part);
        }
    }
    Ok(())
}

/// The parameters: the embedding, nine of each layer, the last norm. As in `ddp.py`.
fn shapes(layers: usize) -> Vec<Vec<i64>> {
    let (kv, norm) = (KV_HEADS * HEAD, vec![HIDDEN]);
    let mut shapes = vec![vec![VOCABULARY, HIDDEN]];
    for _ in 0..layers {
        let matrices = [[HIDDEN, HIDDEN], [kv, HIDDEN], [kv, HIDDEN], [HIDDEN, HIDDEN]];
        let feed_forward = [[FEED_FORWARD, HIDDEN], [FEED_FORWARD, HIDDEN], [HIDDEN, FEED_FORWARD]];
        shapes.extend([norm.clone(), norm.clone()]);
        shapes.extend(matrices.into_iter().chain(feed_forward).map(Vec::from));
    }
    shapes.push(norm);
    shapes
}

/// A decoder without positions: they take no time worth mentioning.
fn loss(parameters: &[Tensor], ids: &Tensor) -> Tensor {
    let heads = |tensor: Tensor| tensor.view([SEQUENCES, TOKENS, -1, HEAD]).transpose(1, 2);
    let norm = |tensor: &Tensor, weight: &Tensor| tensor.rms_norm(HIDDEN, Some(weight), 1e-5);
    let project = |tensor: &Tensor, weight: &Tensor| tensor.linear(weight, None::<&Tensor>);
    let (embedding, rest) = parameters.split_first().expect("an embedding");
    let (last, layers) = rest.split_last().expect("a norm");
    let mut hidden = Tensor::embedding(embedding, ids, -1, false, false);
    for layer in layers.chunks(9) {
        let [norm_1, norm_2, query, key, value, output, gate, up, down] = layer else { panic!("nine parameters") };
        let normed = norm(&hidden, norm_1);
        let [query, key, value] = [query, key, value].map(|weight| heads(project(&normed, weight)));
        let mixed = Tensor::scaled_dot_product_attention(&query, &key, &value, None::<&Tensor>, 0.0, true, None, true);
        let mixed = mixed.transpose(1, 2).reshape([SEQUENCES, TOKENS, HIDDEN]);
        hidden = &hidden + project(&mixed, output);
        let normed = norm(&hidden, norm_2);
        hidden = &hidden + project(&(project(&normed, gate).silu() * project(&normed, up)), down);
    }
    let logits = project(&norm(&hidden, last), embedding).view([-1, VOCABULARY]);
    logits.cross_entropy_for_logits(&ids.view(-1))
}
