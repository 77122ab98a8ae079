//! Python's methods of strings, dicts and lists, where minijinja's own collection lacks them or differs.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{ArgType, Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::bounds::{pay_for, pay_for_parts};

pub(super) fn invalid(reason: impl ToString) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.to_string())
}

/// Takes the steps for a text in which each `marker` may show all of the arguments, and each number is a width.
pub(super) fn pay_for_format(state: &State, marker: char, text: &str, args: &[Value]) -> Result<(), Error> {
    let mut shown = 0_usize;
    for arg in args {
        shown = shown.saturating_add(pay_for_parts(state, arg)?);
        // A width may be an argument.
        let width = arg.as_usize().filter(|_| text.contains('*')).unwrap_or(0);
        pay_for(state, width)?;
    }
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widths = numbers.map(|digits| digits.parse().unwrap_or(usize::MAX)).fold(0, usize::saturating_add);
    pay_for(state, text.matches(marker).count().saturating_mul(shown).saturating_add(widths))
}

/// Calls a method that minijinja does not know.
pub(super) fn call_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    for arg in args {
        pay_for_parts(state, arg)?;
    }
    let result = match value.kind() {
        ValueKind::String => string_method(state, value.as_str().unwrap_or_default(), method, args),
        ValueKind::Map => map_method(value, method, args),
        ValueKind::Seq => {
            pay_for_parts(state, value)?;
            sequence_method(value, method, args)
        }
        _ => None,
    };
    result.unwrap_or_else(|| pycompat::unknown_method_callback(state, value, method, args))
}

/// `None` for a method that is not listed here.
fn string_method(state: &State, text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match method {
        "split" | "rsplit" => split(state, text, method == "rsplit", args),
        "splitlines" => split_lines(state, text, args),
        "partition" | "rpartition" => partition(text, method == "rpartition", args),
        "removeprefix" => with_str(args, |prefix| text.strip_prefix(prefix).unwrap_or(text).into()),
        "removesuffix" => with_str(args, |suffix| text.strip_suffix(suffix).unwrap_or(text).into()),
        "find" | "rfind" | "index" | "rindex" => find(text, method, args),
        "count" => count(text, args),
        "zfill" => zfill(state, text, args),
        "ljust" | "rjust" | "center" => justify(state, text, method, args),
        "swapcase" => no_args(args).map(|()| text.chars().map(swapped).collect::<String>().into()),
        "casefold" => no_args(args).map(|()| text.to_lowercase().replace('ß', "ss").into()),
        "title" => no_args(args).map(|()| title(text).into()),
        "capitalize" => no_args(args).map(|()| capitalize(text).into()),
        "expandtabs" => expand_tabs(state, text, args),
        "strip" | "lstrip" | "rstrip" => strip(text, method, args),
        "startswith" | "endswith" => has_affix(text, method == "startswith", args),
        "replace" => replace(state, text, args),
        "join" => join(state, text, args),
        "format" => format_method(state, text, args),
        "isdigit" | "isdecimal" | "isnumeric" => no_args(args).map(|()| all(text, |c| is_digit(c, method)).into()),
        "isalpha" => no_args(args).map(|()| all(text, char::is_alphabetic).into()),
        "isalnum" => no_args(args).map(|()| all(text, char::is_alphanumeric).into()),
        "isspace" => no_args(args).map(|()| all(text, is_space).into()),
        "istitle" => no_args(args).map(|()| (text.chars().any(is_cased) && title(text) == text).into()),
        "isidentifier" => no_args(args).map(|()| {
            let is_start = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
            (is_start && text.chars().all(|c| c.is_alphanumeric() || c == '_')).into()
        }),
        "isprintable" => no_args(args).map(|()| text.chars().all(|c| !c.is_control()).into()),
        _ => return None,
    })
}

fn map_method(map: &Value, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    match method {
        "copy" => Some(no_args(args).map(|()| map.clone())),
        _ => None,
    }
}

fn sequence_method(list: &Value, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    match method {
        "copy" => Some(no_args(args).map(|()| list.clone())),
        "index" => Some(from_args(args).and_then(|(item, start): (&Value, Option<usize>)| {
            let start = start.unwrap_or(0);
            let at = list.try_iter()?.skip(start).position(|other| other == *item);
            at.map(|at| Value::from(start + at)).ok_or_else(|| invalid(format!("{item} is not in list")))
        })),
        _ => None,
    }
}

