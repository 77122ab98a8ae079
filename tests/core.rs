//! The core of the losses: rows, closures, degenerate rows, and what no loss may do with memory.
#![cfg(feature = "torch")]

mod common;

use approx::{assert_abs_diff_eq, assert_relative_eq};
use common::{F32, F64, I64, ROUNDING, number, values};
use figa_loss::tch::{Kind, Tensor, manual_seed, no_grad_guard};
use figa_loss::{
    Anchored, Asft, CandidateUnlikelihood, Distillation, Divergence, Eaft, FigaLoss, Focal, Grpo, IGNORE_INDEX, Needs,
    Objective, Reduction, Reference, Rollout, Rows, Scores, Terms, TokenLoss, TopKDistillation, WeightedNll,
    linear_loss, log_probs, logits_loss, rows_loss,
};

fn labels() -> Tensor {
    Tensor::from_slice(&[-100i64, 3, 1, 0, -100, 2, 4, -100]).reshape([2, 4])
}

fn weights() -> Tensor {
    Tensor::from_slice(&[1.0, 0.5, 0.0, -1.0, 1.0, 2.0, 0.25, 1.0]).reshape([2, 4])
}

#[test]
fn shifted_and_flat_rows_are_the_rows_of_the_batch() {
    manual_seed(1);
    let logits = Tensor::randn([2, 4, 5], F64);
    let of = |logits: &Tensor, rows: &Rows, reduction: Reduction| {
        let logits = logits.copy().set_requires_grad(true);
        let output = FigaLoss::new().with_reduction(reduction).on(&logits, rows).unwrap();
        output.loss.sum(Kind::Double).backward();
        (output.loss, values(&logits.grad()))
    };
    let (labels, weights) = (labels(), weights());
    let rows = Rows::of_batch(&labels, &weights, IGNORE_INDEX).unwrap();
    // The label of the first position of a sequence is predicted by nothing.
    let shift = |tensor: &Tensor, filler: f64| {
        tensor
            .slice(1, 1, None, 1)
            .constant_pad_nd([0, 1])
            .masked_fill(&Tensor::from_slice(&[false, false, false, true]), filler)
    };
    let shifted = Rows::of_shifted(&shift(&labels, -100.0), &shift(&weights, 0.0), IGNORE_INDEX).unwrap();
    let flat = |tensor: &Tensor| tensor.flatten(0, 1);
    let sequences = Tensor::from_slice(&[0i64, 0, 0, 0, 1, 1, 1, 1]);
    let flat_rows =
        Rows::of_flat(&flat(&shift(&labels, -100.0)), &flat(&shift(&weights, 0.0)), &sequences, IGNORE_INDEX).unwrap();
    assert_eq!((rows.len(), rows.is_empty(), rows.sequences(), flat_rows.sequences()), (4, false, 2, 2));
    for reduction in [Reduction::ActiveTokens, Reduction::SequenceMeans, Reduction::LabelledTokens] {
        let (loss, gradient) = of(&logits, &rows, reduction);
        for (logits, rows) in [(&logits, &shifted), (&flat(&logits), &flat_rows)] {
            let (other, other_gradient) = of(logits, rows, reduction);
            assert_eq!((number(&other), &other_gradient), (number(&loss), &gradient), "{reduction:?}");
        }
    }
    let (each, _) = of(&flat(&logits), &flat_rows, Reduction::None);
    assert_eq!(each.size(), [8]);
}

#[test]
fn rows_may_be_made_on_another_thread() {
    let rows = std::thread::spawn(|| Rows::of_batch(&labels(), &weights(), IGNORE_INDEX).unwrap()).join().unwrap();
    assert_eq!(rows.len(), 4);
}

