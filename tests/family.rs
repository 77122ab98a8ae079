//! Every loss of the family against a dense twin that autograd differentiates, over a grid of settings.
#![cfg(feature = "torch")]

mod common;
mod grid;
mod twins;

use std::sync::Mutex;

use common::{F64, I64, device, manual_seed, number};
use figa_loss::tch::{Device, Kind, Tensor};
use figa_loss::{IGNORE_INDEX, LmHead, ModelOutput, Reduction, Rows};
use grid::{KINDS, REDUCTIONS, assert_no_less_exact};
use twins::{Dense, Loss, Twin, losses};

/// Everything that a loss of the family may read, in f64.
#[allow(missing_docs)]
pub struct Data {
    pub hidden: Tensor,
    pub weight: Tensor,
    pub bias: Tensor,
    pub labels: Tensor,
    /// Of all signs, and 0.
    pub weights: Tensor,
    pub advantages: Tensor,
    pub old: Tensor,
    pub reference: Tensor,
    pub supervised: Tensor,
    pub teacher_hidden: Tensor,
    pub teacher_weight: Tensor,
    /// `[B, S, 3]`: some are no columns, and some occur twice.
    pub columns: Tensor,
    /// Different columns of the teacher, `[B, S, 3]`, with log-probabilities.
    pub top: (Tensor, Tensor),
}

const SEQUENCES: i64 = 4;

/// Random numbers that are the same in each run, though tests run at the same time and share the generator.
fn seeded<T>(seed: i64, draw: impl FnOnce() -> T) -> T {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _guard = GENERATOR.lock();
    manual_seed(seed);
    draw()
}

impl Data {
    fn new(seed: i64, sizes: [i64; 3], is_signed: bool) -> Self {
        seeded(seed, || Self::draw(sizes, is_signed))
    }

    fn draw([s, h, v]: [i64; 3], is_signed: bool) -> Self {
        let b = SEQUENCES;
        let weight = Tensor::randn([v, h], F64);
        let labels = Tensor::randint(v, [b, s], I64);
        let labels = labels.masked_fill(&Tensor::rand([b, s], F64).lt(0.2), IGNORE_INDEX);
        let drawn = Tensor::rand([b, s], F64);
        let size = Tensor::rand([b, s], F64) + 0.1;
        let sign = if is_signed {
            Tensor::rand([b, s], F64).lt(0.3).to_kind(Kind::Double) * -1.5 + 1.0
        } else {
            size.ones_like()
        };
        let hidden = Tensor::randn([b, s, h], F64);
        let teacher_weight = &weight + Tensor::randn([v, h], F64) * 0.3;
        let teacher_hidden = &hidden + Tensor::randn([b, s, h], F64) * 0.3;
        let logp = |hidden: &Tensor| {
            let log_p = hidden.matmul(&weight.tr()).log_softmax(-1, Kind::Double);
            let next = labels.roll([-1], [1]).clamp_min(0).unsqueeze(-1);
            log_p.gather(-1, &next, false).squeeze_dim(-1).roll([1], [1])
        };
        let near = |scale: f64| logp(&hidden) + Tensor::randn([b, s], F64) * scale;
        let logits = teacher_hidden.matmul(&teacher_weight.tr()).log_softmax(-1, Kind::Double).roll([1], [1]);
        let (log_probs, columns) = logits.topk(3, -1, true, true);
        Self {
            weights: drawn.lt(0.75).to_kind(Kind::Double) * size * sign,
            advantages: Tensor::randn([b, s], F64),
            old: near(0.3),
            reference: near(0.2),
            supervised: Tensor::rand([b, s], F64),
            bias: Tensor::randn([v], F64) * 0.1,
            columns: Tensor::randint(v + 1, [b, s, 3], I64) - 1,
            top: (columns, log_probs),
            hidden,
            weight,
            labels,
            teacher_hidden,
            teacher_weight,
        }
    }

