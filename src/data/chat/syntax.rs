//! Jinja2 syntax that minijinja lacks, rewritten in the source of a template:
//!
//! * `{% generation %}`, the mark of answers for training, becomes `{% with %}`: both have a scope of their own.
//! * `left % right` becomes `left|_percent(right)`, which also formats strings.
//! * A macro that reads `varargs` or `kwargs` gets them as arguments, and its calls collect them.

use std::ops::Range;

/// The source in minijinja's dialect. As in Python, every end of line is read as `\n`.
pub(super) fn translate(source: &str) -> String {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    let marks: Vec<_> = tokens(&source).windows(2).filter_map(generation_mark).collect();
    for (range, name) in marks.into_iter().rev() {
        source.replace_range(range, name);
    }
    // One at a time: an operand or an argument may hold the next.
    while let Some(edits) = next_edits(&source) {
        for (range, text) in edits.into_iter().rev() {
            source.replace_range(range, &text);
        }
    }
    source
}

/// Replacements in ascending order.
type Edits = Vec<(Range<usize>, String)>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// `{{` or `{%`
    Open,
    /// `}}` or `%}`
    Close,
    Name,
    Number,
    Text,
    Sign,
}

/// A token within a tag.
#[derive(Debug, Clone)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    start: usize,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Sign | Kind::Name | Kind::Open) && self.text == text
    }

    fn is_opening(&self) -> bool {
        self.kind == Kind::Sign && ["(", "[", "{"].contains(&self.text)
    }

    fn is_closing(&self) -> bool {
        self.kind == Kind::Sign && [")", "]", "}"].contains(&self.text)
    }
}

/// The tokens of all tags. Text between tags, comments and raw blocks have none.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = vec![];
    let mut at = 0;
    while let Some(tag) = source[at..].find('{').map(|found| at + found) {
        let rest = &source[tag..];
        if rest.starts_with("{#") {
            at = find(source, tag + 2, "#}");
        } else if rest.starts_with("{%") || rest.starts_with("{{") {
            let first = tokens.len();
            at = lex_tag(source, tag, &mut tokens);
            if tokens[first].is("{%") && tokens.get(first + 1).is_some_and(|token| token.is("raw")) {
                tokens.truncate(first);
                at = end_of_raw(source, at);
            }
        } else {
            at = tag + 1;
        }
    }
    tokens
}

/// The position after the next `text`, or the end.
fn find(source: &str, from: usize, text: &str) -> usize {
    source[from..].find(text).map_or(source.len(), |found| from + found + text.len())
}

/// Where the block that ends in `{% endraw %}` ends.
fn end_of_raw(source: &str, from: usize) -> usize {
    let mut at = from;
    while at < source.len() {
        at = find(source, at, "{%");
        if source[at..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw") {
            return find(source, at, "%}");
        }
    }
    at
}

/// Adds the tokens of the tag at `start`, and returns where it ends.
fn lex_tag<'a>(source: &'a str, start: usize, tokens: &mut Vec<Token<'a>>) -> usize {
    let close = if source[start..].starts_with("{%") { "%}" } else { "}}" };
    let mut push =
        |kind, range: Range<usize>| tokens.push(Token { kind, text: &source[range.clone()], start: range.start });
    push(Kind::Open, start..start + 2);
    let (mut at, mut depth) = (start + 2, 0_usize);
    at += usize::from(source[at..].starts_with(['-', '+']));
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        let trimmed = rest.trim_start_matches(['-', '+']);
        if depth == 0 && rest.len() - trimmed.len() <= 1 && trimmed.starts_with(close) {
            let end = source.len() - trimmed.len() + 2;
            push(Kind::Close, end - 2..end);
            return end;
        }
        let (kind, len) = match first {
            _ if first.is_whitespace() => (None, first.len_utf8()),
            '"' | '\'' => (Some(Kind::Text), end_of_text(rest, first)),
            '0'..='9' => (Some(Kind::Number), end_of_number(rest)),
            _ if first.is_alphabetic() || first == '_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                (Some(Kind::Name), end.unwrap_or(rest.len()))
            }
            _ => {
                let double = ["**", "//", "==", "!=", "<=", ">="].iter().any(|sign| rest.starts_with(sign));
                (Some(Kind::Sign), if double { 2 } else { first.len_utf8() })
            }
        };
        match first {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if let Some(kind) = kind {
            push(kind, at..at + len);
        }
        at += len;
    }
    at
}

