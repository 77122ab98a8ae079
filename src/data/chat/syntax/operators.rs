//! Operators and values in the source of a template:
//!
//! * `left % right` and `left * right` become `left|_percent(right)` and `left|_times(right)`: `%` formats strings as well,
//!   and `*` repeats a list without end.
//! * `|_sized` follows lists, dicts and tuples, and the operands of operators that join or compare, because values grow
//!   there, or cost time in proportion to their size.
//! * `|_listed` follows slices, which are lazy.
//! * `|_storable` follows what is stored in a namespace, the only value that a template can change.
//!
//! A filter binds more tightly than any operator, and those that return their value change nothing wherever they stand.

use std::collections::{BTreeMap, HashMap};

use super::Edits;
use super::lexer::{Kind, Token};

const KEYWORDS: [&str; 9] = ["in", "and", "or", "not", "if", "else", "is", "recursive", "elif"];
const CONSTANTS: [&str; 6] = ["true", "false", "none", "True", "False", "None"];
const MULTIPLYING: [&str; 4] = ["*", "/", "//", "%"];
const JOINING: [&str; 2] = ["+", "~"];
const COMPARING: [&str; 7] = ["==", "!=", "<", ">", "<=", ">=", "in"];
const SIZED: &str = "|_sized";
const LISTED: &str = "|_listed";
const STORABLE: &str = "|_storable";
/// Filters whose result nests or repeats what they get.
const NESTING_FILTERS: [&str; 8] = ["batch", "slice", "groupby", "dictsort", "items", "zip", "chain", "map"];
/// Filters whose result is lazy.
const LAZY_FILTERS: [&str; 1] = ["reverse"];
/// Filters that compare or join all items of what they get.
const COSTLY_FILTERS: [&str; 9] = ["sort", "unique", "min", "max", "groupby", "dictsort", "join", "string", "pprint"];
/// Methods whose result is lazy.
const LAZY_METHODS: [&str; 3] = ["items", "keys", "values"];

/// The order of insertions at one place: checks of a value, then the ends of what encloses it, from the inside.
const CHECK: u8 = 0;
const END: u8 = 1;
const END_OF_TAG: u8 = 2;
const START: u8 = 3;

pub(super) fn rewrite(tokens: &[Token<'_>], edits: &mut Edits<'_>) {
    let mut names = vec![0];
    for token in tokens {
        let is_name = token.kind == Kind::Name && !CONSTANTS.contains(&token.text);
        names.push(names[names.len() - 1] + usize::from(is_name));
    }
    let mut rewriter = Rewriter { tokens, names, chains: HashMap::new(), checks: BTreeMap::new(), edits };
    rewriter.rewrite();
    for (at, filter) in rewriter.checks {
        edits.insert(tokens[at].end(), CHECK, filter);
    }
}

struct Rewriter<'t, 'e, 's> {
    tokens: &'t [Token<'t>],
    /// How many names that are no constants come before each token.
    names: Vec<usize>,
    /// Of each multiplying operator: the first token of its left operand, and whether that operator became a filter.
    chains: HashMap<usize, (usize, bool)>,
    /// The checks that follow a token.
    checks: BTreeMap<usize, &'static str>,
    edits: &'e mut Edits<'s>,
}

