//! `cargo bench --bench loss`: forward and backward pass on the CPU, compared with the expressions that they replace.
//!
//! * from logits: `figa_loss`, and a flat PyTorch expression that computes every row; also from logits in bf16
//! * with the head: `fused_linear_figa_loss`, a matrix product followed by the flat expression, and the three matrix
//!   products on the active rows that every method needs
//! * in two passes: a closure with `linear_loss`, and the four matrix products on the active rows that it takes
//! * of 8 pairs: `Dpo` with token weights, and a matrix product followed by the plain expression
//!
//! The variants run alternately; times are medians. Peak memory is what one run adds to the inputs, measured in a
//! process of its own (Linux).
//!
//! `benches/gpu_losses.py` compares with losses of other libraries, on a GPU or a CPU. It calls
//! `cargo bench --bench loss -- on FILE`, which runs variants on the tensors of a file.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{Write, stdin, stdout};
use std::process::Command;
use std::time::Instant;

use figa_loss::tch::{Cuda, Device, Kind, Reduction, Tensor, manual_seed};
use figa_loss::{
    Dpo, IGNORE_INDEX, Pairs, PreferenceBatch, PreferenceLoss, Rows, figa_loss, fused_linear_figa_loss, linear_loss,
};

/// Tokens of a sequence.
const S: i64 = 512;
/// Tokens of the vocabulary.
const V: i64 = 32_000;
/// Width of the hidden states.
const H: i64 = 512;
const ROUNDS: usize = 5;

/// Enough for threads and libraries to allocate their memory.
const WARM_UP_TOKENS: i64 = 8;

/// The default gate.
const GATE: f64 = 0.6;
const MIB: f64 = (1 << 20) as f64;

/// The share of active tokens, and the share of those that have a negative weight, in percent. At random logits all
/// tokens with a negative weight are gated.
type Case = (i64, i64);

#[derive(Debug, Clone, Copy, PartialEq)]
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

const NAMES: [(Variant, &str); 9] = [
    (FromLogits, "figa_loss"),
    (Flat, "flat expression"),
    (Fused, "fused_linear_figa_loss"),
    (Dense, "dense head, flat expression"),
    (Products, "three matrix products"),
    (Closure, "closure with linear_loss"),
    (FourProducts, "four matrix products"),
    (FusedDpo, "Dpo with token weights"),
    (DenseDpo, "dense head, plain expression"),
];

impl Variant {
    fn name(self) -> &'static str {
        NAMES.into_iter().find(|&(variant, _)| variant == self).expect("all have names").1
    }

    fn named(name: &str) -> Option<Self> {
        Some(NAMES.into_iter().find(|&(_, other)| other == name)?.0)
    }
}

/// Variants on the same inputs.
struct Group {
    kind: Kind,
    sequences: i64,
    cases: &'static [Case],
    /// With what their time is compared with.
    variants: &'static [(Variant, Variant)],
}

const GROUPS: [Group; 3] = [
    Group {
        kind: Kind::Float,
        sequences: 8,
        cases: &[(1, 50), (10, 50), (10, 0), (30, 50), (100, 50)],
        variants: &[
            (FromLogits, FromLogits),
            (Flat, FromLogits),
            (Fused, Fused),
            (Dense, Fused),
            (Products, Fused),
            (Closure, Closure),
            (FourProducts, Closure),
        ],
    },
    Group {
        kind: Kind::BFloat16,
        sequences: 8,
        cases: &[(10, 50), (100, 50)],
        variants: &[(FromLogits, FromLogits), (Flat, FromLogits)],
    },
    Group {
        kind: Kind::Float,
        sequences: 16,
        cases: &[(10, 50), (100, 50)],
        variants: &[(FusedDpo, FusedDpo), (DenseDpo, FusedDpo)],
    },
];