/// An argument by its position, or else by its name.
pub(super) fn argument<'a, T>(given: Option<T>, options: &'a Kwargs, name: &'a str) -> Result<Option<T>, Error>
where
    Option<T>: ArgType<'a, Output = Option<T>>,
{
    if given.is_some() { Ok(given) } else { options.get::<Option<T>>(name) }
}

fn no_args(args: &[Value]) -> Result<(), Error> {
    from_args(args)
}

fn with_str(args: &[Value], work: impl Fn(&str) -> Value) -> Result<Value, Error> {
    let (text,): (&str,) = from_args(args)?;
    Ok(work(text))
}

/// What Python counts as white space.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn all(text: &str, is: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(is)
}

fn is_digit(c: char, method: &str) -> bool {
    match method {
        "isnumeric" => c.is_numeric(),
        // Superscripts are digits, but no decimals.
        "isdigit" => is_decimal(c) || "²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉".contains(c),
        _ => is_decimal(c),
    }
}

/// Whether a character is a decimal digit: those come in runs of ten.
fn is_decimal(c: char) -> bool {
    const ZEROS: [u32; 12] = [0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xe50, 0xed0, 0x1040, 0xff10];
    ZEROS.iter().any(|&zero| (zero..zero + 10).contains(&(c as u32)))
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

fn swapped(c: char) -> String {
    if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() }
}

fn title(text: &str) -> String {
    let (mut titled, mut within) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        if within {
            titled.extend(c.to_lowercase());
        } else {
            titled.extend(c.to_uppercase());
        }
        within = is_cased(c);
    }
    titled
}

fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    first + &chars.as_str().to_lowercase()
}

fn split(state: &State, text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit, options): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let (separator, limit) = (argument(separator, &options, "sep")?, argument(limit, &options, "maxsplit")?);
    options.assert_all_used()?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let separator = separator.filter(|separator| !separator.is_none());
    pay_for_pieces(state, text)?;
    let Some(separator) = separator else { return Ok(Value::from_iter(split_on_space(text, from_right, limit))) };
    let separator = separator.as_str().ok_or_else(|| invalid("split: the separator is no string"))?;
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let mut parts: Vec<&str> = match from_right {
        false => text.splitn(limit.saturating_add(1), separator).collect(),
        true => text.rsplitn(limit.saturating_add(1), separator).collect(),
    };
    if from_right {
        parts.reverse();
    }
    Ok(Value::from_iter(parts))
}

