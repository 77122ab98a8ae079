//! The loss fused with the head: against the dense expression over a grid, and what is particular to it.
#![cfg(feature = "torch")]

mod dense;

use approx::assert_abs_diff_eq;
use figa_loss::tch::{Device, Kind, Tensor, manual_seed, no_grad_guard};
use figa_loss::{Error, FigaLoss, Gate, LmHead, Penalty, Reduction, fused_linear_figa_loss};

const F64: (Kind, Device) = (Kind::Double, Device::Cpu);

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn number(tensor: &Tensor) -> f64 {
    tensor.double_value(&[])
}

/// A batch in which the model believes in about half of the tokens.
struct Case {
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    weights: Tensor,
}

impl Case {
    fn new(seed: i64, [b, s, h, v]: [i64; 4]) -> Self {
        manual_seed(seed);
        let weight = Tensor::randn([v, h], F64);
        let labels = Tensor::randint(v, [b, s], (Kind::Int64, Device::Cpu));
        let next = labels.roll([-1], [1]);
        // Rows along the label's weights, with or against them.
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

    /// The inputs rounded to `kind`; gradients wherever they are not frozen.
    fn leaves(&self, kind: Kind, hidden: bool, head: bool) -> [Tensor; 3] {
        let leaf = |tensor: &Tensor, free: bool| tensor.to_kind(kind).copy().set_requires_grad(free);
        [leaf(&self.hidden, hidden), leaf(&self.weight, head), leaf(&self.bias, head)]
    }

    /// The same numbers in f64.
    fn upcast([hidden, weight, bias]: &[Tensor; 3]) -> [Tensor; 3] {
        [hidden, weight, bias]
            .map(|leaf| leaf.detach().to_kind(Kind::Double).copy().set_requires_grad(leaf.requires_grad()))
    }
}

fn head<'a>([_, weight, bias]: &'a [Tensor; 3], with_bias: bool, softcap: Option<f64>, scale: f64) -> LmHead<'a> {
    let mut head = LmHead::new(weight);
    (head.bias, head.softcap, head.scale) = (with_bias.then_some(bias), softcap, scale);
    head
}

/// The loss under an outer gradient that is not 1, and the gradients of the leaves, where they have one.
fn results(loss: &Tensor, leaves: &[Tensor; 3]) -> Vec<Tensor> {
    let outer = Tensor::arange(loss.numel() as i64, (Kind::Double, Device::Cpu)).reshape(loss.size()) * 0.3 + 2.0;
    (loss * outer.to_kind(loss.kind())).sum(loss.kind()).backward();
    let grads = leaves.iter().map(|leaf| leaf.grad()).filter(|grad| grad.defined());
    [loss.detach()].into_iter().chain(grads).collect()
}

/// The distance from the truth.
fn error(result: &Tensor, truth: &Tensor) -> f64 {
    number(&(result.to_kind(Kind::Double) - truth.to_kind(Kind::Double)).norm())
}

/// Results are the loss, whose terms add up to `size` if none is negative, and gradients.
fn assert_no_less_exact(name: &str, size: f64, ours: &[Tensor], plain: &[Tensor], truth: &[Tensor]) {
    assert_eq!((ours.len(), plain.len()), (truth.len(), truth.len()), "{name}");
    for (part, truth) in truth.iter().enumerate() {
        let size = if part == 0 { size } else { number(&truth.norm()) }.max(1e-9);
        let (ours, plain) = (error(&ours[part], truth) / size, error(&plain[part], truth) / size);
        assert!(ours <= plain + 1e-6, "{name}, part {part}: {ours:e} but {plain:e}");
    }
}

