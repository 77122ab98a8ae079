//! `figa curate`: from pairs to those that are worth training on, as the FIGA paper makes SPA.
//!
//! Every record takes the same way: what is wrong with it as a record, the length of its answers, the scores, the
//! reviser, and then what there is to say about the two answers. The first part and, if there is no reviser, the last
//! one are done on all cores; `answers.rs` and `commands.rs` ask about one record at a time, `fields.rs` puts the
//! reviser's answer in, `duplicates.rs` remembers what was kept, and `report.rs` counts.

mod answers;
mod commands;
mod duplicates;
mod fields;
mod report;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use figa_loss::{Aligner, EditTag, Fields, Message, RawRecord, SpaRecord};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};

use self::answers::Answers;
use self::commands::{Command, excerpt};
use self::duplicates::{Near, Seen, Sketch};
use self::report::{Counts, Reason};
use super::aside::{check_new, with_ending};
use super::input::{Input, progress};
use super::output::Appender;

/// Keep the pairs that are worth training on, after having them scored and revised
#[derive(clap::Args)]
#[command(after_help = "\
The steps come in this order: length, scores, reviser, share of the changed words, kind of the changes, duplicates. A
record that falls is not asked about again. Words are what white space separates. Kept records are written as they came,
one a line; the reviser's answer takes the place of the revised one, and the other fields stay as they are.

