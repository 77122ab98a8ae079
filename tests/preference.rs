//! Laws that preference and policy losses obey, whatever the numbers.
#![cfg(feature = "torch")]

mod common;

use approx::{assert_abs_diff_eq, assert_relative_eq};
use common::{F64, I64, ROUNDING, number, values};
use figa_loss::tch::{Kind, Tensor, manual_seed};
use figa_loss::{
    Answers, Cispo, Cpo, Dpo, Dro, Error, Grpo, IGNORE_INDEX, ImportanceSampling, Ipo, Npo, Orpo, Pairs,
    PreferenceBatch, PreferenceLoss, PreferenceOutput, Ratio, Reduction, Reference, Result, Rlmec, Rollout, Rows, Sapo,
    SimNpo, SimPo, Tdpo, log_probs,
};

const VOCAB: i64 = 9;

/// Answers to the same prompt in sequences 0 and 1, and in 2 and 3, from a model that depends on what came before.
struct Batch {
    embedding: Tensor,
    head: Tensor,
    ids: Tensor,
    labels: Tensor,
    weights: Tensor,
}

impl Batch {
    fn new() -> Self {
        manual_seed(11);
        let rows: [[i64; 8]; 4] = [
            // The prompt has two tokens; the answers of the first pair differ in their third token.
            [1, 2, 3, 4, 5, 6, 7, 8],
            [1, 2, 3, 4, 0, 6, 7, 8],
            // Those of the second pair from the start.
            [2, 2, 5, 4, 5, 6, 7, 8],
            [2, 2, 6, 4, 5, 6, 7, 8],
        ];
        let ids = Tensor::from_slice(&rows.concat()).reshape([4, 8]);
        let labels = ids.copy();
        let _ = labels.narrow(1, 0, 2).fill_(IGNORE_INDEX);
        let _ = labels.get(3).narrow(0, 6, 2).fill_(IGNORE_INDEX);
        let weights = Tensor::from_slice(&[0.0, 0.0, 1.0, 0.5, 2.0, 1.0, 0.7, 1.0]).expand([4, 8], false).contiguous();
        Self {
            embedding: Tensor::randn([VOCAB, 6], F64).set_requires_grad(true),
            head: Tensor::randn([VOCAB, 6], F64).set_requires_grad(true),
            ids,
            labels,
            weights,
        }
    }

    /// Each position sees all tokens up to it.
    fn hidden(&self) -> Tensor {
        let embedded = self.embedding.index_select(0, &self.ids.flatten(0, 1)).reshape([4, 8, 6]);
        embedded.cumsum(1, Kind::Double).tanh()
    }

    fn rows(&self) -> Rows {
        Rows::of_batch(&self.labels, &self.weights, IGNORE_INDEX).unwrap()
    }

    fn reference(&self) -> Tensor {
        let hidden = self.hidden().detach() * 0.8;
        log_probs((&hidden, &self.head), &self.rows()).unwrap()
    }

    /// The output and the gradients by both parameters.
    fn run(&self, loss: impl FnOnce(&Tensor, &Rows) -> Result<Tensor>) -> (f64, Vec<f64>) {
        for parameter in [&self.embedding, &self.head] {
            let mut gradient = parameter.grad();
            if gradient.defined() {
                let _ = gradient.zero_();
            }
        }
        let loss = loss(&self.hidden(), &self.rows()).unwrap();
        loss.backward();
        (number(&loss), [values(&self.embedding.grad()), values(&self.head.grad())].concat())
    }

    fn preference(&self, loss: &impl PreferenceLoss) -> (f64, Vec<f64>) {
        let (pairs, reference) = (Pairs::alternating(2), self.reference());
        self.run(|hidden, rows| {
            let batch = PreferenceBatch::new(rows, &pairs).with_reference(&reference);
            Ok(loss.on((hidden, &self.head), batch)?.loss)
        })
    }
}