    /// The same numbers on a device, rounded to `kind` and back: what every computation in that kind starts from.
    fn rounded(&self, kind: Kind, device: Device) -> Self {
        let round = |tensor: &Tensor| tensor.to_kind(kind).to_kind(Kind::Double).to_device(device);
        Self {
            hidden: round(&self.hidden),
            weight: round(&self.weight),
            bias: round(&self.bias),
            labels: self.labels.to_device(device),
            weights: round(&self.weights),
            advantages: round(&self.advantages),
            old: round(&self.old),
            reference: round(&self.reference),
            supervised: round(&self.supervised),
            teacher_hidden: round(&self.teacher_hidden),
            teacher_weight: round(&self.teacher_weight),
            columns: self.columns.to_device(device),
            top: (self.top.0.to_device(device), round(&self.top.1)),
        }
    }
}

/// How logits come about.
#[derive(Debug, Clone, Copy)]
struct Setting {
    from_logits: bool,
    softcap: Option<f64>,
    scale: f64,
    with_bias: bool,
    /// Which of hidden states and head require a gradient.
    tracked: [bool; 2],
    chunk_rows: Option<i64>,
}

const PLAIN: Setting = Setting {
    from_logits: false,
    softcap: None,
    scale: 1.0,
    with_bias: false,
    tracked: [true, true],
    chunk_rows: None,
};

const SETTINGS: [Setting; 4] = [
    Setting { from_logits: true, ..PLAIN },
    Setting { chunk_rows: Some(5), ..PLAIN },
    Setting { softcap: Some(4.0), with_bias: true, scale: 1.5, chunk_rows: Some(1), tracked: [true, false], ..PLAIN },
    Setting { with_bias: true, scale: 0.5, chunk_rows: Some(3), tracked: [false, true], ..PLAIN },
];

/// Leaves of one computation.
struct Leaves {
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    logits: Option<Tensor>,
}

impl Leaves {
    fn new(data: &Data, setting: &Setting, kind: Kind, rounded_to: Kind) -> Self {
        let leaf = |tensor: &Tensor, tracked: bool| tensor.to_kind(kind).copy().set_requires_grad(tracked);
        let [hidden, head] = setting.tracked;
        let mut leaves = Self {
            hidden: leaf(&data.hidden, hidden),
            weight: leaf(&data.weight, head),
            bias: leaf(&data.bias, head),
            logits: None,
        };
        if setting.from_logits {
            let logits = data.hidden.matmul(&data.weight.tr()).to_kind(rounded_to);
            leaves.logits = Some(leaf(&logits, true));
        }
        leaves
    }

    fn head(&self, setting: &Setting) -> LmHead<'_> {
        let mut head = LmHead::new(&self.weight).with_scale(setting.scale);
        (head.softcap, head.bias) = (setting.softcap, setting.with_bias.then_some(&self.bias));
        head
    }

    fn output(&self, setting: &Setting) -> ModelOutput<'_> {
        match &self.logits {
            Some(logits) => logits.into(),
            None => (&self.hidden, self.head(setting)).into(),
        }
    }

    fn dense_logits(&self, setting: &Setting) -> Tensor {
        if let Some(logits) = &self.logits {
            return logits.shallow_clone();
        }
        grid::logits(&self.hidden, &self.head(setting))
    }

    /// See [`grid::results`].
    fn results(&self, loss: &Tensor) -> Vec<Tensor> {
        let leaves = [Some(&self.hidden), Some(&self.weight), Some(&self.bias), self.logits.as_ref()];
        grid::results(loss, &leaves.into_iter().flatten().collect::<Vec<_>>())
    }
}