A command is run by sh, once, and answers each line with one line, at once: it must not hold its output back.
  --scorer   gets {\"instruction\": ..., \"input\": ..., \"answer\": ...} and prints a number
  --reviser  gets {\"instruction\": ..., \"input\": ..., \"output\": ..., \"original_output\": ..., \"prompt\": ...}
             and prints {\"revised_output\": ...}
Both also get messages, if the prompt is a conversation. While the run lasts, OUT.answers holds what they have answered.
A run that was stopped leaves it there, and --resume asks only what has not been answered.

Similarity is the share of the runs of three words that two texts have in common, estimated; that of two records is the
smaller one of their prompts' and of their answers'. Of each kept record, 0.5 to 1.3 KiB are remembered for it.

Examples:
  figa curate pairs.jsonl --max-edit-ratio 0.5 --edits insertion,substitution,mixed --unique --out kept.jsonl
  figa curate rated.jsonl --score-original r0 --score-reference r1 --max-original 1 --min-gap 2 --out kept.jsonl
  figa curate pairs.jsonl --scorer 'python reward.py' --max-original 1 --min-reference 3 --min-gap 2 \\
      --reviser 'python revise.py' --max-edit-ratio 0.4 --unique-within 0.9 --resume --out kept.jsonl")]
pub struct Args {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    scores: Scores,
    #[command(flatten)]
    reviser: Reviser,
    #[command(flatten)]
    filters: Filters,
    /// The file to write, .jsonl; must not be there yet
    #[arg(long, value_name = "FILE", help_heading = "Options")]
    out: PathBuf,
    /// Set bad records aside in this file, byte for byte, instead of stopping at the first
    #[arg(long, value_name = "FILE", help_heading = "Options")]
    skip_bad: Option<PathBuf>,
    /// Go on with the run that OUT.answers is left of, if there is one
    #[arg(long, help_heading = "Options")]
    resume: bool,
    /// Print the counts as JSON
    #[arg(long, help_heading = "Options")]
    json: bool,
}

/// Rewards of the original and of the reference answer.
#[derive(clap::Args)]
#[command(next_help_heading = "Scores")]
struct Scores {
    /// Field with the original answer's score
    #[arg(long, value_name = "FIELD", conflicts_with = "scorer")]
    score_original: Option<String>,
    /// Field with the reference answer's score
    #[arg(long, value_name = "FIELD", conflicts_with = "scorer")]
    score_reference: Option<String>,
    /// Command that scores an answer
    #[arg(long, value_name = "COMMAND")]
    scorer: Option<String>,
    /// Keep if the original scores less (the paper's eta1)
    #[arg(long, value_name = "SCORE", value_parser = finite, allow_negative_numbers = true)]
    max_original: Option<f64>,
    /// Keep if the reference scores more (eta2)
    #[arg(long, value_name = "SCORE", value_parser = finite, allow_negative_numbers = true)]
    min_reference: Option<f64>,
    /// Keep if the reference scores more than so much above the original (eta3)
    #[arg(long, value_name = "SCORE", value_parser = finite, allow_negative_numbers = true)]
    min_gap: Option<f64>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Reviser")]
struct Reviser {
    /// Command that revises the original answer; records need no revised one then
    #[arg(long, value_name = "COMMAND")]
    reviser: Option<String>,
    /// Template of the reviser's prompt (Jinja), with all fields of the record [default: one for minimal edits]
    #[arg(long, value_name = "FILE", requires = "reviser")]
    reviser_prompt: Option<PathBuf>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Filters")]
struct Filters {
    /// Keep if each answer has at least so many words
    #[arg(long, value_name = "WORDS")]
    min_words: Option<usize>,
    /// Keep if each answer has at most so many words
    #[arg(long, value_name = "WORDS")]
    max_words: Option<usize>,
    /// Keep if at least this share of both answers' words is removed or added, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    min_edit_ratio: Option<f64>,
    /// Keep if at most this share of both answers' words is removed or added, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    max_edit_ratio: Option<f64>,
    /// Keep if the words are changed like this, one or more of:
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KINDS")]
    edits: Vec<Kind>,
    /// Keep the first of those with the same prompt and answers
    #[arg(long)]
    unique: bool,
    /// Keep the first of those with prompts and answers at least so similar, 0.5 to 1
    #[arg(long, value_name = "SIMILARITY", value_parser = similarity)]
    unique_within: Option<f64>,
}

/// What the changes between two answers are.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    Insertion,
    Deletion,
    Substitution,
    /// Several of them
    Mixed,
    /// No word is changed
    None,
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

fn number(text: &str, least: f64, most: f64, expected: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("expected {expected}"))
}

impl Args {
    fn check(&self) -> Result<()> {
        let Scores { score_original, score_reference, scorer, max_original, min_reference, min_gap } = &self.scores;
        let name = self.out.extension();
        ensure!(
            name.is_some_and(|name| name == "jsonl"),
            "--out: expected a name that ends in .jsonl, got {}",
            self.out.display()
        );
        for (threshold, needs) in [
            (max_original.map(|_| "--max-original"), [true, false]),
            (min_reference.map(|_| "--min-reference"), [false, true]),
            (min_gap.map(|_| "--min-gap"), [true, true]),
        ] {
            let Some(threshold) = threshold else { continue };
            for (needed, field, argument) in
                [(needs[0], score_original, "--score-original"), (needs[1], score_reference, "--score-reference")]
            {
                ensure!(
                    !needed || field.is_some() || scorer.is_some(),
                    "{threshold}: needs scores: name their field with {argument}, or a command with --scorer"
                );
            }
        }
        let scores = [score_original.as_ref(), score_reference.as_ref(), scorer.as_ref()];
        ensure!(
            scores.iter().all(Option::is_none) || [max_original, min_reference, min_gap].iter().any(|it| it.is_some()),
            "scores are of no use without --max-original, --min-reference or --min-gap"
        );
        let Filters { min_words, max_words, min_edit_ratio, max_edit_ratio, .. } = &self.filters;
        let in_order =
            |least: Option<f64>, most: Option<f64>| least.zip(most).is_none_or(|(least, most)| least <= most);
        let words = [min_words, max_words].map(|words| words.map(|words| words as f64));
        ensure!(in_order(words[0], words[1]), "--min-words: expected at most --max-words");
        ensure!(in_order(*min_edit_ratio, *max_edit_ratio), "--min-edit-ratio: expected at most --max-edit-ratio");
        Ok(())
    }

    /// The option that a record falls by, if it was given.
    fn option(&self, reason: Reason) -> Option<String> {
        fn given<T: ToString>(name: &str, value: Option<T>) -> Option<String> {
            Some(format!("--{name} {}", value?.to_string()))
        }
        let Self { scores, filters, .. } = self;
        match reason {
            Reason::TooShort => given("min-words", filters.min_words),
            Reason::TooLong => given("max-words", filters.max_words),
            Reason::OriginalScore => given("max-original", scores.max_original),
            Reason::ReferenceScore => given("min-reference", scores.min_reference),
            Reason::ScoreGap => given("min-gap", scores.min_gap),
            Reason::EditRatioLow => given("min-edit-ratio", filters.min_edit_ratio),
            Reason::EditRatioHigh => given("max-edit-ratio", filters.max_edit_ratio),
            Reason::EditKind => {
                let names: Vec<_> = filters.edits.iter().filter_map(ValueEnum::to_possible_value).collect();
                let names: Vec<_> = names.iter().map(clap::builder::PossibleValue::get_name).collect();
                (!names.is_empty()).then(|| format!("--edits {}", names.join(",")))
            }
            Reason::Duplicate => filters.unique.then(|| "--unique".to_owned()),
            Reason::NearDuplicate => given("unique-within", filters.unique_within),
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    args.check()?;
    let answers = Answers::open(&args.out, args.resume)?;
    if args.resume && args.out.exists() && !answers.are_there() {
        writeln!(io::stdout(), "{} is complete", args.out.display())?;
        return Ok(());
    }
    let mut reader = args.input.open()?;
    let mut kept = Aside::create("--out", &args.out)?;
    let mut bad = args.skip_bad.as_deref().map(|path| Aside::create("--skip-bad", path)).transpose()?;
    let (draft, mut sieve) = (Drafter::new(args), Sieve::new(args, answers)?);
    let bar = progress(&reader)?;
    let mut counts = Counts::default();
    for result in reader.map_in_order(|raw| Ok(draft.draft(raw))) {
        counts.read += 1;
        match (result?, &mut bad) {
            (Ok(mut draft), _) => match sieve.reason(&mut draft)? {
                Some(reason) => counts.fell[reason as usize] += 1,
                None => {
                    kept.lines.write(format!("{}\n", draft.json).as_bytes())?;
                    counts.kept += 1;
                }
            },
            (Err((mut raw, _)), Some(bad)) => {
                bad.lines.copy(&mut raw)?;
                counts.bad += 1;
            }
            (Err((_, error)), None) => {
                bail!("{error}; mend it, or set such records aside with --skip-bad FILE")
            }
        }
        bar.set_message(format!("{} of {} kept", counts.kept, counts.read));
    }
    counts.blank_lines = reader.blank_lines() as u64;
    let answers = sieve.finish()?;
    (counts.asked, counts.recalled) = (answers.asked, answers.recalled);
    if let Some(bad) = bad {
        bad.finish()?;
    }
    kept.finish()?;
    answers.remove();
    bar.finish_and_clear();
    if args.json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&counts)?)?;
    } else {
        let bad = args.skip_bad.as_ref().map(|path| format!(", set aside in {}", path.display()));
        let bad = format!("bad records{}", bad.unwrap_or_default());
        let table = counts.table(&bad, &format!("kept in {}", args.out.display()), |reason| args.option(reason));
        io::stdout().write_all(table.as_bytes())?;
        if counts.asked + counts.recalled > 0 {
            let Counts { asked, recalled, .. } = counts;
            writeln!(io::stdout(), "{asked} answers of commands, and {recalled} of the run before")?;
        }
    }
    Ok(())
}

/// A file that is complete or absent.
struct Aside<'a> {
    path: &'a Path,
    partial: PathBuf,
    lines: Appender,
}

impl<'a> Aside<'a> {
    fn create(argument: &str, path: &'a Path) -> Result<Self> {
        check_new(argument, path)?;
        let partial = with_ending(path, ".partial");
        let lines = Appender::open(&partial, 0).with_context(|| argument.to_owned())?;
        Ok(Self { path, partial, lines })
    }

    fn finish(mut self) -> Result<()> {
        self.lines.sync()?;
        fs::rename(&self.partial, self.path).with_context(|| format!("writing {}", self.path.display()))
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        // After an error: otherwise it has been renamed.
        let _ = fs::remove_file(&self.partial);
    }
}

/// A good record on its way.
struct Draft {
    place: String,
    /// As it will be written.
    json: String,
    record: SpaRecord,
    /// Of the original and of the reference, as far as fields hold them.
    scores: [Option<f64>; 2],
    /// As soon as there are two answers.
    look: Option<Look>,
}

/// What can be said about two answers.
struct Look {
    ratio: f64,
    kind: Kind,
    key: u64,
    sketch: Option<Box<Sketch>>,
}

impl Look {
    fn new(record: &SpaRecord, filters: &Filters) -> Self {
        let [original, revised]: [Vec<&str>; 2] =
            [&record.original_output, &record.revised_output].map(|answer| answer.split_whitespace().collect());
        let alignment = Aligner::Levenshtein.align(&original, &revised);
        let changed = [alignment.removed(), alignment.added()].concat();
        let ratio = changed.iter().filter(|&&changed| changed).count() as f64 / changed.len().max(1) as f64;
        let kind_of = |tag| match tag {
            EditTag::Insert => Kind::Insertion,
            EditTag::Delete => Kind::Deletion,
            EditTag::Replace => Kind::Substitution,
        };
        let kinds = alignment.spans().iter().map(|span| kind_of(span.tag));
        let kind = kinds.reduce(|one, other| if one == other { one } else { Kind::Mixed }).unwrap_or(Kind::None);
        let sketch = filters.unique_within.map(|_| Box::new(Sketch::new(record)));
        Self { ratio, kind, key: Seen::key(record), sketch }
    }
}

/// Makes drafts, on any thread.
struct Drafter<'a> {
    args: &'a Args,
    fields: Fields,
}

impl<'a> Drafter<'a> {
    fn new(args: &'a Args) -> Self {
        let mut fields = args.input.fields();
        if args.reviser.reviser.is_some() {
            // It need not be there yet.
            fields.revised.clone_from(&fields.original);
        }
        Self { args, fields }
    }

    /// Or the record back, with what is wrong.
    fn draft(&self, raw: RawRecord) -> Result<Draft, (RawRecord, anyhow::Error)> {
        let parsed = raw.parse(&self.fields).map_err(anyhow::Error::from).and_then(|record| self.look(&raw, record));
        parsed.map_err(|error| (raw, error))
    }

    fn look(&self, raw: &RawRecord, record: SpaRecord) -> Result<Draft> {
        let place = format!("{}:{}", raw.path.display(), raw.line);
        let Some(bytes) = raw.bytes() else { bail!("{place}: too long") };
        let json = str::from_utf8(bytes).with_context(|| place.clone())?.trim_start_matches('\u{feff}');
        let Scores { score_original, score_reference, scorer, min_reference, min_gap, .. } = &self.args.scores;
        let mut scores = [None; 2];
        for (score, field) in scores.iter_mut().zip([score_original, score_reference]) {
            let Some(field) = field else { continue };
            let value = fields::value_of(json, field).map_or("nothing", |range| &json[range]);
            *score = value.parse().ok().filter(|score: &f64| score.is_finite());
            ensure!(score.is_some(), "{place}: field `{field}`: expected a number, got {}", excerpt(value));
        }
        ensure!(
            scorer.is_none() || (min_reference.is_none() && min_gap.is_none()) || !record.output.is_empty(),
            "{place}: field `{}`: expected a reference answer to score, got nothing",
            self.fields.output
        );
        // Within an array, a record may take several lines.
        let json = match json.contains('\n') {
            true => json.trim().replace(['\r', '\n'], " "),
            false => json.to_owned(),
        };
        let look = self.args.reviser.reviser.is_none().then(|| Look::new(&record, &self.args.filters));
        Ok(Draft { place, json, record, scores, look })
    }
}

/// What a scorer is asked.
#[derive(Serialize)]
struct ScoreRequest<'a> {
    instruction: &'a str,
    input: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    messages: &'a [Message],
    answer: &'a str,
}

