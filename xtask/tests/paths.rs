//! Texts name no paths that exist on one machine only.

use xtask::{files, read, report};

/// Endings of files that people read. Data, licences and generated files are not checked.
const ENDINGS: [&str; 11] = [".rs", ".md", ".toml", ".py", ".sh", ".yml", ".html", ".css", ".j2", "Makefile", "/run"];

/// Beginnings of such paths.
const PRIVATE_PATHS: [&str; 4] = ["/work/", "/home/", "/root/", "/Users/"];

#[test]
fn no_text_names_a_private_path() {
    let mut problems = vec![];
    // This file lists what it looks for.
    let paths = files().into_iter().filter(|path| path != file!());
    for path in paths.filter(|path| ENDINGS.iter().any(|ending| path.ends_with(ending))) {
        for (line, number) in read(&path).lines().zip(1..) {
            let mut private = PRIVATE_PATHS.iter().filter(|private| names_path(line, private));
            problems.extend(private.next().map(|private| format!("{path}:{number}: a path below {private}")));
        }
    }
    report(&problems);
}

fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/*}".contains(c)))
}