fn assert_same(ours: &(f64, Vec<f64>), expected: &(f64, Vec<f64>)) {
    assert_relative_eq!(ours.0, expected.0, max_relative = ROUNDING, epsilon = ROUNDING);
    assert_abs_diff_eq!(*ours.1, *expected.1, epsilon = ROUNDING);
}

#[test]
fn the_rows_of_a_common_prefix_cancel() {
    let batch = Batch::new();
    let (mut dpo, mut ipo) = (Dpo::new(), Ipo::new());
    let (all, all_ipo) = (batch.preference(&dpo), batch.preference(&ipo));
    (dpo.skip_common_prefix, ipo.skip_common_prefix) = (true, true);
    assert_same(&batch.preference(&dpo), &all);
    assert_same(&batch.preference(&ipo), &all_ipo);
    assert!(all.1.iter().any(|gradient| gradient.abs() > 1e-3));

    // Fewer rows are computed, but not where two answers differ in their first token.
    fn logp(batch: &Batch, loss: &impl PreferenceLoss, pairs: &[(i64, i64)]) -> f64 {
        let (rows, pairs, reference, hidden) = (batch.rows(), Pairs::new(pairs), batch.reference(), batch.hidden());
        let all = PreferenceBatch::new(&rows, &pairs).with_reference(&reference);
        loss.on((&hidden, &batch.head), all).unwrap().stats.read().unwrap().chosen_logp.unwrap()
    }
    assert!(logp(&batch, &dpo, &[(1, 0)]) > logp(&batch, &Dpo::new(), &[(1, 0)]));
    assert!(logp(&batch, &ipo, &[(1, 0)]) > logp(&batch, &Ipo::new(), &[(1, 0)]));
    assert_eq!(logp(&batch, &dpo, &[(3, 2)]), logp(&batch, &Dpo::new(), &[(3, 2)]));
    // A token of weight 0 that differs ends the prefix: what follows it has another context.
    let hidden_edit = Batch { weights: batch.weights.copy(), ..Batch::new() };
    let _ = hidden_edit.weights.narrow(1, 4, 1).fill_(0.0);
    let all = hidden_edit.preference(&Dpo::new());
    assert_same(&hidden_edit.preference(&dpo), &all);
    assert!(all.1.iter().any(|gradient| gradient.abs() > 1e-3));
}

#[test]
fn an_answer_in_several_pairs_skips_what_all_of_them_have_in_common() {
    let batch = Batch::new();
    let (pairs, reference) = (Pairs::new(&[(1, 0), (1, 2), (3, 2)]), batch.reference());
    let run = |dpo: Dpo| {
        batch.run(|hidden, rows| {
            let all = PreferenceBatch::new(rows, &pairs).with_reference(&reference);
            Ok(dpo.on((hidden, &batch.head), all)?.loss)
        })
    };
    let mut dpo = Dpo::new();
    let all = run(dpo);
    dpo.skip_common_prefix = true;
    assert_same(&run(dpo), &all);
}