/// What every method needs at least.
const BARE: [(Variant, Variant); 2] = [(Fused, Products), (Closure, FourProducts)];

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
    fn new(&Group { kind, sequences, variants, .. }: &Group, (active, negative): Case) -> Self {
        manual_seed(0);
        let cpu = |kind| (kind, Device::Cpu);
        let leaf = |shape: [i64; 3]| Tensor::randn(shape, cpu(Kind::Float)).to_kind(kind).set_requires_grad(true);
        let with_logits = variants.iter().any(|&(variant, _)| variant == FromLogits);
        let drawn = Tensor::rand([sequences, S], cpu(Kind::Float));
        let share = active as f64 / 100.0;
        let negative = share * negative as f64 / 100.0;
        let weights = drawn.lt(share).to_kind(Kind::Float) - drawn.lt(negative).to_kind(Kind::Float) * 1.5;
        // Position t predicts token t + 1.
        let active = weights.narrow(1, 1, S - 1).ne(0).constant_pad_nd([0, 1]).reshape([-1]).nonzero().squeeze();
        Self {
            hidden: leaf([sequences, S, H]),
            lm_head: (Tensor::randn([V, H], cpu(Kind::Float)) * 0.05).to_kind(kind).set_requires_grad(true),
            logits: with_logits.then(|| leaf([sequences, S, V])),
            labels: Tensor::randint(V, [sequences, S], cpu(Kind::Int64)),
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

    /// A forward and a backward pass. Returns the loss, which bare products do not have, and the gradients.
    fn run(&self, variant: Variant) -> (Option<Tensor>, Vec<Tensor>) {
        let Self { hidden, lm_head, labels, weights, active, .. } = self;
        let backward = |loss: Tensor, inputs: &[&Tensor]| {
            let gradients = Tensor::run_backward(&[&loss], inputs, false, false);
            (Some(loss), gradients)
        };
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
                (None, vec![logits.mm(&lm_head), logits.tr().mm(&hidden)])
            }
            FourProducts => {
                let (hidden, lm_head) = (hidden.detach().flatten(0, 1).index_select(0, active), lm_head.detach());
                drop(black_box(hidden.mm(&lm_head.tr())));
                let logits = hidden.mm(&lm_head.tr());
                (None, vec![logits.mm(&lm_head), logits.tr().mm(&hidden)])
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
                let (pairs, reference) = (Pairs::alternating(labels.size()[0] / 2), weights.zeros_like());
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
    let logits = logits.narrow(1, 0, steps).flatten(0, 1).to_kind(Kind::Float);
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
fn own_peak(inputs: &Inputs, variant: Variant) -> Option<f64> {
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

/// Prints what [`own_peak`] measures.
fn print_peak(inputs: &Inputs, name: &str) {
    if let Some(peak) = own_peak(inputs, Variant::named(name).expect("a variant")) {
        println!("{peak}");
    }
}

fn peak_in_own_process(group: usize, (active, negative): Case, variant: Variant) -> String {
    let run = || {
        let program = std::env::current_exe().ok()?;
        let numbers = [group as i64, active, negative].map(|number| number.to_string());
        let output = Command::new(program).arg("peak").args(numbers).arg(variant.name()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(format!("{:.0}", text.trim().parse::<f64>().ok()?))
    };
    run().unwrap_or("?".into())
}

/// The tensors of a safetensors file, on the GPU if there is one. Labels and weights stay on the host.
fn read(file: &str, device: Device) -> Inputs {
    let tensors: HashMap<_, _> = Tensor::read_safetensors(file).expect("a safetensors file").into_iter().collect();
    let free = |name: &str| tensors[name].to_device(device).set_requires_grad(true);
    let (labels, weights) = (tensors["labels"].shallow_clone(), tensors["weights"].shallow_clone());
    let steps = weights.size()[1] - 1;
    let active = weights.narrow(1, 1, steps).ne(0).logical_and(&labels.narrow(1, 1, steps).ne(IGNORE_INDEX));
    let active = active.constant_pad_nd([0, 1]).reshape([-1]).nonzero().squeeze_dim(1).to_device(device);
    Inputs { hidden: free("hidden"), lm_head: free("lm_head"), logits: None, labels, weights, active }
}

/// Prints the device, then answers each line of standard input, the name of a variant, with the time of a run in ms and
/// the loss.
fn answer(inputs: &Inputs) {
    let device = inputs.hidden.device();
    let finish = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    let answer = |text: String| {
        println!("{text}");
        stdout().flush().expect("a reader");
    };
    answer(format!("{device:?}"));
    for line in stdin().lines() {
        let variant = Variant::named(&line.expect("a line")).expect("a variant");
        finish();
        let begin = Instant::now();
        let (loss, gradients) = inputs.run(variant);
        finish();
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        drop(gradients);
        answer(format!("{ms}\t{}", loss.map_or(f64::NAN, |loss| loss.double_value(&[]))));
    }
}

fn print_group(index: usize, group: &Group) {
    let &Group { kind, sequences, cases, variants } = group;
    let mib = |numbers: i64| (kind.elt_size_in_bytes() as f64 * numbers as f64 / MIB).round();
    let (logits, hidden, head) = (mib(sequences * S * V), mib(sequences * S * H), mib(V * H));
    println!(
        "\nB = {sequences}, S = {S}, V = {V}, H = {H}, {kind:?}: logits {logits} MiB, hidden {hidden} MiB, head {head} MiB"
    );
    println!("{:>6} {:>8}  {:<28} {:>8} {:>8} {:>10}", "active", "negative", "variant", "ms", "ratio", "peak, MiB");
    for &case in cases {
        let inputs = Inputs::new(group, case);
        let mut times: Vec<_> = variants.iter().map(|_| vec![]).collect();
        for _ in 0..ROUNDS {
            for (times, &(variant, _)) in times.iter_mut().zip(variants) {
                // The first run is not timed: the system is still reclaiming the memory of the previous variant.
                black_box(inputs.run(variant));
                times.push(seconds(&inputs, variant));
            }
        }
        drop(inputs);
        let times: Vec<f64> = times.into_iter().map(median).collect();
        let of = |wanted| Some(times[variants.iter().position(|&(variant, _)| variant == wanted)?]);
        for (time, &(variant, compared)) in times.iter().zip(variants) {
            let ratio = time / of(compared).expect("a variant of the group");
            let (ms, peak) = (time * 1e3, peak_in_own_process(index, case, variant));
            let [active, negative] = [case.0, case.1].map(|percent| format!("{percent} %"));
            println!("{active:>6} {negative:>8}  {:<28} {ms:>8.1} {ratio:>8.2} {peak:>10}", variant.name());
        }
        for (ours, bare) in BARE {
            if let (Some(time), Some(bare)) = (of(ours), of(bare)) {
                println!("{:>17}{} takes {:.2} times as long as the matrix products", "", ours.name(), time / bare);
            }
        }
    }
}

fn main() {
    figa_loss::load_cuda();
    // cargo adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["peak", group, active, negative, name] => {
            let number = |text: &str| text.parse::<i64>().expect("a number");
            let inputs = Inputs::new(&GROUPS[number(group) as usize], (number(active), number(negative)));
            print_peak(&inputs, name);
        }
        ["on", file, "peak", name] => print_peak(&read(file, Device::Cpu), name),
        ["on", file] => answer(&read(file, Device::cuda_if_available())),
        _ => {
            println!("{} threads", figa_loss::tch::get_num_threads());
            for (index, group) in GROUPS.iter().enumerate() {
                print_group(index, group);
            }
        }
    }
}
