//! Trains a small network on all processes of a launcher, each with its share of the samples.
//!
//! ```sh
//! cargo build -p tch-c10d --example data_parallel
//! torchrun --no-python --nproc-per-node 2 target/debug/examples/data_parallel
//! ```
//!
//! Without a launcher it trains alone, and prints the same losses.

use std::error::Error;
use std::process::ExitCode;

use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tch_c10d::{ProcessGroup, ReduceOp, Reducer, ReducerOptions, Rendezvous};

const SAMPLES: i64 = 1001;
const STEPS: usize = 300;

fn main() -> ExitCode {
    match train() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn train() -> Result<(), Box<dyn Error>> {
    let alone = Rendezvous::new(0, 1, "127.0.0.1", 0);
    let group = ProcessGroup::connect(&Rendezvous::from_env()?.unwrap_or(alone))?;
    let (rank, world_size) = (group.rank() as i64, group.world_size() as i64);

    tch::manual_seed(1);
    let variables = nn::VarStore::new(Device::Cpu);
    let layer = |inputs, outputs| nn::linear(variables.root(), inputs, outputs, nn::LinearConfig::default());
    let model = nn::seq().add(layer(1, 64)).add_fn(Tensor::tanh).add(layer(64, 1));
    let mut optimizer = nn::Adam::default().build(&variables, 1e-2)?;
    let reducer = Reducer::new(&group, &variables.trainable_variables(), ReducerOptions::default())?;

    // Every process makes all samples, and takes each with its rank as the remainder.
    let all = Tensor::linspace(-3, 3, SAMPLES, (Kind::Float, Device::Cpu)).unsqueeze(1);
    let share = Tensor::arange_start_step(rank, SAMPLES, world_size, (Kind::Int64, Device::Cpu));
    let inputs = all.index_select(0, &share);
    let targets = inputs.sin();
    for step in 1..=STEPS {
        let errors = (model.forward(&inputs) - &targets).square().sum(Kind::Float);
        // The reducer takes the mean over processes; the mean over samples is wanted, of which they have unequal
        // shares.
        let loss = &errors * world_size / SAMPLES;
        optimizer.zero_grad();
        reducer.backward(&loss)?;
        optimizer.step();

        if step % 50 == 0 {
            let mut sum = errors.detach();
            group.all_reduce(&mut sum, ReduceOp::Sum)?.wait()?;
            if rank == 0 {
                println!("step {step}: mean squared error {:.6}", sum.double_value(&[]) / SAMPLES as f64);
            }
        }
    }
    Ok(())
}
