//! The tokens of a template's tags.

use std::ops::Range;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
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
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) start: usize,
    /// The index of the bracket that matches this one; its own if there is none.
    pub(super) partner: usize,
}

impl Token<'_> {
    pub(super) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    pub(super) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Sign | Kind::Name | Kind::Open) && self.text == text
    }

    pub(super) fn is_any(&self, texts: &[&str]) -> bool {
        texts.iter().any(|text| self.is(text))
    }

    pub(super) fn is_opening(&self) -> bool {
        self.kind == Kind::Sign && ["(", "[", "{"].contains(&self.text)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.kind == Kind::Sign && [")", "]", "}"].contains(&self.text)
    }
}

/// The tokens of all tags. Text between tags, comments and raw blocks have none.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
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
            } else {
                match_brackets(&mut tokens, first);
            }
        } else {
            at = tag + 1;
        }
    }
    tokens
}

/// Finds the partners of the brackets of the tag whose tokens begin at `first`.
fn match_brackets(tokens: &mut [Token<'_>], first: usize) {
    let mut open = vec![];
    for at in first..tokens.len() {
        tokens[at].partner = at;
        if tokens[at].is_opening() {
            open.push(at);
        } else if tokens[at].is_closing()
            && let Some(start) = open.pop()
        {
            tokens[at].partner = start;
            tokens[start].partner = at;
        }
    }
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
    let mut push = |kind, range: Range<usize>| {
        tokens.push(Token { kind, text: &source[range.clone()], start: range.start, partner: 0 })
    };
    push(Kind::Open, start..start + 2);
    let (mut at, mut depth) = (start + 2, 0_usize);
    at += usize::from(source[at..].starts_with(['-', '+']));
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        let trimmed = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        if depth == 0 && trimmed.starts_with(close) {
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
