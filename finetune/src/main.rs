//! The program `finetune`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use figa_cli::{FieldArgs, PromptArgs, name_flags};
use figa_finetune::{Command, CommandLine, evaluate, rollout, run};

/// The exit code of a program that Ctrl-C ends.
const INTERRUPTED_CODE: u8 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    figa_loss::hide_caught_panics();
    let CommandLine { command, train } = CommandLine::parse();
    figa_loss::load_cuda();
    // An evaluation has nothing to lose: the first signal ends it.
    let handler = if let Some(Command::Evaluate(_)) = command { Ok(()) } else { ctrlc::set_handler(interrupt) };
    let execute = || match command {
        Some(Command::Evaluate(args)) => evaluate(&args).map(|()| true),
        Some(Command::Rollout(args)) => rollout(&args, &|| INTERRUPTED.load(Ordering::Relaxed)),
        None => run(train, &|| INTERRUPTED.load(Ordering::Relaxed)),
    };
    match handler.map_err(Into::into).and_then(|()| execute()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => INTERRUPTED_CODE.into(),
        Err(error) => {
            eprintln!(
                "error: {}",
                name_flags(&error, |setting| FieldArgs::flag(setting).or_else(|| PromptArgs::flag(setting)))
            );
            ExitCode::FAILURE
        }
    }
}

fn interrupt() {
    if INTERRUPTED.swap(true, Ordering::Relaxed) {
        std::process::exit(INTERRUPTED_CODE.into());
    }
    eprintln!("\nstopping after this step; press Ctrl-C again to stop now and lose the work since the last checkpoint");
}
