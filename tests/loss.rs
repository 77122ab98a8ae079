//! The loss from logits: against PyTorch, against finite differences, and under changes that must not matter.
#![cfg(feature = "torch")]

mod common;

use approx::{assert_abs_diff_eq, assert_relative_eq};
use common::{F32, F64, I64, ROUNDING, number, values};
use figa_loss::tch::kind::Element;
use figa_loss::tch::{Kind, Tensor, manual_seed, no_grad_guard};
use figa_loss::{ClassSummary, Error, FigaLoss, Gate, LossOutput, Penalty, Reduction, figa_loss};

const UNGATED: FigaLoss = FigaLoss::new().with_gate(None);

fn tensor<T: Element>(data: &[T], shape: &[i64]) -> Tensor {
    Tensor::from_slice(data).reshape(shape)
}

/// Logits `[3, 6, 7]` in f64, ignored labels, weights of all signs, and tokens on both sides of the gate.
struct Batch {
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
}

fn batch() -> Batch {
    manual_seed(7);
    let labels = Tensor::randint(7, [3, 6], I64);
    let likely = labels.slice(1, 1, None, 1).one_hot(7).to_kind(Kind::Double).constant_pad_nd([0, 0, 0, 1]);
    let logits = Tensor::randn([3, 6, 7], F64) + likely * 3.0;
    let weights = [0.0, 1.0, -0.5, 0.25, -1.0, 1.0, 1.0, -0.5, 0.0, -0.5, -0.5, 0.0, 0.5, 0.0, -0.5, 1.0, 1.0, 0.0];
    let mut labels = Vec::<i64>::try_from(labels.reshape([-1])).unwrap();
    for ignored in [0, 6, 7, 17] {
        labels[ignored] = -100;
    }
    Batch { logits, labels: tensor(&labels, &[3, 6]), weights: tensor(&weights, &[3, 6]) }
}

impl Batch {
    fn forward(&self, loss: FigaLoss) -> (LossOutput, Tensor) {
        let logits = self.logits.detach().copy().set_requires_grad(true);
        let output = loss.forward(&logits, &self.labels, &self.weights).unwrap();
        output.loss.backward();
        let grad = logits.grad();
        (output, grad)
    }

    fn loss(&self, loss: FigaLoss) -> f64 {
        number(&self.forward(loss).0.loss)
    }

    fn rows(&self, start: i64, len: i64) -> Batch {
        let rows = |tensor: &Tensor| tensor.narrow(0, start, len);
        Batch { logits: rows(&self.logits), labels: rows(&self.labels), weights: rows(&self.weights) }
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
        let batch = Batch {
            logits: tensor(&f.logits, &[b, s, v]),
            labels: tensor(&f.labels, &[b, s]),
            weights: tensor(&f.weights, &[b, s]),
        };
        let (output, grad) = batch.forward(FigaLoss::new().with_gate(gate).with_reduction(reduction));
        assert_abs_diff_eq!(number(&output.loss), f.loss, epsilon = ROUNDING);
        assert_abs_diff_eq!(number(&output.numerator), f.numerator, epsilon = ROUNDING);
        // The script divides an empty sum by 1.
        let denominator = number(&output.denominator);
        assert_abs_diff_eq!(if denominator == 0.0 { 1.0 } else { denominator }, f.denominator, epsilon = ROUNDING);
        assert_abs_diff_eq!(*values(&grad), *f.grad, epsilon = ROUNDING);
        assert!(!output.denominator.requires_grad());
        let summary = output.stats.read().unwrap();
        for (name, stats, expected) in [
            ("added", summary.rewarded, f.added),
            ("removed", summary.penalised, f.removed),
            ("gated", summary.gated, f.gated),
        ] {
            assert_eq!(stats.count, expected.0, "{name}");
            match stats.mean_nll {
                None => assert_eq!(expected.0, 0, "{name}"),
                Some(mean) => assert_abs_diff_eq!(mean, expected.1 / expected.0 as f64, epsilon = ROUNDING),
            }
        }
        cases += 1;
    }
    assert_eq!(cases, 45);
}