/// What a reviser is asked.
#[derive(Serialize)]
struct RevisionRequest<'a> {
    instruction: &'a str,
    input: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    messages: &'a [Message],
    output: &'a str,
    original_output: &'a str,
    prompt: &'a str,
}

/// What it answers.
#[derive(Deserialize)]
struct Revision {
    revised_output: String,
}

/// Decides about one record after another.
struct Sieve<'a> {
    args: &'a Args,
    fields: Fields,
    answers: Answers,
    scorer: Option<Command>,
    reviser: Option<(Command, Prompt)>,
    seen: Seen,
    near: Option<Near>,
}

impl<'a> Sieve<'a> {
    fn new(args: &'a Args, answers: Answers) -> Result<Self> {
        let scorer = args.scores.scorer.as_ref().map(|line| Command::new("--scorer", line));
        let reviser = args.reviser.reviser.as_ref().map(|line| {
            let prompt = Prompt::new(args.reviser.reviser_prompt.as_deref())?;
            anyhow::Ok((Command::new("--reviser", line), prompt))
        });
        let (reviser, near) = (reviser.transpose()?, args.filters.unique_within.map(Near::new));
        Ok(Self { args, fields: args.input.fields(), answers, scorer, reviser, seen: Seen::default(), near })
    }

    /// Why the record falls; none if it is kept.
    fn reason(&mut self, draft: &mut Draft) -> Result<Option<Reason>> {
        let filters = &self.args.filters;
        if let Some(reason) = by_length(filters, &draft.record.original_output) {
            return Ok(Some(reason));
        }
        if self.reviser.is_none()
            && let Some(reason) = by_length(filters, &draft.record.revised_output)
        {
            return Ok(Some(reason));
        }
        if let Some(reason) = self.by_scores(draft)? {
            return Ok(Some(reason));
        }
        if self.revise(draft)?
            && let Some(reason) = by_length(filters, &draft.record.revised_output)
        {
            return Ok(Some(reason));
        }
        let look = draft.look.take().unwrap_or_else(|| Look::new(&draft.record, filters));
        Ok(if filters.min_edit_ratio.is_some_and(|least| look.ratio < least) {
            Some(Reason::EditRatioLow)
        } else if filters.max_edit_ratio.is_some_and(|most| look.ratio > most) {
            Some(Reason::EditRatioHigh)
        } else if !filters.edits.is_empty() && !filters.edits.contains(&look.kind) {
            Some(Reason::EditKind)
        } else if filters.unique && !self.seen.insert(look.key) {
            Some(Reason::Duplicate)
        } else if self.near.as_mut().zip(look.sketch).is_some_and(|(near, sketch)| !near.insert(&sketch)) {
            Some(Reason::NearDuplicate)
        } else {
            None
        })
    }

