//! `cargo bench -p figa-cli --bench label`: the pipeline beside bare tokenization.
//!
//! * throughput of `figa label` beside `Tokenizer::encode_batch` on the same texts, already in memory, in turn in one run, on
//!   one thread and on all; the best of 5 rounds
//! * peak memory and throughput at 10,000, 100,000 and 1,000,000 records (Linux)
//!
//! Records are the embedded ones, each with a number of its own in its instruction; the tokenizer is a byte-level BPE
//! trained on them, or that of the model's folder which the variable TOKENIZER names. `-- FORMAT` writes jsonl (the
//! default) or parquet.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use figa_loss::tokenizers::models::bpe::{BPE, BpeTrainer};
use figa_loss::tokenizers::pre_tokenizers::byte_level::ByteLevel;
use figa_loss::tokenizers::{AddedToken, Tokenizer, models::TrainerWrapper};
use figa_loss::{PromptTemplate, SpaRecord};

const ROUNDS: usize = 5;
const RECORDS: usize = 20_000;

/// The embedded records over and over, no two of them equal.
fn records(count: usize) -> impl Iterator<Item = SpaRecord> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/data/spa_tiny.jsonl");
    let embedded = SpaRecord::read(path).expect("the embedded records");
    (0..count).map(move |i| {
        let mut record = embedded[i % embedded.len()].clone();
        record.instruction += &format!(" ({i})");
        record
    })
}

fn write(path: &Path, count: usize) {
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    for record in records(count) {
        writeln!(file, "{}", serde_json::to_string(&record).expect("JSON")).expect("room on the disk");
    }
}

fn trained(path: &Path) {
    let trainer = BpeTrainer::builder()
        .vocab_size(4000)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from("</s>", true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
    let texts = records(252).flat_map(|record| [record.instruction, record.original_output, record.revised_output]);
    tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), texts).expect("a tokenizer");
    tokenizer.save(path, false).expect("room on the disk");
}

/// Seconds of one `figa label` on so many threads, and the most memory that it held, in MiB.
fn label(folder: &Path, tokenizer: &Path, format: &str, threads: usize) -> (f64, f64) {
    let out = folder.join(format!("labels.{format}"));
    let begin = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_figa"))
        .args(["label", "--eos", "</s>", "--prompt", "alpaca", "--tokenizer"])
        .args([tokenizer, &folder.join("pairs.jsonl"), Path::new("--out"), &out])
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("figa");
    let mut peak = f64::NAN;
    while child.try_wait().expect("a child").is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = line.and_then(|kib| kib.parse::<f64>().ok()).map_or(peak, |kib| kib / 1024.0);
        thread::sleep(Duration::from_millis(5));
    }
    let seconds = begin.elapsed().as_secs_f64();
    assert!(child.wait().expect("a child").success());
    fs::remove_file(out).expect("the labels");
    (seconds, peak)
}

/// Seconds of encoding the texts and nothing else.
fn bare(tokenizer: &Tokenizer, texts: &[String], threads: usize) -> f64 {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    let begin = Instant::now();
    for texts in texts.chunks(1024) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        std::hint::black_box(pool.install(|| tokenizer.encode_batch(texts, false)).expect("encodings"));
    }
    begin.elapsed().as_secs_f64()
}

fn main() {
    let format = std::env::args().skip(1).find(|argument| argument == "parquet").unwrap_or("jsonl".into());
    let folder = tempfile::tempdir().expect("a folder");
    let pairs = folder.path().join("pairs.jsonl");
    let path = match std::env::var_os("TOKENIZER") {
        Some(path) => Path::new(&path).join("tokenizer.json"),
        None => {
            let path = folder.path().join("tokenizer.json");
            trained(&path);
            path
        }
    };
    // Beside the tokenizer a folder may hold a chat template; the file alone does not.
    let alone = folder.path().join("alone.json");
    fs::copy(&path, &alone).expect("a tokenizer.json");
    let mut tokenizer = Tokenizer::from_file(&alone).expect("a tokenizer.json");
    if tokenizer.token_to_id("</s>").is_none() {
        tokenizer.add_special_tokens([AddedToken::from("</s>", true)]).expect("a token");
        tokenizer.save(&alone, false).expect("room on the disk");
    }
    let texts: Vec<String> = records(RECORDS)
        .flat_map(|record| {
            let prompt = PromptTemplate::Alpaca.render(&record).expect("a prompt");
            [&record.original_output, &record.revised_output].map(|answer| format!("{prompt}{answer}"))
        })
        .collect();
    write(&pairs, RECORDS);
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    println!("{RECORDS} records, {}; {format}", path.display());
    println!("{:>8} {:>22} {:>22} {:>8}", "threads", "figa label, records/s", "tokenizing, records/s", "ratio");
    let mut of_threads = vec![];
    for threads in [1, cores] {
        let (mut ours, mut theirs) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..ROUNDS {
            ours = ours.min(label(folder.path(), &alone, &format, threads).0);
            theirs = theirs.min(bare(&tokenizer, &texts, threads));
        }
        let rate = |seconds: f64| RECORDS as f64 / seconds;
        println!("{threads:>8} {:>22.0} {:>22.0} {:>8.2}", rate(ours), rate(theirs), theirs / ours);
        of_threads.push(ours);
    }
    let scaling = 100.0 * of_threads[0] / of_threads[1] / cores as f64;
    println!("{scaling:.0} % of perfect scaling over {cores} cores\n");
    drop(texts);

    println!("{:>10} {:>12} {:>12} {:>16}", "records", "seconds", "records/s", "peak memory, MiB");
    for count in [10_000, 100_000, 1_000_000] {
        write(&pairs, count);
        let (seconds, peak) = label(folder.path(), &alone, &format, cores);
        println!("{count:>10} {seconds:>12.1} {:>12.0} {peak:>16.0}", count as f64 / seconds);
    }
}
