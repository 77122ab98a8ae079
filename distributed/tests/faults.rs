//! What goes wrong with other processes: in bounded time, each one that remains ends with an error in one line.
//!
//! `FAULTS=20` repeats each fault 20 times instead of 3.

mod common;

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use common::{Outcome, Processes, free_port, is_child};
use rand::Rng;
use tch::{Device, Kind, Tensor};
use tch_c10d::{ProcessGroup, ReduceOp, Reducer, ReducerOptions, Rendezvous, Result};

/// How long the processes of these tests wait for each other.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer they may take for an error: reports of others, and the little of a processor that CI leaves them.
const SLACK: Duration = Duration::from_secs(40);

/// What a process does that nobody disturbs, until it is killed.
fn work(group: &ProcessGroup) -> Result<()> {
    let parameters =
        [1 << 18, 1 << 12].map(|size| Tensor::ones([size], (Kind::Float, Device::Cpu)).set_requires_grad(true));
    let reducer = Reducer::new(group, &parameters, ReducerOptions::default())?;
    loop {
        let mut count = Tensor::from(1i64);
        group.all_reduce(&mut count, ReduceOp::Sum)?.wait()?;
        reducer.backward(&parameters.iter().map(|parameter| parameter.sum(Kind::Float)).sum())?;
    }
}

/// Ends a process as a program does: with one line, or silently.
fn child(body: impl Fn(&ProcessGroup) -> Result<()>) -> ! {
    tch::set_num_threads(1);
    let run = || {
        let mut rendezvous = Rendezvous::from_env()?.expect("the test sets the variables");
        rendezvous.timeout = TIMEOUT;
        body(&ProcessGroup::connect(&rendezvous)?)
    };
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    };
    std::process::exit(code)
}

fn repeat(fault: impl Fn()) {
    let times = std::env::var("FAULTS").map_or(3, |times| times.parse().expect("FAULTS is a number"));
    (0..times).for_each(|_| fault());
}

/// Whether a process has failed as it should. Returns its message.
fn message(outcome: &Outcome, rank: usize) -> String {
    let message = outcome.stderr.trim_end();
    assert_eq!(outcome.code, Some(1), "rank {rank}: {outcome:#?}");
    assert!(message.starts_with(&format!("rank {rank} of ")) && message.lines().count() == 1, "{outcome:#?}");
    assert!(outcome.time < TIMEOUT + SLACK, "rank {rank}: {outcome:#?}");
    message.into()
}

/// One of four processes gets a signal at a random moment.
fn signal(test: &str, signal: libc::c_int) {
    if is_child() {
        child(work);
    }
    repeat(|| {
        let mut random = rand::rng();
        let (victim, delay) = (random.random_range(0..4), Duration::from_millis(random.random_range(0..3000)));
        let processes = Processes::start(test, 4, |_, _| {});
        std::thread::sleep(delay);
        processes.signal(victim, signal);
        let outcomes = processes.finish(&[victim]);
        let remaining = (0..).zip(&outcomes).filter(|(rank, _)| *rank != victim);
        let messages: Vec<String> = remaining.map(|(rank, outcome)| message(outcome, rank)).collect();
        let is_named = messages.iter().any(|message| message.contains(&victim.to_string()));
        assert!(is_named, "rank {victim} after {delay:?}: {messages:#?}");
    });
}

#[test]
fn a_process_is_killed() {
    signal("a_process_is_killed", libc::SIGKILL);
}

#[test]
fn a_process_hangs() {
    signal("a_process_hangs", libc::SIGSTOP);
}

/// Two processes, of which one starts with other variables, or not at all.
fn misfit(test: &str, change: impl Fn(usize, &mut Command), expected: [&str; 2]) {
    if is_child() {
        child(|group| group.barrier());
    }
    repeat(|| {
        let outcomes = Processes::start(test, 2, &change).finish(&[]);
        for (rank, (outcome, expected)) in outcomes.iter().zip(expected).enumerate() {
            if !expected.is_empty() {
                let message = message(outcome, rank);
                assert!(message.contains(expected), "rank {rank}, expected {expected}: {outcomes:#?}");
            }
        }
    });
}

#[test]
fn a_process_fails_at_the_start() {
    let fail = |rank: usize, command: &mut Command| {
        if rank == 1 {
            command.env("RANK", "none");
        }
    };
    // The other one says what it has seen in the variables, without a rank.
    misfit("a_process_fails_at_the_start", fail, ["rank 1 did not come in 5 s", ""]);
}

