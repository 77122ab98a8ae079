//! What the tests of the losses share. Not each of them uses all of it.
#![allow(dead_code)]

use figa_loss::tch::{self, Device, Kind, Tensor};

pub const F64: (Kind, Device) = (Kind::Double, Device::Cpu);
pub const F32: (Kind, Device) = (Kind::Float, Device::Cpu);
pub const I64: (Kind, Device) = (Kind::Int64, Device::Cpu);

/// The tolerance for results that differ only by rounding in f64.
pub const ROUNDING: f64 = 1e-12;

/// Seeds the generator that all tests of a program share. CUDA is opened first: libtorch then decides whether it has CUDA,
/// and tests begin in any order.
pub fn manual_seed(seed: i64) {
    figa_loss::load_cuda();
    tch::manual_seed(seed);
}

/// Where the grids run: on the GPU, if there is one and `FIGA_LOSS_CUDA=0` does not hide it.
pub fn device() -> Device {
    figa_loss::load_cuda();
    let device = Device::cuda_if_available();
    println!("on {device:?}");
    device
}

/// The elements in row-major order.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

/// The element of a scalar.
pub fn number(tensor: &Tensor) -> f64 {
    tensor.double_value(&[])
}
