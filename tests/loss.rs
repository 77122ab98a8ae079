//! The loss: against PyTorch, against finite differences, and against what must not matter.
#![cfg(feature = "torch")]

use approx::{assert_abs_diff_eq, assert_relative_eq};
use figa_loss::tch::{Device, Kind, Tensor, no_grad_guard};
use figa_loss::{Error, FigaLoss, Gate, LossOutput, Penalty, Reduction, figa_loss};

const UNGATED: FigaLoss = FigaLoss::new().with_gate(None);

fn tensor<T: figa_loss::tch::kind::Element>(data: &[T], shape: &[i64]) -> Tensor {
    Tensor::from_slice(data).reshape(shape)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

/// A batch of 3 x 6 x 7 in f64 with prompt, padding, all signs of weights, and tokens on both sides of the gate.
struct Case {
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
}

fn case() -> Case {
    figa_loss::tch::manual_seed(7);
    let labels = Tensor::randint(7, [3, 6], (Kind::Int64, Device::Cpu));
    let likely = labels.slice(1, 1, None, 1).one_hot(7).to_kind(Kind::Double).constant_pad_nd([0, 0, 0, 1]);
    let logits = Tensor::randn([3, 6, 7], (Kind::Double, Device::Cpu)) + likely * 3.0;
    let weights = [0.0, 1.0, -0.5, 0.25, -1.0, 1.0, 1.0, -0.5, 0.0, -0.5, -0.5, 0.0, 0.5, 0.0, -0.5, 1.0, 1.0, 0.0];
    let mut labels = Vec::<i64>::try_from(labels.reshape([-1])).unwrap();
    labels[0] = -100;
    labels[6] = -100;
    labels[7] = -100;
    labels[17] = -100;
    Case { logits, labels: tensor(&labels, &[3, 6]), weights: tensor(&weights, &[3, 6]) }
}

impl Case {
    fn forward(&self, loss: FigaLoss) -> (LossOutput, Tensor) {
        let logits = self.logits.detach().copy().set_requires_grad(true);
        let output = loss.forward(&logits, &self.labels, &self.weights).unwrap();
        output.loss.backward();
        let grad = logits.grad();
        (output, grad)
    }

    fn loss(&self, loss: FigaLoss) -> f64 {
        self.forward(loss).0.loss.double_value(&[])
    }

    fn rows(&self, start: i64, len: i64) -> Case {
        let rows = |tensor: &Tensor| tensor.narrow(0, start, len);
        Case { logits: rows(&self.logits), labels: rows(&self.labels), weights: rows(&self.weights) }
    }
}

#[cfg(feature = "data")]
#[test]
fn loss_and_gradient_equal_those_of_pytorch() {
    #[derive(serde::Deserialize)]
    struct Fixture {
        shape: [i64; 3],
        gate: Option<Vec<f64>>,
        reduction: serde_json::Value,
        logits: Vec<f64>,
        labels: Vec<i64>,
        weights: Vec<f64>,
        loss: f64,
        numerator: f64,
        denominator: f64,
        grad: Vec<f64>,
        added: (i64, f64),
        removed: (i64, f64),
        gated: (i64, f64),
    }
    let mut cases = 0;
    for line in include_str!("fixtures/loss.jsonl").lines() {
        let f: Fixture = serde_json::from_str(line).unwrap();
        let [b, s, v] = f.shape;
        let gate = f.gate.as_deref().map(|gate| match *gate {
            [limit] => Gate::AtMost(limit),
            [min, max] => Gate::Band { min, max },
            _ => panic!("gate {gate:?}"),
        });
        let reduction = match f.reduction.as_str() {
            Some("active_tokens") => Reduction::ActiveTokens,
            Some("labelled_tokens") => Reduction::LabelledTokens,
            Some("abs_weights") => Reduction::AbsWeights,
            Some("sum") => Reduction::Sum,
            _ => Reduction::External(f.reduction.as_f64().unwrap()),
        };
        let case = Case {
            logits: tensor(&f.logits, &[b, s, v]),
            labels: tensor(&f.labels, &[b, s]),
            weights: tensor(&f.weights, &[b, s]),
        };
        let (output, grad) = case.forward(FigaLoss::new().with_gate(gate).with_reduction(reduction));
        assert_abs_diff_eq!(output.loss.double_value(&[]), f.loss, epsilon = 1e-12);
        assert_abs_diff_eq!(output.numerator.double_value(&[]), f.numerator, epsilon = 1e-12);
        assert_abs_diff_eq!(output.denominator.double_value(&[]), f.denominator, epsilon = 1e-12);
        assert_abs_diff_eq!(*values(&grad), *f.grad, epsilon = 1e-12);
        assert!(!output.denominator.requires_grad());
        let summary = output.stats.read().unwrap();
        for (name, stats, expected) in [
            ("added", summary.added, f.added),
            ("removed", summary.removed, f.removed),
            ("gated", summary.gated, f.gated),
        ] {
            assert_eq!(stats.count, expected.0, "{name}");
            match stats.mean_nll {
                None => assert_eq!(expected.0, 0, "{name}"),
                Some(mean) => assert_abs_diff_eq!(mean, expected.1 / expected.0 as f64, epsilon = 1e-12),
            }
        }
        cases += 1;
    }
    assert_eq!(cases, 45);
}

#[test]
fn gradient_equals_finite_differences() {
    let case = case();
    for gate in [None, Some(Gate::AtMost(0.6)), Some(Gate::Band { min: 0.1, max: 1.0 })] {
        let loss = FigaLoss::new().with_gate(gate);
        let (_, grad) = case.forward(loss);
        let numeric: Vec<f64> = (0..case.logits.numel() as i64)
            .map(|index| {
                let at = |step: f64| {
                    let logits = case.logits.copy();
                    let _ = logits.reshape([-1]).get(index).f_add_scalar_(step).unwrap();
                    loss.forward(&logits, &case.labels, &case.weights).unwrap().loss.double_value(&[])
                };
                (at(1e-5) - at(-1e-5)) / 2e-5
            })
            .collect();
        assert_abs_diff_eq!(*values(&grad), *numeric, epsilon = 1e-9);
        assert!(numeric.iter().any(|g| g.abs() > 1e-2));
    }
}

#[test]
fn all_weights_one_without_gate_is_mean_cross_entropy() {
    let mut case = case();
    case.weights = case.weights.ones_like();
    let flat = |t: &Tensor| t.slice(1, 1, None, 1).reshape([-1]);
    let expected = case.logits.slice(1, 0, -1, 1).reshape([-1, 7]).cross_entropy_loss::<Tensor>(
        &flat(&case.labels),
        None,
        figa_loss::tch::Reduction::Mean,
        -100,
        0.0,
    );
    assert_relative_eq!(case.loss(UNGATED), expected.double_value(&[]), epsilon = 1e-12);
}

#[test]
fn scaling_the_weights_scales_the_loss() {
    let mut case = case();
    let (loss, scaled) = (case.loss(FigaLoss::default()), {
        case.weights = &case.weights * 3.0;
        case.loss(FigaLoss::default())
    });
    assert_relative_eq!(scaled, 3.0 * loss, epsilon = 1e-12);
    assert!(loss.abs() > 1e-3);
}

#[test]
fn weights_change_the_gradient_token_by_token() {
    let mut case = case();
    let (_, grad) = case.forward(UNGATED);
    let (_, uniform) = {
        case.weights = case.weights.ones_like();
        case.forward(UNGATED)
    };
    // No single factor turns one gradient into the other, so the weights cannot have been averaged away.
    let cosine = grad.dot_flat(&uniform) / (grad.dot_flat(&grad) * uniform.dot_flat(&uniform)).sqrt();
    assert!(cosine.abs() < 0.9, "cosine {cosine}");
    // Position t predicts token t + 1: row 0 position 1 carries token 2, of weight -0.5; position 4 carries token 5,
    // of weight 1.
    let at = |t: i64| values(&grad.get(0).get(t).abs().sum(Kind::Double))[0];
    assert!(at(1) > 0.0 && at(4) > 0.0);
    // The last position predicts nothing, and row 2 position 0 predicts a token of weight 0.
    assert_eq!((at(5), values(&grad.get(2).get(0).abs().sum(Kind::Double))[0]), (0.0, 0.0));
}

trait DotFlat {
    fn dot_flat(&self, other: &Tensor) -> f64;
}

impl DotFlat for Tensor {
    fn dot_flat(&self, other: &Tensor) -> f64 {
        self.reshape([-1]).dot(&other.reshape([-1])).double_value(&[])
    }
}

#[test]
fn padding_and_row_order_do_not_matter() {
    let case = case();
    let (output, grad) = case.forward(FigaLoss::default());

    let padded = Case {
        logits: Tensor::cat(&[case.logits.shallow_clone(), Tensor::randn([3, 4, 7], (Kind::Double, Device::Cpu))], 1),
        labels: case
            .labels
            .constant_pad_nd([0, 4])
            .masked_fill(&Tensor::from_slice(&[0i64, 0, 0, 0, 0, 0, 1, 1, 1, 1]).to_kind(Kind::Bool), -100),
        weights: case.weights.constant_pad_nd([0, 4]),
    };
    let (padded_output, padded_grad) = padded.forward(FigaLoss::default());
    assert_relative_eq!(padded_output.loss.double_value(&[]), output.loss.double_value(&[]), epsilon = 1e-12);
    assert_abs_diff_eq!(*values(&padded_grad.narrow(1, 0, 6)), *values(&grad), epsilon = 1e-12);
    assert!(values(&padded_grad.narrow(1, 6, 4)).iter().all(|&g| g == 0.0));

    let order = Tensor::from_slice(&[2i64, 0, 1]);
    let permuted = Case {
        logits: case.logits.index_select(0, &order),
        labels: case.labels.index_select(0, &order),
        weights: case.weights.index_select(0, &order),
    };
    let (permuted_output, permuted_grad) = permuted.forward(FigaLoss::default());
    assert_relative_eq!(permuted_output.loss.double_value(&[]), output.loss.double_value(&[]), epsilon = 1e-12);
    assert_abs_diff_eq!(*values(&permuted_grad), *values(&grad.index_select(0, &order)), epsilon = 1e-12);
}

#[test]
fn micro_batches_with_the_external_denominator_add_up_to_the_full_batch() {
    let case = case();
    let (full, full_grad) = case.forward(FigaLoss::default());
    let shared = FigaLoss::new().with_reduction(Reduction::External(full.denominator.double_value(&[])));
    let (a, grad_a) = case.rows(0, 1).forward(shared);
    let (b, grad_b) = case.rows(1, 2).forward(shared);
    assert_relative_eq!((a.loss + b.loss).double_value(&[]), full.loss.double_value(&[]), epsilon = 1e-12);
    assert_abs_diff_eq!(*values(&Tensor::cat(&[grad_a, grad_b], 0)), *values(&full_grad), epsilon = 1e-12);

    // The mean of the micro-batches' own means is another number, which is why the external denominator exists.
    let own = (case.rows(0, 1).loss(FigaLoss::default()) + case.rows(1, 2).loss(FigaLoss::default())) / 2.0;
    assert!((own - full.loss.double_value(&[])).abs() > 1e-3);
}

#[test]
fn nothing_active_is_zero_with_a_gradient_of_zeros() {
    let logits = || Tensor::randn([2, 3, 5], (Kind::Float, Device::Cpu));
    let labels = tensor(&[-100i64, 1, 2, -100, -100, -100], &[2, 3]);
    let zeros = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    let penalties = zeros.f_add_scalar(-0.5).unwrap();
    for reduction in [
        Reduction::ActiveTokens,
        Reduction::LabelledTokens,
        Reduction::AbsWeights,
        Reduction::Sum,
        Reduction::External(3.0),
    ] {
        // Weights of zero; then penalties that the gate spares one and all.
        for (weights, gate) in [(&zeros, None), (&penalties, Some(Gate::AtMost(-1.0)))] {
            let logits = logits().set_requires_grad(true);
            let loss = FigaLoss::new()
                .with_gate(gate)
                .with_reduction(reduction)
                .forward(&logits, &labels, weights)
                .unwrap()
                .loss;
            assert_eq!(loss.double_value(&[]), 0.0);
            loss.backward();
            assert!(logits.grad().defined() && values(&logits.grad()).iter().all(|&g| g == 0.0), "{reduction:?}");
        }
    }
    // Nothing labelled; no rows, no positions, and a single position, which predicts nothing.
    let ignored = labels.full_like(-100);
    let loss = UNGATED.with_reduction(Reduction::LabelledTokens).forward(&logits(), &ignored, &penalties);
    assert_eq!(loss.unwrap().loss.double_value(&[]), 0.0);
    for (b, s) in [(0, 3), (2, 0), (2, 1)] {
        let logits = Tensor::zeros([b, s, 5], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let labels = Tensor::zeros([b, s], (Kind::Int64, Device::Cpu));
        let loss = figa_loss(&logits, &labels, &Tensor::ones([b, s], (Kind::Float, Device::Cpu))).unwrap();
        assert_eq!(loss.double_value(&[]), 0.0);
        loss.backward();
        assert_eq!(logits.grad().size(), [b, s, 5]);
    }
}

#[test]
fn inf_and_nan_at_weight_zero_are_harmless() {
    let case = case();
    let (clean, clean_grad) = case.forward(FigaLoss::default());
    // Row 0 position 2 is active; row 2 position 0 predicts weight 0; the last position and the ignored label of row
    // 1 count for nothing.
    for (row, position, value) in [(2, 0, f64::INFINITY), (1, 0, f64::NAN), (0, 5, f64::NEG_INFINITY), (2, 4, f64::NAN)]
    {
        let _ = case.logits.get(row).get(position).fill_(value);
    }
    let (output, grad) = case.forward(FigaLoss::default());
    assert_eq!(output.loss.double_value(&[]), clean.loss.double_value(&[]));
    assert_eq!(values(&grad), values(&clean_grad));

    let _ = case.logits.get(0).get(2).fill_(f64::NAN);
    assert!(case.loss(FigaLoss::default()).is_nan(), "NaN in an active row must show");
}

#[test]
fn the_gate_includes_its_bounds() {
    // Two equal logits: nll = ln 2.
    let logits = Tensor::zeros([1, 2, 2], (Kind::Double, Device::Cpu));
    let (labels, weights) = (tensor(&[0i64, 1], &[1, 2]), tensor(&[0f32, -1.0], &[1, 2]));
    let nll = 2f64.ln();
    let gated = |gate| {
        let output = UNGATED.with_gate(Some(gate)).forward(&logits, &labels, &weights).unwrap();
        output.stats.read().unwrap().gated.count == 1
    };
    assert!(!gated(Gate::AtMost(nll)) && gated(Gate::AtMost(nll - 1e-9)));
    assert!(!gated(Gate::Band { min: nll, max: nll }));
    assert!(gated(Gate::Band { min: nll + 1e-9, max: 1.0 }) && gated(Gate::Band { min: 0.0, max: nll - 1e-9 }));
}

#[test]
fn a_gated_token_of_infinite_nll_has_no_gradient() {
    let mut logits = Tensor::zeros([1, 2, 3], (Kind::Float, Device::Cpu));
    let _ = logits.get(0).get(0).get(1).fill_(f64::NEG_INFINITY);
    logits = logits.set_requires_grad(true);
    for weight in [-0.5, f32::NEG_INFINITY] {
        logits.zero_grad();
        let loss = figa_loss(&logits, &tensor(&[0i64, 1], &[1, 2]), &tensor(&[0f32, weight], &[1, 2])).unwrap();
        loss.backward();
        assert_eq!((loss.double_value(&[]), values(&logits.grad())), (0.0, vec![0.0; 6]), "weight {weight}");
    }
}

#[test]
fn half_precision_strides_and_weights_that_require_grad_are_fine() {
    let case = case();
    let exact = case.loss(FigaLoss::default());
    for (kind, tolerance) in [(Kind::Half, 2e-3), (Kind::BFloat16, 2e-2), (Kind::Float, 1e-6)] {
        let loss = figa_loss(&case.logits.to_kind(kind), &case.labels, &case.weights.to_kind(Kind::Float)).unwrap();
        assert_eq!(loss.kind(), Kind::Float);
        // The upcast comes before the softmax.
        let upcast = figa_loss(&case.logits.to_kind(kind).to_kind(Kind::Float), &case.labels, &case.weights).unwrap();
        assert_eq!(loss.double_value(&[]), upcast.double_value(&[]));
        assert_abs_diff_eq!(loss.double_value(&[]), exact, epsilon = tolerance);
    }
    let strided = Case {
        logits: case.logits.transpose(0, 2).contiguous().transpose(0, 2),
        labels: case.labels.tr().contiguous().tr(),
        weights: case.weights.tr().contiguous().tr(),
    };
    assert!(!strided.logits.is_contiguous() && !strided.labels.is_contiguous());
    assert_eq!(strided.loss(FigaLoss::default()), exact);
    let weights = case.weights.copy().set_requires_grad(true);
    let logits = case.logits.copy().set_requires_grad(true);
    figa_loss(&logits, &case.labels, &weights).unwrap().backward();
    assert!(!weights.grad().defined() && logits.grad().defined());
}

#[test]
fn the_value_alone_is_computed_without_grad() {
    let case = case();
    let _no_grad = no_grad_guard();
    let logits = case.logits.copy().set_requires_grad(true);
    assert!(!figa_loss(&logits, &case.labels, &case.weights).unwrap().requires_grad());
}

#[test]
fn errors_name_the_argument_what_was_expected_and_what_came() {
    let float = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let int = |shape: &[i64]| Tensor::zeros(shape, (Kind::Int64, Device::Cpu));
    let message = |logits: &Tensor, labels: &Tensor, weights: &Tensor| {
        figa_loss(logits, labels, weights).unwrap_err().to_string()
    };

    let (logits, labels, weights) = (float(&[2, 3, 5]), int(&[2, 3]), float(&[2, 3]));
    for (text, expected) in [
        (message(&float(&[6, 5]), &labels, &weights), "logits: expected shape [B, S, V] with V > 0, got [6, 5]"),
        (message(&float(&[2, 3, 0]), &labels, &weights), "logits: expected shape [B, S, V] with V > 0, got [2, 3, 0]"),
        (message(&logits, &int(&[2, 4]), &weights), "labels: expected shape [B, S] = [2, 3], got [2, 4]"),
        (message(&logits, &labels, &float(&[2])), "weights: expected shape [B, S] = [2, 3], got [2]"),
        (
            message(&logits.to_kind(Kind::Int64), &labels, &weights),
            "logits: expected dtype f16, bf16, f32 or f64, got Int64; convert it with to_kind",
        ),
        (
            message(&logits, &labels.to_kind(Kind::Int), &weights),
            "labels: expected dtype int64, got Int; convert it with to_kind",
        ),
        (
            message(&logits, &labels, &labels),
            "weights: expected dtype f16, bf16, f32 or f64, got Int64; convert it with to_kind",
        ),
        (message(&Tensor::new(), &labels, &weights), "logits: expected a tensor, got an undefined tensor"),
        (message(&logits, &Tensor::new(), &weights), "labels: expected a tensor, got an undefined tensor"),
        (message(&logits, &labels, &Tensor::new()), "weights: expected a tensor, got an undefined tensor"),
        (
            message(&logits, &tensor(&[0i64, 1, 2, 3, 4, 5], &[2, 3]), &weights),
            "labels[1, 2] is 5: expected 0 <= label < V = 5, or ignore_index = -100",
        ),
        (
            message(&logits, &tensor(&[0i64, -1, 2, 3, 4, 0], &[2, 3]), &weights),
            "labels[0, 1] is -1: expected 0 <= label < V = 5, or ignore_index = -100",
        ),
    ] {
        assert_eq!(text, expected);
    }

    if Device::cuda_if_available().is_cuda() {
        let error = figa_loss(&logits, &labels, &weights.to_device(Device::Cuda(0))).unwrap_err();
        assert!(matches!(error, Error::Device { argument: "weights", .. }), "{error}");
    }
    for (loss, argument) in [
        (UNGATED.with_gate(Some(Gate::AtMost(f64::NAN))), "gate"),
        (UNGATED.with_gate(Some(Gate::Band { min: 1.0, max: 0.5 })), "gate"),
        (UNGATED.with_reduction(Reduction::External(0.0)), "reduction"),
        (UNGATED.with_reduction(Reduction::External(f64::INFINITY)), "reduction"),
        (UNGATED.with_reduction(Reduction::External(1e39)), "reduction"),
        (UNGATED.with_reduction(Reduction::External(1e-50)), "reduction"),
    ] {
        let error = loss.forward(&logits, &labels, &weights).unwrap_err();
        assert!(matches!(error, Error::Value { argument: name, .. } if name == argument), "{error}");
    }
}

#[test]
fn another_ignore_index_is_respected() {
    let mut case = case();
    let expected = case.loss(FigaLoss::default());
    case.labels = case.labels.masked_fill(&case.labels.eq(-100), -1);
    assert_eq!(case.loss(FigaLoss::new().with_ignore_index(-1)), expected);
}

#[test]
fn unlikelihood_is_exact_where_the_model_is_certain() {
    let config = UNGATED.with_penalty(Penalty::Unlikelihood);
    let (labels, weights) = (tensor(&[0i64, 0], &[1, 2]), tensor(&[0f32, -0.5], &[1, 2]));
    for gap in [1e-3, 1.0, 20.0, 100.0] {
        let logits = tensor(&[gap as f32, 0.0, 0.0, 0.0], &[1, 2, 2]).set_requires_grad(true);
        let loss = config.forward(&logits, &labels, &weights).unwrap().loss;
        loss.backward();
        // With two columns, -log(1 - p) = log(1 + exp(gap)), and its derivative is p.
        let p = 1.0 / (1.0 + f64::exp(-gap));
        assert_relative_eq!(loss.double_value(&[]), 0.5 * (f64::exp(-gap).ln_1p() + gap), max_relative = 1e-6);
        assert_relative_eq!(logits.grad().double_value(&[0, 0, 0]), 0.5 * p, max_relative = 1e-6);
        assert_relative_eq!(logits.grad().double_value(&[0, 0, 1]), -0.5 * p, max_relative = 1e-6);
    }
}

#[test]
fn columns_masked_by_minus_infinity_have_no_gradient() {
    const NO: f32 = f32::NEG_INFINITY;
    let (labels, weights) = (tensor(&[0i64, 1], &[1, 2]), tensor(&[0f32, 1.0], &[1, 2]));
    for (row, nll, grad) in [
        ([NO, 0.0, 0.0], 2f64.ln(), [0.0, -0.5, 0.5]),
        // Nothing but the label, and nothing but others, is left.
        ([NO, 3.0, NO], 0.0, [0.0, 0.0, 0.0]),
        ([0.0, NO, NO], f64::INFINITY, [1.0, -1.0, 0.0]),
    ] {
        let logits = tensor(&[row, [0.0; 3]].concat(), &[1, 2, 3]).set_requires_grad(true);
        let loss = UNGATED.forward(&logits, &labels, &weights).unwrap().loss;
        loss.backward();
        assert_relative_eq!(loss.double_value(&[]), nll, epsilon = 1e-6);
        assert_abs_diff_eq!(values(&logits.grad())[..3], grad, epsilon = 1e-6);
    }
    // Plus infinity is wrong in every column, that of the label included.
    for at in 0..3 {
        let logits = Tensor::zeros([1, 2, 3], (Kind::Float, Device::Cpu));
        let _ = logits.get(0).get(0).get(at).fill_(f64::INFINITY);
        assert!(figa_loss(&logits, &labels, &weights).unwrap().double_value(&[]).is_nan(), "column {at}");
    }
}

#[test]
fn a_vocabulary_of_one_leaves_nothing_to_learn() {
    let logits = Tensor::randn([1, 3, 1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let loss = figa_loss(&logits, &tensor(&[0i64; 3], &[1, 3]), &tensor(&[1f32; 3], &[1, 3])).unwrap();
    loss.backward();
    assert_eq!((loss.double_value(&[]), values(&logits.grad())), (0.0, vec![0.0; 3]));
}

#[test]
fn statistics_are_kept_by_class() {
    // Position 0 is certain of token 1 to p = 3/4, the others of nothing: p = 1/2.
    let logits = tensor(&[0.0, 3f64.ln(), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], &[1, 5, 2]);
    let labels = tensor(&[0i64, 1, 1, 0, 0], &[1, 5]);
    let config = FigaLoss::new().with_eos_id(0);
    let output = config.forward(&logits, &labels, &tensor(&[0f64, -1.0, -1.0, 2.0, 0.0], &[1, 5])).unwrap();
    let summary = output.stats.read().unwrap();
    let of = |stats: figa_loss::ClassSummary| (stats.count, stats.mean_nll, stats.mean_probability);
    let close = |stats, p: f64| {
        let (count, nll, probability) = of(stats);
        assert_eq!(count, 1);
        assert_abs_diff_eq!(nll.unwrap(), -p.ln(), epsilon = 1e-12);
        assert_abs_diff_eq!(probability.unwrap(), p, epsilon = 1e-12);
    };
    close(summary.removed, 0.75);
    close(summary.gated, 0.5);
    close(summary.eos, 0.5);
    assert_eq!((of(summary.added), summary.kept), ((0, None, None), 1));
}

#[test]
fn single_losses_have_the_positions_of_the_labels() {
    let case = case();
    let config = UNGATED.with_reduction(Reduction::None);
    let (loss, nll) = (config.forward(&case.logits, &case.labels, &case.weights).unwrap(), |row: i64, token: i64| {
        let row_of_logits = case.logits.get(row).get(token - 1).log_softmax(-1, Kind::Double);
        -row_of_logits.double_value(&[case.labels.int64_value(&[row, token])])
    });
    assert_eq!((loss.loss.size(), loss.loss.double_value(&[0, 0])), (vec![3, 6], 0.0));
    assert_abs_diff_eq!(loss.loss.double_value(&[0, 2]), -0.5 * nll(0, 2), epsilon = 1e-12);
    assert_abs_diff_eq!(loss.loss.double_value(&[2, 3]), nll(2, 3), epsilon = 1e-12);
    assert_abs_diff_eq!(
        loss.loss.sum(Kind::Double).double_value(&[]),
        loss.numerator.double_value(&[]),
        epsilon = 1e-12
    );
}
