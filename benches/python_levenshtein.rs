//! `cargo bench --bench python_levenshtein`: our `editops` and python-Levenshtein's on the same pairs, in turn, in
//! one run.
//!
//! Needs `pip install Levenshtein==0.27.5` in the `python3` on the path (or in the one that the variable PYTHON names).
//! Token ids from a vocabulary of 32,000; Python gets lists of ints. Medians of 9 rounds, 10 ms a round or one call.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use figa_loss::editops;
use rand::{Rng, SeedableRng, rngs::StdRng};

const ROUNDS: usize = 9;

struct Python {
    _process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    fn start() -> Self {
        let program = std::env::var("PYTHON").unwrap_or("python3".into());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/python_levenshtein.py");
        let mut process = Command::new(&program)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let requests = process.stdin.take().expect("a pipe");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { _process: process, requests, answers }
    }

    fn ask(&mut self, request: &str) -> f64 {
        let hint =
            "Python ended: is Levenshtein installed? pip install Levenshtein==0.27.5, or name another Python in PYTHON";
        let mut answer = String::new();
        writeln!(self.requests, "{request}").expect(hint);
        self.answers.read_line(&mut answer).expect(hint);
        answer.trim().parse().expect(hint)
    }
}

fn tokens(rng: &mut StdRng, n: usize, ids: std::ops::Range<u32>) -> Vec<u32> {
    (0..n).map(|_| rng.random_range(ids.clone())).collect()
}

/// Each token is edited with this probability: substituted, followed by a new one, or dropped.
fn edited(rng: &mut StdRng, source: &[u32], rate: f64) -> Vec<u32> {
    let mut dest = Vec::with_capacity(source.len());
    for &token in source {
        match rng.random_bool(rate).then(|| rng.random_range(0..3)) {
            None => dest.push(token),
            Some(0) => dest.push(rng.random_range(0..32_000)),
            Some(1) => dest.extend([token, rng.random_range(0..32_000)]),
            Some(_) => {}
        }
    }
    dest
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let mut python = Python::start();
    let mut rng = StdRng::seed_from_u64(0);
    println!("{:<26} {:>8} {:>12} {:>12} {:>8}", "pair", "edits", "ours, us", "python, us", "ratio");
    for kind in ["5 % edited", "30 % edited", "unrelated", "nothing in common"] {
        for n in [64, 512, 2048, 8192] {
            let source = tokens(&mut rng, n, 0..32_000);
            let dest = match kind {
                "5 % edited" => edited(&mut rng, &source, 0.05),
                "30 % edited" => edited(&mut rng, &source, 0.3),
                "unrelated" => tokens(&mut rng, n, 0..32_000),
                _ => tokens(&mut rng, n, 32_000..64_000),
            };
            let mut request = String::new();
            write!(request, "{{\"source\": {source:?}, \"dest\": {dest:?}}}").expect("a string takes it");
            let theirs = python.ask(&request);
            assert_eq!(editops(&source, &dest).len(), theirs as usize, "the distances differ");

            let repeat = (0.01 / python.ask("{\"repeat\": 1}")).ceil() as usize;
            let (mut ours, mut pythons) = (vec![], vec![]);
            for _ in 0..ROUNDS {
                let begin = Instant::now();
                for _ in 0..repeat {
                    black_box(editops(black_box(&source), black_box(&dest)));
                }
                ours.push(begin.elapsed().as_secs_f64() / repeat as f64);
                pythons.push(python.ask(&format!("{{\"repeat\": {repeat}}}")) / repeat as f64);
            }
            let (ours, pythons) = (median(ours) * 1e6, median(pythons) * 1e6);
            println!("{:<26} {theirs:>8} {ours:>12.2} {pythons:>12.2} {:>8.1}", format!("{kind}, {n}"), pythons / ours);
        }
    }
}
