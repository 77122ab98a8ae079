//! What the program prints and what the report looks like.

mod common;

use std::process::{Command, Output};

use clap::Parser;
use common::Sandbox;
use figa_finetune::{CommandLine, rollout};
use serde_json::Value;

/// Numbers that depend on the machine.
const NUMBER: (&str, &str) = (r"\d+\.\d+", "[number]");

fn finetune(arguments: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_finetune")).args(arguments).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn help_lists_all_arguments() {
    let output = finetune(&["--help".to_owned()]);
    assert!(output.status.success());
    insta::assert_snapshot!("help", text(output.stdout));
}

#[test]
fn an_error_is_one_line() {
    let sandbox = Sandbox::new("qwen2");
    let output = finetune(&sandbox.command("out", &["--steps=0"])[1..]);
    assert_eq!((output.status.code(), text(output.stdout)), (Some(1), String::new()));
    assert_eq!(text(output.stderr), "error: --steps: expected at least 1, got 0\n");
}

#[test]
fn a_run_says_how_many_pairs_teach_nothing() {
    let sandbox = Sandbox::new("qwen2");
    let equal = r#"{"instruction":"w3","original_output":"w4 w5","revised_output":"w4 w5"}"#;
    std::fs::write(sandbox.path("pairs.jsonl"), sandbox.text("pairs.jsonl") + equal).unwrap();
    for (method, expected) in [("dpo", true), ("sft", false)] {
        let output = finetune(&sandbox.command(method, &["--steps=1", "--method", method])[1..]);
        let message = format!("--method {method} learns nothing from 1 of 11 pairs within --max-length\n");
        assert_eq!(text(output.stdout).contains(&message), expected, "{method}");
    }
}

#[test]
fn a_run_prints_its_data_its_steps_and_a_table_and_writes_a_report() {
    let sandbox = Sandbox::new("qwen2");
    let pairs = sandbox.text_path("pairs.jsonl");
    let output = finetune(&sandbox.command("out", &["--eval", &pairs, "--answers", "2", "--steps=2"])[1..]);
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{stderr}");

    // Whitespace depends on the width of the numbers.
    let lines: Vec<String> = stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let stdout = lines.join("\n").replace(sandbox.root(), "[folder]");
    insta::with_settings!({ filters => [NUMBER] }, { insta::assert_snapshot!("stdout", stdout) });
    let filters = [(r"\d+ tokens/s", "[speed]"), NUMBER];
    insta::with_settings!({ filters => filters }, { insta::assert_snapshot!("stderr", stderr) });

    let escaped_folder = sandbox.root().replace('/', "&#x2f;");
    let report = text(sandbox.bytes("out/report.html")).replace(&escaped_folder, "[folder]");
    let filters = [
        (r"(?s)<style>.*?</style>", "[style]"),
        (r"(?s)<svg.*?</svg>", "[figure]"),
        (r"\d+\.\d+\.\d+", "[version]"),
        NUMBER,
    ];
    insta::with_settings!({ filters => filters }, { insta::assert_snapshot!("report", report) });
}

