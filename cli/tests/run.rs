//! The function `run` and the exit codes of the program.

mod common;

use std::process::ExitCode;

use common::{Folder, record};

#[test]
fn run_returns_the_exit_code() {
    let (failure, usage) = (ExitCode::FAILURE, ExitCode::from(2));
    assert_eq!(figa_cli::run(["figa", "--version"]), ExitCode::SUCCESS);
    assert_eq!(figa_cli::run(["figa", "show", "one text"]), failure);
    assert_eq!(figa_cli::run(["figa", "unknown"]), usage);
    assert_eq!(figa_cli::run(["figa"]), usage);
}

#[test]
fn the_program_ends_as_run_says() {
    let folder = Folder::with_records([record("ask", "a", "b")]);
    assert_eq!(folder.stdout(&["--version"]), concat!("figa ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(folder.stdout(&["show", "pairs.jsonl"]).starts_with("instruction: ask\n"));
    assert_eq!(folder.error(&["show", "none.jsonl"]).lines().count(), 1);
    assert!(folder.usage_error(&["show", "--record"]).starts_with("error: "));
}

#[test]
fn completions_know_the_commands() {
    let script = Folder::new().stdout(&["completions", "bash"]);
    for command in ["label", "show", "stats", "curate"] {
        assert!(script.contains(&format!("figa__subcmd__{command}")), "{command}");
    }
}