#[test]
fn pairs_may_be_computed_together_or_apart() {
    let batch = Batch::new();
    let reference = batch.reference();
    fn check(batch: &Batch, reference: &Tensor, loss: &impl PreferenceLoss, pairs: &Pairs) {
        // All rows in one chunk, a pair a chunk, and chunks that are smaller than a pair.
        let runs = [None, Some(24), Some(13), Some(12), Some(11), Some(1)].map(|chunk_rows| {
            let mut stats = None;
            let numbers = batch.run(|hidden, rows| {
                let all = PreferenceBatch::new(rows, pairs).with_reference(reference);
                let all = chunk_rows.map_or(all, |rows| all.with_chunk_rows(rows));
                let output = loss.on((hidden, &batch.head), all)?;
                stats = Some(output.stats.read()?);
                Ok(output.loss)
            });
            (numbers, stats.unwrap())
        });
        let from_logits = batch.run(|hidden, rows| {
            let all = PreferenceBatch::new(rows, pairs).with_reference(reference);
            Ok(loss.on(&hidden.matmul(&batch.head.tr()), all)?.loss)
        });
        let [(first, first_stats), others @ ..] = runs;
        assert_same(&from_logits, &first);
        assert!(first.1.iter().any(|gradient| gradient.abs() > 1e-3));
        for (numbers, stats) in others {
            assert_same(&numbers, &first);
            assert_eq!(stats.pairs, first_stats.pairs);
            assert_relative_eq!(
                stats.mean_margin.unwrap(),
                first_stats.mean_margin.unwrap(),
                max_relative = ROUNDING,
                epsilon = ROUNDING
            );
        }
    }
    let (with_nll, tdpo_hidden) = (Cpo::new(), batch.hidden().detach() * 0.7);
    let tdpo = Tdpo::tdpo2(Reference::new((&tdpo_hidden, &batch.head)));
    // Of neighbours, of others, of some, and pairs that share an answer.
    for pairs in [&[(1, 0), (3, 2)][..], &[(3, 0), (1, 2)], &[(2, 1)], &[(3, 0), (1, 2), (1, 0)], &[(1, 0), (1, 0)]] {
        let pairs = Pairs::new(pairs);
        check(&batch, &reference, &Dpo::new(), &pairs);
        check(&batch, &reference, &with_nll, &pairs);
        check(&batch, &reference, &tdpo, &pairs);
    }
    check(&batch, &reference, &Npo::new(), &Pairs::rejected(4));
    check(&batch, &reference, &SimNpo::new(), &Pairs::rejected(2));
}

#[test]
fn equal_answers_have_a_loss_of_ln_2_and_no_gradient() {
    let mut batch = Batch::new();
    batch.ids = batch.ids.narrow(0, 0, 1).expand([4, 8], false).contiguous();
    batch.labels = batch.labels.narrow(0, 0, 1).expand([4, 8], false).contiguous();
    for skip in [false, true] {
        let mut dpo = Dpo::new();
        dpo.skip_common_prefix = skip;
        let (loss, gradients) = batch.preference(&dpo);
        assert_relative_eq!(loss, 2f64.ln(), epsilon = ROUNDING);
        assert!(gradients.iter().all(|gradient| gradient.abs() < ROUNDING));
    }
}

#[test]
fn the_loss_of_several_answers_is_the_mean_over_their_pairs() {
    let batch = Batch::new();
    let reference = batch.reference();
    let run = |pairs: &[(i64, i64)]| {
        let pairs = Pairs::new(pairs);
        batch.run(|hidden, rows| {
            let all = PreferenceBatch::new(rows, &pairs).with_reference(&reference);
            Ok(Dpo::new().on((hidden, &batch.head), all)?.loss)
        })
    };
    let single = [(1, 0), (1, 2), (1, 3)].map(|pair| run(&[pair]));
    let loss = single.iter().map(|(loss, _)| loss).sum::<f64>() / 3.0;
    let gradient = |at: usize| single.iter().map(|(_, gradients)| gradients[at]).sum::<f64>() / 3.0;
    let gradients = (0..single[0].1.len()).map(gradient).collect();
    assert_same(&run(&[(1, 0), (1, 2), (1, 3)]), &(loss, gradients));
}

#[test]
fn a_factor_of_all_weights_is_a_factor_of_beta_for_sums_and_nothing_for_averages() {
    let mut batch = Batch::new();
    let (mut dpo, simpo) = (Dpo::new(), SimPo::new());
    dpo.beta *= 3.0;
    let sharper = batch.preference(&dpo);
    (dpo.beta, dpo.average) = (0.1, true);
    let averages = [batch.preference(&dpo), batch.preference(&simpo)];
    batch.weights = &batch.weights * 3.0;
    assert_same(&batch.preference(&Dpo::new()), &sharper);
    assert_same(&batch.preference(&dpo), &averages[0]);
    assert_same(&batch.preference(&simpo), &averages[1]);
}

