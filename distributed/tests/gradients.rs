//! Gradients of several processes, with unequal shares of a batch, against those of one process with all of it.

mod common;

use common::in_processes;
use figa_loss::{FigaLoss, Gate};
use tch::{Device, Kind, Tensor};
use tch_c10d::{ProcessGroup, ReduceOp, Reducer, ReducerOptions};

const OPTIONS: (Kind, Device) = (Kind::Double, Device::Cpu);
const SEQUENCES: i64 = 12;

/// A small model with a tied embedding, which autograd reaches twice.
struct Model {
    parameters: Vec<Tensor>,
}

impl Model {
    fn new(seed: i64) -> Self {
        tch::manual_seed(seed);
        let shapes = [vec![9, 16], vec![16, 32], vec![32], vec![32, 16], vec![16]];
        let parameter = |shape: Vec<i64>| (Tensor::randn(shape, OPTIONS) * 0.4).set_requires_grad(true);
        Self { parameters: shapes.into_iter().map(parameter).collect() }
    }

    fn copy(&self) -> Self {
        let copy = |parameter: &Tensor| parameter.detach().copy().set_requires_grad(true);
        Self { parameters: self.parameters.iter().map(copy).collect() }
    }

    fn logits(&self, ids: &Tensor) -> Tensor {
        let [embedding, up, up_bias, down, down_bias] = &self.parameters[..] else { panic!("five parameters") };
        let hidden = Tensor::embedding(embedding, ids, -1, false, false);
        let hidden = &hidden + ((hidden.matmul(up) + up_bias).gelu("none").matmul(down) + down_bias);
        hidden.matmul(&embedding.tr())
    }

    fn gradients(&self) -> Vec<Tensor> {
        self.parameters.iter().map(Tensor::grad).collect()
    }

    /// A step of SGD, after which gradients are zero.
    fn step(&mut self, denominator: &Tensor) {
        let _no_grad = tch::no_grad_guard();
        for parameter in &mut self.parameters {
            let mut gradient = parameter.grad();
            let _ = parameter.g_sub_(&(&gradient / denominator * 0.3));
            let _ = gradient.zero_();
        }
    }
}

/// The sequences of a batch, and their signed weights.
struct Batch(Tensor, Tensor);

impl Batch {
    fn new(step: i64) -> Self {
        tch::manual_seed(100 + step);
        let ids = Tensor::randint(9, [SEQUENCES, 6], (Kind::Int64, Device::Cpu));
        Self(ids, Tensor::randint(3, [SEQUENCES, 6], OPTIONS) - 1.0)
    }

    /// Numerator and denominator of the loss of some sequences. With the gate, the latter depends on the model.
    fn loss(&self, model: &Model, first: i64, count: i64) -> (Tensor, Tensor) {
        let part = |tensor: &Tensor| tensor.narrow(0, first, count);
        let loss = FigaLoss::new().with_gate(Some(Gate::AtMost(2.2)));
        let output = loss.forward(&model.logits(&part(&self.0)), &part(&self.0), &part(&self.1)).unwrap();
        (output.numerator, output.denominator)
    }
}

/// Where the sequences of a process begin and how many there are, for each of its two passes. No two are equal.
fn shares(group: &ProcessGroup) -> [(i64, i64); 2] {
    match (group.world_size(), group.rank()) {
        (1, 0) => [(0, 5), (5, 7)],
        (2, 0) => [(0, 1), (1, 3)],
        (2, 1) => [(4, 2), (6, 6)],
        (4, rank) => [[(0, 1), (1, 2)], [(3, 2), (5, 1)], [(6, 3), (9, 1)], [(10, 1), (11, 1)]][rank],
        other => panic!("{other:?}"),
    }
}

fn largest_difference(left: &[Tensor], right: &[Tensor]) -> f64 {
    let difference = |(left, right): (&Tensor, &Tensor)| (left - right).abs().max().double_value(&[]);
    left.iter().zip(right).map(difference).fold(0.0, f64::max)
}

