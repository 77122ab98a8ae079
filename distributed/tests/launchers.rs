//! Groups of processes whose launcher runs the store, and starts them again.

mod common;

use std::time::Duration;

use common::{Processes, free_port, is_child};
use tch::Tensor;
use tch_c10d::{ProcessGroup, ReduceOp, Rendezvous};

#[test]
fn a_launcher_runs_the_store_and_restarts_processes() {
    if is_child() {
        let mut rendezvous = Rendezvous::from_env().unwrap().unwrap();
        rendezvous.timeout = Duration::from_secs(100);
        let group = ProcessGroup::connect(&rendezvous).unwrap();
        let mut sum = Tensor::from(1i64);
        group.all_reduce(&mut sum, ReduceOp::Sum).unwrap().wait().unwrap();
        // The first two processes fail here.
        assert!(rendezvous.restarts == 2 && rendezvous.agent_store);
        println!("sum {}", sum.int64_value(&[]));
        return;
    }
    // Stands in for the launcher: a group of one, which runs a store, and whose own keys are those of no restart.
    let port = free_port();
    let launcher = ProcessGroup::connect(&Rendezvous::new(0, 1, "127.0.0.1", port)).unwrap();
    for (restarts, code) in [("1", 101), ("2", 0)] {
        let processes = Processes::start("a_launcher_runs_the_store_and_restarts_processes", 2, |_, command| {
            command.env("MASTER_PORT", port.to_string()).env("TORCHELASTIC_USE_AGENT_STORE", "True");
            command.env("TORCHELASTIC_RESTART_COUNT", restarts);
        });
        for outcome in processes.finish(&[]) {
            assert_eq!(outcome.code, Some(code), "{outcome:#?}");
            assert_eq!(outcome.stdout.contains("sum 2"), code == 0, "{outcome:#?}");
        }
    }
    drop(launcher);
}