fn reduced(twin: Twin, dense: &Dense, data: &Data, reduction: Reduction, of: fn(Tensor) -> Tensor) -> Tensor {
    let values = match twin {
        Twin::Loss(loss) => return of(loss),
        Twin::Rows(values) => of(values),
    };
    let kind = values.kind();
    match reduction {
        Reduction::ActiveTokens => values.sum(kind) / dense.rows() as f64,
        Reduction::LabelledTokens => {
            values.sum(kind) / data.labels.narrow(1, 1, data.labels.size()[1] - 1).ne(IGNORE_INDEX).sum(Kind::Int64)
        }
        Reduction::AbsWeights => values.sum(kind) / dense.weights.abs().sum(kind),
        Reduction::Sum => values.sum(kind),
        Reduction::SequenceMeans => {
            let counts = dense.sums(&dense.weights.ones_like()).clamp_min(1.0);
            (dense.sums(&values) / counts).mean(kind)
        }
        Reduction::None => dense.scatter(&values),
        Reduction::External(number) => values.sum(kind) / number,
        _ => unreachable!("all reductions are listed"),
    }
}

/// With weights of both signs, and without negative ones.
fn data() -> [Data; 2] {
    [Data::new(1, [7, 5, 13], true), Data::new(2, [11, 8, 33], false)]
}

#[test]
fn no_loss_is_less_exact_than_its_dense_expression() {
    let (sets, device) = (data(), device());
    let mut count = 0;
    for loss in losses() {
        for (set, data) in sets.iter().enumerate() {
            if set == 0 && !loss.accepts_signed {
                continue;
            }
            for (kind, setting) in KINDS.iter().flat_map(|&kind| SETTINGS.iter().map(move |setting| (kind, setting))) {
                let data = &data.rounded(kind, device);
                let rows = Rows::of_batch(&data.labels, &data.weights, IGNORE_INDEX).unwrap();
                // The reductions take turns: each meets each dtype and each setting with some of the losses.
                let turns = if loss.reduces { [0, 3] } else { [0, REDUCTIONS.len()] };
                for turn in turns {
                    let Some(&reduction) = (match loss.reduces {
                        true => REDUCTIONS.get((count + turn) % REDUCTIONS.len()),
                        false => REDUCTIONS.get(turn),
                    }) else {
                        continue;
                    };
                    let name = format!("{} {kind:?} {setting:?} {reduction:?} set {set}", loss.name);
                    let leaves = Leaves::new(data, setting, kind, kind);
                    let settings = (reduction, setting.chunk_rows, kind);
                    let ours = (loss.ours)(leaves.output(setting), &rows, data, settings);
                    let ours = leaves.results(&ours.unwrap_or_else(|error| panic!("{name}: {error}")));
                    let dense = |kind: Kind, of: fn(Tensor) -> Tensor| {
                        let leaves = Leaves::new(data, setting, kind, settings.2);
                        let dense = Dense::new(&leaves.dense_logits(setting), data, kind);
                        let loss = reduced((loss.twin)(&dense, data), &dense, data, reduction, of);
                        leaves.results(&loss)
                    };
                    let (plain, truth) = (dense(kind, |values| values), dense(Kind::Double, |values| values));
                    let size = number(&dense(Kind::Double, |values| values.abs())[0].norm());
                    assert_no_less_exact(&name, kind, size, &ours, &plain, &truth);
                    count += 1;
                }
            }
        }
    }
    assert!(count > 1000, "{count}");
}

/// How many calls have waited for the GPU, if `waits.c` is preloaded.
fn waits() -> Option<u64> {
    // SAFETY: the name is a valid C string, and what has it is the function of `waits.c`.
    unsafe {
        let function = libc::dlsym(libc::RTLD_DEFAULT, c"figa_loss_waits".as_ptr());
        (!function.is_null()).then(|| std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> u64>(function)())
    }
}

