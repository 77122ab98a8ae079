//! The device that a program trains on: the first GPU, if libtorch can use one.
//!
//! ```text
//! cargo run --no-default-features --features torch --example device
//! FIGA_LOSS_CUDA=0 cargo run --no-default-features --features torch --example device    # on the CPU
//! ```

use figa_loss::figa_loss;
use figa_loss::tch::{Device, Kind, Tensor};

fn main() -> figa_loss::Result<()> {
    // First thing, because libtorch decides only once whether it has CUDA.
    figa_loss::load_cuda();
    let device = Device::cuda_if_available();

    let logits = Tensor::zeros([1, 4, 10], (Kind::Float, device)).set_requires_grad(true);
    let labels = Tensor::from_slice(&[-100i64, 5, 8, 0]).reshape([1, 4]);
    let weights = Tensor::from_slice(&[0f32, 0.0, 1.0, 1.0]).reshape([1, 4]);
    let loss = figa_loss(&logits, &labels, &weights)?;
    loss.backward();
    println!("on {:?}: loss {:.3}", logits.grad().device(), loss.double_value(&[]));
    Ok(())
}