#[test]
fn weights_that_are_no_numbers_are_errors_and_those_that_vanish_are_no_rows() {
    let row = |weight: f64, kind: Kind| {
        let weights = weights();
        let _ = weights.get(1).get(1).fill_(weight);
        let rows = Rows::of_batch(&labels(), &weights, IGNORE_INDEX)?;
        let output = TokenLoss::of(WeightedNll::new()).on(&Tensor::zeros([2, 4, 5], (kind, F64.1)), &rows)?;
        Ok::<_, figa_loss::Error>(number(&output.denominator))
    };
    let message = |weight| row(weight, Kind::Float).unwrap_err().to_string();
    let expected = "weights: expected finite numbers within the range of the loss's dtype, got ";
    assert_eq!(message(f64::NAN), format!("{expected}NaN at [1, 1]"));
    assert_eq!(message(f64::INFINITY), format!("{expected}inf at [1, 1]"));
    assert_eq!(message(-1e39), format!("{expected}-{} at [1, 1]", 1e39));
    assert_eq!((row(1e-60, Kind::Float).unwrap(), row(1e-60, Kind::Double).unwrap()), (3.0, 4.0));
    assert_eq!(row(1e39, Kind::Double).unwrap(), 4.0);
    // Nothing predicts it.
    let weights = weights();
    let _ = weights.get(1).get(0).fill_(f64::NAN);
    assert!(Rows::of_batch(&labels(), &weights, IGNORE_INDEX).is_ok());
}