    /// An answer is scored only if it still matters.
    fn by_scores(&mut self, draft: &Draft) -> Result<Option<Reason>> {
        let Scores { max_original, min_reference, min_gap, .. } = self.args.scores;
        let mut original = 0.0;
        if max_original.is_some() || min_gap.is_some() {
            original = self.score(draft, 0, &draft.record.original_output)?;
            if max_original.is_some_and(|limit| original >= limit) {
                return Ok(Some(Reason::OriginalScore));
            }
        }
        if min_reference.is_some() || min_gap.is_some() {
            let reference = self.score(draft, 1, &draft.record.output)?;
            if min_reference.is_some_and(|limit| reference <= limit) {
                return Ok(Some(Reason::ReferenceScore));
            }
            if min_gap.is_some_and(|limit| reference - original <= limit) {
                return Ok(Some(Reason::ScoreGap));
            }
        }
        Ok(None)
    }

    fn score(&mut self, draft: &Draft, which: usize, answer: &str) -> Result<f64> {
        let Some(scorer) = &mut self.scorer else {
            return draft.scores[which].context("checked with the arguments");
        };
        let SpaRecord { instruction, input, messages, .. } = &draft.record;
        let request = ScoreRequest { instruction, input, messages, answer };
        self.answers.answer(scorer, &request, &draft.place, |line| {
            let score = line.parse().ok().filter(|score: &f64| score.is_finite());
            score.with_context(|| format!("expected a line with a number, got {}", excerpt(line)))
        })
    }

