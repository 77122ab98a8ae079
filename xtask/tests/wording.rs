//! Words that slow readers down, and references that mean nothing outside one workplace.

use xtask::{files, read, report};

/// Endings of files that people read. Data, licences and generated files are not checked.
const ENDINGS: [&str; 11] = [".rs", ".md", ".toml", ".py", ".sh", ".yml", ".html", ".css", ".j2", "Makefile", "/run"];

/// What to avoid, with forms separated by `|`, and what to write instead.
const AVOIDED: [(&str, &str); 19] = [
    ("aside", "stripped, skipped, rejected, temporary"),
    ("connected to the graph", "differentiable with respect to"),
    ("fell", "dropped"),
    ("go on|goes on|going on|went on", "continue, resume"),
    ("is told", "name who tells what"),
    ("live first|live rows|live tokens", "ungated"),
    ("mend|mends|mended|mending", "fix"),
    ("spare|spares|spared|sparing", "gated"),
    ("such as hold|such as have", "that hold, that have"),
    ("the ones that|the ones which", "those that"),
    ("ties", "tie-breaking"),
    ("unlearnt", "base model"),
    ("unlike pairs", "dissimilar sequences"),
    ("untouched", "control text, unchanged"),
    ("walk back|walks back|walked back|walking back", "traceback"),
    ("waves", "wavefronts"),
    ("what is left|that are left|that is left", "remaining"),
    ("whoever", "name the person"),
    ("may live", "survive"),
];

/// Usual expressions that contain an avoided word.
const ALLOWED: [&str; 2] = ["break ties", "breaks ties"];

/// Beginnings of paths that exist on one machine only.
const PRIVATE_PATHS: [&str; 5] = ["../shared", "/work/", "/home/", "/root/", "/Users/"];

/// The texts, except the one that lists what to avoid.
fn texts() -> Vec<(String, String)> {
    let paths = files().into_iter().filter(|path| ENDINGS.iter().any(|ending| path.ends_with(ending)));
    paths.filter(|path| path != file!()).map(|path| (path.clone(), read(&path))).collect()
}

#[test]
fn words_that_slow_readers_down_are_avoided() {
    let mut problems = vec![];
    for (path, text) in texts() {
        // Phrases may span lines, and names are words joined by underscores.
        let lines = ALLOWED.iter().fold(text.to_lowercase(), |text, name| text.replace(name, ""));
        let words: Vec<(usize, &str)> = (1..)
            .zip(lines.lines())
            .flat_map(|(number, line)| line.split(|c: char| !c.is_alphanumeric()).map(move |word| (number, word)))
            .filter(|(_, word)| !word.is_empty())
            .collect();
        for (phrases, instead) in AVOIDED {
            for phrase in phrases.split('|') {
                let phrase: Vec<&str> = phrase.split(' ').collect();
                let places = words
                    .windows(phrase.len())
                    .filter(|at| at.iter().map(|(_, word)| *word).eq(phrase.iter().copied()));
                problems
                    .extend(places.map(|at| format!("{path}:{}: \"{}\"; write: {instead}", at[0].0, phrase.join(" "))));
            }
        }
    }
    problems.sort();
    report(&problems);
}

#[test]
fn no_text_names_a_private_path_or_an_issue_number() {
    let mut problems = vec![];
    for (path, text) in texts() {
        for (line, number) in text.lines().zip(1..) {
            let mut private = PRIVATE_PATHS.iter().filter(|private| names_path(line, private));
            problems.extend(private.next().map(|private| format!("{path}:{number}: a path below {private}")));
            // Colours look like issue numbers.
            if !path.ends_with(".css") && !path.ends_with(".html") && names_issue(line) {
                problems.push(format!("{path}:{number}: an issue number; say what it says"));
            }
        }
    }
    report(&problems);
}

fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/*}".contains(c)))
}

/// `#12` or `issue 12`. The issue of another project has its name in front: `owner/name#12`.
fn names_issue(line: &str) -> bool {
    let is_number = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
    let words: Vec<&str> =
        line.split_whitespace().map(|word| word.trim_matches(['(', ')', '.', ',', ';', ':'])).collect();
    let is_issue = |word: &&str| ["issue", "issues", "pr", "pull"].contains(&&*word.to_lowercase());
    words.iter().any(|word| word.strip_prefix('#').is_some_and(is_number))
        || words.windows(2).any(|pair| is_issue(&pair[0]) && is_number(pair[1]))
}
