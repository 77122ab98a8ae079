//! The optimizer, against that of libtorch.

use figa_finetune::adamw::AdamW;
use figa_finetune::gradients::Gradients;
use figa_loss::tch::nn::{self, OptimizerConfig};
use figa_loss::tch::{Device, Kind, Tensor, manual_seed};

#[test]
fn adamw_takes_the_same_steps_as_that_of_torch() {
    manual_seed(0);
    let vs = nn::VarStore::new(Device::Cpu);
    let theirs = vs.root().randn("x", &[5, 3], 0.0, 1.0);
    let ours = theirs.detach().copy().set_requires_grad(true);
    let mut their_optimizer = nn::AdamW { wd: 0.0, ..Default::default() }.build(&vs, 0.1).unwrap();
    let parameters = [("x".to_owned(), ours.shallow_clone())].into();
    let mut our_optimizer = AdamW::new(&parameters);
    let target = Tensor::randn([5, 3], (Kind::Float, Device::Cpu));
    for step in 1..6 {
        let lr = 0.1 / f64::from(step);
        let loss = |x: &Tensor| ((x - &target) * f64::from(step)).square().sum(Kind::Float);
        their_optimizer.set_lr(lr);
        their_optimizer.backward_step(&loss(&theirs));
        let mut gradients = Gradients::new(&parameters);
        gradients.add_all(&loss(&ours));
        our_optimizer.step(&mut gradients, lr, 1.0).unwrap();
        assert!(ours.allclose(&theirs, 1e-6, 1e-7, false), "step {step}");
    }
}

#[test]
fn rounding_keeps_the_mean_of_bf16_parameters() {
    // 1 and its greater neighbour are 2^-7 apart. Steps of AdamW along a constant gradient have the length of lr.
    const LR: f64 = 1e-4;
    let ours = Tensor::ones([20_000], (Kind::BFloat16, Device::Cpu)).set_requires_grad(true);
    let parameters = [("x".to_owned(), ours.shallow_clone())].into();
    let mut optimizer = AdamW::new(&parameters);
    const STEPS: i32 = 20;
    for _ in 0..STEPS {
        let mut gradients = Gradients::new(&parameters);
        gradients.add_all(&-ours.sum(Kind::Float));
        optimizer.step(&mut gradients, LR, 1.0).unwrap();
    }
    let mean = ours.detach().mean(Kind::Double).double_value(&[]) - 1.0;
    let expected = LR * f64::from(STEPS);
    assert!((mean - expected).abs() < 0.05 * expected, "{mean} {expected}");
}