    /// Is there a reviser?
    fn revise(&mut self, draft: &mut Draft) -> Result<bool> {
        let Some((reviser, prompt)) = &mut self.reviser else { return Ok(false) };
        let prompt = prompt.render(draft)?;
        let SpaRecord { instruction, input, messages, output, original_output, .. } = &draft.record;
        let request =
            RevisionRequest { instruction, input, messages, output, original_output, prompt: prompt.trim_end() };
        let revision = self.answers.answer(reviser, &request, &draft.place, |line| {
            let revision = serde_json::from_str(line).map(|Revision { revised_output }| revised_output);
            revision.map_err(|_| anyhow!("expected a line {{\"revised_output\": \"...\"}}, got {}", excerpt(line)))
        })?;
        // A conversation that ended in the original answer now ends in the revised one.
        let original = fields::value_of(&draft.json, &self.fields.original).map_or("", |range| &draft.json[range]);
        let value = match serde_json::from_str::<Vec<Message>>(original) {
            Ok(mut messages) => {
                if let Some(last) = messages.last_mut() {
                    last.content.clone_from(&revision);
                }
                serde_json::to_string(&messages)?
            }
            Err(_) => serde_json::to_string(&revision)?,
        };
        draft.json = fields::with_value(&draft.json, &self.fields.revised, &value);
        draft.record.revised_output = revision;
        Ok(true)
    }

