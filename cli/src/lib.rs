//! `figa`: labels, looks at and picks pairs of answers, for people who train elsewhere. Needs no libtorch.
//!
//! `input.rs` says what every command takes: records, their fields, and how they are encoded. `label.rs` writes labels,
//! by way of `output.rs`, which outlives being killed; `show.rs` shows what changed, on the terminal or as a page;
//! `stats.rs` counts, and draws what it counted with `histograms.rs`; `curate.rs` picks the pairs that are worth
//! training on, and has them scored and revised; `completions` is clap's.

mod aside;
mod curate;
mod histograms;
mod input;
mod label;
mod output;
mod show;
mod stats;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

/// Token-level labels of what a revision changed, after FIGA (arXiv 2311.04072)
#[derive(Parser)]
#[command(name = "figa", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Label(Box<label::Args>),
    Show(Box<show::Args>),
    Stats(Box<stats::Args>),
    Curate(Box<curate::Args>),
    /// Print a script that completes figa's commands in a shell
    #[command(after_help = "Example:\n  figa completions bash > ~/.local/share/bash-completion/completions/figa")]
    Completions {
        shell: clap_complete::Shell,
    },
}

/// Runs the command on its arguments, the name of the program first, and returns how the process should end.
///
/// ```
/// let status = figa_cli::run(["figa", "--version"]);
/// # let _ = status;
/// ```
pub fn run(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // That standard output or standard error is closed is no reason to fail differently.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<()> {
    match command {
        Command::Label(args) => label::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Curate(args) => curate::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "figa", &mut io::stdout());
            Ok(())
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
