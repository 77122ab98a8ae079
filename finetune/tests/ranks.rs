//! Several processes do together what one does, and continue after interruptions, whatever their number.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::Sandbox;
use figa_loss::tch::Tensor;
use serde_json::Value;

/// After this time, processes are killed and the test fails. CI shares its cores, so it is long.
const LIMIT: Duration = Duration::from_secs(240);

/// Processes that do not outlive this value.
struct Processes(Vec<Child>);

impl Processes {
    /// Starts a command in as many processes, as a launcher does.
    fn start(arguments: &[String], count: usize) -> Self {
        Self::start_each(&vec![arguments.to_vec(); count])
    }

    /// Starts a process with each of the commands.
    fn start_each(commands: &[Vec<String>]) -> Self {
        Self::start_again(commands, 0)
    }

    /// The same, as a launcher does that has already restarted them so often.
    fn start_again(commands: &[Vec<String>], restarts: usize) -> Self {
        let count = commands.len();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let start = |rank: usize| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_finetune"));
            command.args(&commands[rank][1..]).env("OMP_NUM_THREADS", "1");
            if count > 1 {
                command.env("RANK", rank.to_string()).env("WORLD_SIZE", count.to_string());
                command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
                command.env("TORCHELASTIC_RESTART_COUNT", restarts.to_string());
            }
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        Self((0..count).map(start).collect())
    }

    fn signal(&self, rank: usize, signal: libc::c_int) {
        let process = self.0[rank].id() as libc::pid_t;
        // SAFETY: no memory is touched; the process is a child that nobody has waited for, so its number is its own.
        assert_eq!(unsafe { libc::kill(process, signal) }, 0);
    }

    /// The exit code and the output of each.
    fn finish(mut self) -> Vec<(Option<i32>, String, String)> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end && self.0.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
            sleep(Duration::from_millis(20));
        }
        let ended = |mut child: Child| {
            let _ = child.kill();
            let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
            let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
            (status.code(), stdout, stderr)
        };
        std::mem::take(&mut self.0).into_iter().map(ended).collect()
    }

    /// Waits for all, which must succeed.
    fn succeed(self) -> Vec<String> {
        let ended = self.finish();
        assert!(ended.iter().all(|(code, ..)| *code == Some(0)), "{ended:#?}");
        ended.into_iter().map(|(_, stdout, _)| stdout).collect()
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

fn wait_for_steps(metrics: &Path, steps: usize) {
    let end = Instant::now() + LIMIT;
    while fs::read_to_string(metrics).map_or(0, |text| text.lines().count()) < steps {
        assert!(Instant::now() < end, "no {steps} steps in {}", metrics.display());
        sleep(Duration::from_millis(5));
    }
}

fn assert_same_model(sandbox: &Sandbox, one: &str, other: &str) {
    let read = |out: &str| -> BTreeMap<String, Tensor> {
        Tensor::read_safetensors(sandbox.path(&format!("{out}/model/model.safetensors"))).unwrap().into_iter().collect()
    };
    let (one, other) = (read(one), read(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, value) in &one {
        let difference = (value - &other[name]).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{name}: {difference:e}");
    }
}

fn assert_same_numbers(one: &Value, other: &Value, place: &str) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>(), "{place}");
            // Padding depends on who computes what.
            for (key, value) in one.iter().filter(|(key, _)| !["computed", "seconds"].contains(&key.as_str())) {
                assert_same_numbers(value, &other[key], &format!("{place}.{key}"));
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            assert_eq!(one.len(), other.len(), "{place}");
            one.iter().zip(other).for_each(|(one, other)| assert_same_numbers(one, other, place));
        }
        (Value::Number(one), Value::Number(other)) => {
            let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
            assert!((one - other).abs() < 1e-3 * one.abs().max(1.0), "{place}: {one} {other}");
        }
        _ => assert_eq!(one, other, "{place}"),
    }
}

#[test]
fn a_run_does_not_depend_on_the_number_of_processes() {
    let sandbox = Sandbox::new("qwen2");
    let pairs = sandbox.text_path("pairs.jsonl");
    let more = ["--eval", &pairs, "--answers=5", "--method=figa,dpo,figa-kl", "--batch=5", "--eval-every=3"];
    // A bias of keys has no gradient but rounding, which AdamW scales to the size of a step.
    let more = [&more[..], &["--lr=1e-5"]].concat();
    Processes::start(&sandbox.command("one", &more), 1).succeed();
    for (count, option) in [(2, None), (4, None), (4, Some("--zero1"))] {
        let out = format!("{count}{}", option.unwrap_or_default());
        let more: Vec<&str> = more.iter().copied().chain(option).collect();
        let outputs = Processes::start(&sandbox.command(&out, &more), count).succeed();
        assert!(outputs[0].contains(&format!("; {count} processes")) && outputs[0].contains("revised likelier"));
        assert!(outputs[1..].iter().all(|output| output.is_empty()), "{outputs:#?}");
        for method in ["figa-0", "dpo-0", "figa-kl-0"] {
            assert_same_model(&sandbox, &format!("one/{method}"), &format!("{out}/{method}"));
            let read = |out: &str| {
                let lines = sandbox.metrics(&format!("{out}/{method}/metrics.jsonl"));
                Value::from(vec![Value::from(lines), sandbox.outcome(&format!("{out}/{method}/outcome.json"))])
            };
            assert_same_numbers(&read("one"), &read(&out), method);
        }
    }
}