impl Rewriter<'_, '_, '_> {
    fn rewrite(&mut self) {
        let tokens = self.tokens;
        let mut is_loop = false;
        // Whether each open bracket is that of a list, a dict or a tuple.
        let mut literals = vec![];
        for (at, token) in tokens.iter().enumerate() {
            match token.kind {
                Kind::Open => {
                    is_loop = token.is("{%") && self.is(at + 1, &["for"]);
                    literals.clear();
                    self.assignment(at);
                }
                // `for item in list`
                Kind::Name if token.text == "in" && is_loop => is_loop = false,
                Kind::Name if token.text == "in" => self.operator(at),
                Kind::Name => self.call(at),
                Kind::Sign if token.is_opening() => {
                    let is_item = literals.last() == Some(&true);
                    literals.push(self.bracket(at, is_item));
                }
                Kind::Sign if token.is_closing() => drop(literals.pop()),
                Kind::Sign => self.operator(at),
                _ => {}
            }
        }
    }

    fn is(&self, at: usize, texts: &[&str]) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_any(texts))
    }

    /// Whether the token in front of another one is one of these.
    fn follows(&self, at: usize, texts: &[&str]) -> bool {
        at > 0 && self.is(at - 1, texts)
    }

    /// Whether an operand can end in front of a token.
    fn follows_operand(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else { return false };
        let token = &self.tokens[before];
        match token.kind {
            Kind::Name => !KEYWORDS.contains(&token.text) || self.follows(before, &[".", "|"]),
            Kind::Text | Kind::Number => true,
            _ => token.is_closing(),
        }
    }

    /// Whether an expression within a bracket has a sign that is in no further bracket.
    fn has_sign(&self, open: usize, sign: &str) -> bool {
        let (close, mut at) = (self.tokens[open].partner, open + 1);
        while at < close && !self.tokens[at].is(sign) {
            at = self.tokens[at].partner.max(at) + 1;
        }
        at < close
    }

    fn check(&mut self, at: usize, filter: &'static str) {
        let known = self.checks.entry(at).or_insert(filter);
        if filter == SIZED {
            *known = filter;
        }
    }

    fn enclose(&mut self, first: usize, last: usize, filter: &str) {
        self.edits.insert(self.tokens[first].start, START, "(");
        self.edits.insert(self.tokens[last].end(), END_OF_TAG, format!("){filter}"));
    }

    /// `{% set %}` with a target in a namespace, or with several values.
    fn assignment(&mut self, open: usize) {
        let tokens = self.tokens;
        if !(tokens[open].is("{%") && self.is(open + 1, &["set"])) {
            return;
        }
        let is_within = |at: usize| at < tokens.len() && tokens[at].kind != Kind::Close;
        let (mut stores, mut sign) = (false, open + 2);
        while is_within(sign) && !tokens[sign].is_any(&["=", "|"]) {
            stores |= tokens[sign].is(".");
            sign += 1;
        }
        let (mut is_tuple, mut at) = (false, sign);
        while is_within(at) {
            is_tuple |= tokens[at].is(",");
            at = tokens[at].partner.max(at) + 1;
        }
        let last = at - 1;
        if last <= sign {
            return;
        }
        match tokens[sign].text {
            "|" if stores => self.edits.insert(tokens[last].end(), END_OF_TAG, STORABLE),
            "=" if stores => self.enclose(sign + 1, last, STORABLE),
            "=" if is_tuple => self.enclose(sign + 1, last, SIZED),
            _ => {}
        }
    }

    /// Checks a list, a dict, a tuple, an index or a slice. `is_item`: whether it is within a value that is checked.
    fn bracket(&mut self, open: usize, is_item: bool) -> bool {
        let token = &self.tokens[open];
        let close = token.partner;
        if self.follows_operand(open) {
            if token.is("[") && self.has_sign(open, ":") {
                self.check(self.end_of_postfix(close), LISTED);
            } else if token.is("[") && close > open + 1 && self.start_of_operand(close - 1) == open + 1 {
                self.operand(close - 1);
            }
            return false;
        }
        if token.is("(") && !self.has_sign(open, ",") || close == open {
            return false;
        }
        let ends_item = self.is(close + 1, &[",", "]", "}", ")"]) && self.follows(open, &["[", "{", "(", ",", ":"]);
        if self.is_constant(open, close) || is_item && ends_item {
            return true;
        }
        match self.end_of_postfix(close) == close {
            true => self.check(close, SIZED),
            false => {
                self.edits.insert(self.tokens[open].start, START, "(");
                self.edits.insert(self.tokens[close].end(), END, format!("{SIZED})"));
            }
        }
        true
    }

    fn is_constant(&self, first: usize, last: usize) -> bool {
        self.names[first] == self.names[last + 1]
    }

    /// Checks what a filter or a method gets or returns.
    fn call(&mut self, at: usize) {
        let name = self.tokens[at].text;
        let end = if self.is(at + 1, &["("]) { self.tokens[at + 1].partner } else { at };
        if self.follows(at, &["|"]) {
            if COSTLY_FILTERS.contains(&name) && self.follows_operand(at - 1) {
                self.operand(at - 2);
            }
            if NESTING_FILTERS.contains(&name) {
                self.check(end, SIZED);
            } else if LAZY_FILTERS.contains(&name) {
                self.check(end, LISTED);
            }
        } else if self.follows(at, &["."]) && end > at && LAZY_METHODS.contains(&name) {
            self.check(self.end_of_postfix(end), SIZED);
        }
    }

    fn operator(&mut self, at: usize) {
        // `not in`
        let left = if self.is(at, &["in"]) && self.follows(at, &["not"]) { at - 1 } else { at };
        if !self.follows_operand(left) || self.tokens.get(at + 1).is_none_or(|next| next.kind == Kind::Close) {
            return;
        }
        if self.is(at, &MULTIPLYING) {
            return self.multiplication(at);
        }
        let (first, last) = (self.start_of_operand(left - 1), self.end_of_operand(at + 1));
        let constant = [self.is_constant(first, left - 1), self.is_constant(at + 1, last)];
        let checked = match constant {
            // The result is a string or a number, or the comparison ends with the constant.
            [true, _] | [_, true] if !self.is(at, &["~"]) => [false; 2],
            constant => constant.map(|constant| !constant),
        };
        if self.is(at, &JOINING) || self.is(at, &COMPARING) {
            for (operand, checked) in [left - 1, last].into_iter().zip(checked) {
                if checked {
                    self.operand(operand);
                }
            }
        }
    }

    /// Checks the operand that ends at a token.
    fn operand(&mut self, last: usize) {
        let first = self.start_of_operand(last);
        let is_test = self.follows(first, &["is"]) || self.follows(first, &["not"]) && self.follows(first - 1, &["is"]);
        if !self.is_constant(first, last) && !is_test {
            self.check(last, SIZED);
        }
    }

    /// Replaces `*` and `%`. The left operand is all that is multiplied before.
    fn multiplication(&mut self, at: usize) {
        let operand = self.start_of_operand(at - 1);
        let first = self.start_of_factor(operand);
        let before = first.checked_sub(1).and_then(|before| self.chains.get(&before));
        let (start, takes_filter) = before.copied().unwrap_or((first, first == operand));
        let token = &self.tokens[at];
        let filter = match token.text {
            "*" => "|_times(",
            "%" => "|_percent(",
            _ => {
                self.chains.insert(at, (start, false));
                return;
            }
        };
        self.chains.insert(at, (start, true));
        match takes_filter {
            true => self.edits.replace(token.start..token.end(), filter),
            false => {
                self.edits.insert(self.tokens[start].start, START, "(");
                self.edits.replace(token.start..token.end(), format!("){filter}"));
            }
        }
        let mut last = self.end_of_operand(at + 1);
        while self.is(last + 1, &["**"]) && last + 2 < self.tokens.len() {
            last = self.end_of_operand(last + 2);
        }
        self.edits.insert(self.tokens[last].end(), END, ")");
    }

    /// The first token of a factor, with its signs and powers, whose last operand begins at a token.
    fn start_of_factor(&self, mut first: usize) -> usize {
        loop {
            if self.follows(first, &["**"]) && self.follows_operand(first - 1) {
                first = self.start_of_operand(first - 2);
            } else if self.follows(first, &["-", "+"]) && !self.follows_operand(first - 1) {
                first -= 1;
            } else {
                return first;
            }
        }
    }

    /// The first token of the operand that ends at a token.
    fn start_of_operand(&self, mut at: usize) -> usize {
        let tokens = self.tokens;
        loop {
            if tokens[at].is_closing() {
                at = tokens[at].partner.min(at);
            }
            let Some(before) = at.checked_sub(1).map(|before| &tokens[before]) else { return at };
            if tokens[at].is_any(&["(", "["]) && self.follows_operand(at) {
                at -= 1;
            } else if tokens[at].kind == Kind::Name && before.is_any(&[".", "|"]) && at >= 2 {
                at -= 2;
            } else if tokens[at].kind == Kind::Text && before.kind == Kind::Text {
                at -= 1;
            } else {
                return at;
            }
        }
    }

    /// The last token of the operand that begins at a token.
    fn end_of_operand(&self, mut at: usize) -> usize {
        let tokens = self.tokens;
        while tokens[at].is_any(&["-", "+"]) && at + 1 < tokens.len() {
            at += 1;
        }
        at = tokens[at].partner.max(at);
        loop {
            let end = self.end_of_postfix(at);
            let Some(next) = tokens.get(end + 1) else { return end };
            if next.is("|") && end + 2 < tokens.len() {
                at = end + 2;
            } else if next.kind == Kind::Text && tokens[end].kind == Kind::Text {
                at = end + 1;
            } else {
                return end;
            }
        }
    }

    /// The last token of the attributes, indices and calls that follow a token.
    fn end_of_postfix(&self, mut at: usize) -> usize {
        loop {
            let next = at + 1;
            if self.is(next, &["(", "["]) && self.tokens[next].partner > next {
                at = self.tokens[next].partner;
            } else if self.is(next, &["."]) && next + 1 < self.tokens.len() {
                at = next + 1;
            } else {
                return at;
            }
        }
    }
}
