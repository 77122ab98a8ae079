//! The program `finetune`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use figa_finetune::{Args, run};

/// The exit code of a program that Ctrl-C ends.
const INTERRUPTED_CODE: u8 = 130;

fn main() -> ExitCode {
    static INTERRUPTED: AtomicBool = AtomicBool::new(false);
    let args = Args::parse();
    let handler = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED_CODE.into());
        }
        eprintln!(
            "\nstopping after this step; press Ctrl-C again to stop now and lose the steps since the last checkpoint"
        );
    });
    match handler.map_err(Into::into).and_then(|()| run(args, &|| INTERRUPTED.load(Ordering::Relaxed))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => INTERRUPTED_CODE.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