#[test]
fn the_likelihood_of_the_chosen_answers_has_a_factor() {
    let batch = Batch::new();
    let [without, half, whole] = [0.0, 0.5, 1.0].map(|alpha| {
        let mut cpo = Cpo::new();
        cpo.alpha = alpha;
        batch.preference(&cpo)
    });
    let middle = without.1.iter().zip(&whole.1).map(|(a, b)| (a + b) / 2.0).collect();
    assert_same(&half, &((without.0 + whole.0) / 2.0, middle));
    assert!(whole.0 > without.0 + 0.1);
}

#[test]
fn an_answer_without_rows_has_sums_and_means_of_0() {
    let mut batch = Batch::new();
    batch.labels = batch.labels.full_like(IGNORE_INDEX);
    let (rows, pairs, reference) = (batch.rows(), Pairs::alternating(2), Tensor::zeros([4, 8], F64));
    let (mut average, mut simpo) = (Dpo::new(), SimPo::new());
    (average.average, simpo.gamma_beta_ratio) = (true, 0.0);
    for kind in [Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16] {
        let (hidden, head) = (batch.hidden().detach().to_kind(kind), batch.head.to_kind(kind));
        let all = PreferenceBatch::new(&rows, &pairs).with_reference(&reference);
        // The last one has a mean over the tokens of the chosen answers.
        for output in [
            Dpo::new().on((&hidden, &head), all),
            average.on((&hidden, &head), all),
            simpo.on((&hidden, &head), all),
            Cpo::new().on((&hidden, &head), all),
        ] {
            let loss = output.unwrap().loss;
            assert_relative_eq!(number(&loss), 2f64.ln(), epsilon = 1e-6);
            loss.backward();
        }
    }
    assert!(values(&batch.head.grad()).iter().all(|&gradient| gradient == 0.0));
}

#[test]
fn a_small_beta_leaves_the_gradient_of_the_sums() {
    let batch = Batch::new();
    const BETA: f64 = 1e-7;
    let (mut dpo, mut npo, mut simnpo) = (Dpo::new(), Npo::new(), SimNpo::new());
    (dpo.beta, npo.beta, simnpo.beta) = (BETA, BETA, BETA);
    // What the gradient is taken of: a factor for each sequence's sum or mean.
    let sums = |factors: [f64; 4], is_mean: bool| {
        batch.run(|hidden, rows| {
            figa_loss::linear_loss(hidden, &batch.head, rows, |scores| {
                let sums = scores.sequence_sums(&(scores.logp()? * scores.weights()))?;
                let sizes = scores.sequence_sums(scores.weights())?;
                let values = if is_mean { sums / sizes } else { sums };
                Ok((values * Tensor::from_slice(&factors)).sum(Kind::Double))
            })
        })
    };
    let assert_limit = |ours: (f64, Vec<f64>), factor: f64, (_, limit): (f64, Vec<f64>)| {
        let ours: Vec<f64> = ours.1.iter().map(|gradient| gradient * factor).collect();
        assert_abs_diff_eq!(*ours, *limit, epsilon = 1e-5);
        assert!(limit.iter().any(|gradient| gradient.abs() > 1e-3));
    };
    assert_limit(batch.preference(&dpo), 1.0 / BETA, sums([0.25, -0.25, 0.25, -0.25], false));
    let (forget, reference) = (Pairs::rejected(4), batch.reference());
    let ascent = [0.25; 4];
    let run = |loss: &dyn Fn(&Tensor, PreferenceBatch<'_>) -> Result<PreferenceOutput>| {
        batch.run(|hidden, rows| Ok(loss(hidden, PreferenceBatch::new(rows, &forget).with_reference(&reference))?.loss))
    };
    assert_limit(run(&|hidden, all| npo.on((hidden, &batch.head), all)), 1.0, sums(ascent, false));
    assert_limit(run(&|hidden, all| simnpo.on((hidden, &batch.head), all)), 1.0, sums(ascent, true));
}

