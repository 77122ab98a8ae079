//! `cargo bench --bench python_levenshtein`: our `editops` and python-Levenshtein's on the same pairs, in turn, in
//! one run.
//!
//! Needs `pip install Levenshtein==0.27.5` in the `python3` on the path (or in the one that the variable PYTHON
//! names). Token ids from a vocabulary of 32,000; Python gets lists of ints. Medians of 9 rounds, 10 ms a round or
//! one call. Before that the memory of a very long pair, and how a corpus of pairs scales over the cores.

mod pairs;

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

#[cfg(feature = "rayon")]
use figa_loss::Aligner;
use figa_loss::editops;
use pairs::{OTHERS, VOCAB, edited, tokens};
#[cfg(feature = "rayon")]
use rand::Rng;
use rand::{SeedableRng, rngs::StdRng};

const ROUNDS: usize = 9;

struct Python {
    _process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// None if there is no Python with Levenshtein.
    fn start() -> Option<Self> {
        let program = std::env::var("PYTHON").unwrap_or("python3".into());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/python_levenshtein.py");
        let mut process = Command::new(&program)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let requests = process.stdin.take().expect("a pipe");
        let mut answers = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut version = String::new();
        answers.read_line(&mut version).ok().filter(|&bytes| bytes > 0)?;
        println!("against python-Levenshtein {}", version.trim());
        Some(Self { _process: process, requests, answers })
    }

    fn ask(&mut self, request: &str) -> f64 {
        let mut answer = String::new();
        writeln!(self.requests, "{request}").expect("Python answers");
        self.answers.read_line(&mut answer).expect("Python answers");
        answer.trim().parse().expect("Python answers")
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The most memory this process has held so far, in KiB (Linux).
fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
}

fn seconds<R>(run: impl FnOnce() -> R) -> f64 {
    let begin = Instant::now();
    black_box(run());
    begin.elapsed().as_secs_f64()
}

/// 32,768 x 32,768, nothing in common. First of all, because only the first peak can be told apart.
fn long_pair(rng: &mut StdRng) {
    let (source, dest) = (tokens(rng, 32_768, VOCAB), tokens(rng, 32_768, OTHERS));
    let before = peak_memory();
    let time = seconds(|| editops(&source, &dest));
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        println!(
            "32,768 x 32,768, nothing in common: {:.0} ms, {:.1} MiB",
            time * 1e3,
            (after - before) as f64 / 1024.0
        );
    }
}

/// 20,000 pairs of 200 to 800 tokens, 5 % edited, on one thread and on all. The best of many rounds: whatever else runs
/// takes a core from all threads, but none from one. That the results are dropped is not in the time.
#[cfg(feature = "rayon")]
fn corpus(rng: &mut StdRng) {
    let mut pair = || {
        let n = rng.random_range(200..800);
        let source = tokens(rng, n, VOCAB);
        let dest = edited(rng, &source, 0.05);
        (source, dest)
    };
    let pairs: Vec<(Vec<u32>, Vec<u32>)> = (0..20_000).map(|_| pair()).collect();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    let (one, all) = (pool(1), pool(cores));
    let (mut single, mut parallel) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..5 * ROUNDS {
        for (pool, best) in [(&one, &mut single), (&all, &mut parallel)] {
            let begin = Instant::now();
            let alignments = black_box(pool.install(|| Aligner::Levenshtein.align_all(&pairs)));
            *best = best.min(begin.elapsed().as_secs_f64());
            drop(alignments);
        }
    }
    println!(
        "a corpus of {} pairs: {:.1} ms on 1 thread, {:.1} ms on {cores}: {:.0} % of perfect scaling",
        pairs.len(),
        single * 1e3,
        parallel * 1e3,
        100.0 * single / parallel / cores as f64
    );
}

fn main() {
    let mut rng = StdRng::seed_from_u64(0);
    long_pair(&mut rng);
    #[cfg(feature = "rayon")]
    corpus(&mut rng);
    let Some(mut python) = Python::start() else {
        println!("not compared with Python: pip install Levenshtein==0.27.5, or name a Python that has it in PYTHON");
        return;
    };
    println!("{:<26} {:>8} {:>12} {:>12} {:>8}", "pair", "edits", "ours, us", "python, us", "ratio");
    for kind in ["5 % edited", "30 % edited", "unrelated", "nothing in common"] {
        for n in [64, 512, 2048, 8192] {
            let source = tokens(&mut rng, n, VOCAB);
            let dest = match kind {
                "5 % edited" => edited(&mut rng, &source, 0.05),
                "30 % edited" => edited(&mut rng, &source, 0.3),
                "unrelated" => tokens(&mut rng, n, VOCAB),
                _ => tokens(&mut rng, n, OTHERS),
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
            // Of each round, whose two times lie next to each other: the machine may change its speed in between.
            let ratio = median(ours.iter().zip(&pythons).map(|(ours, python)| python / ours).collect());
            let (ours, pythons) = (median(ours) * 1e6, median(pythons) * 1e6);
            println!("{:<26} {theirs:>8} {ours:>12.2} {pythons:>12.2} {ratio:>8.1}", format!("{kind}, {n}"));
        }
    }
}
