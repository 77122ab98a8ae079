//! Brings a gradient that is known already into the graph.

use tch::{Device, Tensor};

use super::odds::rows_at_a_time;
use crate::error::Result;

/// A scalar of value 0 whose gradient with respect to `x` is `dx`.
///
/// The sum of `x * dx` has that gradient whatever its own value is, and nothing in the graph has saved that value: it
/// can be overwritten with 0.
pub(super) fn surrogate(x: &Tensor, dx: &Tensor) -> Result<Tensor> {
    // In the kind of dx, so that the outer gradient multiplies it before autograd rounds it to the kind of x. That takes a
    // copy of x: of a few rows at a time, where they are many and memory is slow.
    let is_rounded = x.f_kind()? != dx.f_kind()?;
    let step = match *x.size() {
        [_, columns] if is_rounded && x.device() == Device::Cpu => rows_at_a_time(Device::Cpu, columns.max(1)),
        _ => i64::MAX,
    };
    let sum = if step < x.size()[0] {
        let pieces = x.f_split(step, 0)?.into_iter().zip(dx.f_split(step, 0)?);
        let sums: Vec<Tensor> = pieces.map(|(x, dx)| dot(&x, &dx)).collect::<Result<_>>()?;
        Tensor::f_stack(&sums, 0)?.f_sum(None)?
    } else {
        dot(x, dx)?
    };
    let _ = sum.f_detach()?.f_zero_()?;
    Ok(sum)
}

fn dot(x: &Tensor, dx: &Tensor) -> Result<Tensor> {
    let x = x.f_to_kind(dx.f_kind()?)?;
    Ok(if x.numel() <= i32::MAX as usize {
        x.f_reshape([-1])?.f_dot(&dx.f_reshape([-1])?)?
    } else {
        // Too long for a dot product on a GPU, which needs no memory for the products.
        x.f_mul(dx)?.f_sum(None)?
    })
}

/// The same for each row of `x [n, _]`: `[n]`.
pub(super) fn surrogate_per_row(x: &Tensor, dx: &Tensor) -> Result<Tensor> {
    let sums = x.f_to_kind(dx.f_kind()?)?.f_mul(dx)?.f_sum_dim_intlist(1, false, None)?;
    let _ = sums.f_detach()?.f_zero_()?;
    Ok(sums)
}