#[test]
fn micro_batches_share_denominators() {
    let batch = Batch::new();
    let reference = batch.reference();
    let all = batch.preference(&Cpo::new());
    let pairs = Pairs::alternating(1);
    let tokens = number(
        &(batch.weights.narrow(1, 2, 6) * batch.labels.narrow(1, 2, 6).ge(0)).slice(0, 1, None, 2).sum(Kind::Double),
    );
    let parts = batch.run(|hidden, _| {
        let part = |start: i64| -> Result<Tensor> {
            let part = |tensor: &Tensor| tensor.narrow(0, start, 2);
            let rows = Rows::of_batch(&part(&batch.labels), &part(&batch.weights), IGNORE_INDEX)?;
            let (hidden, reference) = (part(hidden), part(&reference));
            let all = PreferenceBatch::new(&rows, &pairs).with_reference(&reference).with_denominators(2.0, tokens);
            Ok(Cpo::new().on((&hidden, &batch.head), all)?.loss)
        };
        Ok(part(0)? + part(2)?)
    });
    assert_same(&parts, &all);
}

#[test]
fn a_ratio_of_1_gives_the_policy_gradient() {
    let batch = Batch::new();
    let advantages = Tensor::randn([4, 8], F64);
    let hidden = batch.hidden().detach();
    let old = log_probs((&hidden, &batch.head), &batch.rows()).unwrap();
    let rollout = Rollout::new(&old, &advantages);
    let gradient = |loss: &dyn Fn(&Tensor, &Rows) -> Result<Tensor>| batch.run(loss).1;
    let expected = gradient(&|hidden, rows| {
        figa_loss::linear_loss(hidden, &batch.head, rows, |scores| {
            let cost = scores.logp()? * scores.weights() * scores.take(&advantages)?;
            Ok(-cost.sum(Kind::Double) / rows.len() as f64)
        })
    });
    let mean = Reduction::ActiveTokens;
    for gradient in [
        gradient(&|hidden, rows| {
            Ok(ImportanceSampling::new().on_rollout(rollout).on((hidden, &batch.head), rows)?.loss)
        }),
        gradient(&|hidden, rows| {
            Ok(Grpo::new().on_rollout(rollout).with_reduction(mean).on((hidden, &batch.head), rows)?.loss)
        }),
        gradient(&|hidden, rows| Ok(Cispo::new().on_rollout(rollout).on((hidden, &batch.head), rows)?.loss)),
        gradient(&|hidden, rows| {
            Ok(Sapo::new().on_rollout(rollout).with_reduction(mean).on((hidden, &batch.head), rows)?.loss)
        }),
        gradient(&|hidden, rows| Ok(Dro::new().on_rollout(rollout).on((hidden, &batch.head), rows)?.loss)),
    ] {
        assert_abs_diff_eq!(*gradient, *expected, epsilon = ROUNDING);
    }
    // The KL term acts where the advantage is 0.
    let (zeros, reference) = (advantages.zeros_like(), batch.reference());
    let still = Rollout::new(&old, &zeros).with_reference(&reference, 0.1);
    let (_, kl) = batch.run(|hidden, rows| Ok(Grpo::new().on_rollout(still).on((hidden, &batch.head), rows)?.loss));
    assert!(kl.iter().any(|gradient| gradient.abs() > 1e-4));
    // Each token of an answer has the answer's ratio.
    let rollout = rollout.with_ratio(Ratio::Sequence);
    let rows = batch.rows();
    let output = ImportanceSampling::new().on_rollout(rollout).on((&hidden, &batch.head), &rows).unwrap();
    assert_eq!(output.stats.read().unwrap().rewarded.count as usize, rows.len());
    let each = ImportanceSampling::new().on_rollout(rollout).with_reduction(Reduction::None);
    assert!(matches!(each.on((&hidden, &batch.head), &rows), Err(Error::Value { argument: "reduction", .. })));
}