#[test]
fn no_path_is_less_exact_than_the_dense_expression() {
    let gates = [None, Some(Gate::AtMost(0.6)), Some(Gate::Band { min: 0.6, max: 20.0 })];
    let reductions = [
        Reduction::ActiveTokens,
        Reduction::LabelledTokens,
        Reduction::AbsWeights,
        Reduction::Sum,
        Reduction::SequenceMeans,
        Reduction::None,
        Reduction::External(5.0),
    ];
    let mut cases = 0;
    for (seed, shape) in [(1, [2, 7, 5, 13]), (2, [3, 11, 8, 33])] {
        let case = Case::new(seed, shape);
        for kind in [Kind::Double, Kind::Float, Kind::BFloat16, Kind::Half] {
            for (softcap, scale, with_bias) in [
                (None, 1.0, false),
                (None, 1.0, true),
                (Some(3.0), 1.0, true),
                (Some(5.0), 1.5, false),
                (None, 0.5, true),
            ] {
                for (gate, penalty) in gates.iter().flat_map(|&g| [(g, Penalty::Nll), (g, Penalty::Unlikelihood)]) {
                    for reduction in reductions {
                        for (free_hidden, free_head) in [(true, true), (true, false), (false, true)] {
                            let chunk = [None, Some(1), Some(3)][cases % 3];
                            let mut config =
                                FigaLoss::new().with_gate(gate).with_penalty(penalty).with_reduction(reduction);
                            config.chunk_rows = chunk;
                            let name = format!("{kind:?} {softcap:?} {scale} {with_bias} {free_hidden} {config:?}");

                            let leaves = case.leaves(kind, free_hidden, free_head);
                            let lm_head = head(&leaves, with_bias, softcap, scale);
                            let output =
                                config.forward_linear(&leaves[0], lm_head, &case.labels, &case.weights).unwrap();
                            let ours = results(&output.loss, &leaves);

                            let leaves = case.leaves(kind, free_hidden, free_head);
                            let logits = dense::logits(&leaves[0], &head(&leaves, with_bias, softcap, scale));
                            let plain = dense::loss(&config, &logits, &case.labels, &case.weights);
                            let plain = results(&plain, &leaves);

                            let leaves = Case::upcast(&leaves);
                            let logits = dense::logits(&leaves[0], &head(&leaves, with_bias, softcap, scale));
                            let truth = dense::loss(&config, &logits, &case.labels, &case.weights);
                            let truth = results(&truth, &leaves);
                            let size = dense::size(&config, &logits, &case.labels, &case.weights);

                            if softcap.is_none() && scale == 1.0 && !with_bias && free_hidden && free_head {
                                // The same from logits.
                                let logits = logits.detach().to_kind(kind);
                                let leaf = |kind| [0; 3].map(|_| logits.to_kind(kind).copy().set_requires_grad(true));
                                let (a, b, c) = (leaf(kind), leaf(kind), leaf(Kind::Double));
                                let output = config.forward(&a[0], &case.labels, &case.weights).unwrap();
                                let ours = results(&output.loss, &a);
                                let plain = results(&dense::loss(&config, &b[0], &case.labels, &case.weights), &b);
                                let truth = results(&dense::loss(&config, &c[0], &case.labels, &case.weights), &c);
                                assert_no_less_exact(&format!("logits, {name}"), size, &ours, &plain, &truth);
                            }
                            assert_no_less_exact(&name, size, &ours, &plain, &truth);
                            cases += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(cases, 2 * 4 * 5 * 6 * 7 * 3);
}

/// The gradients of the leaves after `backward`.
fn gradients(loss: &Tensor, leaves: &[Tensor; 3]) -> [Vec<f64>; 2] {
    loss.backward();
    [values(&leaves[0].grad()), values(&leaves[1].grad())]
}

#[test]
fn micro_batches_and_repeated_calls_add_up() {
    let case = Case::new(3, [4, 6, 5, 9]);
    let leaves = case.leaves(Kind::Double, true, true);
    let full = FigaLoss::default().forward_linear(&leaves[0], &leaves[1], &case.labels, &case.weights).unwrap();
    let expected = gradients(&full.loss, &leaves);

    let shared = FigaLoss::new().with_reduction(Reduction::External(number(&full.denominator)));
    let leaves = case.leaves(Kind::Double, true, true);
    let mut sum = 0.0;
    for (start, len) in [(0, 1), (1, 3)] {
        let rows = |tensor: &Tensor| tensor.narrow(0, start, len);
        let part = shared.forward_linear(&rows(&leaves[0]), &leaves[1], &rows(&case.labels), &rows(&case.weights));
        let part = part.unwrap().loss;
        part.backward();
        sum += number(&part);
    }
    assert_abs_diff_eq!(sum, number(&full.loss), epsilon = 1e-12);
    assert_abs_diff_eq!(*values(&leaves[0].grad()), *expected[0], epsilon = 1e-12);
    assert_abs_diff_eq!(*values(&leaves[1].grad()), *expected[1], epsilon = 1e-12);

    // Numerators, each with its own call, and the sum of the denominators.
    let leaves = case.leaves(Kind::Double, true, true);
    let mut denominator = 0.0;
    for (start, len) in [(0, 1), (1, 3)] {
        let rows = |tensor: &Tensor| tensor.narrow(0, start, len);
        let part = FigaLoss::default()
            .forward_linear(&rows(&leaves[0]), &leaves[1], &rows(&case.labels), &rows(&case.weights))
            .unwrap();
        part.numerator.backward();
        denominator += number(&part.denominator);
    }
    assert_abs_diff_eq!(*values(&(leaves[1].grad() / denominator)), *expected[1], epsilon = 1e-12);
}

#[test]
fn an_embedding_tied_to_the_head_gets_both_gradients() {
    let case = Case::new(4, [2, 6, 5, 9]);
    let ids = case.labels.clamp_min(0);
    let run = |fused: bool| {
        let weight = case.weight.copy().set_requires_grad(true);
        let hidden = Tensor::embedding(&weight, &ids, -1, false, false).tanh();
        let loss = if fused {
            fused_linear_figa_loss(&hidden, &weight, &case.labels, &case.weights).unwrap()
        } else {
            dense::loss(&FigaLoss::default(), &hidden.matmul(&weight.tr()), &case.labels, &case.weights)
        };
        loss.backward();
        values(&weight.grad())
    };
    assert_abs_diff_eq!(*run(true), *run(false), epsilon = 1e-12);
}

#[test]
fn without_grad_only_the_value_is_computed() {
    let case = Case::new(5, [2, 6, 5, 9]);
    let leaves = case.leaves(Kind::Double, true, true);
    let loss = fused_linear_figa_loss(&leaves[0], &leaves[1], &case.labels, &case.weights).unwrap();
    let _no_grad = no_grad_guard();
    let value = fused_linear_figa_loss(&leaves[0], &leaves[1], &case.labels, &case.weights).unwrap();
    assert_eq!((number(&value), value.requires_grad(), loss.requires_grad()), (number(&loss), false, true));
}

#[test]
fn strides_do_not_matter() {
    let case = Case::new(6, [3, 6, 5, 9]);
    let expected = {
        let leaves = case.leaves(Kind::Double, true, true);
        let loss = fused_linear_figa_loss(&leaves[0], &leaves[1], &case.labels, &case.weights).unwrap();
        gradients(&loss, &leaves)
    };
    let strided = |tensor: &Tensor| {
        let last = tensor.dim() as i64 - 1;
        tensor.detach().transpose(0, last).contiguous().transpose(0, last).set_requires_grad(true)
    };
    let leaves = [strided(&case.hidden), strided(&case.weight), case.bias.copy()];
    let loss =
        fused_linear_figa_loss(&leaves[0], &leaves[1], &strided_ints(&case.labels), &strided(&case.weights)).unwrap();
    let grads = gradients(&loss, &leaves);
    assert_abs_diff_eq!(*grads[0], *expected[0], epsilon = 1e-12);
    assert_abs_diff_eq!(*grads[1], *expected[1], epsilon = 1e-12);

    // One row for all sequences, by stride 0.
    let expanded = case.hidden.narrow(0, 0, 1).expand([3, 6, 5], false);
    let copied = expanded.contiguous();
    let loss =
        |hidden: &Tensor| number(&fused_linear_figa_loss(hidden, &case.weight, &case.labels, &case.weights).unwrap());
    assert_eq!(loss(&expanded), loss(&copied));
}

fn strided_ints(labels: &Tensor) -> Tensor {
    labels.tr().contiguous().tr()
}

#[test]
fn only_active_rows_matter_and_in_them_nan_shows() {
    let case = Case::new(7, [2, 6, 5, 9]);
    let loss = |case: &Case| {
        let leaves = case.leaves(Kind::Float, true, true);
        let loss = fused_linear_figa_loss(&leaves[0], &leaves[1], &case.labels, &case.weights).unwrap();
        (number(&loss), gradients(&loss, &leaves))
    };
    let clean = loss(&case);
    // The last position predicts nothing.
    let _ = case.hidden.get(0).get(5).fill_(f64::NAN);
    let _ = case.hidden.get(1).get(5).fill_(f64::INFINITY);
    assert_eq!(loss(&case), clean);
    let active =
        (0..5).find(|&t| case.weights.double_value(&[0, t + 1]) > 0.0 && case.labels.int64_value(&[0, t + 1]) >= 0);
    let _ = case.hidden.get(0).get(active.expect("a rewarded token")).fill_(f64::NAN);
    assert!(loss(&case).0.is_nan());
}

#[test]
fn nothing_active_is_zero_with_gradients_of_zeros() {
    for shape in [[2, 5, 3, 4], [0, 5, 3, 4], [2, 1, 3, 4], [2, 0, 3, 4]] {
        for reduction in [Reduction::ActiveTokens, Reduction::SequenceMeans, Reduction::None] {
            let [b, s, h, v] = shape;
            let hidden = Tensor::randn([b, s, h], F64).set_requires_grad(true);
            let weight = Tensor::randn([v, h], F64).set_requires_grad(true);
            let labels = Tensor::zeros([b, s], (Kind::Int64, Device::Cpu));
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
    let float = (Kind::Float, Device::Cpu);
    let (hidden, weight) = (Tensor::zeros([2, 3, 4], float), Tensor::zeros([5, 4], float));
    let (labels, weights) = (Tensor::zeros([2, 3], (Kind::Int64, Device::Cpu)), Tensor::ones([2, 3], float));
    let with = |config: FigaLoss, hidden: &Tensor, head: LmHead<'_>, labels: &Tensor, weights: &Tensor| {
        config.forward_linear(hidden, head, labels, weights).unwrap_err().to_string()
    };
    let default = FigaLoss::default();
    let head = LmHead::from(&weight);
    let bad_head = |head: LmHead<'_>| with(default, &hidden, head, &labels, &weights);
    assert_eq!(
        with(default, &hidden.get(0), head, &labels, &weights),
        "hidden: expected shape [B, S, H] with H > 0, got [3, 4]"
    );
    let narrow = Tensor::zeros([5, 0], float);
    assert_eq!(
        with(default, &hidden.narrow(2, 0, 0), LmHead::from(&narrow), &labels, &weights),
        "hidden: expected shape [B, S, H] with H > 0, got [2, 3, 0]"
    );
    assert_eq!(bad_head(LmHead::from(&weight.tr())), "lm_head: expected shape [V, H] = [V, 4] with V > 0, got [4, 5]");
    assert_eq!(
        bad_head(LmHead::from(&Tensor::zeros([0, 4], float))),
        "lm_head: expected shape [V, H] = [V, 4] with V > 0, got [0, 4]"
    );
    assert_eq!(bad_head(head.with_bias(&Tensor::zeros([4], float))), "bias: expected shape [V] = [5], got [4]");
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
        "weights: expected shape [B, S] = [2, 3], got [2, 2]"
    );
    let outside = default.forward_linear(&hidden, head, &labels.full_like(5), &weights).unwrap_err();
    assert!(matches!(outside, Error::LabelOutOfRange { row: 0, position: 1, label: 5, vocab: 5, .. }), "{outside}");
}
