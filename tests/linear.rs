//! The loss fused with the head: against the dense expression over a grid of settings, and what is specific to it.
#![cfg(feature = "torch")]

mod common;
mod dense;
mod grid;

use approx::assert_abs_diff_eq;
use common::{F32, F64, I64, ROUNDING, device, manual_seed, number, values};
use figa_loss::tch::{Device, Kind, Tensor, no_grad_guard};
use figa_loss::{Error, FigaLoss, Gate, LmHead, Penalty, Reduction, fused_linear_figa_loss};
use grid::{KINDS, REDUCTIONS, assert_no_less_exact, results};

/// A batch in which about half of the tokens are likely.
struct Batch {
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    weights: Tensor,
}

impl Batch {
    fn new(seed: i64, [b, s, h, v]: [i64; 4]) -> Self {
        manual_seed(seed);
        let weight = Tensor::randn([v, h], F64);
        let labels = Tensor::randint(v, [b, s], I64);
        let next = labels.roll([-1], [1]);
        // Each hidden state points along the weights of its label or against them.
        let sign = Tensor::rand([b, s, 1], F64).lt(0.5).to_kind(Kind::Double) * 2.0 - 1.0;
        let along = weight.index_select(0, &next.reshape([-1])).reshape([b, s, h]);
        let norm = along.square().sum_dim_intlist(-1, true, Kind::Double) + 0.1;
        let hidden = along * sign * 4.0 / norm + Tensor::randn([b, s, h], F64) * 0.1;
        let drawn = Tensor::rand([b, s], F64);
        let weights = drawn.lt(0.7).to_kind(Kind::Double) * Tensor::rand([b, s], F64)
            - drawn.lt(0.35).to_kind(Kind::Double) * 1.25;
        let labels = labels.masked_fill(&Tensor::rand([b, s], F64).lt(0.2), -100);
        Self { hidden, weight, bias: Tensor::randn([v], F64) * 0.1, labels, weights }
    }

    fn to_device(&self, device: Device) -> Self {
        Self {
            hidden: self.hidden.to_device(device),
            weight: self.weight.to_device(device),
            bias: self.bias.to_device(device),
            labels: self.labels.to_device(device),
            weights: self.weights.to_device(device),
        }
    }

    /// Copies of the inputs, rounded to `kind`.
    fn leaves(&self, kind: Kind, Tracked { hidden, head }: Tracked) -> Leaves {
        let leaf = |tensor: &Tensor, tracked: bool| tensor.to_kind(kind).copy().set_requires_grad(tracked);
        Leaves { hidden: leaf(&self.hidden, hidden), weight: leaf(&self.weight, head), bias: leaf(&self.bias, head) }
    }

    fn tracked_leaves(&self) -> Leaves {
        self.leaves(Kind::Double, Tracked::ALL)
    }
}

/// Which inputs require a gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tracked {
    hidden: bool,
    head: bool,
}

impl Tracked {
    const ALL: Self = Self { hidden: true, head: true };
}

struct Leaves {
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
}

impl Leaves {
    fn all(&self) -> [&Tensor; 3] {
        [&self.hidden, &self.weight, &self.bias]
    }

    /// The same numbers in f64.
    fn upcast(&self) -> Self {
        let [hidden, weight, bias] =
            self.all().map(|leaf| leaf.detach().to_kind(Kind::Double).copy().set_requires_grad(leaf.requires_grad()));
        Self { hidden, weight, bias }
    }

    /// The gradients by hidden states and weight after `backward`.
    fn gradients(&self, loss: &Tensor) -> [Vec<f64>; 2] {
        loss.backward();
        [values(&self.hidden.grad()), values(&self.weight.grad())]
    }
}

/// How a head computes logits.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Head {
    softcap: Option<f64>,
    scale: f64,
    with_bias: bool,
}

impl Head {
    const PLAIN: Self = Self { softcap: None, scale: 1.0, with_bias: false };

    fn of(self, leaves: &Leaves) -> LmHead<'_> {
        let mut head = LmHead::new(&leaves.weight);
        (head.bias, head.softcap, head.scale) = (self.with_bias.then_some(&leaves.bias), self.softcap, self.scale);
        head
    }
}

