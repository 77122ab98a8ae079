//! `cargo bench --bench python_levenshtein`: our `editops` and python-Levenshtein's on the same pairs, alternately.
//!
//! Needs Levenshtein 0.27.5 (`pip install Levenshtein==0.27.5`) in `python3`, or in the Python that the variable
//! PYTHON names. Python gets the token ids as lists of ints. Times are medians of 9 rounds; a round takes 10 ms, or one
//! call if that takes longer. The bench begins with the memory of a very long pair, and with the scaling of a corpus of
//! pairs over the cores.

mod pairs;

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
/// How long Python's calls in a round take together, in seconds.
const ROUND_SECONDS: f64 = 0.01;
const KINDS: [&str; 4] = ["5 % edited", "30 % edited", "unrelated", "nothing in common"];
const LENGTHS: [usize; 4] = [64, 512, 2048, 8192];
const LONG: usize = 32_768;

const NO_PYTHON: &str =
    "not compared with Python: pip install Levenshtein==0.27.5, or set PYTHON to a Python that has it";

struct Python {
    _process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// `None` if there is no Python with Levenshtein.
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
        println!("compared with python-Levenshtein {}", version.trim());
        Some(Self { _process: process, requests, answers })
    }

    fn ask(&mut self, request: &str) -> f64 {
        let mut answer = String::new();
        writeln!(self.requests, "{request}").expect("Python reads requests");
        self.answers.read_line(&mut answer).expect("Python answers requests");
        answer.trim().parse().expect("Python answers with a number")
    }

    /// Stores a pair, and returns the number of its edits.
    fn store(&mut self, source: &[u32], dest: &[u32]) -> usize {
        self.ask(&format!("{{\"source\": {source:?}, \"dest\": {dest:?}}}")) as usize
    }

    /// The seconds that `calls` calls on the stored pair take.
    fn seconds(&mut self, calls: usize) -> f64 {
        self.ask(&format!("{{\"repeat\": {calls}}}"))
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The peak memory of this process so far, in KiB (Linux).
fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
}

fn seconds<R>(run: impl FnOnce() -> R) -> f64 {
    let begin = Instant::now();
    black_box(run());
    begin.elapsed().as_secs_f64()
}

/// The time and memory of a very long pair with nothing in common. Runs first: later, lower peaks are not visible.
fn long_pair(rng: &mut StdRng) {
    let (source, dest) = (tokens(rng, LONG, VOCAB), tokens(rng, LONG, OTHERS));
    let before = peak_memory();
    let time = seconds(|| editops(&source, &dest));
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        println!(
            "{LONG} x {LONG}, nothing in common: {:.0} ms, {:.1} MiB",
            time * 1e3,
            (after - before) as f64 / 1024.0
        );
    }
}

/// Many pairs, 5 % edited, on one thread and on all cores. Takes the best of many rounds, since another process slows
/// down all threads together, but one thread only by chance. Dropping the results is not timed.
#[cfg(feature = "rayon")]
fn corpus(rng: &mut StdRng) {
    const PAIRS: usize = 20_000;
    const LENGTHS: std::ops::Range<usize> = 200..800;
    const CORPUS_ROUNDS: usize = 5 * ROUNDS;

    let mut pair = || {
        let n = rng.random_range(LENGTHS);
        let source = tokens(rng, n, VOCAB);
        let dest = edited(rng, &source, 0.05);
        (source, dest)
    };
    let pairs: Vec<(Vec<u32>, Vec<u32>)> = (0..PAIRS).map(|_| pair()).collect();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    let (one, all) = (pool(1), pool(cores));
    let (mut single, mut parallel) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..CORPUS_ROUNDS {
        for (pool, best) in [(&one, &mut single), (&all, &mut parallel)] {
            let begin = Instant::now();
            let alignments = black_box(pool.install(|| Aligner::Levenshtein.align_all(&pairs)));
            *best = best.min(begin.elapsed().as_secs_f64());
            drop(alignments);
        }
    }
    println!(
        "a corpus of {PAIRS} pairs: {:.1} ms on 1 thread, {:.1} ms on {cores}: {:.0} % of perfect scaling",
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
        println!("{NO_PYTHON}");
        return;
    };
    println!("{:<26} {:>8} {:>12} {:>12} {:>8}", "pair", "edits", "ours, us", "python, us", "ratio");
    for kind in KINDS {
        for n in LENGTHS {
            let (source, dest) = pair(&mut rng, kind, n);
            compare(&mut python, &format!("{kind}, {n}"), &source, &dest);
        }
    }
}

fn pair(rng: &mut StdRng, kind: &str, n: usize) -> (Vec<u32>, Vec<u32>) {
    let source = tokens(rng, n, VOCAB);
    let dest = match kind {
        "5 % edited" => edited(rng, &source, 0.05),
        "30 % edited" => edited(rng, &source, 0.3),
        "unrelated" => tokens(rng, n, VOCAB),
        _ => tokens(rng, n, OTHERS),
    };
    (source, dest)
}

/// Prints a row of the table.
fn compare(python: &mut Python, name: &str, source: &[u32], dest: &[u32]) {
    let edits = python.store(source, dest);
    assert_eq!(editops(source, dest).len(), edits, "{name}: the distances differ");

    let calls = (ROUND_SECONDS / python.seconds(1)).ceil() as usize;
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let round = seconds(|| {
            for _ in 0..calls {
                black_box(editops(black_box(source), black_box(dest)));
            }
        });
        ours.push(round / calls as f64);
        theirs.push(python.seconds(calls) / calls as f64);
    }
    // The ratio of each round, because the speed of the machine may change between rounds.
    let ratio = median(ours.iter().zip(&theirs).map(|(ours, theirs)| theirs / ours).collect());
    let (ours, theirs) = (median(ours) * 1e6, median(theirs) * 1e6);
    println!("{name:<26} {edits:>8} {ours:>12.2} {theirs:>12.2} {ratio:>8.1}");
}