#[test]
fn evaluate_measures_a_model_like_a_run_does_before_training() {
    let sandbox = Sandbox::new("gemma2");
    let (model, pairs, out) =
        (sandbox.text_path("model"), sandbox.text_path("pairs.jsonl"), sandbox.text_path("s.json"));
    let evaluate = |more: &[&str]| {
        let fixed = ["evaluate", "--model", &model, "--eval", &pairs, "--out", &out, "--cpu", "--prompt=plain"];
        let arguments: Vec<String> = fixed.iter().chain(more).map(|&argument| argument.to_owned()).collect();
        let output = finetune(&[&arguments[..], &["--max-length=12".to_owned(), "--answers=3".to_owned()]].concat());
        assert!(output.status.success(), "{}", text(output.stderr));
        let measured: Value = serde_json::from_slice(&sandbox.bytes("s.json")).unwrap();
        (text(output.stdout), measured)
    };
    let (stdout, measured) = evaluate(&[]);
    assert!(stdout.contains("| revised likelier ↑ |"), "{stdout}");
    assert!(sandbox.run("run", &["--eval", &pairs, "--answers=3", "--steps=1"]).unwrap());
    let baseline: Value = serde_json::from_slice(&sandbox.bytes("run/baseline.json")).unwrap();
    assert_eq!(measured["scores"], baseline["evaluation"]["scores"]);
    let records = measured["records"].as_array().unwrap();
    assert_eq!(records[0]["original"], "w13 w18 w23");
    // What the scores are the means of.
    let mean = |value: &dyn Fn(&Value) -> Option<f64>| {
        let values: Vec<f64> = records.iter().filter_map(value).collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    let score = |key: &str| measured["scores"][key].as_f64().unwrap();
    let likelier = mean(&|record| Some(f64::from(record["margin"].as_f64().unwrap() > 0.0)));
    assert!((score("revised_likelier") - likelier).abs() < 1e-12);
    assert!((score("edit_distance") - mean(&|record| record["edit_distance"].as_f64())).abs() < 1e-12);
    assert!((score("copied") - mean(&|record| record["copied"].as_bool().map(f64::from))).abs() < 1e-12);
    let answers = records.iter().filter(|record| record["answer"].is_string() && record["word_edits"]["made"].is_u64());
    assert_eq!(answers.count(), 3);
    // Sampled answers depend on the seed alone.
    let sampled = |seed| evaluate(&["--temperature=2", "--top-p=0.9", "--seed", seed]).1["records"].clone();
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
    for (more, expected) in [("--temperature=-1", "--temperature: expected"), ("--top-p=0", "--top-p: expected")] {
        let arguments = ["evaluate", "--model", &model, "--eval", &pairs, more].map(str::to_owned);
        let error = text(finetune(&arguments).stderr);
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_signal_ends_an_evaluation() {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;

    let sandbox = Sandbox::new("qwen2");
    let (model, pairs) = (sandbox.text_path("model"), sandbox.text_path("pairs.jsonl"));
    // Enough to be busy when the signal comes.
    std::fs::write(&pairs, sandbox.text("pairs.jsonl").repeat(1000)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_finetune"));
    command.args(["evaluate", "--model", &model, "--eval", &pairs, "--cpu", "--prompt=plain", "--max-length=12"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut first_line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first_line).unwrap();
    assert!(first_line.contains("10000 pairs"), "{first_line}");
    // SAFETY: a call without pointers.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
fn rollout_writes_answers_that_do_not_depend_on_interruptions() {
    let sandbox = Sandbox::new("qwen3");
    let prompts: String =
        (3..23).map(|word| format!("{{\"instruction\": \"w{word} w9\", \"id\": {word}}}\n")).collect();
    std::fs::write(sandbox.path("prompts.jsonl"), prompts).unwrap();
    let (model, prompts) = (sandbox.text_path("model"), sandbox.text_path("prompts.jsonl"));
    let command = |out: &str, more: &[&str]| -> Vec<String> {
        let out = sandbox.text_path(out);
        let fixed = ["rollout", "--model", &model, "--prompts", &prompts, "--out", &out, "--cpu", "--prompt=plain"];
        let length =
            if more.iter().any(|argument| argument.contains("max-length")) { "--seed=0" } else { "--max-length=20" };
        let fixed = fixed.iter().chain(&["--micro-batch=1", "--temperature=1", "--max-tokens=5"]).chain([&length]);
        fixed.chain(more).map(|&argument| argument.to_owned()).collect()
    };
    let whole = finetune(&command("whole.jsonl", &[]));
    assert!(whole.status.success(), "{}", text(whole.stderr));
    let records: Vec<Value> =
        sandbox.text("whole.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 20);
    for (record, word) in records.iter().zip(3..) {
        assert_eq!(record["id"], word);
        let words = record["original_output"].as_str().unwrap().split_whitespace().count();
        assert!(words == 5 || record["finish_reason"] == "stop", "{record}");
        assert!(record.get("revised_output").is_none());
    }
    // After each batch of four; a line that is not complete is lost.
    let args =
        |out: &str| match CommandLine::try_parse_from([&["finetune".to_owned()], &command(out, &[])[..]].concat()) {
            Ok(CommandLine { command: Some(figa_finetune::Command::Rollout(args)), .. }) => args,
            other => panic!("{other:?}"),
        };
    assert!(!rollout(&args("parts.jsonl"), &|| true).unwrap());
    let half = sandbox.text("parts.jsonl.rollout") + "{\"instruction\": \"w7";
    assert_eq!(half.lines().count(), 6);
    std::fs::write(sandbox.path("parts.jsonl.rollout"), half).unwrap();
    let other = finetune(&command("parts.jsonl", &["--seed=1"]));
    let error = text(other.stderr);
    assert!(error.contains("was begun with other arguments, prompts or another model"), "{error}");
    assert!(rollout(&args("parts.jsonl"), &|| false).unwrap());
    assert_eq!(sandbox.text("parts.jsonl"), sandbox.text("whole.jsonl"));
    assert!(!sandbox.path("parts.jsonl.rollout").exists());
    let again = text(finetune(&command("parts.jsonl", &[])).stderr);
    assert!(again.contains("exists; choose another file") && again.lines().count() == 1, "{again}");
    // The length of the prompt is checked before anything is computed.
    let long = text(finetune(&command("long.jsonl", &["--max-length=2"])).stderr);
    assert!(long.contains("prompts.jsonl:1: the prompt has 2 tokens and max_length is 2"), "{long}");
}