#[test]
fn the_numbers_of_sequences_and_outputs_are_checked() {
    let (labels, weights) = (labels().flatten(0, 1), weights().flatten(0, 1));
    let zeros = labels.zeros_like();
    for (sequences, expected) in [
        (zeros.full_like(-1), "sequences: expected numbers >= 0, got -1"),
        (zeros.narrow(0, 0, 7), "sequences: expected shape [N] = [8], that of labels, got [7]"),
        (zeros.to_kind(Kind::Float), "sequences: expected dtype int64, got Float; convert it with to_kind"),
    ] {
        let error = Rows::of_flat(&labels, &weights, &sequences, IGNORE_INDEX).unwrap_err();
        assert_eq!(error.to_string(), expected);
        let error = Rows::of_targets(&labels, &weights, &zeros, &sequences, IGNORE_INDEX).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let outputs = zeros.to_kind(Kind::Float);
    let error = Rows::of_targets(&labels, &weights, &outputs, &zeros, IGNORE_INDEX).unwrap_err();
    assert_eq!(error.to_string(), "outputs: expected dtype int64, got Float; convert it with to_kind");
}

#[test]
fn an_objective_of_ones_own_has_statistics() {
    struct Own;

    impl Objective for Own {
        fn terms(&self, scores: &Scores) -> figa_loss::Result<Terms> {
            let nll = scores.nll()?;
            let is_second = scores.labels().eq(1);
            let terms = Terms::new(nll.shallow_clone()).with_counted(scores.labels().ne(4));
            Ok(terms.with_clipped(is_second).with_kl(scores.weights().abs()))
        }
    }

    let rows = Rows::of_batch(&labels(), &weights().abs(), IGNORE_INDEX).unwrap();
    assert!(!rows.is_empty() && Rows::of_batch(&labels(), &weights().zeros_like(), IGNORE_INDEX).unwrap().is_empty());
    let stats = TokenLoss::of(Own).on(&Tensor::zeros([2, 4, 5], F64), &rows).unwrap().stats.read().unwrap();
    // Labels 3, 0 and 2 count, with the weights 0.5, 1 and 2; label 1 has the weight 0, and label 4 does not count.
    assert_eq!((stats.rewarded.count, stats.rewarded.clipped, stats.rewarded.mean_kl), (3, Some(0.0), Some(3.5 / 3.0)));
    assert_eq!((stats.gated.count, stats.gated.clipped, stats.gated.mean_kl), (1, Some(0.0), Some(0.25)));
}

#[test]
fn what_a_closure_takes_has_the_positions_of_the_labels() {
    let rows = Rows::of_batch(&labels(), &weights(), IGNORE_INDEX).unwrap();
    let logits = Tensor::zeros([2, 4, 5], F64);
    let take = |shape: &[i64]| {
        let tokens = Tensor::arange(shape.iter().product::<i64>(), F64).reshape(shape);
        let mut taken = vec![];
        let loss = rows_loss(&logits, &rows, Needs::new(), |scores| {
            let of_rows = scores.take(&tokens)?;
            taken = values(&of_rows);
            Ok(of_rows.sum(Kind::Double))
        });
        loss.map(|_| taken).map_err(|error| error.to_string())
    };
    assert_eq!(take(&[2, 4]).unwrap(), [1.0, 3.0, 5.0, 6.0]);
    assert_eq!(take(&[2, 4, 1]).unwrap(), [1.0, 3.0, 5.0, 6.0]);
    for shape in [&[3, 4][..], &[2, 5], &[2, 4, 1, 1], &[8], &[3, 4, 2], &[2, 3, 2]] {
        let expected = format!("tokens: expected shape [B, S] = [2, 4], that of labels, got {shape:?}");
        assert_eq!(take(shape).unwrap_err(), expected);
    }
}

#[test]
fn degenerate_rows_are_as_in_pytorch() {
    let (labels, weights) = (Tensor::from_slice(&[0i64]), Tensor::from_slice(&[1f32]));
    let rows = Rows::of_flat(&labels, &weights, &labels.zeros_like(), IGNORE_INDEX).unwrap();
    let (least, inf) = (f32::MIN, f32::INFINITY);
    for row in [
        [least; 4],
        [-inf; 4],
        [least, 0.0, 0.0, 0.0],
        [0.0, -inf, -inf, -inf],
        [-inf, 0.0, 0.0, -inf],
        [0.0, least, least, -inf],
        [0.0, inf, 0.0, 0.0],
        [inf, 0.0, 0.0, 0.0],
    ] {
        for needs in [Needs::new(), Needs::new().with_entropy()] {
            let leaf = || Tensor::from_slice(&row).reshape([1, 4]).set_requires_grad(true);
            let (ours, plain) = (leaf(), leaf());
            let loss = rows_loss(&ours, &rows, needs, |scores| Ok(scores.nll()?.sum(Kind::Float))).unwrap();
            loss.backward();
            let expected = plain.cross_entropy_loss::<Tensor>(&labels, None, figa_loss::tch::Reduction::Sum, -100, 0.0);
            expected.backward();
            let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() < 1e-6;
            assert!(same(number(&loss), number(&expected)), "{row:?} {loss:?} {expected:?}");
            if number(&expected).is_finite() {
                assert_abs_diff_eq!(*values(&ours.grad()), *values(&plain.grad()), epsilon = 1e-6);
            }
        }
    }
}

#[test]
fn closures_are_exact_under_outer_factors_accumulation_and_other_parameters() {
    manual_seed(3);
    let rows = Rows::of_batch(&labels(), &weights(), IGNORE_INDEX).unwrap();
    let (hidden, head) = (Tensor::randn([2, 4, 3], F64), Tensor::randn([5, 3], F64));
    let leaf = |tensor: &Tensor| tensor.copy().set_requires_grad(true);
    let temperature = || Tensor::from(0.7).set_requires_grad(true);
    let run = |times: usize, factor: f64| {
        let (hidden, head, temperature) = (leaf(&hidden), leaf(&head), temperature());
        for _ in 0..times {
            let loss = linear_loss(&hidden, &head, &rows, |scores| {
                Ok((scores.sequence_sums(&scores.logp()?)? * &temperature).logsumexp([0], false))
            });
            (loss.unwrap() * factor).backward();
        }
        [hidden.grad(), head.grad(), temperature.grad()].map(|gradient| values(&gradient)).concat()
    };
    assert_abs_diff_eq!(*run(3, 2.0), *run(1, 6.0), epsilon = ROUNDING);

    // By plain tch, the closure's own parameter included.
    let (hidden, head, temperature) = (leaf(&hidden), leaf(&head), temperature());
    let log_p = hidden.matmul(&head.tr()).log_softmax(-1, Kind::Double);
    let at = |b: i64, t: i64| log_p.get(b).get(t - 1).get(labels().int64_value(&[b, t]));
    let sums = Tensor::stack(&[at(0, 1) + at(0, 3), at(1, 1) + at(1, 2)], 0);
    ((sums * &temperature).logsumexp([0], false) * 6.0).backward();
    let expected = [hidden.grad(), head.grad(), temperature.grad()].map(|gradient| values(&gradient)).concat();
    assert_abs_diff_eq!(*run(1, 6.0), *expected, epsilon = 1e-10);

    let _no_grad = no_grad_guard();
    let loss = logits_loss(&log_p, &rows, |scores| Ok(scores.logp()?.sum(Kind::Double))).unwrap();
    assert!(!loss.requires_grad());
}

#[test]
fn a_closure_must_return_one_number_and_ask_for_what_it_reads() {
    let rows = Rows::of_batch(&labels(), &weights(), IGNORE_INDEX).unwrap();
    let logits = Tensor::zeros([2, 4, 5], F32).set_requires_grad(true);
    let error = logits_loss(&logits, &rows, |scores| scores.logp()).unwrap_err();
    assert_eq!(error.to_string(), "loss: expected shape [], a single number, got [4]");
    let error = logits_loss(&logits, &rows, |scores| Ok(scores.entropy()?.sum(Kind::Float))).unwrap_err();
    assert_eq!(error.to_string(), "entropy: expected to be asked for in the needs of the loss, got nothing");
    let columns = Tensor::zeros([2, 4], I64);
    let error = rows_loss(&logits, &rows, Needs::new().with_columns(&columns), |scores| scores.logp()).unwrap_err();
    assert_eq!(error.to_string(), "columns: expected shape [B, S, K] = [2, 4, K] with K > 0, got [2, 4]");
    // A loss that does not depend on the model has no gradient, but may be differentiated.
    let loss = logits_loss(&logits, &rows, |_| Ok(Tensor::from(1.5f32))).unwrap();
    loss.backward();
    assert_eq!((number(&loss), values(&logits.grad())), (1.5, vec![0.0; 40]));
    let loss = logits_loss(&logits, &rows, |scores| Ok(scores.scatter(scores.labels())?.sum(Kind::Float))).unwrap();
    assert_eq!(number(&loss), 3.0 + 0.0 + 2.0 + 4.0);
    let each = log_probs(&logits, &rows).unwrap();
    assert_relative_eq!(number(&each.sum(Kind::Double)), -4.0 * 5f64.ln(), epsilon = 1e-6);
}

/// Positions in 32 bits would be those of other logits. Memory that is never written to takes no room.
#[test]
fn the_entropy_of_the_likeliest_columns_leaves_out_masked_ones() {
    let row = [0.0, f64::NEG_INFINITY, 3f64.ln(), f64::NEG_INFINITY];
    let logits = Tensor::from_slice(&row).reshape([1, 4]);
    let (labels, weights) = (Tensor::from_slice(&[0i64]), Tensor::from_slice(&[1.0]));
    let rows = Rows::of_flat(&labels, &weights, &labels, IGNORE_INDEX).unwrap();
    let entropy = |k: i64| {
        let needs = Needs::new().with_top_entropy(k);
        rows_loss(&logits, &rows, needs, |scores| Ok(scores.top_entropy()?.sum(Kind::Double))).map(|sum| number(&sum))
    };
    let of_two = -0.25 * 0.25f64.ln() - 0.75 * 0.75f64.ln();
    for (k, expected) in [(1, 0.0), (2, of_two), (3, of_two), (4, of_two), (5, of_two)] {
        assert_abs_diff_eq!(entropy(k).unwrap(), expected, epsilon = ROUNDING);
    }
    assert_eq!(entropy(0).unwrap_err().to_string(), "top_entropy: expected at least 1 column, got 0");
    // All columns: the entropy with a gradient.
    let all = rows_loss(&logits, &rows, Needs::new().with_entropy(), |scores| Ok(scores.entropy()?.sum(Kind::Double)));
    assert_abs_diff_eq!(number(&all.unwrap()), of_two, epsilon = ROUNDING);
}

#[test]
fn a_row_behind_2_to_the_31_logits_is_found() {
    const VOCAB: i64 = 1 << 15;
    const POSITIONS: i64 = (1 << 16) + 2;
    let logits = Tensor::empty([POSITIONS, VOCAB], (Kind::Half, F64.1));
    let (labels, weights) = (Tensor::zeros([POSITIONS], I64), Tensor::zeros([POSITIONS], F32));
    for (at, label, logit) in [(1, 5, 1.0), (POSITIONS - 1, VOCAB - 1, 2.0)] {
        let _ = (labels.get(at).fill_(label), weights.get(at).fill_(1.0));
        let _ = logits.get(at).fill_(0.0).get(label).fill_(logit);
    }
    let rows = Rows::of_flat(&labels, &weights, &labels.zeros_like(), IGNORE_INDEX).unwrap();
    let log_probs = log_probs(&logits, &rows).unwrap();
    for (at, logit) in [(1, 1.0), (POSITIONS - 1, 2.0)] {
        let expected = logit - (f64::exp(logit) + (VOCAB - 1) as f64).ln();
        assert_relative_eq!(log_probs.double_value(&[at]), expected, epsilon = 1e-5);
    }
}

#[test]
fn unlikelihood_of_a_certain_candidate_is_exact() {
    for gap in [1.0, 20.0, 60.0, 200.0] {
        let logits = Tensor::from_slice(&[0f32, gap as f32, 0.0]).reshape([1, 3]).set_requires_grad(true);
        let (labels, weights) = (Tensor::from_slice(&[0i64]), Tensor::from_slice(&[1f32]));
        let rows = Rows::of_flat(&labels, &weights, &labels, IGNORE_INDEX).unwrap();
        // Twice, and beside one that is no column.
        let candidates = Tensor::from_slice(&[1i64, 1, -1]).reshape([1, 3]);
        let output = TokenLoss::of(CandidateUnlikelihood::new(&candidates)).on(&logits, &rows).unwrap();
        output.loss.backward();
        // -log(1 - p) = log(1 + exp(gap) / 2), with the derivative p.
        let p = 1.0 / (1.0 + 2.0 * f64::exp(-gap));
        assert_relative_eq!(
            number(&output.loss),
            (2.0 * f64::exp(-gap)).ln_1p() + gap - 2f64.ln(),
            max_relative = 1e-6
        );
        let gradient = values(&logits.grad());
        assert_relative_eq!(gradient[1], p, max_relative = 1e-6);
        // In f32, a log-probability of -200 is known to five digits.
        assert_relative_eq!(gradient[0], -p / 2.0, max_relative = 2e-5);
    }
}

#[test]
fn a_teacher_of_another_vocabulary_is_compared_on_the_columns_of_both() {
    manual_seed(4);
    let rows = Rows::of_batch(&labels(), &weights().abs(), IGNORE_INDEX).unwrap();
    let logits = Tensor::randn([2, 4, 5], F64).set_requires_grad(true);
    let teacher = Tensor::randn([2, 4, 7], F64);
    for divergence in [Divergence::Forward, Divergence::Reverse, Divergence::JensenShannon(0.5)] {
        let of = |teacher: &Tensor| {
            let mut reference = Reference::new(teacher);
            reference.divergence = divergence;
            number(&TokenLoss::of(Distillation::new(reference)).on(&logits, &rows).unwrap().loss)
        };
        assert_relative_eq!(of(&teacher), of(&teacher.narrow(2, 0, 5)), epsilon = ROUNDING);
        // The student at itself, and a smaller teacher.
        assert_abs_diff_eq!(of(&logits.detach()), 0.0, epsilon = ROUNDING);
        assert!(of(&teacher.narrow(2, 0, 3)).is_finite());
    }
    // The teacher's mass on tokens that the student lacks stays out.
    let (columns, mass) = (Tensor::from_slice(&[1i64, 5]), Tensor::from_slice(&[0.5f64.ln(), 0.25f64.ln()]));
    let expand = |tensor: &Tensor| tensor.expand([2, 4, 2], false).contiguous();
    let (columns, mass) = (expand(&columns), expand(&mass));
    let output = TokenLoss::of(TopKDistillation::new(&columns, &mass)).on(&logits, &rows).unwrap();
    output.loss.backward();
    assert!(number(&output.loss).is_finite() && values(&logits.grad()).iter().all(|gradient| gradient.is_finite()));
}

#[test]
fn an_anchor_adds_its_own_mean_over_its_own_rows() {
    manual_seed(5);
    let (logits, base) = (Tensor::randn([2, 4, 5], F64).set_requires_grad(true), Tensor::randn([2, 4, 5], F64));
    let kept = weights().eq(0.0).to_kind(Kind::Double);
    let rows = Rows::of_batch(&labels(), &weights(), IGNORE_INDEX).unwrap();
    let kept_rows = Rows::of_batch(&labels(), &kept, IGNORE_INDEX).unwrap();
    let anchor = TokenLoss::of(Distillation::new(Reference::new(&base)));
    let output = Anchored::new(FigaLoss::new(), anchor, 0.3).on(&logits, &rows, &kept_rows).unwrap();
    let sum = number(&output.main.loss) + 0.3 * number(&output.anchor.loss);
    assert_relative_eq!(number(&output.loss), sum, epsilon = ROUNDING);
    let (t, p) = (base.get(0).get(1).log_softmax(-1, Kind::Double), logits.get(0).get(1).log_softmax(-1, Kind::Double));
    let kl = number(&(t.exp() * (&t - &p)).sum(Kind::Double));
    assert_relative_eq!(number(&output.anchor.loss), kl, epsilon = ROUNDING);
    assert_relative_eq!(output.anchor.stats.read().unwrap().rewarded.mean_kl.unwrap(), kl, epsilon = ROUNDING);
    output.loss.backward();
    // KL(t || p): p - t, on the kept token alone.
    let gradient = values(&logits.grad().get(0).get(1));
    let expected = values(&((p.exp() - t.exp()) * 0.3));
    assert_abs_diff_eq!(*gradient, *expected, epsilon = ROUNDING);
}

#[test]
fn statistics_hold_entropy_divergence_and_clipping_of_losses_that_have_them() {
    let rows = Rows::of_batch(&labels(), &weights(), IGNORE_INDEX).unwrap();
    let logits = Tensor::zeros([2, 4, 5], F64);
    let summary = TokenLoss::of(Eaft::llama_factory()).on(&logits, &rows).unwrap().stats.read().unwrap();
    assert_relative_eq!(summary.rewarded.mean_entropy.unwrap(), 5f64.ln(), epsilon = ROUNDING);
    assert_eq!((summary.rewarded.mean_kl, summary.rewarded.clipped, summary.eos.mean_entropy), (None, None, None));

    // Under the old policy, tokens were half as likely, or twice as likely.
    let even = Tensor::from_slice(&[0i64, 0, 0, 0, 0, 1, 1, 1]).reshape([2, 4]).to_kind(Kind::Double) * 2.0 - 1.0;
    let old = even * 2f64.ln() - 5f64.ln();
    let advantages = Tensor::ones([2, 4], F64);
    let rollout = Rollout::new(&old, &advantages).with_reference(&old, 0.1);
    let loss = Grpo::new().on_rollout(rollout);
    let stats = |logits: &Tensor| loss.on(logits, &rows).unwrap().stats;
    let summary = stats(&logits).add(&stats(&logits)).unwrap().read().unwrap();
    // Of the rewarded tokens, one has r = 2, which is clipped, and two r = 1/2, which are not, as the advantage is positive.
    assert_eq!((summary.rewarded.count, summary.penalised.count), (6, 2));
    assert_relative_eq!(summary.rewarded.clipped.unwrap(), 1.0 / 3.0, epsilon = ROUNDING);
    // exp(-d) + d - 1 at d = ln 2 and -ln 2.
    let k3 = |d: f64| (-d).exp() + d - 1.0;
    let expected = (k3(2f64.ln()) + 2.0 * k3(-2f64.ln())) / 3.0;
    assert_relative_eq!(summary.rewarded.mean_kl.unwrap(), expected, epsilon = ROUNDING);
}

#[test]
fn settings_outside_of_their_domains_are_errors() {
    let rows = Rows::of_batch(&labels(), &weights(), IGNORE_INDEX).unwrap();
    let logits = Tensor::zeros([2, 4, 5], F32);
    let mut focal = Focal::new();
    focal.gamma = -1.0;
    let error = TokenLoss::of(focal).on(&logits, &rows).unwrap_err();
    assert_eq!(error.to_string(), "gamma: expected a finite number >= 0, got -1");
    let mut eaft = Eaft::llama_factory();
    eaft.scale = 0.0;
    let error = TokenLoss::of(eaft).on(&logits, &rows).unwrap_err();
    assert_eq!(error.to_string(), "scale: expected a finite number > 0, got 0");
    (eaft.scale, eaft.top_k) = (1.0, Some(0));
    let error = TokenLoss::of(eaft).on(&logits, &rows).unwrap_err();
    assert_eq!(error.to_string(), "top_k: expected at least 1 column, got 0");
    let mut reference = Reference::new(&logits);
    reference.temperature = 0.0;
    let error = TokenLoss::of(Distillation::new(reference)).on(&logits, &rows).unwrap_err();
    assert_eq!(error.to_string(), "temperature: expected a number > 0, got 0");
    (reference.temperature, reference.divergence) = (1.0, Divergence::JensenShannon(1.5));
    let error = TokenLoss::of(Distillation::new(reference)).on(&logits, &rows).unwrap_err();
    assert_eq!(error.to_string(), "divergence: expected JensenShannon(a number from 0 to 1), got 1.5");
    let mut asft = Asft::new(Reference::new(&logits));
    asft.alpha = -1.0;
    let error = TokenLoss::of(asft).on(&logits, &rows).unwrap_err();
    assert_eq!(error.to_string(), "alpha: expected a finite number >= 0, got -1");
    let anchor = TokenLoss::of(Distillation::new(Reference::new(&logits)));
    let error = Anchored::new(FigaLoss::new(), anchor, -1.0).on(&logits, &rows, &rows).unwrap_err();
    assert_eq!(error.to_string(), "factor: expected a finite number >= 0, got -1");
    let columns = Tensor::zeros([2, 4, 3], I64);
    let top_k = |columns: &Tensor, log_probs: &Tensor| {
        TokenLoss::of(TopKDistillation::new(columns, log_probs)).on(&logits, &rows).unwrap_err().to_string()
    };
    let expected = "log_probs: expected shape [2, 4, 3], that of columns, got ";
    assert_eq!(top_k(&columns, &Tensor::zeros([2, 4, 2], F32)), format!("{expected}[2, 4, 2]"));
    assert_eq!(top_k(&columns, &Tensor::new()), format!("{expected}[]"));
    assert_eq!(top_k(&Tensor::new(), &Tensor::new()), "columns: expected a tensor, got an undefined tensor");
}
