//! Two texts as a coloured diff, with the label and weight of each token; or records of files as a page to look
//! through. Needs no libtorch:
//!
//! ```text
//! cargo run --no-default-features --features data --example align -- "He go home." "He goes home now."
//! cargo run --no-default-features --features data --example align -- examples/data/spa_tiny.jsonl --record 3
//! cargo run --no-default-features --features data --example align -- examples/data/spa_tiny.jsonl --html align.html
//! ```
//!
//! It is the command `figa show`, where the code is: how the crate aligns and labels is in `Comparer`.

use anyhow::Result;
use clap::Parser;

#[path = "../src/bin/figa/aside.rs"]
mod aside;
#[allow(dead_code)] // The other commands use the rest.
#[path = "../src/bin/figa/input.rs"]
mod input;
#[path = "../src/bin/figa/show.rs"]
mod show;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    show: show::Args,
}

fn main() -> Result<()> {
    show::run(&Cli::parse().show)
}