#[test]
fn gradient_equals_finite_differences() {
    const STEP: f64 = 1e-5;
    let batch = batch();
    for gate in [None, Some(Gate::AtMost(0.6)), Some(Gate::Band { min: 0.1, max: 1.0 })] {
        let loss = FigaLoss::new().with_gate(gate);
        let (_, grad) = batch.forward(loss);
        let numeric: Vec<f64> = (0..batch.logits.numel() as i64)
            .map(|index| {
                let at = |step: f64| {
                    let logits = batch.logits.copy();
                    let _ = logits.reshape([-1]).get(index).f_add_scalar_(step).unwrap();
                    number(&loss.forward(&logits, &batch.labels, &batch.weights).unwrap().loss)
                };
                (at(STEP) - at(-STEP)) / (2.0 * STEP)
            })
            .collect();
        assert_abs_diff_eq!(*values(&grad), *numeric, epsilon = 1e-9);
        assert!(numeric.iter().any(|g| g.abs() > 1e-2));
    }
}

#[test]
fn all_weights_one_without_gate_is_mean_cross_entropy() {
    let mut batch = batch();
    batch.weights = batch.weights.ones_like();
    let flat = |t: &Tensor| t.slice(1, 1, None, 1).reshape([-1]);
    let expected = batch.logits.slice(1, 0, -1, 1).reshape([-1, 7]).cross_entropy_loss::<Tensor>(
        &flat(&batch.labels),
        None,
        figa_loss::tch::Reduction::Mean,
        -100,
        0.0,
    );
    assert_relative_eq!(batch.loss(UNGATED), number(&expected), epsilon = ROUNDING);
}

#[test]
fn scaling_the_weights_scales_the_loss() {
    let mut batch = batch();
    let loss = batch.loss(FigaLoss::default());
    batch.weights = &batch.weights * 3.0;
    let scaled = batch.loss(FigaLoss::default());
    assert_relative_eq!(scaled, 3.0 * loss, epsilon = ROUNDING);
    assert!(loss.abs() > 1e-3);
}

#[test]
fn weights_change_the_gradient_token_by_token() {
    let mut batch = batch();
    let (_, grad) = batch.forward(UNGATED);
    batch.weights = batch.weights.ones_like();
    let (_, uniform) = batch.forward(UNGATED);
    // No single factor turns one gradient into the other: the weights act on single tokens, not on the mean.
    let cosine = dot(&grad, &uniform) / (dot(&grad, &grad) * dot(&uniform, &uniform)).sqrt();
    assert!(cosine.abs() < 0.9, "cosine {cosine}");
    // Position t predicts token t + 1: row 0 position 1 carries token 2, of weight -0.5; position 4 carries token 5,
    // of weight 1.
    let at = |row: i64, position: i64| number(&grad.get(row).get(position).abs().sum(Kind::Double));
    assert!(at(0, 1) > 0.0 && at(0, 4) > 0.0);
    // The last position predicts nothing, and row 2 position 0 predicts a token of weight 0.
    assert_eq!((at(0, 5), at(2, 0)), (0.0, 0.0));
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    number(&a.reshape([-1]).dot(&b.reshape([-1])))
}

#[test]
fn padding_and_row_order_do_not_matter() {
    let batch = batch();
    let (output, grad) = batch.forward(FigaLoss::default());

    let padded = Batch {
        logits: Tensor::cat(&[batch.logits.shallow_clone(), Tensor::randn([3, 4, 7], F64)], 1),
        labels: batch
            .labels
            .constant_pad_nd([0, 4])
            .masked_fill(&Tensor::from_slice(&[0i64, 0, 0, 0, 0, 0, 1, 1, 1, 1]).to_kind(Kind::Bool), -100),
        weights: batch.weights.constant_pad_nd([0, 4]),
    };
    let (padded_output, padded_grad) = padded.forward(FigaLoss::default());
    assert_relative_eq!(number(&padded_output.loss), number(&output.loss), epsilon = ROUNDING);
    assert_abs_diff_eq!(*values(&padded_grad.narrow(1, 0, 6)), *values(&grad), epsilon = ROUNDING);
    assert!(values(&padded_grad.narrow(1, 6, 4)).iter().all(|&g| g == 0.0));

    let order = Tensor::from_slice(&[2i64, 0, 1]);
    let permuted = Batch {
        logits: batch.logits.index_select(0, &order),
        labels: batch.labels.index_select(0, &order),
        weights: batch.weights.index_select(0, &order),
    };
    let (permuted_output, permuted_grad) = permuted.forward(FigaLoss::default());
    assert_relative_eq!(number(&permuted_output.loss), number(&output.loss), epsilon = ROUNDING);
    assert_abs_diff_eq!(*values(&permuted_grad), *values(&grad.index_select(0, &order)), epsilon = ROUNDING);
}

