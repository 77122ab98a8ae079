//! What is wrong with text that is not valid JSON, in the words of the person who has to fix it.

use super::without_mark;

/// The line and column within the record, from 1, and what is wrong there.
pub(super) fn diagnose(bytes: &[u8], error: &serde_json::Error) -> (usize, usize, String) {
    let text = without_mark(bytes);
    let place = (error.line().max(1), error.column().max(1));
    let message = if is_utf16(bytes) {
        "the text is UTF-16: convert it to UTF-8, for example with iconv -f UTF-16 -t UTF-8".to_owned()
    } else if text.contains(&0) {
        "the text holds NUL bytes: the file is damaged, or not a text".to_owned()
    } else if let Some(name) = python_number(text, place) {
        format!("{name} is not JSON: write null or a number")
    } else {
        let error = error.to_string();
        // serde_json ends its messages with a position of its own, which would contradict ours.
        let error = error.rsplit_once(" at line ").map_or(&*error, |(message, _)| message);
        if error.contains("surrogate") || error == "unexpected end of hex escape" {
            "a lone surrogate (\\ud800 to \\udfff) is not a character: write the text again with valid Unicode"
                .to_owned()
        } else if error.starts_with("EOF while parsing") {
            format!("{error}: the record is incomplete; in a file of lines, a record ends on its line")
        } else {
            error.to_owned()
        }
    };
    (place.0, place.1, message)
}

fn is_utf16(bytes: &[u8]) -> bool {
    let is_marked = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    // Later lines have no mark, but every other byte of ASCII is 0.
    let zeros = bytes.iter().filter(|&&byte| byte == 0).count();
    is_marked || bytes.len() > 3 && zeros * 3 > bytes.len()
}

/// The number that Python writes and JSON does not know, if there is one at an error.
fn python_number(text: &[u8], (line, column): (usize, usize)) -> Option<&'static str> {
    let line = text.split(|&byte| byte == b'\n').nth(line - 1)?;
    // The error is at the first letter or behind it.
    let before = &line[..line.len().min(column)];
    let start = before.iter().rposition(|byte| !byte.is_ascii_alphabetic() && *byte != b'-').map_or(0, |at| at + 1);
    ["NaN", "Infinity", "-Infinity"].into_iter().find(|name| line[start..].starts_with(name.as_bytes()))
}