/// Advantages of single tokens, many rows at a time: a library multiplies each answer's ratios by all answers' advantages.
#[test]
fn an_answer_sees_no_advantage_of_another() {
    let batch = Batch::new();
    let (advantages, hidden) = (Tensor::randn([4, 8], F64), batch.hidden().detach());
    let (old, reference) = (batch.reference() + Tensor::randn([4, 8], F64) * 0.2, batch.reference());
    for ratio in [Ratio::Token, Ratio::Sequence] {
        let run = |start: i64, len: i64| {
            let of = |tensor: &Tensor| tensor.narrow(0, start, len);
            let rows = Rows::of_batch(&of(&batch.labels), &of(&batch.weights), IGNORE_INDEX).unwrap();
            let hidden = of(&hidden).copy().set_requires_grad(true);
            let (old, advantages, reference) = (of(&old), of(&advantages), of(&reference));
            let rollout = Rollout::new(&old, &advantages).with_reference(&reference, 0.04).with_ratio(ratio);
            let loss = Grpo::new().on_rollout(rollout).with_reduction(Reduction::Sum);
            let loss = loss.on((&hidden, &batch.head), &rows).unwrap().loss;
            loss.backward();
            (number(&loss), values(&hidden.grad()))
        };
        let each: Vec<_> = (0..4).map(|answer| run(answer, 1)).collect();
        let gradients = each.iter().flat_map(|(_, gradient)| gradient.clone()).collect();
        assert_same(&run(0, 4), &(each.iter().map(|(loss, _)| loss).sum(), gradients));
    }
}

#[test]
fn statistics_count_pairs_and_margins() {
    /// The margin is the size of the chosen answer, less that of the rejected one.
    struct Sizes;

    impl PreferenceLoss for Sizes {
        fn margin(&self, answers: &Answers) -> Result<Tensor> {
            Ok(&answers.chosen.size - &answers.rejected.size)
        }

        fn losses(&self, answers: &Answers) -> Result<Tensor> {
            Ok(answers.chosen.mean_logp()? - answers.rejected.mean_gain()?)
        }
    }
    let batch = Batch::new();
    let (rows, hidden) = (batch.rows(), batch.hidden());
    let output = |pairs: &Pairs| -> PreferenceOutput {
        Sizes.on((&hidden, &batch.head), PreferenceBatch::new(&rows, pairs)).unwrap()
    };
    // The third sequence has all its labels, the fourth lacks two.
    let both = output(&Pairs::new(&[(3, 2)])).stats.add(&output(&Pairs::new(&[(2, 3), (0, 1)])).stats).unwrap();
    let summary = both.read().unwrap();
    assert_eq!((summary.pairs, summary.accuracy), (3, Some(1.0 / 3.0)));
    assert_abs_diff_eq!(summary.mean_margin.unwrap(), 0.0, epsilon = ROUNDING);
    let none = output(&Pairs::new(&[])).stats.read().unwrap();
    assert_eq!(
        (none.pairs, none.accuracy, none.mean_margin, none.chosen_logp, none.rejected_logp),
        (0, None, None, None, None)
    );
}

