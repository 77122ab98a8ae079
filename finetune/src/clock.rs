//! The time of a step, by part.

use std::time::Instant;

use figa_loss::tch::{Cuda, Device};
use serde::{Deserialize, Serialize};

/// The time of each part of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// From token ids to hidden states.
    pub forward: f64,
    /// The head and the loss, with the part of the gradient that the loss computes at once.
    pub loss: f64,
    pub backward: f64,
    /// Sums over the processes of the run.
    #[serde(default)]
    pub communication: f64,
    pub optimizer: f64,
}

impl Seconds {
    pub fn total(&self) -> f64 {
        self.forward + self.loss + self.backward + self.communication + self.optimizer
    }
}

/// Measures the time until the device has finished its work, not only accepted it.
pub struct Clock {
    device: Device,
    start: Instant,
}

impl Clock {
    pub fn start(device: Device) -> Self {
        synchronize(device);
        Self { device, start: Instant::now() }
    }

    /// Adds the time since the start or the last lap to `seconds`.
    pub fn lap(&mut self, seconds: &mut f64) {
        synchronize(self.device);
        let now = Instant::now();
        *seconds += now.duration_since(self.start).as_secs_f64();
        self.start = now;
    }
}

fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}