#[test]
fn micro_batches_with_the_external_denominator_add_up_to_the_full_batch() {
    let batch = batch();
    let (full, full_grad) = batch.forward(FigaLoss::default());
    let shared = FigaLoss::new().with_reduction(Reduction::External(number(&full.denominator)));
    let (a, grad_a) = batch.rows(0, 1).forward(shared);
    let (b, grad_b) = batch.rows(1, 2).forward(shared);
    assert_relative_eq!(number(&(a.loss + b.loss)), number(&full.loss), epsilon = ROUNDING);
    assert_abs_diff_eq!(*values(&Tensor::cat(&[grad_a, grad_b], 0)), *values(&full_grad), epsilon = ROUNDING);

    // The mean of the micro-batch means differs, which is why the external denominator exists.
    let own = (batch.rows(0, 1).loss(FigaLoss::default()) + batch.rows(1, 2).loss(FigaLoss::default())) / 2.0;
    assert!((own - number(&full.loss)).abs() > 1e-3);
}

#[test]
fn numerators_and_denominators_of_micro_batches_add_up() {
    let batch = batch();
    let mut parts = vec![batch.rows(0, 1), batch.rows(1, 2)];
    // One more without a single token that counts.
    let mut empty = batch.rows(0, 1);
    (empty.labels, empty.weights) = (empty.labels.full_like(-100), empty.weights.zeros_like());
    parts.push(empty);
    for reduction in
        [Reduction::ActiveTokens, Reduction::LabelledTokens, Reduction::AbsWeights, Reduction::SequenceMeans]
    {
        let loss = FigaLoss::new().with_reduction(reduction);
        let whole = batch.forward(loss).0;
        let taken = if reduction == Reduction::SequenceMeans { &parts[..2] } else { &parts[..] };
        let outputs: Vec<_> = taken.iter().map(|part| part.forward(loss).0).collect();
        let sum = |part: fn(&LossOutput) -> &Tensor| outputs.iter().map(|output| number(part(output))).sum::<f64>();
        let (numerator, denominator) = (sum(|output| &output.numerator), sum(|output| &output.denominator));
        assert_relative_eq!(numerator / denominator, number(&whole.loss), epsilon = ROUNDING);
    }
}

/// Other libraries round the sum of weights to an integer, or divide by a sum whose signs cancel.
#[test]
fn fractions_count_and_signs_do_not_cancel_in_denominators() {
    let logits = Tensor::zeros([1, 5, 2], F64);
    let labels = tensor(&[-100i64, 0, 1, 0, 1], &[1, 5]);
    for (weights, sizes) in [([0.25, 0.25, 0.25, 0.0], 0.75), ([1.0, -1.0, 0.5, -0.5], 3.0)] {
        let weights = Tensor::from_slice(&weights).constant_pad_nd([1, 0]).reshape([1, 5]);
        let active = number(&weights.ne(0.0).sum(Kind::Double));
        let numerator = number(&weights.sum(Kind::Double)) * 2f64.ln();
        for (reduction, denominator) in [
            (Reduction::ActiveTokens, active),
            (Reduction::LabelledTokens, 4.0),
            (Reduction::AbsWeights, sizes),
            (Reduction::SequenceMeans, 1.0),
        ] {
            let output = UNGATED.with_reduction(reduction).forward(&logits, &labels, &weights).unwrap();
            assert_eq!(number(&output.denominator), denominator, "{reduction:?}");
            let count = if reduction == Reduction::SequenceMeans { active } else { denominator };
            assert_abs_diff_eq!(number(&output.loss), numerator / count, epsilon = ROUNDING);
        }
    }
}