    /// Ends the commands.
    fn finish(mut self) -> Result<Answers> {
        self.answers.check_end()?;
        for command in [self.scorer, self.reviser.map(|(command, _)| command)].into_iter().flatten() {
            command.finish()?;
        }
        Ok(self.answers)
    }
}

fn by_length(filters: &Filters, answer: &str) -> Option<Reason> {
    let words = answer.split_whitespace().count();
    if filters.min_words.is_some_and(|least| words < least) {
        return Some(Reason::TooShort);
    }
    filters.max_words.is_some_and(|most| words > most).then_some(Reason::TooLong)
}

/// The template of the reviser's prompt.
struct Prompt {
    jinja: Environment<'static>,
    place: String,
}

impl Prompt {
    fn new(file: Option<&Path>) -> Result<Self> {
        let (place, source) = match file {
            None => (String::new(), include_str!("curate/reviser.j2").to_owned()),
            Some(file) => {
                let place = format!("--reviser-prompt: {}", file.display());
                let source = fs::read_to_string(file).with_context(|| place.clone())?;
                (place, source)
            }
        };
        let mut jinja = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        jinja.set_syntax(syntax.map_err(|error| explain(&place, &error))?);
        // A field that is misspelt should not go unnoticed.
        jinja.set_undefined_behavior(UndefinedBehavior::Strict);
        jinja.add_template_owned("reviser", source).map_err(|error| explain(&place, &error))?;
        Ok(Self { jinja, place })
    }

    fn render(&self, draft: &Draft) -> Result<String> {
        let SpaRecord { instruction, input, output, original_output, messages, .. } = &draft.record;
        let all: Value = serde_json::from_str(&draft.json)?;
        let messages = messages.iter().map(|Message { role, content, .. }| context! { role, content });
        let messages: Vec<Value> = messages.collect();
        let variables = context! { instruction, input, output, original_output, messages, ..all };
        let prompt = self.jinja.get_template("reviser").and_then(|template| template.render(variables));
        prompt.map_err(|error| explain(&self.place, &error)).with_context(|| draft.place.clone())
    }
}

fn explain(place: &str, error: &minijinja::Error) -> anyhow::Error {
    let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    anyhow!("{place}{line}: {}{detail}", error.kind())
}