#[test]
fn with_rows_on_the_host_no_loss_waits_for_the_gpu() {
    let (device, kind) = (device(), Kind::BFloat16);
    if waits().is_none() {
        return println!("waits.c is not preloaded: nothing is counted");
    }
    let [_, host] = data().map(|data| data.rounded(kind, Device::Cpu));
    let rows = Rows::of_batch(&host.labels, &host.weights, IGNORE_INDEX).unwrap();
    let model = |tensor: &Tensor| tensor.to_device(device);
    // Numbers of tokens stay on the host as well.
    let data = Data {
        hidden: model(&host.hidden),
        weight: model(&host.weight),
        bias: model(&host.bias),
        teacher_hidden: model(&host.teacher_hidden),
        teacher_weight: model(&host.teacher_weight),
        ..host
    };
    let mut count = 0;
    for loss in losses() {
        for setting in &SETTINGS {
            for reduction in if loss.reduces { &REDUCTIONS[..] } else { &REDUCTIONS[..1] } {
                let leaves = Leaves::new(&data, setting, kind, kind);
                let run = || {
                    let settings = (*reduction, setting.chunk_rows, kind);
                    let loss = (loss.ours)(leaves.output(setting), &rows, &data, settings).unwrap();
                    loss.sum(Kind::Float).backward();
                    loss
                };
                // The first call may wait while libtorch prepares itself.
                let _ = run();
                let before = waits();
                let value = run();
                assert_eq!(waits(), before, "{} {setting:?} {reduction:?}", loss.name);
                count += 1;
                if count == 1 && device != Device::Cpu {
                    let _ = value.to_device(Device::Cpu);
                    assert!(waits() > before, "reading a number waits");
                }
            }
        }
    }
    println!("waits counted in {count} calls");
}

impl Data {
    /// Something else in place of all that a position or a token has.
    fn map(&self, of: impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            hidden: of(&self.hidden),
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
            labels: of(&self.labels),
            weights: of(&self.weights),
            advantages: of(&self.advantages),
            old: of(&self.old),
            reference: of(&self.reference),
            supervised: of(&self.supervised),
            teacher_hidden: of(&self.teacher_hidden),
            teacher_weight: self.teacher_weight.shallow_clone(),
            columns: of(&self.columns),
            top: (of(&self.top.0), of(&self.top.1)),
        }
    }

    /// More positions, whose tokens have no label and anything else.
    fn padded(&self, more: i64) -> Self {
        let with_noise = |tensor: &Tensor| {
            let mut size = tensor.size();
            size[1] = more;
            Tensor::cat(&[tensor, &Tensor::randn(&*size, F64).to_kind(tensor.kind())], 1)
        };
        let padded = seeded(4, || self.map(with_noise));
        let _ = padded.labels.narrow(1, self.labels.size()[1], more).fill_(IGNORE_INDEX);
        padded
    }

    /// The loss in f64, fused, and its gradients by hidden states and head.
    fn run(&self, loss: &Loss, reduction: Reduction) -> (f64, [Tensor; 2]) {
        let rows = Rows::of_batch(&self.labels, &self.weights, IGNORE_INDEX).unwrap();
        let leaves = [&self.hidden, &self.weight].map(|leaf| leaf.copy().set_requires_grad(true));
        let settings = (reduction, Some(4), Kind::Double);
        let value = (loss.ours)((&leaves[0], &leaves[1]).into(), &rows, self, settings).unwrap();
        value.backward();
        (number(&value), leaves.map(|leaf| leaf.grad()))
    }
}

/// The losses, each with data that it accepts.
fn losses_with_data() -> impl Iterator<Item = (Loss, Data)> {
    losses().into_iter().map(|loss| {
        let data = Data::new(3, [7, 5, 13], loss.accepts_signed);
        (loss, data)
    })
}

fn assert_same(name: &str, ours: &(f64, [Tensor; 2]), expected: &(f64, [Tensor; 2])) {
    const TOLERANCE: f64 = 1e-10;
    let size = expected.0.abs().max(1.0);
    assert!((ours.0 - expected.0).abs() < TOLERANCE * size, "{name}: {} but {}", ours.0, expected.0);
    for (ours, expected) in ours.1.iter().zip(&expected.1) {
        let error = number(&(ours - expected).norm()) / number(&expected.norm()).max(1.0);
        assert!(error < TOLERANCE, "{name}: {error:e}");
    }
}

