//! Numbers that were measured, and the commands that print them.

use xtask::{pages, report};

const COMMANDS: [&str; 5] = ["cargo run ", "cargo bench", "make ", "python3 ", "figa "];
const UNITS: [&str; 11] = ["%", "±", "us", "ms", "s", "seconds", "minutes", "KiB", "MiB", "GiB", "tokens/s"];

#[test]
fn sections_with_measurements_name_a_command() {
    let (mut measured, mut problems) = (0, vec![]);
    for page in pages() {
        for section in page.sections() {
            if !quotes_a_measurement(section.text) {
                continue;
            }
            measured += 1;
            let code = page.code.iter().filter(|code| section.lines.contains(&code.line));
            if !code.flat_map(|code| COMMANDS.map(|command| code.text.contains(command))).any(|named| named) {
                problems
                    .push(format!("{}: expected the command that prints the numbers", page.at(section.lines.start)));
            }
        }
    }
    assert!(measured >= 3, "only {measured} sections with measurements");
    report(&problems);
}

/// Whether a number is followed by a unit.
fn quotes_a_measurement(text: &str) -> bool {
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || "|()".contains(c)).collect();
    let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let is_unit = |word: &str| UNITS.contains(&word.trim_end_matches(['.', ',', ';', ':']));
    words.windows(2).any(|pair| is_number(pair[0]) && is_unit(pair[1]))
}
