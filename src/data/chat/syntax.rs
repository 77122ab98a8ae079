//! Jinja2 syntax that minijinja lacks, and checks that it does not make, written into the source of a template:
//!
//! * `{% generation %}`, the mark of answers for training, becomes `{% with %}`: both have a scope of their own.
//! * A macro that reads `varargs` or `kwargs` gets them as arguments, and its calls collect them.
//! * `left % right` and `left * right` become filters, and filters that check the size of values follow where these grow
//!   or are compared (`operators`).
//!
//! Every step takes time in proportion to the source.

mod lexer;
mod macros;
mod operators;

use std::ops::Range;

use super::bounds::{MAX_CHAIN, MAX_ELIFS, MAX_LINE, MAX_NESTING, MAX_SOURCE};
use lexer::{Kind, Token, tokens};

/// Why a template is refused, and in which line.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) line: usize,
    pub(super) reason: String,
}

/// The source in minijinja's dialect. As in Python, every end of line is read as `\n`.
pub(super) fn translate(source: &str) -> Result<String, Refusal> {
    if source.len() > MAX_SOURCE {
        let reason = format!("a template of {} bytes; at most {MAX_SOURCE} are read", source.len());
        return Err(Refusal { line: 1, reason });
    }
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let named = {
        let tokens = tokens(&source);
        check_depth(&source, &tokens)?;
        let mut edits = Edits::new(&source);
        tokens.windows(2).filter_map(generation_mark).for_each(|(range, name)| edits.replace(range, name));
        macros::collect_arguments(&tokens, &mut edits);
        edits.finish()
    };
    let mut edits = Edits::new(&named);
    operators::rewrite(&tokens(&named), &mut edits);
    let text = edits.finish();
    match text.split('\n').enumerate().find(|(at, line)| line.len() > MAX_LINE || *at >= MAX_LINE) {
        Some((at, line)) if line.len() > MAX_LINE => Err(Refusal {
            line: at + 1,
            reason: format!("a line of more than {MAX_LINE} bytes, with the checks of values"),
        }),
        Some((at, _)) => Err(Refusal { line: at + 1, reason: format!("more than {MAX_LINE} lines") }),
        None => Ok(text),
    }
}

/// Refuses what would overflow the stack of a parser: brackets in brackets, and expressions and `elif`s without end.
fn check_depth(source: &str, tokens: &[Token<'_>]) -> Result<(), Refusal> {
    let refuse = |token: &Token<'_>, reason: String| {
        let line = source[..token.start].matches('\n').count() + 1;
        Err(Refusal { line, reason })
    };
    // The tokens since the last comma, of each open bracket.
    let mut chains = vec![0];
    let (mut sum, mut elifs) = (0, 0);
    for token in tokens {
        match token.kind {
            Kind::Open => (chains, sum) = (vec![0], 0),
            Kind::Sign if token.is_opening() => chains.push(0),
            Kind::Sign if token.is_closing() && chains.len() > 1 => sum -= chains.pop().unwrap_or(0),
            Kind::Sign if token.text == "," => sum -= std::mem::take(chains.last_mut().expect("the tag")),
            Kind::Name if token.text == "elif" => elifs += 1,
            _ => {}
        }
        *chains.last_mut().expect("the tag") += 1;
        sum += 1;
        if chains.len() > MAX_NESTING {
            return refuse(token, format!("brackets within brackets; at most {MAX_NESTING} levels are read"));
        }
        if sum > MAX_CHAIN {
            return refuse(token, format!("an expression of more than {MAX_CHAIN} names and signs without a comma"));
        }
        if elifs > MAX_ELIFS {
            return refuse(token, format!("more than {MAX_ELIFS} `elif`"));
        }
    }
    Ok(())
}

/// The name of a generation tag, and what replaces it.
fn generation_mark(tokens: &[Token<'_>]) -> Option<(Range<usize>, &'static str)> {
    let [open, name] = tokens else { return None };
    let replacement = match name.text {
        "generation" => "with",
        "endgeneration" => "endwith",
        _ => return None,
    };
    open.is("{%").then(|| (name.start..name.end(), replacement))
}

/// Replacements in a text, which are made at once.
struct Edits<'a> {
    source: &'a str,
    list: Vec<Edit>,
}

struct Edit {
    range: Range<usize>,
    /// Among insertions at the same place.
    rank: u8,
    text: String,
}

impl<'a> Edits<'a> {
    fn new(source: &'a str) -> Self {
        Self { source, list: vec![] }
    }

    fn replace(&mut self, range: Range<usize>, text: impl Into<String>) {
        self.list.push(Edit { range, rank: u8::MAX, text: text.into() });
    }

    fn insert(&mut self, at: usize, rank: u8, text: impl Into<String>) {
        self.list.push(Edit { range: at..at, rank, text: text.into() });
    }

    fn finish(mut self) -> String {
        self.list.sort_by_key(|edit| (edit.range.start, edit.rank));
        let (mut text, mut at) = (String::with_capacity(self.source.len()), 0);
        for edit in &self.list {
            text.push_str(&self.source[at..edit.range.start]);
            text.push_str(&edit.text);
            at = edit.range.end;
        }
        text + &self.source[at..]
    }
}