#[test]
fn nothing_active_is_zero_with_a_gradient_of_zeros() {
    let logits = || Tensor::randn([2, 3, 5], F32);
    let labels = tensor(&[-100i64, 1, 2, -100, -100, -100], &[2, 3]);
    let zeros = Tensor::zeros([2, 3], F32);
    let penalties = zeros.f_add_scalar(-0.5).unwrap();
    for reduction in [
        Reduction::ActiveTokens,
        Reduction::LabelledTokens,
        Reduction::AbsWeights,
        Reduction::Sum,
        Reduction::External(3.0),
    ] {
        // Weights of 0, then penalties that are all gated.
        for (weights, gate) in [(&zeros, None), (&penalties, Some(Gate::AtMost(-1.0)))] {
            let logits = logits().set_requires_grad(true);
            let loss = FigaLoss::new()
                .with_gate(gate)
                .with_reduction(reduction)
                .forward(&logits, &labels, weights)
                .unwrap()
                .loss;
            assert_eq!(number(&loss), 0.0);
            loss.backward();
            assert!(logits.grad().defined() && values(&logits.grad()).iter().all(|&g| g == 0.0), "{reduction:?}");
        }
    }
    // No label; then no rows, no positions, and a single position, which predicts nothing.
    let ignored = labels.full_like(-100);
    let loss = UNGATED.with_reduction(Reduction::LabelledTokens).forward(&logits(), &ignored, &penalties);
    assert_eq!(number(&loss.unwrap().loss), 0.0);
    for (b, s) in [(0, 3), (2, 0), (2, 1)] {
        let logits = Tensor::zeros([b, s, 5], F32).set_requires_grad(true);
        let labels = Tensor::zeros([b, s], I64);
        let loss = figa_loss(&logits, &labels, &Tensor::ones([b, s], F32)).unwrap();
        assert_eq!(number(&loss), 0.0);
        loss.backward();
        assert_eq!(logits.grad().size(), [b, s, 5]);
    }
}

#[test]
fn inf_and_nan_at_weight_zero_are_harmless() {
    let batch = batch();
    let (clean, clean_grad) = batch.forward(FigaLoss::default());
    // None of these positions predicts an active token: the next token has weight 0 or no label, or there is none.
    for (row, position, value) in [(2, 0, f64::INFINITY), (1, 0, f64::NAN), (0, 5, f64::NEG_INFINITY), (2, 4, f64::NAN)]
    {
        let _ = batch.logits.get(row).get(position).fill_(value);
    }
    let (output, grad) = batch.forward(FigaLoss::default());
    assert_eq!(number(&output.loss), number(&clean.loss));
    assert_eq!(values(&grad), values(&clean_grad));

    // This one does.
    let _ = batch.logits.get(0).get(2).fill_(f64::NAN);
    assert!(batch.loss(FigaLoss::default()).is_nan(), "NaN in an active row must show");
}

#[test]
fn the_gate_includes_its_bounds() {
    // Two equal logits: nll = ln 2.
    let logits = Tensor::zeros([1, 2, 2], F64);
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
    let mut logits = Tensor::zeros([1, 2, 3], F32);
    let _ = logits.get(0).get(0).get(1).fill_(f64::NEG_INFINITY);
    logits = logits.set_requires_grad(true);
    let loss = figa_loss(&logits, &tensor(&[0i64, 1], &[1, 2]), &tensor(&[0f32, -0.5], &[1, 2])).unwrap();
    loss.backward();
    assert_eq!((number(&loss), values(&logits.grad())), (0.0, vec![0.0; 6]));
}

