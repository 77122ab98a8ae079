//! The names of tracked files can be checked out on every system, and packaged.

use std::collections::BTreeMap;

use xtask::{files, report};

/// Windows allows 260 characters in a path, the folder of the repository included.
const MAX_BYTES: usize = 150;

/// What Windows keeps for devices, with any ending. `COM` and `LPT` are followed by a digit.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

#[test]
fn names_are_valid_on_every_system() {
    let files = files();
    let mut problems: Vec<String> =
        files.iter().filter_map(|path| Some(format!("{path}: {}", problem(path)?))).collect();
    // Folders count as well: `a/B` and `A/c` are in one folder where case makes no difference.
    let mut known: BTreeMap<String, &str> = BTreeMap::new();
    for path in &files {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for prefix in ends.map(|end| &path[..end]) {
            let other = *known.entry(prefix.to_lowercase()).or_insert(prefix);
            if other != prefix {
                problems.push(format!("{prefix}: differs from {other} only in case"));
            }
        }
    }
    assert!(files.len() > 100, "only {} files", files.len());
    report(&problems);
}

fn problem(path: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._+=/-".contains(c);
    if let Some(c) = path.chars().find(|&c| !is_allowed(c)) {
        return Some(format!("expected letters, digits and ._+=- in names, got {c:?}"));
    }
    if path.len() > MAX_BYTES {
        return Some(format!("expected at most {MAX_BYTES} characters, got {}", path.len()));
    }
    let part = path.split('/').find(|part| part.ends_with('.') || is_device(part))?;
    Some(format!("Windows does not allow the name {part}"))
}

fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).to_lowercase();
    let has_number = || stem.strip_prefix("com").or(stem.strip_prefix("lpt")).is_some_and(is_digit);
    DEVICES.contains(&&*stem) || has_number()
}

fn is_digit(text: &str) -> bool {
    text.len() == 1 && text.starts_with(|c: char| c.is_ascii_digit())
}

#[test]
fn names_that_break_elsewhere_are_found() {
    for path in ["a:b.json", "docs/a b", "é", "x/aux.rs", "COM1", "lpt9.txt/a", "a./b", &"a".repeat(151)] {
        assert!(problem(path).is_some(), "{path}");
    }
    for path in ["docs/figa+gamma=0.3_x.json", ".ci/run", "console.rs", "com.rs", "auxiliary/com10"] {
        assert_eq!(problem(path), None);
    }
}
