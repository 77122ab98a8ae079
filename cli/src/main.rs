//! The command `figa`.

use std::process::ExitCode;

fn main() -> ExitCode {
    figa_cli::run(std::env::args_os())
}