#[test]
fn padding_and_the_order_of_answers_do_not_matter() {
    let order = Tensor::from_slice(&[2i64, 3, 0, 1]);
    for (loss, data) in losses_with_data() {
        let steps = data.labels.size()[1];
        for reduction in [Reduction::ActiveTokens, Reduction::LabelledTokens, Reduction::SequenceMeans] {
            let expected = data.run(&loss, reduction);
            let (value, [hidden, head]) = data.padded(3).run(&loss, reduction);
            assert_eq!(number(&hidden.narrow(1, steps, 3).abs().max()), 0.0, "{}", loss.name);
            assert_same(loss.name, &(value, [hidden.narrow(1, 0, steps), head]), &expected);
            // Pairs stay pairs.
            let (value, [hidden, head]) = data.map(|tensor| tensor.index_select(0, &order)).run(&loss, reduction);
            assert_same(loss.name, &(value, [hidden.index_select(0, &order), head]), &expected);
        }
    }
}

/// Sums over tokens, also those whose ratio is that of an answer.
fn is_sum(loss: &Loss) -> bool {
    loss.reduces || loss.name == "Gspo"
}

#[test]
fn micro_batches_with_the_external_denominator_add_up() {
    for (loss, data) in losses_with_data().filter(|(loss, _)| is_sum(loss)) {
        let shared = Reduction::External(17.0);
        let [(a, [hidden_a, head_a]), (b, [hidden_b, head_b])] =
            [0, 2].map(|start| data.map(|tensor| tensor.narrow(0, start, 2)).run(&loss, shared));
        let sum = (a + b, [Tensor::cat(&[hidden_a, hidden_b], 0), head_a + head_b]);
        assert_same(loss.name, &sum, &data.run(&loss, shared));
    }
}

#[test]
fn scaling_the_weights_scales_losses_of_tokens() {
    for (loss, mut data) in losses_with_data().filter(|(loss, _)| is_sum(loss)) {
        let (value, gradients) = data.run(&loss, Reduction::SequenceMeans);
        data.weights = &data.weights * 3.0;
        let scaled = (value * 3.0, gradients.map(|gradient| gradient * 3.0));
        assert_same(loss.name, &data.run(&loss, Reduction::SequenceMeans), &scaled);
    }
}

/// Losses with a factor that is a constant for the gradient.
const WITH_CONSTANTS: [&str; 7] = ["Dft", "Chord", "Eaft", "Cispo", "Asft", "Rlmec", "Tdpo2"];

#[test]
fn gradients_equal_finite_differences() {
    const STEP: f64 = 1e-6;
    for (loss, data) in losses_with_data() {
        let (_, [hidden, head]) = data.run(&loss, Reduction::Sum);
        for seed in 0..3 {
            let towards = seeded(seed, || [&data.hidden, &data.weight].map(|leaf| leaf.randn_like()));
            let at = |step: f64| {
                let mut moved = data.map(Tensor::shallow_clone);
                moved.hidden = &data.hidden + &towards[0] * step;
                moved.weight = &data.weight + &towards[1] * step;
                moved.run(&loss, Reduction::Sum).0
            };
            let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let ours = number(&((&hidden * &towards[0]).sum(Kind::Double) + (&head * &towards[1]).sum(Kind::Double)));
            let size = number(&(hidden.norm() * towards[0].norm() + head.norm() * towards[1].norm()));
            let error = (ours - numeric).abs() / size;
            let is_same = error < 1e-7;
            assert_eq!(is_same, !WITH_CONSTANTS.contains(&loss.name), "{}: {ours} and {numeric}", loss.name);
        }
    }
}
