//! Text from files, models and commands, made safe for a terminal.

/// A text without characters that control a terminal, reorder what it shows, or are invisible: they are written as
/// escapes. Line breaks and tabs stay.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.replace("\r\n", "\n").chars() {
        match character {
            '\n' | '\t' => shown.push(character),
            _ if is_unsafe(character) => shown.extend(character.escape_unicode()),
            _ => shown.push(character),
        }
    }
    shown
}

/// The same on one line.
pub fn one_line(text: &str) -> String {
    printable(&text.replace(['\n', '\t'], " "))
}

fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            // Zero-width spaces and joiners, marks and overrides of direction, invisible operators, tags.
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::{one_line, printable};

    #[test]
    fn unsafe_characters_become_escapes() {
        assert_eq!(printable("a\u{1b}[2J\r\nb\t\u{202e}c\u{200b}é日"), "a\\u{1b}[2J\nb\t\\u{202e}c\\u{200b}é日");
        assert_eq!(one_line("a\nb\r"), "a b\\u{d}");
    }
}