/// The seed of each batch, and its `[B, S, H, V]`.
const BATCHES: [(i64, [i64; 4]); 2] = [(1, [2, 7, 5, 13]), (2, [3, 11, 8, 33])];

const HEADS: [Head; 5] = [
    Head::PLAIN,
    Head { with_bias: true, ..Head::PLAIN },
    Head { softcap: Some(3.0), with_bias: true, ..Head::PLAIN },
    Head { softcap: Some(5.0), scale: 1.5, ..Head::PLAIN },
    Head { scale: 0.5, with_bias: true, ..Head::PLAIN },
];

const GATES: [Option<Gate>; 3] = [None, Some(Gate::AtMost(0.6)), Some(Gate::Band { min: 0.6, max: 20.0 })];

const PENALTIES: [Penalty; 2] = [Penalty::Nll, Penalty::Unlikelihood];

/// What requires a gradient, and how many rows of logits are computed at a time.
const PASSES: [(Tracked, Option<i64>); 3] = [
    (Tracked::ALL, None),
    (Tracked { hidden: true, head: false }, Some(1)),
    (Tracked { hidden: false, head: true }, Some(3)),
];

/// One point of the grid.
struct Case<'a> {
    batch: &'a Batch,
    kind: Kind,
    head: Head,
    tracked: Tracked,
    config: FigaLoss,
}

/// All combinations of the choices above.
fn cases(batches: &[Batch; BATCHES.len()]) -> impl Iterator<Item = Case<'_>> {
    let count = [BATCHES.len(), KINDS.len(), HEADS.len(), GATES.len(), PENALTIES.len(), REDUCTIONS.len(), PASSES.len()]
        .iter()
        .product();
    (0..count).map(|number: usize| {
        // The choices are the digits of the number.
        let mut rest = number;
        let mut digit = |base: usize| {
            let digit = rest % base;
            rest /= base;
            digit
        };
        let (tracked, chunk_rows) = PASSES[digit(PASSES.len())];
        let mut config = FigaLoss::new()
            .with_reduction(REDUCTIONS[digit(REDUCTIONS.len())])
            .with_penalty(PENALTIES[digit(PENALTIES.len())])
            .with_gate(GATES[digit(GATES.len())]);
        config.chunk_rows = chunk_rows;
        let (head, kind) = (HEADS[digit(HEADS.len())], KINDS[digit(KINDS.len())]);
        Case { batch: &batches[digit(BATCHES.len())], kind, head, tracked, config }
    })
}

impl Case<'_> {
    fn name(&self) -> String {
        let Self { batch, kind, head, tracked, config } = self;
        format!("{:?} {kind:?} {head:?} {tracked:?} {config:?}", batch.hidden.size())
    }

    fn leaves(&self) -> Leaves {
        self.batch.leaves(self.kind, self.tracked)
    }

    fn dense_logits(&self, leaves: &Leaves) -> Tensor {
        grid::logits(&leaves.hidden, &self.head.of(leaves))
    }

    fn dense_loss(&self, logits: &Tensor) -> Tensor {
        dense::loss(&self.config, logits, &self.batch.labels, &self.batch.weights)
    }

    fn size(&self, logits: &Tensor) -> f64 {
        dense::size(&self.config, logits, &self.batch.labels, &self.batch.weights)
    }

    /// From hidden states.
    fn check(&self) {
        let Batch { labels, weights, .. } = self.batch;
        let leaves = self.leaves();
        let output = self.config.forward_linear(&leaves.hidden, self.head.of(&leaves), labels, weights).unwrap();
        let ours = results(&output.loss, &leaves.all());

        let leaves = self.leaves();
        let plain = results(&self.dense_loss(&self.dense_logits(&leaves)), &leaves.all());

        let leaves = self.leaves().upcast();
        let logits = self.dense_logits(&leaves);
        let truth = results(&self.dense_loss(&logits), &leaves.all());
        assert_no_less_exact(&self.name(), self.kind, self.size(&logits), &ours, &plain, &truth);
    }

    /// From the logits of the same batch.
    fn check_from_logits(&self) {
        let Batch { labels, weights, .. } = self.batch;
        let rounded = self.dense_logits(&self.leaves().upcast()).detach().to_kind(self.kind);
        let leaf = |kind| rounded.to_kind(kind).copy().set_requires_grad(true);
        let (ours, plain, truth) = (leaf(self.kind), leaf(self.kind), leaf(Kind::Double));
        let size = self.size(&truth);
        let output = self.config.forward(&ours, labels, weights).unwrap();
        let ours = results(&output.loss, &[&ours]);
        let plain = results(&self.dense_loss(&plain), &[&plain]);
        let truth = results(&self.dense_loss(&truth), &[&truth]);
        assert_no_less_exact(&format!("logits, {}", self.name()), self.kind, size, &ours, &plain, &truth);
    }
}

