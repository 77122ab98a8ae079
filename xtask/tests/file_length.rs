//! Each file holds one idea, so a long file needs a reason.

use xtask::workspace::packages;
use xtask::{read, report};

const MAX_LINES: usize = 400;

/// The longer files, and why they are not split.
const REASONS: [(&str, &str); 3] = [
    ("cli/src/curate.rs", "the steps of curation in their order"),
    ("cli/src/output.rs", "one protocol: how output survives a killed run"),
    ("cli/src/show.rs", "one comparison in two layouts"),
];

#[test]
fn long_files_have_a_reason() {
    let sources: Vec<String> = packages().iter().flat_map(|package| package.sources()).collect();
    let mut problems = vec![];
    for path in &sources {
        let lines = read(path).lines().count();
        match (lines > MAX_LINES, REASONS.iter().any(|(known, _)| known == path)) {
            (true, false) => problems.push(format!("{path}: {lines} lines; split it, or add a reason to {}", file!())),
            (false, true) => problems.push(format!("{}: {path} has {lines} lines and needs no reason", file!())),
            _ => {}
        }
    }
    let gone = REASONS.iter().filter(|(path, _)| !sources.iter().any(|source| source == path));
    problems.extend(gone.map(|(path, _)| format!("{}: there is no {path}", file!())));
    report(&problems);
}
