//! `cargo bench --bench loss`: forward and backward pass on the CPU, compared with the expressions that they replace.
//!
//! * from logits: `figa_loss`, and a flat PyTorch expression that computes every row
//! * with the head: `fused_linear_figa_loss`, a matrix product followed by the flat expression, and the three matrix
//!   products on the active rows that every method needs
//! * in two passes: a closure with `linear_loss`, and the four matrix products on the active rows that it takes
//! * of pairs: `Dpo` with token weights, and a matrix product followed by the plain expression
//!
//! The variants run alternately; times are medians. Peak memory is what one run adds to the inputs, measured in a
//! process of its own (Linux).
//!
//! `benches/gpu_losses.py` compares with losses of other libraries on a GPU. It calls
//! `cargo bench --bench loss -- on FILE`, which times the fused loss and the matrix products on the tensors of a file.

use std::collections::HashMap;
use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use figa_loss::tch::{Cuda, Device, Kind, Reduction, Tensor, manual_seed};
use figa_loss::{
    Dpo, IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, Rows, figa_loss, fused_linear_figa_loss, linear_loss,
};

/// Sequences of a batch.
const B: i64 = 8;
/// Tokens of a sequence.
const S: i64 = 512;
/// Tokens of the vocabulary.
const V: i64 = 32_000;
/// Width of the hidden states.
const H: i64 = 512;
const ROUNDS: usize = 5;

/// Rounds on the tensors of a file, after some that warm up.
const FILE_ROUNDS: usize = 9;
const WARM_UP: usize = 3;

/// Enough for threads and libraries to allocate their memory.
const WARM_UP_TOKENS: i64 = 8;

/// The default gate.
const GATE: f64 = 0.6;
const MIB: f64 = (1 << 20) as f64;

/// The share of active tokens, and the share of those that have a negative weight, in percent. At random logits all
/// tokens with a negative weight are gated.
const CASES: [(i64, i64); 5] = [(1, 50), (10, 50), (10, 0), (30, 50), (100, 50)];

#[derive(Clone, Copy, PartialEq)]
enum Variant {
    FromLogits,
    Flat,
    Fused,
    Dense,
    Products,
    Closure,
    FourProducts,
    FusedDpo,
    DenseDpo,
}

use Variant::*;

const FUSED: &str = "fused_linear_figa_loss";
const PRODUCTS: &str = "three matrix products";

const CLOSURE: &str = "closure with linear_loss";
const FOUR_PRODUCTS: &str = "four matrix products";

/// With its name, and what its time is compared with.
const VARIANTS: [(Variant, &str, Variant); 9] = [
    (FromLogits, "figa_loss", FromLogits),
    (Flat, "flat expression", FromLogits),
    (Fused, FUSED, Fused),
    (Dense, "dense head, flat expression", Fused),
    (Products, PRODUCTS, Fused),
    (Closure, CLOSURE, Closure),
    (FourProducts, FOUR_PRODUCTS, Closure),
    (FusedDpo, "Dpo with token weights", FusedDpo),
    (DenseDpo, "dense head, plain expression", FusedDpo),
];

/// How far the answers of a pair may go from the reference.
const BETA: f64 = 0.1;

struct Inputs {
    hidden: Tensor,
    lm_head: Tensor,
    logits: Option<Tensor>,
    labels: Tensor,
    weights: Tensor,
    /// The flattened positions that predict an active token.
    active: Tensor,
}

impl Inputs {
    fn new((active, negative): (i64, i64), with_logits: bool) -> Self {
        manual_seed(0);
        let cpu = |kind| (kind, Device::Cpu);
        let float = cpu(Kind::Float);
        let drawn = Tensor::rand([B, S], float);
        let share = active as f64 / 100.0;
        let negative = share * negative as f64 / 100.0;
        let weights = drawn.lt(share).to_kind(Kind::Float) - drawn.lt(negative).to_kind(Kind::Float) * 1.5;
        // Position t predicts token t + 1.
        let active = weights.narrow(1, 1, S - 1).ne(0).constant_pad_nd([0, 1]).reshape([-1]).nonzero().squeeze();
        Self {
            hidden: Tensor::randn([B, S, H], float).set_requires_grad(true),
            lm_head: (Tensor::randn([V, H], float) * 0.05).set_requires_grad(true),
            logits: with_logits.then(|| Tensor::randn([B, S, V], float).set_requires_grad(true)),
            labels: Tensor::randint(V, [B, S], cpu(Kind::Int64)),
            weights,
            active,
        }
    }