#[test]
fn no_path_is_less_exact_than_the_dense_expression() {
    let device = device();
    let batches = BATCHES.map(|(seed, shape)| Batch::new(seed, shape).to_device(device));
    let mut count = 0;
    for case in cases(&batches) {
        case.check();
        if case.head == Head::PLAIN && case.tracked == Tracked::ALL {
            case.check_from_logits();
        }
        count += 1;
    }
    assert_eq!(count, 5040);
}

#[test]
fn micro_batches_and_repeated_calls_add_up() {
    let batch = Batch::new(3, [4, 6, 5, 9]);
    let leaves = batch.tracked_leaves();
    let full =
        FigaLoss::default().forward_linear(&leaves.hidden, &leaves.weight, &batch.labels, &batch.weights).unwrap();
    let expected = leaves.gradients(&full.loss);

    let shared = FigaLoss::new().with_reduction(Reduction::External(number(&full.denominator)));
    let leaves = batch.tracked_leaves();
    let mut sum = 0.0;
    for (start, len) in [(0, 1), (1, 3)] {
        let rows = |tensor: &Tensor| tensor.narrow(0, start, len);
        let part =
            shared.forward_linear(&rows(&leaves.hidden), &leaves.weight, &rows(&batch.labels), &rows(&batch.weights));
        let part = part.unwrap().loss;
        part.backward();
        sum += number(&part);
    }
    assert_abs_diff_eq!(sum, number(&full.loss), epsilon = ROUNDING);
    assert_abs_diff_eq!(*values(&leaves.hidden.grad()), *expected[0], epsilon = ROUNDING);
    assert_abs_diff_eq!(*values(&leaves.weight.grad()), *expected[1], epsilon = ROUNDING);

    // Numerators, each with its own call, and the sum of the denominators.
    let leaves = batch.tracked_leaves();
    let mut denominator = 0.0;
    for (start, len) in [(0, 1), (1, 3)] {
        let rows = |tensor: &Tensor| tensor.narrow(0, start, len);
        let part = FigaLoss::default()
            .forward_linear(&rows(&leaves.hidden), &leaves.weight, &rows(&batch.labels), &rows(&batch.weights))
            .unwrap();
        part.numerator.backward();
        denominator += number(&part.denominator);
    }
    assert_abs_diff_eq!(*values(&(leaves.weight.grad() / denominator)), *expected[1], epsilon = ROUNDING);
}

/// Another library's fused loss of single tokens, multiplied by weights, ends in a wrong gradient of the head.
#[test]
fn single_losses_times_weights_are_the_weighted_loss() {
    let mut batch = Batch::new(8, [2, 6, 5, 9]);
    let weights = std::mem::replace(&mut batch.weights, Tensor::ones([2, 6], F64));
    let run = |weights: &Tensor, reduction: Reduction, factor: &Tensor| {
        let leaves = batch.tracked_leaves();
        let loss = FigaLoss::new().with_gate(None).with_reduction(reduction);
        let loss = loss.forward_linear(&leaves.hidden, &leaves.weight, &batch.labels, weights).unwrap().loss;
        let loss = (loss * factor).sum(Kind::Double);
        (number(&loss), leaves.gradients(&loss))
    };
    let (single, single_gradients) = run(&batch.weights, Reduction::None, &weights);
    let (weighted, gradients) = run(&weights, Reduction::Sum, &Tensor::from(1.0));
    assert_abs_diff_eq!(single, weighted, epsilon = ROUNDING);
    for (single, weighted) in single_gradients.iter().zip(&gradients) {
        assert_abs_diff_eq!(**single, **weighted, epsilon = ROUNDING);
    }
}

