//! The family against the published implementations, whose results are in a fixture.
#![cfg(feature = "torch")]

mod common;

use approx::{assert_abs_diff_eq, assert_relative_eq};
use common::{F64, number, values};
use figa_loss::tch::Tensor;
use figa_loss::{
    Asft, Cispo, Cpo, Dft, Dpo, Eaft, Grpo, IGNORE_INDEX, Ipo, Objective, Orpo, Pairs, PreferenceBatch, PreferenceLoss,
    Ratio, Reduction, Reference, Result, Rollout, Rows, Sapo, SimPo, TokenLoss,
};

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    shape: [i64; 3],
    logits: Vec<f64>,
    labels: Vec<i64>,
    teacher: Option<Vec<f64>>,
    advantages: Option<Vec<f64>>,
    old: Option<Vec<f64>>,
    reference: Option<Vec<f64>>,
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
        assert_relative_eq!(number(&loss), case.loss, max_relative = ROUNDING);
        assert_abs_diff_eq!(*values(&logits.grad()), *case.grad, epsilon = ROUNDING);
        names.push(case.name);
    }
    assert_eq!(names.len(), 14);
}

impl Case {
    fn tokens(&self, values: &Option<Vec<f64>>) -> Tensor {
        Tensor::from_slice(values.as_ref().expect("in the fixture")).reshape(&self.shape[..2])
    }

    fn loss(&self, logits: &Tensor) -> Result<Tensor> {
        let [b, s, _] = self.shape;
        let labels = Tensor::from_slice(&self.labels).reshape([b, s]);
        let rows = Rows::of_shifted(&labels, &Tensor::ones([b, s], F64), IGNORE_INDEX)?;
        match self.name.as_str() {
            "dft" => token(TokenLoss::of(Dft::new()), logits, &rows),
            "eaft" => token(TokenLoss::of(Eaft::llama_factory()), logits, &rows),
            "asft" => {
                let teacher = Tensor::from_slice(self.teacher.as_ref().expect("in the fixture")).reshape(self.shape);
                token(TokenLoss::of(Asft::new(Reference::new(&teacher))), logits, &rows)
            }
            "dpo" | "ipo" | "simpo" | "cpo" | "orpo" => {
                let (pairs, reference) = (Pairs::halves(b / 2), self.tokens(&self.reference));
                let batch = PreferenceBatch::new(&rows, &pairs).with_reference(&reference);
                let mut ipo = Ipo::new();
                ipo.average = true;
                let output = match self.name.as_str() {
                    "dpo" => Dpo::new().on(logits, batch),
                    "ipo" => ipo.on(logits, batch),
                    "simpo" => SimPo::new().on(logits, batch),
                    "cpo" => Cpo::new().on(logits, batch),
                    _ => Orpo::new().on(logits, batch),
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
