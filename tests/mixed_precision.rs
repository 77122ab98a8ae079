//! Half precision as training uses it: under a loss scale, and under autocast, which libtorch has on a GPU.
#![cfg(feature = "torch")]

mod common;

use common::{F64, I64, device, number};
use figa_loss::tch::{Device, Kind, Tensor, autocast, manual_seed};
use figa_loss::{
    Distillation, Dpo, FigaLoss, IGNORE_INDEX, ModelOutput, Objective, Pairs, PreferenceBatch, PreferenceLoss,
    Reduction, Reference, Rows, TokenLoss,
};

const BATCH: [i64; 2] = [4, 48];
const WIDTH: i64 = 32;
const VOCAB: i64 = 4000;
/// The tokens, or pairs, of all micro-batches of a step. Without a loss scale, the gradients of most logits are 0 in f16.
const DENOMINATOR: f64 = 1e4;
/// What loss scalers of f16 begin with.
const LOSS_SCALE: f64 = 65536.0;

/// In f64.
struct Data {
    hidden: Tensor,
    weight: Tensor,
    teacher: Tensor,
    labels: Tensor,
    weights: Tensor,
}

impl Data {
    fn new(device: Device) -> Self {
        manual_seed(1);
        let [b, s] = BATCH;
        let normal = |shape: &[i64]| Tensor::randn(shape, F64).to_device(device);
        let sign = Tensor::rand(BATCH, F64).lt(0.2).to_kind(Kind::Double) * -1.5 + 1.0;
        let is_active = Tensor::rand(BATCH, F64).lt(0.7).to_kind(Kind::Double);
        Self {
            hidden: normal(&[b, s, WIDTH]),
            weight: normal(&[VOCAB, WIDTH]) / (WIDTH as f64).sqrt(),
            teacher: normal(&[b, s, WIDTH]),
            labels: Tensor::randint(VOCAB, BATCH, I64),
            weights: (Tensor::rand(BATCH, F64) + 0.5) * sign * is_active,
        }
    }

    fn rows(&self) -> Rows {
        Rows::of_batch(&self.labels, &self.weights, IGNORE_INDEX).unwrap()
    }
}

/// A loss of a model's output; the head is in the dtype that the loss computes in.
type Loss = fn(ModelOutput<'_>, &Data, &Tensor) -> Tensor;

const LOSSES: [(&str, Loss); 3] = [
    ("FigaLoss", |output, data, _| token_loss(FigaLoss::new().with_gate(None), output, data)),
    ("Distillation", |output, data, weight| {
        let teacher = data.teacher.to_kind(weight.kind());
        let loss = Distillation::new(Reference::new((&teacher, weight)));
        token_loss(TokenLoss::of(loss), output, data)
    }),
    ("Dpo", |output, data, _| {
        let (rows, pairs, reference) = (data.rows(), Pairs::alternating(BATCH[0] / 2), data.weights.zeros_like());
        let batch = PreferenceBatch::new(&rows, &pairs).with_reference(&reference);
        Dpo::new().on(output, batch.with_denominators(DENOMINATOR, DENOMINATOR)).unwrap().loss
    }),
];

fn token_loss(loss: TokenLoss<impl Objective>, output: ModelOutput<'_>, data: &Data) -> Tensor {
    loss.with_reduction(Reduction::External(DENOMINATOR)).on(output, &data.rows()).unwrap().loss
}

/// The loss, and its gradients with respect to the inputs, under a loss scale that is divided out in f64.
fn results(loss: Loss, data: &Data, kind: Kind, from_logits: bool, scale: f64) -> Vec<Tensor> {
    let leaf = |tensor: &Tensor| tensor.to_kind(kind).copy().set_requires_grad(true);
    let weight = leaf(&data.weight);
    let inputs = match from_logits {
        true => vec![leaf(&data.hidden.matmul(&data.weight.tr()))],
        false => vec![leaf(&data.hidden), weight.shallow_clone()],
    };
    let output = match &inputs[..] {
        [logits] => logits.into(),
        _ => (&inputs[0], &weight).into(),
    };
    let loss = loss(output, data, &weight);
    let gradients = Tensor::run_backward(&[&loss * scale], &inputs, false, false);
    let gradients = gradients.into_iter().map(|gradient| gradient.to_kind(Kind::Double) / scale);
    [loss.detach().to_kind(Kind::Double)].into_iter().chain(gradients).collect()
}

/// Compares with f64.
fn check(name: &str, loss: Loss, data: &Data, kind: Kind, tolerance: f64) {
    for from_logits in [false, true] {
        let truth = autocast(false, || results(loss, data, Kind::Double, from_logits, 1.0));
        let ours = results(loss, data, kind, from_logits, LOSS_SCALE);
        for (part, (ours, truth)) in ours.iter().zip(&truth).enumerate() {
            let error = number(&(ours - truth).norm()) / number(&truth.norm());
            // Neither infinite nor NaN.
            assert!(error < tolerance, "{name}, from logits: {from_logits}, part {part}: {error:e}");
        }
    }
}

#[test]
fn gradients_are_right_under_a_loss_scale() {
    let data = Data::new(device());
    for (name, loss) in LOSSES {
        for (kind, tolerance) in [(Kind::Half, 2e-3), (Kind::BFloat16, 1.6e-2)] {
            check(&format!("{name} in {kind:?}"), loss, &data, kind, tolerance);
        }
    }
}

/// The slopes of columns with a probability below 6e-5 are subnormal in f16.
#[test]
fn the_weights_of_unlikely_columns_have_an_exact_gradient_in_f16() {
    let (labels, weights) = (Tensor::from_slice(&[IGNORE_INDEX, 1, 1]).reshape([1, 3]), Tensor::ones([1, 3], F64));
    let gradient = |kind: Kind, chunk_rows: i64| {
        let hidden = Tensor::ones([1, 3, 1], (kind, device()));
        let weight = Tensor::full([8, 1], -15.5, (kind, device()));
        let _ = weight.get(0).zero_();
        let weight = weight.set_requires_grad(true);
        let rows = Rows::of_batch(&labels, &weights, IGNORE_INDEX).unwrap();
        let loss = FigaLoss::new().with_chunk_rows(chunk_rows).on((&hidden, &weight), &rows).unwrap().loss;
        (loss * LOSS_SCALE).backward();
        weight.grad().to_kind(Kind::Double).narrow(0, 2, 6)
    };
    let truth = gradient(Kind::Double, 2);
    for chunk_rows in [1, 2] {
        let error = number(&((gradient(Kind::Half, chunk_rows) - &truth).abs().max() / truth.max()));
        assert!(error < 2e-3, "{chunk_rows}: {error:e}");
    }
}

#[test]
fn gradients_are_right_under_autocast_and_a_loss_scale() {
    let data = Data::new(device());
    for (name, loss) in LOSSES {
        autocast(true, || check(&format!("{name} under autocast"), loss, &data, Kind::Float, 2e-3));
    }
}
