//! The command `figa`.

use std::process::ExitCode;

fn main() -> ExitCode {
    figa_loss::hide_caught_panics();
    figa_cli::run(std::env::args_os())
}
