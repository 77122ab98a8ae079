//! The family against the published implementations, whose results are in a fixture.
#![cfg(feature = "torch")]

mod common;

use approx::{assert_abs_diff_eq, assert_relative_eq};
use common::{F64, number, values};
use figa_loss::tch::Tensor;
use figa_loss::{
    Asft, CandidateUnlikelihood, Cispo, Cpo, Dft, Distillation, Divergence, Dpo, Eaft, Grpo, IGNORE_INDEX, Ipo, Npo,
    Objective, Orpo, Pairs, PreferenceBatch, PreferenceLoss, Ratio, Reduction, Reference, Result, Rlmec, Rollout, Rows,
    Sapo, SimNpo, SimPo, Tdpo, TokenLoss, WeightedNll,
};

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    shape: [i64; 3],
    logits: Vec<f64>,
    labels: Vec<i64>,
    weights: Option<Vec<f64>>,
    teacher: Option<Vec<f64>>,
    divergence: Option<f64>,
    temperature: Option<f64>,
    candidates: Option<Vec<i64>>,
    factor: Option<f64>,
    advantages: Option<Vec<f64>>,
    supervised: Option<Vec<f64>>,
    rewards: Option<Vec<f64>>,
    old: Option<Vec<f64>>,
    reference: Option<Vec<f64>>,
    /// For a source that computes in f32.
    tolerance: Option<f64>,
    loss: f64,
    grad: Vec<f64>,
}

/// What differs from our exact forms by no more than the rounding of theirs.
const ROUNDING: f64 = 1e-9;

#[test]
fn losses_and_gradients_equal_the_published_ones() {
    let mut names = vec![];
    for line in include_str!("fixtures/family.jsonl").lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let logits = Tensor::from_slice(&case.logits).reshape(case.shape).set_requires_grad(true);
        let loss = case.loss(&logits).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        loss.backward();
        println!("{}", case.name);
        let tolerance = case.tolerance.unwrap_or(ROUNDING);
        assert_relative_eq!(number(&loss), case.loss, max_relative = tolerance);
        assert_abs_diff_eq!(*values(&logits.grad()), *case.grad, epsilon = tolerance);
        names.push(case.name);
    }
    assert_eq!(names.len(), 28);
}

fn given<T>(values: &Option<T>) -> &T {
    values.as_ref().expect("in the fixture")
}

impl Case {
    fn tokens(&self, values: &Option<Vec<f64>>) -> Tensor {
        Tensor::from_slice(given(values).as_slice()).reshape(&self.shape[..2])
    }

    /// The weight of each token.
    fn weights(&self) -> Tensor {
        let [b, s, _] = self.shape;
        if self.rewards.is_some() {
            // Those of TGDPO: the first half of the sequences are chosen.
            let (alpha, beta) = (0.5, 0.1);
            let sign = Tensor::cat(&[Tensor::ones([b / 2, 1], F64), -Tensor::ones([b / 2, 1], F64)], 0);
            return sign * self.tokens(&self.rewards) * (alpha * beta) + 1.0;
        }
        self.weights.as_ref().map_or_else(|| Tensor::ones([b, s], F64), |_| self.tokens(&self.weights))
    }

