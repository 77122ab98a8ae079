//! What a revision changed: two texts as a diff, and the label and weight of each token. Needs no libtorch:
//!
//! ```text
//! cargo run --no-default-features --features data --example align -- "He go home." "He goes home now."
//! cargo run --no-default-features --features data --example align -- "He go home." "He goes home now." --tokenizer MODEL
//! ```
//!
//! `figa show` does the same for records in files, in colour and as a page.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use figa_loss::{EditTag, Side, TextComparer};

#[derive(Parser)]
struct Args {
    /// The original text
    original: String,
    /// The revised text
    revised: String,
    /// The folder of a model, or its tokenizer.json [default: words and punctuation are tokens]
    #[arg(long)]
    tokenizer: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let comparer = args.tokenizer.map_or_else(|| Ok(TextComparer::default()), TextComparer::with_tokenizer)?;
    let texts = comparer.compare(&args.original, &args.revised)?;

    for span in texts.alignment().spans() {
        let text = |side, text: &str| {
            let tokens = &texts.tokens(side)[span.range(side)];
            tokens.first().zip(tokens.last()).map(|(first, last)| text[first.range.start..last.range.end].to_owned())
        };
        let (removed, added) = (text(Side::Original, &args.original), text(Side::Revised, &args.revised));
        match span.tag {
            EditTag::Replace => println!("{:?} became {:?}", removed.unwrap_or_default(), added.unwrap_or_default()),
            EditTag::Insert => println!("{:?} was added", added.unwrap_or_default()),
            EditTag::Delete => println!("{:?} was removed", removed.unwrap_or_default()),
        }
    }
    for side in Side::ALL {
        println!("\n{side:?}");
        for token in texts.tokens(side) {
            println!("{:<16} {:<12} {:>+5}", token.name, format!("{:?}", token.label), token.weight);
        }
    }
    Ok(())
}