#[test]
fn shares_of_a_batch_give_its_gradients() {
    in_processes("shares_of_a_batch_give_its_gradients", &[1, 2, 4], |group| {
        // Different seeds: the reducer gives all processes the parameters of rank 0.
        let mut model = Model::new(group.rank() as i64);
        let mut options = ReducerOptions::default();
        options.bucket_bytes = 4000; // several buckets
        let reducer = Reducer::new(group, &model.parameters, options).unwrap();
        let mut alone = model.copy();
        assert_eq!(largest_difference(&model.parameters, &Model::new(0).parameters), 0.0);
        for step in 0..5 {
            let batch = Batch::new(step);
            let mut denominator = Tensor::zeros([], OPTIONS);
            let [first, last] = shares(group);
            for (first, count) in [first, last] {
                let (numerator, part) = batch.loss(&model, first, count);
                denominator += part.detach();
                // The reducer takes the mean over processes of what should be a sum.
                let loss = numerator * group.world_size() as i64;
                if (first, count) == last { reducer.backward(&loss).unwrap() } else { loss.backward() }
            }
            group.all_reduce(&mut denominator, ReduceOp::Sum).unwrap().wait().unwrap();

            let (numerator, expected) = batch.loss(&alone, 0, SEQUENCES);
            numerator.backward();
            assert_eq!(denominator.double_value(&[]), expected.double_value(&[]));
            let difference = largest_difference(&model.gradients(), &alone.gradients());
            assert!(difference < 1e-12 && alone.gradients()[0].abs().max().double_value(&[]) > 0.1, "{difference:e}");
            model.step(&denominator);
            alone.step(&denominator);
        }
        assert!(largest_difference(&model.parameters, &alone.parameters) < 1e-12);
    });
}

/// In the passes of rank 0 the second parameter is used, in those of the others it is not.
#[test]
fn unused_parameters_count_as_zero() {
    in_processes("unused_parameters_count_as_zero", &[2, 4], |group| {
        let parameters = [0, 1].map(|_| Tensor::ones([3], OPTIONS).set_requires_grad(true));
        let mut options = ReducerOptions::default();
        options.find_unused = true;
        let reducer = Reducer::new(group, &parameters, options).unwrap();
        for step in 1..4 {
            let mut loss = parameters[0].sum(OPTIONS.0);
            if group.rank() == 0 {
                loss += parameters[1].sum(OPTIONS.0);
            }
            reducer.backward(&loss).unwrap();
            let gradients = parameters.each_ref().map(|parameter| parameter.grad().double_value(&[0]));
            // They accumulate over the steps.
            assert_eq!(gradients, [step as f64, step as f64 / group.world_size() as f64]);
        }
    });
}

#[test]
fn a_parameter_without_a_gradient_is_an_error() {
    in_processes("a_parameter_without_a_gradient_is_an_error", &[2], |group| {
        let parameters = [0, 1].map(|_| Tensor::ones([3], OPTIONS).set_requires_grad(true));
        let reducer = Reducer::new(group, &parameters, ReducerOptions::default()).unwrap();
        let error = reducer.backward(&parameters[0].sum(OPTIONS.0)).unwrap_err().to_string();
        let expected = format!(
            "rank {} of 2: Reducer::backward failed: parameters without a gradient: 1, the first of them number 1; leave out \
             what the loss does not depend on, or set find_unused",
            group.rank()
        );
        assert_eq!(error, expected);
    });
}

#[test]
fn models_that_differ_are_errors() {
    in_processes("models_that_differ_are_errors", &[2], |group| {
        let parameter = |shape: &[i64]| Tensor::ones(shape, OPTIONS).set_requires_grad(true);
        let error = |parameters: &[Tensor]| {
            Reducer::new(group, parameters, ReducerOptions::default()).map(drop).unwrap_err().to_string()
        };
        let (rank, other) = (group.rank(), 1 - group.rank());
        assert_eq!(
            error(&[parameter(&[2 + rank as i64])]),
            format!(
                "rank {rank} of 2: Reducer::new failed: rank {other} calls Reducer::new with other arguments, this rank \
                 Reducer::new; make the same calls, in the same order, on all ranks"
            )
        );
        assert_eq!(error(&[]), "parameters: expected at least one, got none");
        let frozen = [parameter(&[1]), Tensor::ones([1], OPTIONS)];
        assert_eq!(error(&frozen), "parameters: expected leaves that require gradients, got another tensor at 1");
    });
}

#[test]
fn reducer_and_group_end_in_any_order() {
    in_processes("reducer_and_group_end_in_any_order", &[2], |group| {
        let parameter = Tensor::ones([3], OPTIONS).set_requires_grad(true);
        let parameters = [parameter];
        let first = Reducer::new(group, &parameters, ReducerOptions::default()).unwrap();
        drop(first);
        // Its hooks are gone with it.
        parameters[0].sum(OPTIONS.0).backward();
        let second = Reducer::new(group, &parameters, ReducerOptions::default()).unwrap();
        second.backward(&(parameters[0].sum(OPTIONS.0) * group.rank() as i64)).unwrap();
        assert_eq!(parameters[0].grad().double_value(&[0]), 1.5);
    });
}
