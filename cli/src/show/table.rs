//! Two texts as a diff, and a table of their tokens.

use anstyle::{AnsiColor, Effects, Style};
use figa_loss::Side;

use super::tokens::{ShownTexts, ShownToken};
use crate::terminal::printable;

const REMOVED: Style = AnsiColor::Red.on_default().effects(Effects::STRIKETHROUGH);
const ADDED: Style = AnsiColor::Green.on_default().effects(Effects::BOLD);

/// A token, or a token that both sides keep.
enum DiffStep<'a> {
    Removed(&'a ShownToken),
    Added(&'a ShownToken),
    Kept(&'a ShownToken, &'a ShownToken),
}

/// The diff and the table. `marks` around the changes replace colours where there are none.
pub fn text(texts: &ShownTexts, marks: bool) -> String {
    let steps = steps(texts);
    let runs = steps.chunk_by(|a, b| std::mem::discriminant(a) == std::mem::discriminant(b));
    let diff: String = runs.map(|run| diff_run(run, marks)).collect();
    let rows: String = steps.iter().map(table_row).collect();
    format!("{diff}\n\n{:<20} {:<20} token\n{rows}", "original", "revised")
}

/// The tokens in the order of a diff: at each place what was removed, then what was added, then what was kept.
fn steps(texts: &ShownTexts) -> Vec<DiffStep<'_>> {
    let [mut original, mut revised] = Side::ALL.map(|side| texts.tokens(side).iter().enumerate().peekable());
    let mut steps = vec![];
    loop {
        if let Some((_, token)) = original.next_if(|&(at, _)| texts.is_changed(Side::Original, at)) {
            steps.push(DiffStep::Removed(token));
        } else if let Some((_, token)) = revised.next_if(|&(at, _)| texts.is_changed(Side::Revised, at)) {
            steps.push(DiffStep::Added(token));
        } else if let Some(((_, original), (_, revised))) = original.next().zip(revised.next()) {
            steps.push(DiffStep::Kept(original, revised));
        } else {
            return steps;
        }
    }
}

impl<'a> DiffStep<'a> {
    fn style(&self) -> Style {
        match self {
            Self::Removed(_) => REMOVED,
            Self::Added(_) => ADDED,
            Self::Kept(..) => Style::new(),
        }
    }

    fn marks(&self) -> [&'static str; 2] {
        match self {
            Self::Removed(_) => ["[-", "-]"],
            Self::Added(_) => ["{+", "+}"],
            Self::Kept(..) => ["", ""],
        }
    }

    /// The token whose text is shown.
    fn token(&self) -> &'a ShownToken {
        match self {
            Self::Removed(token) | Self::Added(token) | Self::Kept(_, token) => token,
        }
    }

    fn gap(&self) -> &'a str {
        match self {
            // The revised text may begin here, and then only the original has a gap.
            Self::Kept(original, revised) if revised.gap.is_empty() => &original.gap,
            _ => &self.token().gap,
        }
    }
}

/// A run of the same change. The gap in front of it belongs to neither side.
fn diff_run(run: &[DiffStep], marks: bool) -> String {
    let (style, [open, close]) = (run[0].style(), if marks { run[0].marks() } else { ["", ""] });
    let mut changed = String::new();
    for (at, step) in run.iter().enumerate() {
        if at > 0 {
            changed += &printable(step.gap());
        }
        changed += &printable(&step.token().text);
    }
    if !matches!(run[0], DiffStep::Kept(..)) {
        // Make a changed line break visible.
        changed = changed.replace('\n', "⏎\n");
    }
    format!("{}{style}{open}{changed}{close}{style:#}", printable(run[0].gap()))
}

fn table_row(step: &DiffStep) -> String {
    let (original, revised) = match step {
        DiffStep::Removed(token) => (cell(token), String::new()),
        DiffStep::Added(token) => (String::new(), cell(token)),
        DiffStep::Kept(original, revised) => (cell(original), cell(revised)),
    };
    let text = printable(&step.token().text).replace('\n', "⏎").replace('\t', "⇥");
    let style = step.style();
    format!("{style}{original:<20} {revised:<20} {text}{style:#}\n")
}

fn cell(token: &ShownToken) -> String {
    format!("{:<12} {:>+6}", token.label(), token.token.weight)
}