fn split_on_space(text: &str, from_right: bool, limit: usize) -> Vec<&str> {
    let mut parts = vec![];
    // Only the end that is not split keeps its white space.
    let mut rest = match from_right {
        false => text.trim_start_matches(is_space),
        true => text.trim_end_matches(is_space),
    };
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut.filter(|_| parts.len() < limit) else {
            parts.push(rest);
            break;
        };
        let space = rest[cut..].chars().next().map_or(0, char::len_utf8);
        if from_right {
            parts.push(&rest[cut + space..]);
            rest = rest[..cut].trim_end_matches(is_space);
        } else {
            parts.push(&rest[..cut]);
            rest = rest[cut..].trim_start_matches(is_space);
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// Takes the steps for a list of the pieces of a text, at worst one for each character.
fn pay_for_pieces(state: &State, text: &str) -> Result<(), Error> {
    pay_for(state, text.len().saturating_mul(size_of::<Value>()))
}

fn split_lines(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    pay_for_pieces(state, text)?;
    let (keep, options): (Option<bool>, Kwargs) = from_args(args)?;
    let keep = argument(keep, &options, "keepends")?.unwrap_or(false);
    options.assert_all_used()?;
    let is_end = |c: char| "\n\r\u{b}\u{c}\u{1c}\u{1d}\u{1e}\u{85}\u{2028}\u{2029}".contains(c);
    let (mut lines, mut rest) = (vec![], text);
    while !rest.is_empty() {
        let at = rest.find(is_end).unwrap_or(rest.len());
        let end = match rest[at..].chars().next() {
            Some('\r') if rest[at..].starts_with("\r\n") => at + 2,
            Some(c) => at + c.len_utf8(),
            None => at,
        };
        lines.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    Ok(Value::from_iter(lines))
}

fn partition(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let found = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// The part of a text between two positions in characters, which may be negative or absent, and where it begins;
/// `None` if the first lies behind the end.
fn slice(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(&str, usize)> {
    let len = text.chars().count() as i64;
    let place = |at: i64| if at < 0 { (len + at).max(0) } else { at.min(len) };
    let (start, end) = (start.unwrap_or(0), place(end.unwrap_or(len)));
    if start > len {
        return None;
    }
    let start = place(start);
    let byte = |at: i64| text.char_indices().nth(at as usize).map_or(text.len(), |(byte, _)| byte);
    (start <= end).then(|| (&text[byte(start)..byte(end)], start as usize))
}

fn find(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let found = slice(text, start, end).and_then(|(part, first)| {
        let at = if method.starts_with('r') { part.rfind(what) } else { part.find(what) };
        at.map(|at| first + part[..at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if method.ends_with("index") => Err(invalid("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

fn count(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    Ok(Value::from(slice(text, start, end).map_or(0, |(part, _)| part.matches(what).count())))
}

fn zfill(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (width,): (usize,) = from_args(args)?;
    pay_for(state, width)?;
    let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
    let zeros = width.saturating_sub(text.chars().count());
    Ok(Value::from(format!("{sign}{}{digits}", "0".repeat(zeros))))
}

fn justify(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<&str>) = from_args(args)?;
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(invalid("the fill character must be exactly one character long"));
    }
    pay_for(state, width.saturating_mul(fill.len()))?;
    let missing = width.saturating_sub(text.chars().count());
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // Python puts the odd one to the left if the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))))
}

fn expand_tabs(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (size, options): (Option<usize>, Kwargs) = from_args(args)?;
    let size = argument(size, &options, "tabsize")?.unwrap_or(8);
    options.assert_all_used()?;
    pay_for(state, text.matches('\t').count().saturating_mul(size))?;
    let (mut expanded, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                expanded.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\t' => {}
            _ => {
                expanded.push(c);
                column = if c == '\n' || c == '\r' { 0 } else { column + 1 };
            }
        }
    }
    Ok(Value::from(expanded))
}

fn strip(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (chars,): (Option<&str>,) = from_args(args)?;
    let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    Ok(Value::from(match method {
        "lstrip" => text.trim_start_matches(strips),
        "rstrip" => text.trim_end_matches(strips),
        _ => text.trim_matches(strips),
    }))
}

fn has_affix(text: &str, at_start: bool, args: &[Value]) -> Result<Value, Error> {
    let (affix, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
    let Some((part, _)) = slice(text, start, end) else { return Ok(Value::from(false)) };
    let has = |affix: &Value| match affix.as_str() {
        Some(affix) => Ok(if at_start { part.starts_with(affix) } else { part.ends_with(affix) }),
        None => Err(invalid("startswith and endswith take a string or a tuple of strings")),
    };
    let Some(tuple) = affix.downcast_object_ref::<Tuple>() else { return has(affix).map(Value::from) };
    for affix in tuple.iter() {
        if has(affix)? {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn replace(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let found = if new.len() > old.len() { text.matches(old).count().min(count) } else { 0 };
    pay_for(state, found.saturating_mul(new.len()))?;
    Ok(Value::from(text.replacen(old, new, count)))
}

fn join(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (items,): (&Value,) = from_args(args)?;
    let mut joined = vec![];
    for (at, item) in items.try_iter()?.enumerate() {
        let item = item.as_str().map(str::to_owned);
        joined.push(item.ok_or_else(|| invalid(format!("sequence item {at}: expected a string")))?);
    }
    pay_for(state, joined.len().saturating_mul(text.len()))?;
    Ok(Value::from(joined.join(text)))
}

fn format_method(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    pay_for_format(state, '{', text, args)?;
    format(FormatStyle::StrFormat, text, args).map(Value::from)
}

/// `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float_text(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{number:?}"),
    }
}
