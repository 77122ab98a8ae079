//! `cargo bench -p figa-cli --bench label`: `figa label` compared with tokenization alone.
//!
//! * Throughput of `figa label`, and of `Tokenizer::encode_batch` on the same texts in memory: alternately in one run,
//!   on one thread and on all of them, the best of 5 rounds.
//! * Throughput and peak memory (Linux) for 10,000, 100,000 and 1,000,000 records.
//!
//! The records are those of the examples, each with its own number in the instruction. The tokenizer is a byte-level
//! BPE trained on them, or that of the model's folder in the variable TOKENIZER. `-- FORMAT` chooses jsonl (the default)
//! or parquet.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use figa_loss::tokenizers::models::TrainerWrapper;
use figa_loss::tokenizers::models::bpe::{BPE, BpeTrainer};
use figa_loss::tokenizers::pre_tokenizers::byte_level::ByteLevel;
use figa_loss::tokenizers::{AddedToken, Tokenizer};
use figa_loss::{PromptTemplate, SpaRecord};

const ROUNDS: usize = 5;
const RECORDS: usize = 20_000;
const MEMORY_RECORDS: [usize; 3] = [10_000, 100_000, 1_000_000];
const EOS: &str = "</s>";

/// How the command is called in all runs.
struct Setup {
    folder: tempfile::TempDir,
    tokenizer: PathBuf,
    format: String,
}

/// One run of `figa label`.
struct Run {
    seconds: f64,
    /// The most memory that it used, in MiB.
    peak: f64,
}

impl Setup {
    fn pairs(&self) -> PathBuf {
        self.folder.path().join("pairs.jsonl")
    }

    fn write_pairs(&self, count: usize) {
        let mut file = BufWriter::new(File::create(self.pairs()).expect("a file"));
        for record in records(count) {
            writeln!(file, "{}", serde_json::to_string(&record).expect("JSON")).expect("room on the disk");
        }
    }

    fn label(&self, threads: usize) -> Run {
        let out = self.folder.path().join(format!("labels.{}", self.format));
        let begin = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_figa"))
            .args(["label", "--eos", EOS, "--prompt", "alpaca", "--tokenizer"])
            .args([&self.tokenizer, &self.pairs(), Path::new("--out"), &out])
            .env("RAYON_NUM_THREADS", threads.to_string())
            .stdout(Stdio::null())
            .spawn()
            .expect("figa");
        let mut peak = f64::NAN;
        while child.try_wait().expect("a child").is_none() {
            peak = peak_memory(child.id()).unwrap_or(peak);
            thread::sleep(Duration::from_millis(5));
        }
        let seconds = begin.elapsed().as_secs_f64();
        assert!(child.wait().expect("a child").success());
        fs::remove_file(out).expect("the labels");
        Run { seconds, peak }
    }
}

/// MiB; `None` where there is no `/proc`.
fn peak_memory(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))?;
    Some(kib.parse::<f64>().ok()? / 1024.0)
}

/// The records of the examples, repeated; no two of them are equal.
fn records(count: usize) -> impl Iterator<Item = SpaRecord> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/data/spa_tiny.jsonl");
    let examples = SpaRecord::read(path).expect("the records of the examples");
    (0..count).map(move |i| {
        let mut record = examples[i % examples.len()].clone();
        record.instruction += &format!(" ({i})");
        record
    })
}

fn trained_tokenizer() -> Tokenizer {
    let trainer = BpeTrainer::builder()
        .vocab_size(4000)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(EOS, true)])
        .build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
    let texts = records(252).flat_map(|record| {
        [record.instruction.clone(), record.original_output.text().into(), record.revised_output.text().into()]
    });
    tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), texts).expect("a tokenizer");
    tokenizer
}

/// Seconds to tokenize the texts and do nothing else.
fn tokenize(tokenizer: &Tokenizer, texts: &[String], threads: usize) -> f64 {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    let begin = Instant::now();
    for texts in texts.chunks(1024) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        std::hint::black_box(pool.install(|| tokenizer.encode_batch(texts, false)).expect("encodings"));
    }
    begin.elapsed().as_secs_f64()
}

fn compare_with_tokenization(setup: &Setup, tokenizer: &Tokenizer, cores: usize) {
    let texts: Vec<String> = records(RECORDS)
        .flat_map(|record| {
            let prompt = PromptTemplate::Alpaca.render(&record).expect("a prompt");
            [&record.original_output, &record.revised_output].map(|answer| format!("{prompt}{}", answer.text()))
        })
        .collect();
    setup.write_pairs(RECORDS);
    println!("{:>8} {:>22} {:>22} {:>8}", "threads", "figa label, records/s", "tokenizing, records/s", "ratio");
    let seconds = [1, cores].map(|threads| {
        let (mut label, mut tokenization) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..ROUNDS {
            label = label.min(setup.label(threads).seconds);
            tokenization = tokenization.min(tokenize(tokenizer, &texts, threads));
        }
        let rate = |seconds: f64| RECORDS as f64 / seconds;
        println!("{threads:>8} {:>22.0} {:>22.0} {:>8.2}", rate(label), rate(tokenization), tokenization / label);
        label
    });
    let scaling = 100.0 * seconds[0] / seconds[1] / cores as f64;
    println!("{scaling:.0} % of perfect scaling over {cores} cores\n");
}

fn measure_memory(setup: &Setup, cores: usize) {
    println!("{:>10} {:>12} {:>12} {:>16}", "records", "seconds", "records/s", "peak memory, MiB");
    for count in MEMORY_RECORDS {
        setup.write_pairs(count);
        let Run { seconds, peak } = setup.label(cores);
        println!("{count:>10} {seconds:>12.1} {:>12.0} {peak:>16.0}", count as f64 / seconds);
    }
}

fn main() {
    let format = std::env::args().skip(1).find(|argument| argument == "parquet").unwrap_or("jsonl".into());
    let (name, mut tokenizer) = match std::env::var_os("TOKENIZER") {
        Some(folder) => {
            let path = Path::new(&folder).join("tokenizer.json");
            (path.display().to_string(), Tokenizer::from_file(&path).expect("a tokenizer.json"))
        }
        None => ("a tokenizer trained on the records".to_owned(), trained_tokenizer()),
    };
    if tokenizer.token_to_id(EOS).is_none() {
        tokenizer.add_special_tokens([AddedToken::from(EOS, true)]).expect("a token");
    }
    // A copy in a folder without a chat template.
    let folder = tempfile::tempdir().expect("a folder");
    let setup = Setup { tokenizer: folder.path().join("tokenizer.json"), folder, format };
    tokenizer.save(&setup.tokenizer, false).expect("room on the disk");
    let tokenizer = Tokenizer::from_file(&setup.tokenizer).expect("the saved tokenizer");
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    println!("{RECORDS} records, {name}; {}", setup.format);
    compare_with_tokenization(&setup, &tokenizer, cores);
    measure_memory(&setup, cores);
}