    /// The first `n` tokens of each sequence.
    fn first_tokens(&self, n: i64) -> Self {
        let first = |tensor: &Tensor| tensor.detach().narrow(1, 0, n);
        Self {
            hidden: first(&self.hidden).set_requires_grad(true),
            lm_head: self.lm_head.shallow_clone(),
            logits: self.logits.as_ref().map(|logits| first(logits).set_requires_grad(true)),
            labels: first(&self.labels),
            weights: first(&self.weights),
            active: Tensor::from_slice(&[0i64]),
        }
    }

    fn logits(&self) -> &Tensor {
        self.logits.as_ref().expect("these variants get logits")
    }

    /// A forward and a backward pass. Returns the gradients.
    fn run(&self, variant: Variant) -> Vec<Tensor> {
        let Self { hidden, lm_head, labels, weights, active, .. } = self;
        let backward = |loss: Tensor, inputs: &[&Tensor]| Tensor::run_backward(&[loss], inputs, false, false);
        match variant {
            FromLogits => backward(figa_loss(self.logits(), labels, weights).expect("a loss"), &[self.logits()]),
            Flat => backward(flat(self.logits(), labels, weights), &[self.logits()]),
            Fused => {
                let loss = fused_linear_figa_loss(hidden, lm_head, labels, weights).expect("a loss");
                backward(loss, &[hidden, lm_head])
            }
            Dense => backward(flat(&hidden.matmul(&lm_head.tr()), labels, weights), &[hidden, lm_head]),
            Products => {
                let (hidden, lm_head) = (hidden.detach().flatten(0, 1).index_select(0, active), lm_head.detach());
                let logits = hidden.mm(&lm_head.tr());
                vec![logits.mm(&lm_head), logits.tr().mm(&hidden)]
            }
            FourProducts => {
                let (hidden, lm_head) = (hidden.detach().flatten(0, 1).index_select(0, active), lm_head.detach());
                drop(black_box(hidden.mm(&lm_head.tr())));
                let logits = hidden.mm(&lm_head.tr());
                vec![logits.mm(&lm_head), logits.tr().mm(&hidden)]
            }
            Closure => {
                let rows = Rows::of_batch(labels, weights, IGNORE_INDEX).expect("rows");
                let loss = linear_loss(hidden, lm_head, &rows, |scores| {
                    Ok(scores.sequence_sums(&scores.nll()?.f_mul(scores.weights())?)?.f_square()?.f_sum(Kind::Float)?)
                });
                backward(loss.expect("a loss"), &[hidden, lm_head])
            }
            FusedDpo => {
                let rows = Rows::of_batch(labels, &weights.abs(), IGNORE_INDEX).expect("rows");
                let (pairs, reference) = (Pairs::alternating(B / 2), weights.zeros_like());
                let batch = PreferenceBatch::new(&rows, &pairs).with_reference(&reference);
                let output = Dpo::new().on((hidden, lm_head), batch).expect("a loss");
                backward(output.loss, &[hidden, lm_head])
            }
            DenseDpo => backward(plain_dpo(&hidden.matmul(&lm_head.tr()), labels, &weights.abs()), &[hidden, lm_head]),
        }
    }
}

/// The loss without this crate, the gate included.
fn flat(logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Tensor {
    let steps = logits.size()[1] - 1;
    let logits = logits.narrow(1, 0, steps).reshape([-1, V]);
    let (labels, weights) = (labels.narrow(1, 1, steps).reshape([-1]), weights.narrow(1, 1, steps).reshape([-1]));
    let nll = logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::None, IGNORE_INDEX, 0.0);
    let gated = weights.lt(0).logical_and(&nll.detach().gt(GATE));
    let weights = weights.masked_fill(&gated, 0);
    (nll * &weights).sum(Kind::Float) / weights.ne(0).sum(Kind::Float).clamp_min(1)
}

/// DPO without this crate, with a reference of 0.
fn plain_dpo(logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Tensor {
    let steps = logits.size()[1] - 1;
    let log_p = logits.narrow(1, 0, steps).log_softmax(-1, Kind::Float);
    let log_p = log_p.gather(-1, &labels.narrow(1, 1, steps).unsqueeze(-1), false).squeeze_dim(-1);
    let sums = (log_p * weights.narrow(1, 1, steps)).sum_dim_intlist(1, false, Kind::Float);
    let (rejected, chosen) = (sums.slice(0, 0, None, 2), sums.slice(0, 1, None, 2));
    -((chosen - rejected) * BETA).log_sigmoid().mean(Kind::Float)
}

fn seconds(inputs: &Inputs, variant: Variant) -> f64 {
    let begin = Instant::now();
    black_box(inputs.run(variant));
    begin.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The memory that one run adds to the inputs in this process, in MiB.
fn own_peak(name: &str, case: (i64, i64)) -> Option<f64> {
    let (variant, ..) = VARIANTS.into_iter().find(|&(_, other, _)| other == name)?;
    let inputs = Inputs::new(case, matches!(variant, FromLogits | Flat));
    // Threads and libraries allocate memory at their first use, which is not to be counted.
    black_box(inputs.run(Products));
    black_box(inputs.first_tokens(WARM_UP_TOKENS).run(variant));
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok())
    };
    const RESET_PEAK: &str = "5";
    std::fs::write("/proc/self/clear_refs", RESET_PEAK).ok()?;
    let before = peak()?;
    black_box(inputs.run(variant));
    Some((peak()? - before) / 1024.0)
}

