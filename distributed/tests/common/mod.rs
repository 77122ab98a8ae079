//! Tests whose body runs in several processes: copies of the test program, which run only the test itself.
#![allow(dead_code)] // each test program uses a part

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tch_c10d::{ProcessGroup, Rendezvous};

/// After this time, processes are killed and the test fails. CI shares its cores, so it is long.
const LIMIT: Duration = Duration::from_secs(240);

/// What a process prints when it has come to the end of its body. Without it, a misspelled name of a test would pass.
const DONE: &str = "the body is done";

/// How a process ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// From the call of `finish` on.
    pub time: Duration,
}

/// Processes that do not outlive this value.
pub struct Processes(Vec<Child>);

impl Processes {
    /// Starts `world_size` processes of a test, each with the variables of a launcher; `change` may change them.
    pub fn start(test: &str, world_size: usize, change: impl Fn(usize, &mut Command)) -> Self {
        let port = free_port().to_string();
        let start = |rank: usize| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env("OMP_NUM_THREADS", "1");
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", world_size.to_string());
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            change(rank, &mut command);
            command.spawn().unwrap()
        };
        Self((0..world_size).map(start).collect())
    }

    /// Sends a signal to one of them.
    pub fn signal(&self, rank: usize, signal: libc::c_int) {
        let process = self.0[rank].id() as libc::pid_t;
        // SAFETY: no memory is touched; the process is a child that nobody has waited for, so its number is its own.
        assert_eq!(unsafe { libc::kill(process, signal) }, 0);
    }

    /// Waits for all of them, except those of some ranks, which are killed afterwards.
    pub fn finish(mut self, except: &[usize]) -> Vec<Outcome> {
        let start = Instant::now();
        let mut ended: Vec<Option<(Option<i32>, Duration)>> = self.0.iter().map(|_| None).collect();
        loop {
            for (child, ended) in self.0.iter_mut().zip(&mut ended).filter(|(_, ended)| ended.is_none()) {
                *ended = child.try_wait().unwrap().map(|status| (status.code(), start.elapsed()));
            }
            let is_over = (0..).zip(&ended).all(|(rank, ended)| ended.is_some() || except.contains(&rank));
            if is_over || start.elapsed() > LIMIT {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for child in &mut self.0 {
            let _ = child.kill();
        }
        let outcome = |(child, ended): (Child, Option<_>)| {
            let output = child.wait_with_output().unwrap();
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            let (code, time) = ended.unwrap_or((None, LIMIT));
            Outcome { code, stdout: text(&output.stdout), stderr: text(&output.stderr), time }
        };
        std::mem::take(&mut self.0).into_iter().zip(ended).map(outcome).collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether this is one of the processes that a test has started.
pub fn is_child() -> bool {
    std::env::var_os("RANK").is_some()
}

/// Runs the body of a test, whose name is given, in as many processes; all must come to its end.
pub fn in_processes(test: &str, world_sizes: &[usize], body: impl Fn(&ProcessGroup)) {
    if is_child() {
        tch::set_num_threads(1);
        let mut rendezvous = Rendezvous::from_env().unwrap().unwrap();
        rendezvous.timeout = Duration::from_secs(100);
        let group = ProcessGroup::connect(&rendezvous).unwrap();
        body(&group);
        println!("{DONE}");
        return;
    }
    for &world_size in world_sizes {
        let outcomes = Processes::start(test, world_size, |_, _| {}).finish(&[]);
        let is_done = |outcome: &Outcome| outcome.code == Some(0) && outcome.stdout.contains(DONE);
        assert!(outcomes.iter().all(is_done), "{world_size} processes: {outcomes:#?}");
    }
}

/// A port of this machine that nothing uses at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