#[test]
fn settings_outside_of_their_domains_are_errors() {
    macro_rules! assert_refused {
        (|$loss:ident| $run:expr; $($new:expr, $field:ident = $value:expr;)+) => {$({
            let mut $loss = $new;
            $loss.$field = $value;
            let error = $run.unwrap_err();
            assert!(matches!(error, Error::Value { argument, .. } if argument == stringify!($field)), "{error}");
        })+};
    }
    let batch = Batch::new();
    let (rows, pairs, reference) = (batch.rows(), Pairs::alternating(2), batch.reference());
    let logits = Tensor::zeros([4, 8, VOCAB], F64);
    let all = PreferenceBatch::new(&rows, &pairs).with_reference(&reference);
    let tdpo = || Tdpo::tdpo2(Reference::new(&logits));
    assert_refused!(|loss| loss.on(&logits, all);
        Ipo::new(), beta = 0.0;
        SimPo::new(), beta = 0.0;
        SimPo::new(), gamma_beta_ratio = -1.0;
        SimPo::new(), label_smoothing = -0.1;
        Cpo::new(), beta = 0.0;
        Cpo::new(), alpha = -1.0;
        Cpo::new(), label_smoothing = 0.5;
        Orpo::new(), lambda = -1.0;
        tdpo(), beta = 0.0;
        tdpo(), alpha = Some(-1.0);
        Npo::new(), beta = 0.0;
        SimNpo::new(), beta = 0.0;
        SimNpo::new(), gamma = -1.0;
    );
    let rollout = Rollout::new(&reference, &reference);
    assert_refused!(|loss| loss.on_rollout(rollout).on(&logits, &rows);
        Grpo::new(), clip_low = -0.1;
        Grpo::new(), clip_high = -0.1;
        Cispo::new(), ratio_max = 0.0;
        Sapo::new(), tau_positive = 0.0;
        Sapo::new(), tau_negative = 0.0;
        Dro::new(), beta = -1.0;
    );
    assert_refused!(|loss| loss.on_rollout(rollout, &reference).on(&logits, &rows);
        Rlmec::new(), clip_low = -0.1;
        Rlmec::new(), clip_high = -0.1;
    );
    let error = Grpo::new().on_rollout(rollout.with_reference(&reference, -0.1)).on(&logits, &rows).unwrap_err();
    assert_eq!(error.to_string(), "beta: expected a finite number >= 0, got -0.1");
}

#[test]
fn pairs_are_what_their_names_say() {
    assert_eq!(Pairs::halves(3), Pairs::new(&[(0, 3), (1, 4), (2, 5)]));
    assert_eq!(Pairs::alternating(3), Pairs::new(&[(1, 0), (3, 2), (5, 4)]));
}

#[test]
fn errors_name_what_is_missing() {
    let batch = Batch::new();
    let (rows, hidden, reference) = (batch.rows(), batch.hidden(), batch.reference());
    let message = |loss: Dpo, pairs: Pairs, with_reference: bool| {
        let all = PreferenceBatch::new(&rows, &pairs);
        let all = if with_reference { all.with_reference(&reference) } else { all };
        loss.on((&hidden, &batch.head), all).unwrap_err().to_string()
    };
    let dpo = Dpo::new();
    let two = Pairs::alternating(2);
    assert_eq!(
        message(dpo, two.clone(), false),
        "reference: expected the log-probabilities under a reference model, got none"
    );
    assert_eq!(message(dpo, Pairs::alternating(3), true), "pairs: expected sequences that the rows have, got 5 of 4");
    assert_eq!(
        message(dpo, Pairs::rejected(2), true),
        "pairs: expected a chosen answer for each rejected one, got 0 chosen and 2 rejected"
    );
    let mut wrong = dpo;
    (wrong.average, wrong.skip_common_prefix) = (true, true);
    assert!(message(wrong, two.clone(), true).starts_with("skip_common_prefix: expected sums"));
    let mut wrong = dpo;
    wrong.beta = 0.0;
    assert_eq!(message(wrong, two.clone(), true), "beta: expected a finite number > 0, got 0");
    let mut wrong = dpo;
    wrong.label_smoothing = 0.5;
    assert_eq!(message(wrong, two.clone(), true), "label_smoothing: expected 0 <= label_smoothing < 0.5, got 0.5");
    let all = PreferenceBatch::new(&rows, &two).with_denominators(0.0, 1.0);
    let error = SimPo::new().on((&hidden, &batch.head), all).unwrap_err().to_string();
    assert_eq!(error, "denominators: expected a finite number > 0, got 0");
    let short = Tensor::zeros([4, 7], I64);
    let all = PreferenceBatch::new(&rows, &two).with_reference(&short);
    let error = dpo.on((&hidden, &batch.head), all).unwrap_err().to_string();
    assert_eq!(error, "tokens: expected shape [B, S] = [4, 8], that of labels, got [4, 7]");
}
