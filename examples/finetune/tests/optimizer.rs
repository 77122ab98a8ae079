//! The optimizer, against that of libtorch.

use figa_finetune::adamw::AdamW;
use figa_loss::tch::nn::{self, OptimizerConfig};
use figa_loss::tch::{Device, Kind, Tensor, manual_seed};

#[test]
fn adamw_takes_the_same_steps_as_that_of_torch() {
    manual_seed(0);
    let vs = nn::VarStore::new(Device::Cpu);
    let theirs = vs.root().randn("x", &[5, 3], 0.0, 1.0);
    let ours = theirs.detach().copy().set_requires_grad(true);
    let mut their_optimizer = nn::AdamW { wd: 0.0, ..Default::default() }.build(&vs, 0.1).unwrap();
    let mut our_optimizer = AdamW::new(&[("x".to_owned(), ours.shallow_clone())].into());
    let target = Tensor::randn([5, 3], (Kind::Float, Device::Cpu));
    for step in 1..6 {
        let lr = 0.1 / f64::from(step);
        let loss = |x: &Tensor| ((x - &target) * f64::from(step)).square().sum(Kind::Float);
        their_optimizer.set_lr(lr);
        their_optimizer.backward_step(&loss(&theirs));
        our_optimizer.zero_grad();
        loss(&ours).backward();
        our_optimizer.step(lr, 1.0);
        assert!(ours.allclose(&theirs, 1e-6, 1e-7, false), "step {step}");
    }
}
