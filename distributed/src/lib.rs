//! PyTorch's own distributed engine for [`tch`]: process groups, and the gradient reducer of `DistributedDataParallel`.
//!
//! Every libtorch contains it (c10d). A launcher starts several processes; each trains on its share of the data, and a
//! [`Reducer`] averages their gradients while backward still computes others. Tensors are on the CPU and go through Gloo.
//! [Several GPUs](#gpus) need NCCL, which is not here.
//!
//! ```
//! use tch::{Device, Kind, Tensor};
//! use tch_c10d::{ProcessGroup, ReduceOp, Reducer, ReducerOptions, Rendezvous};
//!
//! // A program that runs without a launcher is a group of its own.
//! let alone = Rendezvous::new(0, 1, "127.0.0.1", 0);
//! let group = ProcessGroup::connect(&Rendezvous::from_env()?.unwrap_or(alone))?;
//!
//! let weight = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
//! let reducer = Reducer::new(&group, &[weight.shallow_clone()], ReducerOptions::default())?;
//!
//! // The share of this process: every process has another number of samples.
//! let samples = Tensor::randn([5 + group.rank() as i64, 3], (Kind::Float, Device::Cpu));
//! let mut count = Tensor::from(samples.size()[0]);
//! group.all_reduce(&mut count, ReduceOp::Sum)?.wait()?;
//!
//! // The reducer takes the mean over processes. Of a sum over samples that is divided by the number of all samples, the
//! // sum over processes is wanted, so it is multiplied by the number of processes.
//! let loss = samples.matmul(&weight).square().sum(Kind::Float) / &count * group.world_size() as i64;
//! reducer.backward(&loss)?;
//! assert!(weight.grad().defined()); // the same in all processes
//! # Ok::<(), tch_c10d::Error>(())
//! ```
//!
//! `torchrun --no-python --nproc-per-node 2 PROGRAM` starts two processes on one machine, and needs nothing of Python
//! but torchrun itself; `srun PROGRAM` and `mpirun PROGRAM` work as well ([`Rendezvous::from_env`]). `docs/scaling.md`
//! in the repository describes several machines, and what many processes gain.
//!
//! # Operations
//!
//! ```
//! use tch::{Device, Kind, Tensor};
//! use tch_c10d::{ProcessGroup, ReduceOp, Rendezvous, Result, Work};
//!
//! fn run(group: &ProcessGroup) -> Result<()> {
//!     let (rank, world_size) = (group.rank() as i64, group.world_size() as i64);
//!     let options = (Kind::Float, Device::Cpu);
//!
//!     let mut sum = Tensor::full([2], rank, options);
//!     let mut first = Tensor::full([4], rank, options);
//!     // Both run at the same time, and borrow their tensors until they have ended.
//!     let work: [Work; 2] = [group.all_reduce(&mut sum, ReduceOp::Sum)?, group.broadcast(&mut first, 0)?];
//!     work.into_iter().try_for_each(Work::wait)?;
//!     assert_eq!(sum.double_value(&[1]), (0..world_size).sum::<i64>() as f64);
//!
//!     let mut all = Tensor::zeros([2 * world_size], options);
//!     group.all_gather(&mut all, &sum)?.wait()?;
//!     let mut part = Tensor::zeros([2], options);
//!     group.reduce_scatter(&mut part, &mut all, ReduceOp::Mean)?.wait()?;
//!     assert_eq!(part, sum);
//!
//!     if rank == 0 && world_size > 1 {
//!         group.send(&part, 1)?;
//!     } else if rank == 1 {
//!         group.receive(&mut part, 0)?;
//!     }
//!     group.barrier()
//! }
//! # run(&ProcessGroup::connect(&Rendezvous::new(0, 1, "127.0.0.1", 0))?)?;
//! # Ok::<(), tch_c10d::Error>(())
//! ```
//!
//! Gloo compares nothing: where processes call different things, it ends the process, mixes up tensors, or waits. So
//! each operation first compares what all processes call, which takes one small message around all of them.
//!
//! # When processes fail
//!
//! No call waits longer than [`Rendezvous::timeout`], and a moment for the error: a message in one line, with the rank,
//! what happened, and which ranks have not reported an error, because the cause is among them. A group does not
//! recover. The program prints the error and ends, and the launcher starts all processes anew (`torchrun
//! --max-restarts`).
//!
//! ```
//! use tch_c10d::{Error, ProcessGroup};
//!
//! match ProcessGroup::from_env() {
//!     // No launcher, or one of its variables is invalid.
//!     Err(error @ Error::Environment { .. }) => eprintln!("{error}"),
//!     // Other processes did not come, or expect something else.
//!     Err(error @ Error::Connect { .. }) => eprintln!("{error}"),
//!     Err(error) => eprintln!("{error}"),
//!     Ok(group) => println!("{} of {}", group.rank(), group.world_size()),
//! }
//! ```
//!
//! c10d's own messages, some with a backtrace, are not logged during its calls unless `TORCH_CPP_LOG_LEVEL` is set.
//!
//! # GPUs
//!
//! A tensor on a GPU is an error that says so. NCCL, which reduces between GPUs, needs headers of CUDA and NCCL that the
//! wheels of torch lack, and is left out until it can be built and tested. To train on several GPUs, use PyTorch: the
//! Python package `figa-loss` has the losses of that crate there.
//!
//! # Building
//!
//! A C++ file is compiled against libtorch's headers, in less than a minute. The wheels of torch have them (`LIBTORCH`,
//! or `LIBTORCH_USE_PYTORCH`, as for tch); a header that is missing is named. tch 0.24 with torch 2.11 is tested; with
//! the headers of torch 2.13 the file compiles. The feature `doc-only` type-checks without libtorch. A program finds
//! libtorch at run time if its `build.rs` passes on `DEP_TCH_C10D_LIBTORCH_LIB`:
//!
//! ```no_run
//! // build.rs
//! if let Ok(lib) = std::env::var("DEP_TCH_C10D_LIBTORCH_LIB") {
//!     println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
//! }
//! ```
//!
//! Only Linux is tested.
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

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
