//! Mixed precision around a loss: it decides its own dtypes, and takes from autocast only that of the products.

use tch::{Device, Kind, Tensor};
use torch_sys::at_autocast_set_enabled;

use crate::error::Result;

/// The dtype that autocast gives to matrix products on this device; `None` where it is off.
pub(super) fn autocast_kind(device: Device) -> Result<Option<Kind>> {
    if device == Device::Cpu {
        return Ok(None);
    }
    // libtorch has functions that tell, but tch binds none for the dtype, and the other one prints a warning.
    let one = Tensor::f_ones([1, 1], (Kind::Float, device))?;
    let kind = one.f_mm(&one)?.f_kind()?;
    Ok((kind != Kind::Float).then_some(kind))
}

/// Switches autocast off until it is dropped. tch has a function that takes a closure, and leaves the mode switched if
/// the closure panics.
#[derive(Debug)]
pub(super) struct AutocastOff;

impl AutocastOff {
    /// `None` if autocast, whose dtype is given, is off already.
    pub(super) fn new(kind: Option<Kind>) -> Option<Self> {
        kind.map(|_| {
            // SAFETY: sets a flag of this thread.
            unsafe { at_autocast_set_enabled(0) };
            Self
        })
    }
}

impl Drop for AutocastOff {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { at_autocast_set_enabled(1) };
    }
}