fn peak_in_own_process(name: &str, (active, negative): (i64, i64)) -> String {
    let run = || {
        let program = std::env::current_exe().ok()?;
        let output =
            Command::new(program).args(["peak", name, &active.to_string(), &negative.to_string()]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(format!("{:.0}", text.trim().parse::<f64>().ok()?))
    };
    run().unwrap_or("?".into())
}

/// Times the fused loss and the matrix products on the tensors of a safetensors file, on the GPU if there is one.
fn on_file(file: &str) {
    let device = Device::cuda_if_available();
    let tensors: HashMap<_, _> = Tensor::read_safetensors(file).expect("a safetensors file").into_iter().collect();
    let free = |name: &str| tensors[name].to_device(device).set_requires_grad(true);
    let (labels, weights) = (tensors["labels"].shallow_clone(), tensors["weights"].shallow_clone());
    let steps = weights.size()[1] - 1;
    let active = weights.narrow(1, 1, steps).ne(0).logical_and(&labels.narrow(1, 1, steps).ne(IGNORE_INDEX));
    let active = active.constant_pad_nd([0, 1]).reshape([-1]).nonzero().squeeze_dim(1).to_device(device);
    let inputs = Inputs { hidden: free("hidden"), lm_head: free("lm_head"), logits: None, labels, weights, active };
    let loss = fused_linear_figa_loss(&inputs.hidden, &inputs.lm_head, &inputs.labels, &inputs.weights);
    println!("loss\t{}", loss.expect("a loss").double_value(&[]));
    let finish = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    let mut times = [(Fused, FUSED, vec![]), (Products, PRODUCTS, vec![])];
    for _ in 0..WARM_UP + FILE_ROUNDS {
        for (variant, _, times) in &mut times {
            finish();
            let begin = Instant::now();
            black_box(inputs.run(*variant));
            finish();
            times.push(begin.elapsed().as_secs_f64());
        }
    }
    for (_, name, times) in times {
        println!("{name}\t{}", median(times[WARM_UP..].to_vec()) * 1e3);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, name, active, negative] = &arguments[..]
        && command == "peak"
    {
        let percent = |text: &str| text.parse().expect("a number");
        if let Some(peak) = own_peak(name, (percent(active), percent(negative))) {
            println!("{peak}");
        }
        return;
    }
    if let [command, file, ..] = &arguments[..]
        && command == "on"
    {
        return on_file(file);
    }
    let mib = |floats: i64| (size_of::<f32>() as f64 * floats as f64 / MIB).round();
    println!("B = {B}, S = {S}, V = {V}, H = {H}, f32, {} threads", figa_loss::tch::get_num_threads());
    println!("logits {} MiB, hidden {} MiB, head {} MiB\n", mib(B * S * V), mib(B * S * H), mib(V * H));
    println!("{:>6} {:>8}  {:<28} {:>8} {:>8} {:>10}", "active", "negative", "variant", "ms", "ratio", "peak, MiB");
    for case in CASES {
        let inputs = Inputs::new(case, true);
        let mut times = VARIANTS.map(|_| vec![]);
        for _ in 0..ROUNDS {
            for (times, (variant, ..)) in times.iter_mut().zip(VARIANTS) {
                // The first run is not timed: the system is still reclaiming the memory of the previous variant.
                black_box(inputs.run(variant));
                times.push(seconds(&inputs, variant));
            }
        }
        drop(inputs);
        let times = times.map(median);
        let of = |wanted| times[VARIANTS.iter().position(|&(variant, ..)| variant == wanted).expect("a variant")];
        for (time, (_, name, compared)) in times.iter().zip(VARIANTS) {
            let (ms, ratio, peak) = (time * 1e3, time / of(compared), peak_in_own_process(name, case));
            let [active, negative] = [case.0, case.1].map(|percent| format!("{percent} %"));
            println!("{active:>6} {negative:>8}  {name:<28} {ms:>8.1} {ratio:>8.2} {peak:>10}");
        }
        for (ours, name, bare) in [(Fused, FUSED, Products), (Closure, CLOSURE, FourProducts)] {
            println!("{:>17}{name} takes {:.2} times as long as the matrix products", "", of(ours) / of(bare));
        }
    }
}
