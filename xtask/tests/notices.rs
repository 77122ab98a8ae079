//! The notices of third parties name each crate that the programs contain.

use std::collections::BTreeSet;
use std::process::Command;

use xtask::{output, read, report};

/// The packages that each file covers.
const NOTICES: [(&str, &[&str]); 2] = [
    ("python/THIRD-PARTY-NOTICES.txt", &["figa-cli", "figa-python"]),
    ("finetune/THIRD-PARTY-NOTICES.txt", &["figa-finetune"]),
];

/// The crates from a registry that are compiled into a package, for any platform of about.toml.
fn crates(package: &str) -> BTreeSet<String> {
    let about: toml::Table = read("about.toml").parse().expect("a table");
    let targets = about["targets"].as_array().expect("a list").iter().filter_map(toml::Value::as_str);
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--locked", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    tree.args(targets.flat_map(|target| ["--target", target]));
    let is_foreign = |line: &&str| !line.is_empty() && !line.contains('(') || line.ends_with("(proc-macro)");
    output(&mut tree).lines().map(|line| line.trim_end_matches(" (*)")).filter(is_foreign).map(name).collect()
}

/// `name version` of `name vVERSION (proc-macro)`.
fn name(line: &str) -> String {
    line.trim_end_matches(" (proc-macro)").replacen(" v", " ", 1)
}

#[test]
fn the_notices_name_the_crates_of_the_programs() {
    let lock: toml::Table = read("Cargo.lock").parse().expect("a table");
    let locked = lock["package"].as_array().expect("a list").iter();
    let text_of = |package: &toml::Value, key| package[key].as_str().expect("a text").to_owned();
    let locked: BTreeSet<String> =
        locked.map(|package| format!("{} {}", text_of(package, "name"), text_of(package, "version"))).collect();
    let mut problems = vec![];
    for (path, packages) in NOTICES {
        let text = read(path);
        let (list, _) = text.split_once("\n====").expect("the list of crates ends before the first licence");
        let entries = list.lines().filter_map(|line| line.strip_prefix("* ")?.split_once(": "));
        let named: BTreeSet<String> = entries.map(|(name, _)| name.into()).collect();
        let used: BTreeSet<String> = packages.iter().flat_map(|package| crates(package)).collect();
        assert!(used.len() > 50, "{path}: only {} crates", used.len());
        problems.extend(used.difference(&named).map(|name| format!("{path}: {name} is missing; run: make notices")));
        problems.extend(named.difference(&locked).map(|name| format!("{path}: {name} is not used; run: make notices")));
        // Fonts, and libraries in C that crates bring.
        for words in ["SIL OPEN FONT LICENSE", "UBUNTU FONT LICENCE", "Oniguruma LICENSE", "For Zstandard software"] {
            if !text.contains(words) {
                problems.push(format!("{path}: expected the licence with the words {words}"));
            }
        }
    }
    report(&problems);
}
