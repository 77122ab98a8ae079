//! What the program prints and what the report looks like.

mod common;

use std::process::{Command, Output};

use common::Sandbox;

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