#[test]
fn a_port_is_wrong() {
    let other_port = |rank: usize, command: &mut Command| {
        if rank == 1 {
            command.env("MASTER_PORT", free_port().to_string());
        }
    };
    misfit("a_port_is_wrong", other_port, ["rank 1 did not come in 5 s", "see whether rank 0 runs"]);
}

#[test]
fn a_port_is_in_use() {
    let other_program = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other_program.local_addr().unwrap().port().to_string();
    let same_port = |_: usize, command: &mut Command| {
        command.env("MASTER_PORT", &port);
    };
    misfit("a_port_is_in_use", same_port, ["the port is in use; choose another", "see whether rank 0 runs"]);
}

#[test]
fn world_sizes_differ() {
    let other_size = |rank: usize, command: &mut Command| {
        command.env("WORLD_SIZE", (2 + rank).to_string());
    };
    let test = "world_sizes_differ";
    if is_child() {
        child(|group| group.barrier());
    }
    repeat(|| {
        let outcomes = Processes::start(test, 2, other_size).finish(&[]);
        let messages = [0, 1].map(|rank| message(&outcomes[rank], rank));
        // Who comes second sees the other's number.
        let sees = |(message, other): (&String, usize)| {
            message.contains(&format!("another process expects {other} processes"))
        };
        assert!(messages.iter().zip([3, 2]).any(sees), "{messages:#?}");
    });
}

#[test]
fn two_processes_have_one_rank() {
    let test = "two_processes_have_one_rank";
    if is_child() {
        child(|group| group.barrier());
    }
    repeat(|| {
        let duplicate = |rank: usize, command: &mut Command| {
            command.env("RANK", rank.min(1).to_string());
        };
        let outcomes = Processes::start(test, 3, duplicate).finish(&[]);
        let has = |text: &str| outcomes.iter().filter(|outcome| outcome.stderr.contains(text)).count();
        assert_eq!(has("another process has rank 1 too"), 1, "{outcomes:#?}");
        // Rank 0 runs the store, so the other one sees either the same or its end.
        assert!(message(&outcomes[0], 0).contains("rank 2 did not come"), "{outcomes:#?}");
        outcomes[1..].iter().for_each(|outcome| drop(message(outcome, 1)));
    });
}

/// Two processes that call different things.
fn mismatch(test: &str, body: impl Fn(&ProcessGroup) -> Result<()>, expected: [&str; 2]) {
    if is_child() {
        child(body);
    }
    repeat(|| {
        let outcomes = Processes::start(test, 2, |_, _| {}).finish(&[]);
        for (rank, (outcome, expected)) in outcomes.iter().zip(expected).enumerate() {
            let message = message(outcome, rank);
            assert!(message.contains(expected), "rank {rank}, expected {expected}: {outcomes:#?}");
        }
    });
}

fn ones(count: usize) -> Tensor {
    Tensor::ones([count as i64], (Kind::Float, Device::Cpu))
}

#[test]
fn shapes_differ() {
    let all_reduce =
        |group: &ProcessGroup| group.all_reduce(&mut ones(100_000 * (1 + group.rank())), ReduceOp::Sum)?.wait();
    let expected = ["rank 1 calls all_reduce of f32 [200000]", "rank 0 calls all_reduce of f32 [100000]"];
    mismatch("shapes_differ", all_reduce, expected);
}

#[test]
fn operations_differ() {
    let body = |group: &ProcessGroup| match group.rank() {
        0 => group.all_reduce(&mut ones(4), ReduceOp::Sum)?.wait(),
        _ => group.barrier(),
    };
    mismatch(
        "operations_differ",
        body,
        ["rank 1 calls barrier, this rank all_reduce", "rank 0 calls all_reduce of f32"],
    );
}

#[test]
fn numbers_of_calls_differ() {
    let body = |group: &ProcessGroup| {
        for _ in 0..2 - group.rank() {
            group.all_reduce(&mut ones(4), ReduceOp::Sum)?.wait()?;
        }
        // The other one computes for longer than anybody waits.
        if group.rank() == 1 {
            std::thread::sleep(2 * TIMEOUT);
            group.barrier()?;
        }
        Ok(())
    };
    mismatch("numbers_of_calls_differ", body, ["Timed out waiting 5000ms", "rank 0"]);
}

#[test]
fn received_tensors_differ() {
    let body = |group: &ProcessGroup| match group.rank() {
        0 => group.send(&ones(4), 1),
        _ => group.receive(&mut ones(6), 0),
    };
    mismatch(
        "received_tensors_differ",
        body,
        [
            "rank 1 did not report an error: look there first",
            "rank 0 calls send of f32 [4], this rank receive of f32 [6]",
        ],
    );
}
