//! PyTorch's own distributed engine for [`tch`]: process groups over Gloo and NCCL, and the gradient reducer of
//! `DistributedDataParallel`.
#![deny(unsafe_code)]

mod call;
mod connect;
mod error;
mod group;
#[allow(unsafe_code)]
mod raw;
mod reducer;
mod rendezvous;
mod work;

pub use error::{Error, Result};
pub use group::{ProcessGroup, ReduceOp};
pub use reducer::{Reducer, ReducerOptions};
pub use rendezvous::Rendezvous;
pub use work::Work;