    fn loss(&self, logits: &Tensor) -> Result<Tensor> {
        let [b, s, _] = self.shape;
        let labels = Tensor::from_slice(&self.labels).reshape([b, s]);
        let rows = Rows::of_shifted(&labels, &self.weights(), IGNORE_INDEX)?;
        let teacher = self.teacher.as_ref().map(|teacher| Tensor::from_slice(teacher).reshape(self.shape));
        let reference = teacher.as_ref().map(Reference::new);
        match self.name.as_str() {
            "dft" | "dft of trl" => token(TokenLoss::of(Dft::new()), logits, &rows),
            "eaft" => token(TokenLoss::of(Eaft::llama_factory()), logits, &rows),
            "asft" => token(TokenLoss::of(Asft::new(*given(&reference))), logits, &rows),
            "distillation" => {
                let mut loss = Distillation::new(*given(&reference));
                loss.reference.divergence = Divergence::JensenShannon(*given(&self.divergence));
                loss.reference.temperature = *given(&self.temperature);
                token(TokenLoss::of(loss), logits, &rows)
            }
            "unlikelihood of candidates" => {
                let candidates = Tensor::from_slice(given(&self.candidates).as_slice()).reshape([b, s, -1]);
                let nll = TokenLoss::of(WeightedNll::new()).with_reduction(Reduction::Sum);
                let penalty = TokenLoss::of(CandidateUnlikelihood::new(&candidates)).with_reduction(Reduction::Sum);
                Ok(token(nll, logits, &rows)? + token(penalty, logits, &rows)? * *given(&self.factor))
            }
            "npo" | "simnpo" => {
                let (pairs, reference) = (Pairs::rejected(b), self.tokens(&self.reference));
                let batch = PreferenceBatch::new(&rows, &pairs).with_reference(&reference);
                let mut simnpo = SimNpo::new();
                (simnpo.beta, simnpo.gamma) = (2.5, 3.0);
                let output = if self.name == "npo" { Npo::new().on(logits, batch) } else { simnpo.on(logits, batch) };
                Ok(output?.loss)
            }
            name @ ("dpo" | "ipo" | "simpo" | "cpo" | "orpo" | "tdpo1" | "tdpo2" | "tis-dpo" | "ddpo"
            | "ddpo average" | "tgdpo") => {
                let (pairs, log_probs) = (Pairs::halves(b / 2), self.tokens(&self.reference));
                let batch = PreferenceBatch::new(&rows, &pairs).with_reference(&log_probs);
                let (mut average_dpo, mut average_ipo) = (Dpo::new(), Ipo::new());
                (average_dpo.average, average_ipo.average) = (true, true);
                let output = match name {
                    "ipo" => average_ipo.on(logits, batch),
                    "simpo" => SimPo::new().on(logits, batch),
                    "cpo" => Cpo::new().on(logits, batch),
                    "orpo" => Orpo::new().on(logits, batch),
                    "tdpo1" => Tdpo::tdpo1(*given(&reference)).on(logits, batch),
                    "tdpo2" => Tdpo::tdpo2(*given(&reference)).on(logits, batch),
                    "ddpo average" => average_dpo.on(logits, batch),
                    _ => Dpo::new().on(logits, batch),
                };
                Ok(output?.loss)
            }
            name => {
                let (old, advantages) = (self.tokens(&self.old), self.tokens(&self.advantages));
                let reference = self.reference.as_ref().map(|_| self.tokens(&self.reference));
                let mut rollout = Rollout::new(&old, &advantages);
                rollout.reference = reference.as_ref().map(|reference| (reference, 0.04));
                if name.ends_with("sequence") {
                    rollout.ratio = Ratio::Sequence;
                }
                match name {
                    "cispo" => token(Cispo::new().on_rollout(rollout), logits, &rows),
                    "sapo" => token(Sapo::new().on_rollout(rollout), logits, &rows),
                    "dapo" => token(tokens_mean(Grpo::dapo().on_rollout(rollout)), logits, &rows),
                    "rlmec" => {
                        let supervised = self.tokens(&self.supervised);
                        token(Rlmec::new().on_rollout(rollout, &supervised), logits, &rows)
                    }
                    "liger dapo token" => token(tokens_mean(Grpo::new().on_rollout(rollout)), logits, &rows),
                    "liger grpo token" | "liger grpo sequence" => token(Grpo::new().on_rollout(rollout), logits, &rows),
                    other => panic!("{other}"),
                }
            }
        }
    }
}

fn tokens_mean<O: Objective>(loss: TokenLoss<O>) -> TokenLoss<O> {
    loss.with_reduction(Reduction::ActiveTokens)
}

fn token(loss: TokenLoss<impl Objective>, logits: &Tensor, rows: &Rows) -> Result<Tensor> {
    Ok(loss.on(logits, rows)?.loss)
}
