//! The accepted mutants against the code that they name.

use std::collections::BTreeSet;

use toml::Value;
use xtask::workspace::{manifest, packages};
use xtask::{read, report};

/// What `cargo mutants` says about a change, besides names of the code.
const DESCRIPTION: [&str; 5] = ["replace", "delete", "arm", "guard", "with"];

#[test]
fn accepted_mutants_are_in_functions_that_exist() {
    let packages = packages();
    let library = packages.iter().find(|package| package.name == "figa-loss").expect("the library is a member");
    let code: Vec<String> = library.sources().iter().map(|path| read(path)).collect();
    let known: BTreeSet<&str> = code.iter().flat_map(|code| names(code)).chain(DESCRIPTION).collect();
    let config = manifest(".cargo/mutants.toml");
    let patterns = config["exclude_re"].as_array().expect("exclude_re is a list");
    let mut problems = vec![];
    for pattern in patterns.iter().filter_map(Value::as_str) {
        // The name of a character class is no name in the code.
        let pattern_names = pattern.replace("\\d", "");
        let unknown = names(&pattern_names).find(|name| !known.contains(name));
        problems.extend(unknown.map(|name| format!(".cargo/mutants.toml: src has no {name}, as in {pattern}")));
    }
    assert!(patterns.len() > 10, "only {} patterns", patterns.len());
    report(&problems);
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.split(move |c| !is_part(c)).filter(|name| name.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}
