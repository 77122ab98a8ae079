//! The command `figa`: token-level labels and weights for pairs of answers, for people who train with other tools. It
//! needs no libtorch.
//!
//! [`run`] is the command. A trainer that reads the same records takes [`FieldArgs`] and [`PromptArgs`] into its own command
//! line, and a program that writes the same columns takes [`RowTable`]. The rest is private: this page is a map for those who change it. To use its parts from Rust, see the library
//! [`figa_loss`].
//!
//! ```text
//! main.rs               the program: run, and nothing else
//! lib.rs                run: parses the arguments, calls a command, turns its result into an exit code
//! records.rs            arguments: which records to read; the progress bar
//! encoding.rs           arguments: tokenizer, prompt, aligner, weights
//! reward.rs             what the weights reward, and whether such weights have been measured on such pairs
//! new_file.rs           output files that are complete or absent, and replace nothing
//! stamp.rs              files that must not change before a run is resumed
//! rejects.rs            bad records and the reasons
//! terminal.rs           text that is safe to print
//!
//! label.rs              figa label: rows for a trainer, as JSON lines or Parquet
//!   output.rs             the output of a run that can be killed and resumed
//!   folder.rs             the folder of an unfinished run
//!   state.rs              what it was asked for, and how far it is
//!   consumed.rs           which records it has consumed
//!   appender.rs           a file that grows, and can be cut back to what was committed
//!   rows.rs               the rows of a record in the format of the output
//!   note.rs               what the rows look like, in a line or two
//!   table.rs              the Parquet table, its segments, and the file that joins them
//! show.rs               figa show: what a revision changed
//!   tokens.rs             the text of each token
//!   table.rs              a diff and a table for the terminal
//!   page.rs               an HTML page, with page.html and page.css
//!   sample.rs             an even sample of a stream
//! stats.rs              figa stats: counts, lengths, and what a maximum length would lose
//!   measure.rs            what one pair adds
//!   totals.rs             the numbers of all pairs
//!   histogram.rs          the distribution of a number
//!   text.rs               tables to read
//!   figure.rs             an SVG
//! curate.rs             figa curate: keeps the pairs that are worth training on
//!   args.rs               its arguments
//!   candidate.rs          a good record on its way through the steps
//!   comparison.rs         what changed between its answers
//!   sieve.rs              the steps
//!   command.rs            scorer and reviser: commands that answer line by line
//!   processes.rs          a command's processes, which end with the run
//!   requests.rs           what they are asked and what they answer
//!   answers.rs            their answers, kept until the run is complete
//!   syncer.rs             syncs them to the disk, many at a time
//!   reviser_prompt.rs     the prompt for the reviser, with reviser.j2
//!   fields.rs             a JSON object whose values keep their bytes
//!   duplicates.rs         equal records
//!   sketch.rs             MinHash of a record
//!   near_duplicates.rs    similar records
//!   report.rs             how many records each step dropped
//! ```
//!
//! Each command has a struct of arguments and a function `run` that takes it. The files of a command are in its folder
//! and know nothing of the other commands; what commands share is in `records.rs`, `encoding.rs`, `reward.rs`, `new_file.rs`, `stamp.rs`,
//! `rejects.rs` and `terminal.rs`.

mod curate;
mod encoding;
mod label;
mod new_file;
mod records;
mod rejects;
mod reward;
mod show;
mod stamp;
mod stats;
mod terminal;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

pub use encoding::PromptArgs;
pub use label::RowTable;
pub use records::FieldArgs;

/// Token-level labels and loss weights for pairs of answers, after FIGA (arXiv 2311.04072)
#[derive(Parser)]
#[command(name = "figa", version, propagate_version = true)]
struct FigaArgs {
    #[command(subcommand)]
    command: FigaCommand,
}

#[derive(Subcommand)]
enum FigaCommand {
    Label(Box<label::LabelArgs>),
    Show(Box<show::ShowArgs>),
    Stats(Box<stats::StatsArgs>),
    Curate(Box<curate::CurateArgs>),
    /// Print a script that completes figa's commands in a shell
    #[command(after_help = "Example:\n  figa completions bash > ~/.local/share/bash-completion/completions/figa")]
    Completions {
        /// Shell to write the script for
        shell: clap_complete::Shell,
    },
}

/// Runs the command with these arguments, of which the first is the name of the program. Returns the exit code of the
/// process: 0 on success, 2 for arguments that cannot be parsed, and 1 for any other error.
///
/// Results go to standard output. An error is one line on standard error. If the reader of standard output stops early,
/// as `head` does, that is a success.
///
/// ```
/// use std::process::ExitCode;
///
/// assert_eq!(figa_cli::run(["figa", "show", "He go home.", "He goes home."]), ExitCode::SUCCESS);
/// assert_eq!(figa_cli::run(["figa", "show", "none.jsonl"]), ExitCode::FAILURE);
/// ```
pub fn run(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let args = match FigaArgs::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            print_usage(&error);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    match execute(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", terminal::one_line(&error_message(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error in one line, with the flags of the command for the settings of the library.
fn error_message(error: &anyhow::Error) -> String {
    name_flags(error, |setting| records::RecordArgs::flag(setting).or_else(|| PromptArgs::flag(setting)))
}

/// An error in one line. If a setting of the library is the reason, the flag of a program stands in its place.
///
/// ```
/// let error = figa_loss::Error::AnswerTooLong { side: figa_loss::Side::Original, tokens: 9, max: 8 };
/// let expected = "the original answer has 9 tokens, more than the limit of one answer, 8: raise it (--long), or drop the record";
/// assert_eq!(figa_cli::name_flags(&error.into(), |_| Some("--long")), expected);
/// ```
pub fn name_flags(error: &anyhow::Error, flag: impl Fn(&str) -> Option<&'static str>) -> String {
    let message = format!("{error:#}");
    let setting = error.chain().find_map(|cause| cause.downcast_ref::<figa_loss::Error>()?.setting());
    match setting.and_then(|setting| Some((setting, flag(setting)?))) {
        Some((setting, flag)) => message.replace(&format!("({setting})"), &format!("({flag})")),
        None => message,
    }
}

/// Prints an error of the arguments, or the help. A closed output is no reason for another exit code.
fn print_usage(error: &clap::Error) {
    let text = error.render().to_string();
    let shown = terminal::printable(&text);
    if shown == text {
        let _ = error.print();
    } else {
        // An argument that must not reach a terminal as it is.
        eprint!("{shown}");
    }
}

fn execute(command: FigaCommand) -> Result<()> {
    match command {
        FigaCommand::Label(args) => label::run(&args),
        FigaCommand::Show(args) => show::run(&args),
        FigaCommand::Stats(args) => stats::run(&args),
        FigaCommand::Curate(args) => curate::run(&args),
        FigaCommand::Completions { shell } => {
            clap_complete::generate(shell, &mut FigaArgs::command(), "figa", &mut io::stdout());
            Ok(())
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