#[test]
fn an_embedding_tied_to_the_head_gets_both_gradients() {
    let batch = Batch::new(4, [2, 6, 5, 9]);
    let ids = batch.labels.clamp_min(0);
    let run = |fused: bool| {
        let weight = batch.weight.copy().set_requires_grad(true);
        let hidden = Tensor::embedding(&weight, &ids, -1, false, false).tanh();
        let loss = if fused {
            fused_linear_figa_loss(&hidden, &weight, &batch.labels, &batch.weights).unwrap()
        } else {
            dense::loss(&FigaLoss::default(), &hidden.matmul(&weight.tr()), &batch.labels, &batch.weights)
        };
        loss.backward();
        values(&weight.grad())
    };
    assert_abs_diff_eq!(*run(true), *run(false), epsilon = ROUNDING);
}

#[test]
fn without_grad_only_the_value_is_computed() {
    let batch = Batch::new(5, [2, 6, 5, 9]);
    let leaves = batch.tracked_leaves();
    let loss = fused_linear_figa_loss(&leaves.hidden, &leaves.weight, &batch.labels, &batch.weights).unwrap();
    let _no_grad = no_grad_guard();
    let value = fused_linear_figa_loss(&leaves.hidden, &leaves.weight, &batch.labels, &batch.weights).unwrap();
    assert_eq!((number(&value), value.requires_grad(), loss.requires_grad()), (number(&loss), false, true));
}

#[test]
fn strides_do_not_matter() {
    let batch = Batch::new(6, [3, 6, 5, 9]);
    let expected = {
        let leaves = batch.tracked_leaves();
        let loss = fused_linear_figa_loss(&leaves.hidden, &leaves.weight, &batch.labels, &batch.weights).unwrap();
        leaves.gradients(&loss)
    };
    let strided = |tensor: &Tensor| {
        let last = tensor.dim() as i64 - 1;
        tensor.detach().transpose(0, last).contiguous().transpose(0, last).set_requires_grad(true)
    };
    let leaves = Leaves { hidden: strided(&batch.hidden), weight: strided(&batch.weight), bias: batch.bias.copy() };
    let loss = fused_linear_figa_loss(
        &leaves.hidden,
        &leaves.weight,
        &batch.labels.tr().contiguous().tr(),
        &strided(&batch.weights),
    )
    .unwrap();
    let grads = leaves.gradients(&loss);
    assert_abs_diff_eq!(*grads[0], *expected[0], epsilon = ROUNDING);
    assert_abs_diff_eq!(*grads[1], *expected[1], epsilon = ROUNDING);

    // One row for all sequences, by stride 0.
    let expanded = batch.hidden.narrow(0, 0, 1).expand([3, 6, 5], false);
    let copied = expanded.contiguous();
    let loss = |hidden: &Tensor| {
        number(&fused_linear_figa_loss(hidden, &batch.weight, &batch.labels, &batch.weights).unwrap())
    };
    assert_eq!(loss(&expanded), loss(&copied));
}

#[test]
fn only_active_rows_matter_and_in_them_nan_shows() {
    let batch = Batch::new(7, [2, 6, 5, 9]);
    let loss = |batch: &Batch| {
        let leaves = batch.leaves(Kind::Float, Tracked::ALL);
        let loss = fused_linear_figa_loss(&leaves.hidden, &leaves.weight, &batch.labels, &batch.weights).unwrap();
        (number(&loss), leaves.gradients(&loss))
    };
    let clean = loss(&batch);
    // The last position predicts nothing.
    let _ = batch.hidden.get(0).get(5).fill_(f64::NAN);
    let _ = batch.hidden.get(1).get(5).fill_(f64::INFINITY);
    assert_eq!(loss(&batch), clean);
    let active =
        (0..5).find(|&t| batch.weights.double_value(&[0, t + 1]) > 0.0 && batch.labels.int64_value(&[0, t + 1]) >= 0);
    let _ = batch.hidden.get(0).get(active.expect("a rewarded token")).fill_(f64::NAN);
    assert!(loss(&batch).0.is_nan());
}

