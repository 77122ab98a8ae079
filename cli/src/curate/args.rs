//! The arguments of `figa curate`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::comparison::EditKind;
use super::parse_finite;
use super::report::DropReason;
use crate::records::RecordArgs;

/// Keep the pairs that are worth training on, after scoring and revising them
#[derive(clap::Args)]
#[command(after_help = "\
A record goes through these steps in order: length, scores, reviser, share of changed words, kind of changes, duplicates.
It is dropped at the first step that it fails, and no later command sees it. Words are separated by white space.

Kept records are written unchanged, one per line. With a reviser, only the revised answer changes.

A command is started once, with sh. It must answer each line of input with one line of output, and flush after each line.
  --scorer   gets {\"instruction\": ..., \"input\": ..., \"answer\": ...} and prints a number
  --reviser  gets {\"instruction\": ..., \"input\": ..., \"output\": ..., \"original_output\": ..., \"prompt\": ...}
             and prints {\"revised_output\": ...}
If the prompt is a conversation, both also get its messages. A command inherits the environment and standard error. It
cannot read from the terminal, and ends with the run. During the run, OUT.answers holds all answers so far. If the run is
stopped, --resume asks only for those that are missing.

The similarity of two texts is the estimated share of three-word sequences that they have in common. That of two records
is the similarity of their prompts or of their answers, whichever is smaller. --unique-within needs 0.5 to 1.3 KiB of
memory per kept record.

Examples:
  figa curate pairs.jsonl --max-edit-ratio 0.5 --edits insertion,substitution,mixed --unique --out kept.jsonl
  figa curate rated.jsonl --score-original r0 --score-reference r1 --max-original 1 --min-gap 2 --out kept.jsonl
  figa curate pairs.jsonl --scorer 'python reward.py' --max-original 1 --min-reference 3 --min-gap 2 \\
      --reviser 'python revise.py' --max-edit-ratio 0.4 --unique-within 0.9 --resume --out kept.jsonl")]
pub struct CurateArgs {
    /// File to write, .jsonl; must not exist yet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Write bad records to this file, byte for byte, instead of stopping at the first
    #[arg(long, value_name = "FILE")]
    pub skip_bad: Option<PathBuf>,
    /// Reuse the answers of the unfinished run in OUT.answers, if there is one
    #[arg(long)]
    pub resume: bool,
    /// Stop if a command takes longer than this for one answer
    #[arg(long, value_name = "SECONDS")]
    pub command_timeout: Option<NonZeroU64>,
    /// Print the counts as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub records: RecordArgs,
    #[command(flatten)]
    pub scores: ScoreArgs,
    #[command(flatten)]
    pub reviser: ReviserArgs,
    #[command(flatten)]
    pub filters: FilterArgs,
}

/// Where the scores of the original and of the reference answer are from, and which ones to keep.
#[derive(clap::Args)]
#[command(next_help_heading = "Scores")]
pub struct ScoreArgs {
    /// Field with the score of the original answer
    #[arg(long, value_name = "FIELD", conflicts_with = "scorer")]
    pub score_original: Option<String>,
    /// Field with the score of the reference answer
    #[arg(long, value_name = "FIELD", conflicts_with = "scorer")]
    pub score_reference: Option<String>,
    /// Command that scores an answer
    #[arg(long, value_name = "COMMAND")]
    pub scorer: Option<String>,
    /// Keep records whose original scores less than this (eta1 in the paper)
    #[arg(long, value_name = "SCORE", value_parser = finite, allow_negative_numbers = true)]
    pub max_original: Option<f64>,
    /// Keep records whose reference scores more than this (eta2)
    #[arg(long, value_name = "SCORE", value_parser = finite, allow_negative_numbers = true)]
    pub min_reference: Option<f64>,
    /// Keep records whose reference scores more than this above the original (eta3)
    #[arg(long, value_name = "SCORE", value_parser = finite, allow_negative_numbers = true)]
    pub min_gap: Option<f64>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Reviser")]
pub struct ReviserArgs {
    /// Command that revises the original answer; the records then need no revised one
    #[arg(long, value_name = "COMMAND")]
    pub reviser: Option<String>,
    /// Jinja template of the reviser's prompt; all fields of the record are variables [default: a built-in prompt that asks for minimal edits]
    #[arg(long, value_name = "FILE", requires = "reviser")]
    pub reviser_prompt: Option<PathBuf>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Filters")]
pub struct FilterArgs {
    /// Keep records whose answers have at least this many words
    #[arg(long, value_name = "WORDS")]
    pub min_words: Option<usize>,
    /// Keep records whose answers have at most this many words
    #[arg(long, value_name = "WORDS")]
    pub max_words: Option<usize>,
    /// Keep records whose share of changed words, over both answers together, is at least this, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub min_edit_ratio: Option<f64>,
    /// Keep records whose share of changed words, over both answers together, is at most this, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub max_edit_ratio: Option<f64>,
    /// Keep records whose changes are of one of these kinds, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KINDS")]
    pub edits: Vec<EditKind>,
    /// Keep the first of several records with the same prompt and answers
    #[arg(long)]
    pub unique: bool,
    /// Keep the first of several records that are at least this similar, 0.5 to 1
    #[arg(long, value_name = "SIMILARITY", value_parser = similarity)]
    pub unique_within: Option<f64>,
}

fn finite(text: &str) -> Result<f64, String> {
    number(text, f64::MIN, f64::MAX, "a number")
}

fn share(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1.0, "a number from 0 to 1")
}

fn similarity(text: &str) -> Result<f64, String> {
    number(text, 0.5, 1.0, "a number from 0.5 to 1")
}

fn number(text: &str, min: f64, max: f64, expected: &str) -> Result<f64, String> {
    let number = parse_finite(text).filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("expected {expected}"))
}

impl CurateArgs {
    /// Checks what the parser cannot: arguments that depend on each other.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.out.extension().is_some_and(|extension| extension == "jsonl"),
            "--out: expected a name that ends in .jsonl, got {}",
            self.out.display()
        );
        ensure!(
            self.command_timeout.is_none() || self.scores.scorer.is_some() || self.reviser.reviser.is_some(),
            "--command-timeout: has no effect without --scorer or --reviser"
        );
        self.scores.check()?;
        let FilterArgs { min_words, max_words, min_edit_ratio, max_edit_ratio, .. } = self.filters;
        check_order("--min-words", min_words, "--max-words", max_words)?;
        check_order("--min-edit-ratio", min_edit_ratio, "--max-edit-ratio", max_edit_ratio)
    }

    /// The option that drops records for this reason, as it was given.
    pub fn option(&self, reason: DropReason) -> Option<String> {
        fn given<T: ToString>(name: &str, value: Option<T>) -> Option<String> {
            Some(format!("--{name} {}", value?.to_string()))
        }
        let Self { scores, filters, .. } = self;
        match reason {
            DropReason::TooShort => given("min-words", filters.min_words),
            DropReason::TooLong => given("max-words", filters.max_words),
            DropReason::OriginalScore => given("max-original", scores.max_original),
            DropReason::ReferenceScore => given("min-reference", scores.min_reference),
            DropReason::ScoreGap => given("min-gap", scores.min_gap),
            DropReason::EditRatioLow => given("min-edit-ratio", filters.min_edit_ratio),
            DropReason::EditRatioHigh => given("max-edit-ratio", filters.max_edit_ratio),
            DropReason::EditKind => {
                let kinds: Vec<PossibleValue> = filters.edits.iter().filter_map(ValueEnum::to_possible_value).collect();
                let names: Vec<&str> = kinds.iter().map(PossibleValue::get_name).collect();
                (!names.is_empty()).then(|| format!("--edits {}", names.join(",")))
            }
            DropReason::Duplicate => filters.unique.then(|| "--unique".to_owned()),
            DropReason::NearDuplicate => given("unique-within", filters.unique_within),
        }
    }
}

impl ScoreArgs {
    pub fn needs_original(&self) -> bool {
        self.max_original.is_some() || self.min_gap.is_some()
    }

    pub fn needs_reference(&self) -> bool {
        self.min_reference.is_some() || self.min_gap.is_some()
    }

    /// Every threshold has a source of scores, and no source is unused.
    fn check(&self) -> Result<()> {
        let Self { score_original, score_reference, scorer, max_original, min_reference, min_gap } = self;
        for (threshold, source, value, field) in [
            ("--max-original", "--score-original", max_original, score_original),
            ("--min-reference", "--score-reference", min_reference, score_reference),
            ("--min-gap", "--score-original", min_gap, score_original),
            ("--min-gap", "--score-reference", min_gap, score_reference),
        ] {
            ensure!(
                value.is_none() || field.is_some() || scorer.is_some(),
                "{threshold}: needs scores: name their field with {source}, or a command with --scorer"
            );
        }
        for (source, value) in
            [("--score-original", score_original), ("--score-reference", score_reference), ("--scorer", scorer)]
        {
            ensure!(
                value.is_none() || self.needs_original() || self.needs_reference(),
                "{source}: has no effect without --max-original, --min-reference or --min-gap"
            );
        }
        Ok(())
    }
}

fn check_order<T: PartialOrd>(min_name: &str, min: Option<T>, max_name: &str, max: Option<T>) -> Result<()> {
    ensure!(min.zip(max).is_none_or(|(min, max)| min <= max), "{min_name}: expected at most the value of {max_name}");
    Ok(())
}