#[test]
fn half_precision_strides_and_weights_that_require_grad_are_accepted() {
    let batch = batch();
    let exact = batch.loss(FigaLoss::default());
    for (kind, tolerance) in [(Kind::Half, 2e-3), (Kind::BFloat16, 2e-2), (Kind::Float, 1e-6)] {
        let loss = figa_loss(&batch.logits.to_kind(kind), &batch.labels, &batch.weights.to_kind(Kind::Float)).unwrap();
        assert_eq!(loss.kind(), Kind::Float);
        // Logits are converted to f32 before the softmax.
        let upcast =
            figa_loss(&batch.logits.to_kind(kind).to_kind(Kind::Float), &batch.labels, &batch.weights).unwrap();
        assert_eq!(number(&loss), number(&upcast));
        assert_abs_diff_eq!(number(&loss), exact, epsilon = tolerance);
    }
    let strided = Batch {
        logits: batch.logits.transpose(0, 2).contiguous().transpose(0, 2),
        labels: batch.labels.tr().contiguous().tr(),
        weights: batch.weights.tr().contiguous().tr(),
    };
    assert!(!strided.logits.is_contiguous() && !strided.labels.is_contiguous());
    assert_eq!(strided.loss(FigaLoss::default()), exact);
    let weights = batch.weights.copy().set_requires_grad(true);
    let logits = batch.logits.copy().set_requires_grad(true);
    figa_loss(&logits, &batch.labels, &weights).unwrap().backward();
    assert!(!weights.grad().defined() && logits.grad().defined());
}

#[test]
fn the_value_alone_is_computed_without_grad() {
    let batch = batch();
    let _no_grad = no_grad_guard();
    let logits = batch.logits.copy().set_requires_grad(true);
    assert!(!figa_loss(&logits, &batch.labels, &batch.weights).unwrap().requires_grad());
}

#[test]
fn errors_name_the_argument_what_was_expected_and_what_came() {
    let float = |shape: &[i64]| Tensor::zeros(shape, F32);
    let int = |shape: &[i64]| Tensor::zeros(shape, I64);
    let message = |logits: &Tensor, labels: &Tensor, weights: &Tensor| {
        figa_loss(logits, labels, weights).unwrap_err().to_string()
    };

    let (logits, labels, weights) = (float(&[2, 3, 5]), int(&[2, 3]), float(&[2, 3]));
    for (text, expected) in [
        (
            message(&float(&[6, 5]), &labels, &weights),
            "logits: expected shape [B, S, V] = [2, 3, V] with V > 0, got [6, 5]",
        ),
        (
            message(&float(&[2, 3, 0]), &labels, &weights),
            "logits: expected shape [B, S, V] = [2, 3, V] with V > 0, got [2, 3, 0]",
        ),
        (
            message(&logits, &int(&[2, 4]), &float(&[2, 4])),
            "logits: expected shape [B, S, V] = [2, 4, V] with V > 0, got [2, 3, 5]",
        ),
        (message(&logits, &int(&[6]), &weights), "labels: expected shape [B, S], got [6]"),
        (message(&logits, &labels, &float(&[2])), "weights: expected shape [B, S] = [2, 3], that of labels, got [2]"),
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
    let mut batch = batch();
    let expected = batch.loss(FigaLoss::default());
    batch.labels = batch.labels.masked_fill(&batch.labels.eq(-100), -1);
    assert_eq!(batch.loss(FigaLoss::new().with_ignore_index(-1)), expected);
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
        assert_relative_eq!(number(&loss), 0.5 * (f64::exp(-gap).ln_1p() + gap), max_relative = 1e-6);
        assert_relative_eq!(logits.grad().double_value(&[0, 0, 0]), 0.5 * p, max_relative = 1e-6);
        assert_relative_eq!(logits.grad().double_value(&[0, 0, 1]), -0.5 * p, max_relative = 1e-6);
    }
}

#[test]
fn columns_masked_by_minus_infinity_have_no_gradient() {
    const MASKED: f32 = f32::NEG_INFINITY;
    let (labels, weights) = (tensor(&[0i64, 1], &[1, 2]), tensor(&[0f32, 1.0], &[1, 2]));
    for (row, nll, grad) in [
        ([MASKED, 0.0, 0.0], 2f64.ln(), [0.0, -0.5, 0.5]),
        // Only the label remains; then only another column.
        ([MASKED, 3.0, MASKED], 0.0, [0.0, 0.0, 0.0]),
        ([0.0, MASKED, MASKED], f64::INFINITY, [1.0, -1.0, 0.0]),
    ] {
        let logits = tensor(&[row, [0.0; 3]].concat(), &[1, 2, 3]).set_requires_grad(true);
        let loss = UNGATED.forward(&logits, &labels, &weights).unwrap().loss;
        loss.backward();
        assert_relative_eq!(number(&loss), nll, epsilon = 1e-6);
        assert_abs_diff_eq!(values(&logits.grad())[..3], grad, epsilon = 1e-6);
    }
    // Plus infinity is an error in every column, the label's included.
    for at in 0..3 {
        let logits = Tensor::zeros([1, 2, 3], F32);
        let _ = logits.get(0).get(0).get(at).fill_(f64::INFINITY);
        assert!(figa_loss(&logits, &labels, &weights).unwrap().double_value(&[]).is_nan(), "column {at}");
    }
}

