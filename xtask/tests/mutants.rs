//! The accepted mutants against the code that they name.

use std::collections::BTreeSet;

use toml::Value;
use xtask::report;
use xtask::rust::identifiers;
use xtask::workspace::{manifest, packages};

/// The words of `cargo mutants`, and keywords.
const DESCRIPTION: [&str; 12] =
    ["arm", "delete", "false", "field", "from", "guard", "in", "match", "replace", "struct", "true", "with"];

#[test]
fn accepted_mutants_are_in_functions_that_exist() {
    let packages = packages();
    let library = packages.iter().find(|package| package.name == "figa-loss").expect("the library is a member");
    let identifiers = library.sources().into_iter().flat_map(|path| identifiers(&path));
    let known: BTreeSet<String> = identifiers.chain(DESCRIPTION.map(String::from)).collect();
    let config = manifest(".cargo/mutants.toml");
    let patterns = config["exclude_re"].as_array().expect("exclude_re is a list");
    let mut problems = vec![];
    for pattern in patterns.iter().filter_map(Value::as_str) {
        // `\d` is a character class, not a name in the code.
        let pattern = pattern.replace("\\d", "");
        let mut names = pattern.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|name| !is_number(name));
        let unknown = names.find(|name| !known.contains(*name));
        problems.extend(unknown.map(|name| format!(".cargo/mutants.toml: no code is named {name}, as in {pattern}")));
    }
    assert!(patterns.len() > 10, "only {} patterns", patterns.len());
    report(&problems);
}

/// Whether a word has only digits, or is empty.
fn is_number(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_digit())
}
