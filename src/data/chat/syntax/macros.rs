//! `varargs` and `kwargs` of macros, which minijinja lacks: a macro that reads them gets them as parameters, and its calls
//! pass what it does not name as a list and a dict.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::Edits;
use super::lexer::{Kind, Token};

const COLLECTED: [&str; 2] = ["varargs", "kwargs"];

/// A macro, as a tag defines it.
struct Macro<'a> {
    name: &'a str,
    /// The closing parenthesis of its parameters.
    close: usize,
    /// The names of its own parameters.
    named: HashSet<&'a str>,
    varargs: bool,
    kwargs: bool,
}

pub(super) fn collect_arguments(tokens: &[Token<'_>], edits: &mut Edits<'_>) {
    let macros = macros(tokens);
    for it in &macros {
        let missing = |reads: bool, name: &str| reads && !it.named.contains(name);
        let mut added = vec![];
        if missing(it.varargs, "varargs") {
            added.push("varargs=[]");
        }
        if missing(it.kwargs, "kwargs") {
            added.push("kwargs={}");
        }
        if !added.is_empty() {
            let comma = if it.named.is_empty() { "" } else { ", " };
            edits.insert(tokens[it.close].start, 0, format!("{comma}{}", added.join(", ")));
        }
    }
    let mut by_name = HashMap::new();
    for it in macros.iter().filter(|it| it.varargs || it.kwargs) {
        by_name.entry(it.name).or_insert(it);
    }
    let calls = Calls { source: edits.source, tokens, macros: by_name };
    for (range, text) in calls.within(0..tokens.len()) {
        edits.replace(range, text);
    }
}

fn macros<'a>(tokens: &[Token<'a>]) -> Vec<Macro<'a>> {
    let mut found = vec![];
    // Where these names and the end of a macro come next, seen from the end.
    let (mut next, mut end) = ([usize::MAX; 2], tokens.len());
    for at in (0..tokens.len()).rev() {
        for (next, name) in next.iter_mut().zip(COLLECTED) {
            if tokens[at].kind == Kind::Name && tokens[at].text == name {
                *next = at;
            }
        }
        let Some([open, word, name, parenthesis]) = tokens[at..].first_chunk() else { continue };
        if open.is("{%") && word.is("endmacro") {
            end = at;
        }
        if open.is("{%") && word.is("macro") && parenthesis.is("(") {
            let named = arguments(tokens, at + 3).into_iter().map(|argument| tokens[argument.start].text).collect();
            let [varargs, kwargs] = next.map(|read| read < end);
            found.push(Macro { name: name.text, close: parenthesis.partner, named, varargs, kwargs });
        }
    }
    found.reverse();
    found
}

/// The arguments in the parenthesis at `open`, as ranges of tokens.
fn arguments(tokens: &[Token<'_>], open: usize) -> Vec<Range<usize>> {
    let close = tokens[open].partner;
    let (mut list, mut start, mut at) = (vec![], open + 1, open + 1);
    while at < close {
        if tokens[at].is_opening() {
            at = tokens[at].partner;
        } else if tokens[at].is(",") {
            list.push(start..at);
            start = at + 1;
        }
        at += 1;
    }
    if start < close {
        list.push(start..close);
    }
    list
}

/// The calls of macros that take any arguments.
struct Calls<'t> {
    source: &'t str,
    tokens: &'t [Token<'t>],
    macros: HashMap<&'t str, &'t Macro<'t>>,
}

impl Calls<'_> {
    /// What replaces the arguments of the calls among some tokens, in ascending order.
    fn within(&self, range: Range<usize>) -> Vec<(Range<usize>, String)> {
        let (mut list, mut at) = (vec![], range.start);
        while at < range.end {
            match self.collected(at) {
                Some(text) => {
                    let (open, close) = (&self.tokens[at + 1], self.tokens[at + 1].partner);
                    list.push((open.end()..self.tokens[close].start, text));
                    at = close;
                }
                None => at += 1,
            }
        }
        list
    }

    /// The source of some tokens, with their calls rewritten.
    fn text(&self, range: Range<usize>) -> String {
        let (mut at, end) = (self.tokens[range.start].start, self.tokens[range.end - 1].end());
        let mut text = String::new();
        for (replaced, call) in self.within(range) {
            text.push_str(&self.source[at..replaced.start]);
            text.push_str(&call);
            at = replaced.end;
        }
        text + &self.source[at..end]
    }

    /// The arguments of the call at a token, with those that its macro does not name collected; `None` if there are none.
    fn collected(&self, at: usize) -> Option<String> {
        let tokens = self.tokens;
        let [name, open] = tokens[at..].first_chunk()?;
        let before = tokens.get(at.checked_sub(1)?)?;
        if name.kind != Kind::Name || !open.is("(") || before.is_any(&["macro", "."]) {
            return None;
        }
        let it = self.macros.get(name.text)?;
        let own = it.named.iter().filter(|name| !COLLECTED.contains(name)).count();
        let arguments = arguments(tokens, at + 1);
        // A syntax error, which minijinja reports.
        if arguments.iter().any(Range::is_empty) {
            return None;
        }
        let (mut kept, mut positional, mut keywords) = (vec![], vec![], vec![]);
        for argument in arguments {
            let is_keyword = argument.len() > 1 && tokens[argument.start + 1].is("=");
            let name = tokens[argument.start].text;
            match is_keyword {
                true if it.kwargs && argument.len() > 2 && !it.named.contains(name) => {
                    keywords.push((name, argument.start + 2..argument.end));
                }
                false if it.varargs && kept.len() >= own => positional.push(argument),
                _ => kept.push(argument),
            }
        }
        if positional.is_empty() && keywords.is_empty() {
            return None;
        }
        let mut parts: Vec<String> = kept.into_iter().map(|argument| self.text(argument)).collect();
        if !positional.is_empty() {
            let items: Vec<String> = positional.into_iter().map(|argument| self.text(argument)).collect();
            parts.push(format!("varargs=[{}]", items.join(", ")));
        }
        if !keywords.is_empty() {
            let items: Vec<String> =
                keywords.into_iter().map(|(name, value)| format!("'{name}': {}", self.text(value))).collect();
            parts.push(format!("kwargs={{{}}}", items.join(", ")));
        }
        Some(parts.join(", "))
    }
}