#[test]
fn a_vocabulary_of_one_leaves_nothing_to_learn() {
    let logits = Tensor::randn([1, 3, 1], F32).set_requires_grad(true);
    let loss = figa_loss(&logits, &tensor(&[0i64; 3], &[1, 3]), &tensor(&[1f32; 3], &[1, 3])).unwrap();
    loss.backward();
    assert_eq!((number(&loss), values(&logits.grad())), (0.0, vec![0.0; 3]));
}

#[test]
fn statistics_are_kept_by_class() {
    // Position 0 gives token 1 p = 3/4; all other probabilities are 1/2.
    let logits = tensor(&[0.0, 3f64.ln(), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], &[1, 5, 2]);
    let labels = tensor(&[0i64, 1, 1, 0, 0], &[1, 5]);
    let config = FigaLoss::new().with_eos_id(0);
    let output = config.forward(&logits, &labels, &tensor(&[0f64, -1.0, -1.0, 2.0, 0.0], &[1, 5])).unwrap();
    let summary = output.stats.read().unwrap();
    let of = |stats: ClassSummary| (stats.count, stats.mean_nll, stats.mean_probability);
    let close = |stats, p: f64| {
        let (count, nll, probability) = of(stats);
        assert_eq!(count, 1);
        assert_abs_diff_eq!(nll.unwrap(), -p.ln(), epsilon = ROUNDING);
        assert_abs_diff_eq!(probability.unwrap(), p, epsilon = ROUNDING);
    };
    close(summary.penalised, 0.75);
    close(summary.gated, 0.5);
    close(summary.eos, 0.5);
    assert_eq!((of(summary.rewarded), summary.unweighted), ((0, None, None), 1));
}

#[test]
fn statistics_of_micro_batches_add_up() {
    let batch = batch();
    let stats = |batch: Batch| batch.forward(FigaLoss::new()).0.stats;
    let sum = stats(batch.rows(0, 1)).add(&stats(batch.rows(1, 2))).unwrap().read().unwrap();
    let whole = stats(batch).read().unwrap();
    assert_eq!(sum.unweighted, whole.unweighted);
    for (sum, whole) in [(sum.rewarded, whole.rewarded), (sum.penalised, whole.penalised), (sum.gated, whole.gated)] {
        assert_eq!(sum.count, whole.count);
        assert_abs_diff_eq!(sum.mean_nll.unwrap(), whole.mean_nll.unwrap(), epsilon = ROUNDING);
        assert_abs_diff_eq!(sum.mean_probability.unwrap(), whole.mean_probability.unwrap(), epsilon = ROUNDING);
    }
    assert!(sum.unweighted > 1);
}

#[test]
fn single_losses_have_the_positions_of_the_labels() {
    let batch = batch();
    let config = UNGATED.with_reduction(Reduction::None);
    let output = config.forward(&batch.logits, &batch.labels, &batch.weights).unwrap();
    let nll = |row: i64, token: i64| {
        let log_p = batch.logits.get(row).get(token - 1).log_softmax(-1, Kind::Double);
        -log_p.double_value(&[batch.labels.int64_value(&[row, token])])
    };
    assert_eq!((output.loss.size(), output.loss.double_value(&[0, 0])), (vec![3, 6], 0.0));
    assert_abs_diff_eq!(output.loss.double_value(&[0, 2]), -0.5 * nll(0, 2), epsilon = ROUNDING);
    assert_abs_diff_eq!(output.loss.double_value(&[2, 3]), nll(2, 3), epsilon = ROUNDING);
    assert_abs_diff_eq!(number(&output.loss.sum(Kind::Double)), number(&output.numerator), epsilon = ROUNDING);
}