#[test]
fn a_run_continues_with_another_number_of_processes() {
    let sandbox = Sandbox::new("llama3");
    for option in [&["--method=figa"][..], &["--method=dpo", "--zero1"]] {
        let name = option.len();
        let more = [option, &["--steps=60"]].concat();
        Processes::start(&sandbox.command(&format!("whole{name}"), &more), 1).succeed();
        let out = format!("parts{name}");
        let metrics = sandbox.path(&format!("{out}/metrics.jsonl"));
        let resume = ["finetune", "--resume", &sandbox.text_path(&out)].map(str::to_owned);
        for (count, steps) in [(2, 5), (1, 20), (4, 35)] {
            let command = if count == 2 { sandbox.command(&out, &more) } else { resume.to_vec() };
            let processes = Processes::start(&command, count);
            wait_for_steps(&metrics, steps);
            // As a launcher does, or a terminal.
            (0..count).for_each(|rank| processes.signal(rank, libc::SIGINT));
            let ended = processes.finish();
            assert!(ended.iter().all(|(code, ..)| *code == Some(130)), "{ended:#?}");
        }
        Processes::start(&resume, 2).succeed();
        assert_same_model(&sandbox, &format!("whole{name}"), &out);
        assert_eq!(fs::read_to_string(&metrics).unwrap().lines().count(), 60);
    }
}

#[test]
fn all_processes_end_with_one_that_is_killed() {
    let sandbox = Sandbox::new("llama3");
    let more = ["--steps=60", "--save-every=10"];
    Processes::start(&sandbox.command("whole", &more), 1).succeed();
    for victim in [0, 1, 2] {
        let out = format!("killed{victim}");
        let processes = Processes::start(&sandbox.command(&out, &more), 3);
        wait_for_steps(&sandbox.path(&format!("{out}/metrics.jsonl")), 12);
        processes.signal(victim, libc::SIGKILL);
        for (rank, (code, _, stderr)) in processes.finish().into_iter().enumerate().filter(|(rank, _)| *rank != victim)
        {
            let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
            assert!(error.contains(&format!("rank {rank} of 3")) && error.contains("restart all ranks"), "{stderr}");
            assert_eq!(code, Some(1), "{stderr}");
        }
        // torchrun starts them again with the same command.
        Processes::start_again(&vec![sandbox.command(&out, &more); 3], 1).succeed();
        assert_same_model(&sandbox, "whole", &out);
    }
}

#[test]
fn an_error_of_the_first_process_ends_all() {
    let sandbox = Sandbox::new("llama3");
    Processes::start(&sandbox.command("out", &["--steps=1"]), 1).succeed();
    let processes = Processes::start(&sandbox.command("out", &["--steps=1"]), 2);
    let ended = processes.finish();
    assert!(ended.iter().all(|(code, _, stderr)| *code == Some(1) && stderr.contains("contains a run")), "{ended:#?}");
    // The second one reads other records.
    let other = sandbox.text_path("other.jsonl");
    let text = sandbox.text("pairs.jsonl");
    fs::write(&other, text.lines().skip(1).collect::<Vec<_>>().join("\n")).unwrap();
    let command = sandbox.command("differ", &["--steps=1"]);
    let different = command.iter().map(|argument| argument.replace(&sandbox.text_path("pairs.jsonl"), &other));
    let ended = Processes::start_each(&[command.clone(), different.collect()]).finish();
    let error = "model and records of rank 1 differ from those of rank 0: give all ranks the same";
    assert!(ended.iter().all(|(code, _, stderr)| *code == Some(1) && stderr.contains(error)), "{ended:#?}");
}

#[test]
fn processes_answer_prompts_as_one_does() {
    let sandbox = Sandbox::new("qwen3");
    let (model, prompts) = (sandbox.text_path("model"), sandbox.text_path("pairs.jsonl"));
    let command = |out: &str| {
        let fixed = ["finetune", "rollout", "--model", &model, "--prompts", &prompts, "--out", out, "--cpu"];
        let more =
            ["--prompt=plain", "--micro-batch=1", "--max-length=12", "--max-tokens=6", "--temperature=1", "--seed=3"];
        fixed.iter().chain(&more).map(|&argument| argument.to_owned()).collect::<Vec<_>>()
    };
    for count in [1, 3] {
        Processes::start(&command(&sandbox.text_path(&format!("{count}.jsonl"))), count).succeed();
    }
    assert_eq!(sandbox.text("1.jsonl"), sandbox.text("3.jsonl"));

    let measured = |count: usize| {
        let out = sandbox.text_path(&format!("{count}.json"));
        let fixed = ["finetune", "evaluate", "--model", &model, "--eval", &prompts, "--out", &out, "--cpu"];
        let arguments = fixed.iter().chain(&["--prompt=plain", "--answers=5", "--max-length=12"]);
        let arguments: Vec<String> = arguments.map(|&argument| argument.to_owned()).collect();
        let outputs = Processes::start(&arguments, count).succeed();
        assert!(outputs[1..].iter().all(|output| output.is_empty()), "{outputs:#?}");
        serde_json::from_slice::<Value>(&fs::read(&out).unwrap()).unwrap()
    };
    assert_same_numbers(&measured(1), &measured(3), "evaluate");
}