#[test]
fn nothing_active_is_zero_with_gradients_of_zeros() {
    manual_seed(9);
    for shape in [[2, 5, 3, 4], [0, 5, 3, 4], [2, 1, 3, 4], [2, 0, 3, 4]] {
        for reduction in [Reduction::ActiveTokens, Reduction::SequenceMeans, Reduction::None] {
            let [b, s, h, v] = shape;
            let hidden = Tensor::randn([b, s, h], F64).set_requires_grad(true);
            let weight = Tensor::randn([v, h], F64).set_requires_grad(true);
            let labels = Tensor::zeros([b, s], I64);
            let config = FigaLoss::new().with_reduction(reduction);
            let output = config.forward_linear(&hidden, &weight, &labels, &Tensor::zeros([b, s], F64)).unwrap();
            let loss = output.loss.sum(Kind::Double);
            assert_eq!(number(&loss), 0.0);
            loss.backward();
            assert_eq!((hidden.grad().size(), weight.grad().size()), (vec![b, s, h], vec![v, h]), "{shape:?}");
            assert!(values(&weight.grad()).iter().all(|&g| g == 0.0));
        }
    }
}

#[test]
fn errors_name_the_argument() {
    let (hidden, weight) = (Tensor::zeros([2, 3, 4], F32), Tensor::zeros([5, 4], F32));
    let (labels, weights) = (Tensor::zeros([2, 3], I64), Tensor::ones([2, 3], F32));
    let with = |config: FigaLoss, hidden: &Tensor, head: LmHead<'_>, labels: &Tensor, weights: &Tensor| {
        config.forward_linear(hidden, head, labels, weights).unwrap_err().to_string()
    };
    let default = FigaLoss::default();
    let head = LmHead::from(&weight);
    let bad_head = |head: LmHead<'_>| with(default, &hidden, head, &labels, &weights);
    assert_eq!(
        with(default, &hidden.get(0), head, &labels, &weights),
        "hidden: expected shape [B, S, H] = [2, 3, H] with H > 0, got [3, 4]"
    );
    let narrow = Tensor::zeros([5, 0], F32);
    assert_eq!(
        with(default, &hidden.narrow(2, 0, 0), LmHead::from(&narrow), &labels, &weights),
        "hidden: expected shape [B, S, H] = [2, 3, H] with H > 0, got [2, 3, 0]"
    );
    assert_eq!(bad_head(LmHead::from(&weight.tr())), "lm_head: expected shape [V, H] = [V, 4] with V > 0, got [4, 5]");
    assert_eq!(
        bad_head(LmHead::from(&Tensor::zeros([0, 4], F32))),
        "lm_head: expected shape [V, H] = [V, 4] with V > 0, got [0, 4]"
    );
    assert_eq!(bad_head(head.with_bias(&Tensor::zeros([4], F32))), "bias: expected shape [V] = [5], got [4]");
    assert_eq!(
        bad_head(LmHead::from(&weight.to_kind(Kind::BFloat16))),
        "lm_head: expected dtype that of hidden, got BFloat16; convert it with to_kind"
    );
    assert_eq!(bad_head(head.with_scale(0.0)), "scale: expected a finite number other than 0, got 0");
    assert_eq!(bad_head(head.with_softcap(-1.0)), "softcap: expected a number > 0, got -1");
    assert_eq!(bad_head(head.with_softcap(0.0)), "softcap: expected a number > 0, got 0");
    assert_eq!(
        with(default.with_chunk_rows(0), &hidden, head, &labels, &weights),
        "chunk_rows: expected at least 1 row, got 0"
    );
    assert_eq!(
        with(default, &hidden, head, &labels.to_kind(Kind::Int), &weights),
        "labels: expected dtype int64, got Int; convert it with to_kind"
    );
    assert_eq!(
        with(default, &hidden, head, &labels, &weights.narrow(1, 0, 2)),
        "weights: expected shape [B, S] = [2, 3], that of labels, got [2, 2]"
    );
    let outside = default.forward_linear(&hidden, head, &labels.full_like(5), &weights).unwrap_err();
    assert!(
        matches!(outside, Error::LabelOutOfRange { ref place, label: 5, vocab: 5, .. } if place == "[0, 1]"),
        "{outside}"
    );
}