fn end_of_text(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn end_of_number(rest: &str) -> usize {
    let digits = |from: usize| {
        let len = rest[from..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len() - from);
        from + len
    };
    let end = digits(0);
    let is_fraction = rest[end..].starts_with('.') && rest[end + 1..].starts_with(|c: char| c.is_ascii_digit());
    if is_fraction { digits(end + 1) } else { end }
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

fn next_edits(source: &str) -> Option<Edits> {
    let tokens = tokens(source);
    let percent = (0..tokens.len()).find_map(|at| percent(source, &tokens, at));
    percent.or_else(|| variadic_macro(&tokens)).or_else(|| variadic_call(source, &tokens))
}

/// Replaces the operator `%` at a token, unless an operator in front of its left operand, which must then be a number,
/// binds at least as tightly.
fn percent(source: &str, tokens: &[Token<'_>], at: usize) -> Option<Edits> {
    if !tokens[at].is("%") || at == 0 || at + 1 >= tokens.len() {
        return None;
    }
    let first = start_of_operand(tokens, at - 1);
    let before = &tokens[first.checked_sub(1)?];
    if tokens[first].kind == Kind::Number || ["*", "/", "//", "%", "**", "-"].iter().any(|sign| before.is(sign)) {
        return None;
    }
    let last = end_of_operand(tokens, at + 1);
    if tokens.get(last + 1).is_some_and(|next| next.is("**")) {
        return None;
    }
    let right = &source[tokens[at + 1].start..tokens[last].end()];
    let left_end = tokens[at - 1].end();
    Some(vec![(left_end..tokens[last].end(), format!("|_percent({right})"))])
}

/// The first token of the operand that ends at a token.
fn start_of_operand(tokens: &[Token<'_>], mut at: usize) -> usize {
    loop {
        if tokens[at].is_closing() {
            at = matching(tokens, at, false);
        }
        let Some(before) = at.checked_sub(1).map(|before| &tokens[before]) else { return at };
        let is_postfix = tokens[at].is("(") || tokens[at].is("[");
        let is_operand = matches!(before.kind, Kind::Name | Kind::Text | Kind::Number) || before.is_closing();
        let is_keyword = ["in", "and", "or", "not", "if", "else", "is"].iter().any(|word| before.is(word));
        if is_postfix && is_operand && !is_keyword {
            at -= 1;
        } else if tokens[at].kind == Kind::Name && (before.is(".") || before.is("|")) && at >= 2 {
            at -= 2;
        } else if tokens[at].kind == Kind::Text && before.kind == Kind::Text {
            at -= 1;
        } else {
            return at;
        }
    }
}

/// The last token of the operand that begins at a token.
fn end_of_operand(tokens: &[Token<'_>], mut at: usize) -> usize {
    while (tokens[at].is("-") || tokens[at].is("+")) && at + 1 < tokens.len() {
        at += 1;
    }
    if tokens[at].is_opening() {
        at = matching(tokens, at, true);
    }
    loop {
        let Some(next) = tokens.get(at + 1) else { return at };
        if next.is("(") || next.is("[") {
            at = matching(tokens, at + 1, true);
        } else if (next.is(".") || next.is("|")) && at + 2 < tokens.len() {
            at += 2;
        } else if next.kind == Kind::Text && tokens[at].kind == Kind::Text {
            at += 1;
        } else {
            return at;
        }
    }
}

/// The bracket that matches the one at a token; the token itself if there is none.
fn matching(tokens: &[Token<'_>], at: usize, forward: bool) -> usize {
    let mut depth = 0_usize;
    let mut here = at;
    loop {
        let (deeper, shallower) = (tokens[here].is_opening(), tokens[here].is_closing());
        if deeper && forward || shallower && !forward {
            depth += 1;
        } else if deeper || shallower {
            depth -= 1;
        }
        let next = if forward { here + 1 } else { here.wrapping_sub(1) };
        if depth == 0 {
            return here;
        }
        if next >= tokens.len() {
            return at;
        }
        here = next;
    }
}

/// A macro, as a tag defines it.
struct Macro<'a> {
    name: &'a str,
    /// The opening and the closing parenthesis of its parameters.
    parameters: Range<usize>,
    /// The names of its own parameters.
    named: Vec<&'a str>,
    varargs: bool,
    kwargs: bool,
}

fn macros<'a>(tokens: &[Token<'a>]) -> Vec<Macro<'a>> {
    let mut found = vec![];
    for at in 0..tokens.len().saturating_sub(3) {
        if !(tokens[at].is("{%") && tokens[at + 1].is("macro") && tokens[at + 3].is("(")) {
            continue;
        }
        let close = matching(tokens, at + 3, true);
        let body = &tokens[close..];
        let len = body.windows(2).position(|pair| pair[0].is("{%") && pair[1].is("endmacro")).unwrap_or(body.len());
        let reads = |name: &str| body[..len].iter().any(|token| token.kind == Kind::Name && token.text == name);
        let named = arguments(tokens, at + 3, close).into_iter().map(|argument| tokens[argument.start].text).collect();
        found.push(Macro {
            name: tokens[at + 2].text,
            parameters: at + 3..close,
            named,
            varargs: reads("varargs"),
            kwargs: reads("kwargs"),
        });
    }
    found
}

/// The arguments between two parentheses, as ranges of tokens.
fn arguments(tokens: &[Token<'_>], open: usize, close: usize) -> Vec<Range<usize>> {
    let (mut list, mut start, mut at) = (vec![], open + 1, open + 1);
    while at < close {
        if tokens[at].is_opening() {
            at = matching(tokens, at, true);
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

/// Adds the parameters that a macro reads without naming them.
fn variadic_macro(tokens: &[Token<'_>]) -> Option<Edits> {
    macros(tokens).iter().find_map(|it| {
        let missing = |reads: bool, name: &str| reads && !it.named.contains(&name);
        let mut added = vec![];
        if missing(it.varargs, "varargs") {
            added.push("varargs=[]");
        }
        if missing(it.kwargs, "kwargs") {
            added.push("kwargs={}");
        }
        if added.is_empty() {
            return None;
        }
        let comma = if it.named.is_empty() { "" } else { ", " };
        let end = tokens[it.parameters.end].start;
        Some(vec![(end..end, format!("{comma}{}", added.join(", ")))])
    })
}

/// Collects the arguments of a call that its macro does not name.
fn variadic_call(source: &str, tokens: &[Token<'_>]) -> Option<Edits> {
    let macros = macros(tokens);
    (1..tokens.len().saturating_sub(1)).find_map(|at| {
        let is_call = tokens[at].kind == Kind::Name && tokens[at + 1].is("(");
        if !is_call || tokens[at - 1].is("macro") || tokens[at - 1].is(".") {
            return None;
        }
        let it = macros.iter().find(|it| it.name == tokens[at].text && (it.varargs || it.kwargs))?;
        let close = matching(tokens, at + 1, true);
        let (mut kept, mut positional, mut keywords) = (vec![], vec![], vec![]);
        let own = it.named.iter().filter(|name| !["varargs", "kwargs"].contains(name)).count();
        let arguments = arguments(tokens, at + 1, close);
        // A syntax error, which minijinja reports.
        if arguments.iter().any(Range::is_empty) {
            return None;
        }
        for argument in arguments {
            let text = |tokens: &[Token<'_>]| source[tokens[0].start..tokens[tokens.len() - 1].end()].to_owned();
            let (name, part) = (tokens[argument.start].text, &tokens[argument.clone()]);
            let is_keyword = part.get(1).is_some_and(|sign| sign.is("="));
            match is_keyword {
                true if it.kwargs && part.len() > 2 && !it.named.contains(&name) => {
                    keywords.push(format!("'{name}': {}", text(&part[2..])));
                }
                false if it.varargs && kept.len() >= own => positional.push(text(part)),
                _ => kept.push(text(part)),
            }
        }
        if positional.is_empty() && keywords.is_empty() {
            return None;
        }
        if !positional.is_empty() {
            kept.push(format!("varargs=[{}]", positional.join(", ")));
        }
        if !keywords.is_empty() {
            kept.push(format!("kwargs={{{}}}", keywords.join(", ")));
        }
        Some(vec![(tokens[at + 1].end()..tokens[close].start, kept.join(", "))])
    })
}
