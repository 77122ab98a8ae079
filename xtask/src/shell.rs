//! The commands in a piece of shell, as far as documentation uses it.

/// The words of each command, without comments, quotes, operators, and variables set before the program.
pub fn commands(code: &str) -> Vec<Vec<String>> {
    let code = code.replace("\\\n", " ");
    code.lines().flat_map(|line| split(words(line))).collect()
}

/// The words of a line. An operator such as `|` is a word of its own.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    let (mut word, mut quote) = (String::new(), None);
    for c in line.chars() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() || ";|&<>()".contains(c) => {
                words.extend([std::mem::take(&mut word), String::from(c.to_string().trim())]);
            }
            ('#', None) if word.is_empty() => break,
            (c, _) => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn split(words: Vec<String>) -> Vec<Vec<String>> {
    let mut commands = vec![vec![]];
    for word in words {
        let command = commands.last_mut().expect("there is always a last command");
        match &*word {
            ";" | "|" | "&" | "(" | ")" | "<" | ">" => commands.push(vec![]),
            "$" | "!" if command.is_empty() => {}
            word if command.is_empty() && is_assignment(word) => {}
            _ => command.push(word),
        }
    }
    commands.retain(|command| !command.is_empty());
    commands
}

fn is_assignment(word: &str) -> bool {
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    word.split_once('=').is_some_and(|(name, _)| !name.is_empty() && is_name(name))
}

#[cfg(test)]
mod tests {
    use super::commands;

    #[test]
    fn operators_separate_commands() {
        let code = "$ LOG=1 make demo # a comment\ncargo run \\\n  -p x -- 'a b' | figa show - > out && ! make lint";
        let expected: [&[&str]; 5] = [
            &["make", "demo"],
            &["cargo", "run", "-p", "x", "--", "a b"],
            &["figa", "show", "-"],
            &["out"],
            &["make", "lint"],
        ];
        assert_eq!(commands(code), expected);
    }
}
