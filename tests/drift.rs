//! What drifts apart unless a test holds it together: manifest, changelog, documentation, examples.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder with one of the endings.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| endings.iter().any(|ending| extension == *ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The keys of a table of the manifest.
fn keys(table: &str) -> BTreeSet<String> {
    let manifest = read("Cargo.toml");
    let (_, table) = manifest.split_once(&format!("\n[{table}]\n")).unwrap();
    let table = table.split("\n[").next().unwrap();
    table.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key.to_owned()).collect()
}

#[test]
fn the_changelog_knows_the_version() {
    let heading = format!("\n## [{}]", env!("CARGO_PKG_VERSION"));
    assert!(read("CHANGELOG.md").contains(&heading), "CHANGELOG.md has no heading {heading}");
}

#[test]
fn every_feature_is_explained_in_the_crate_page() {
    let page = read("src/lib.rs");
    let (_, table) = page.split_once("//! # Features").unwrap();
    let explained: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect();
    let mut features = keys("features");
    features.remove("default");
    assert_eq!(explained, features);
}

#[test]
fn every_example_is_in_the_table() {
    let table = read("examples/README.md");
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let link = match (path.join("main.rs").exists(), name.ends_with(".rs")) {
            (true, _) => format!("({name}/main.rs)"),
            (_, true) => format!("({name})"),
            _ => continue,
        };
        assert!(table.contains(&link), "examples/README.md does not list {name}");
    }
    for path in files("examples/python", &["py"]) {
        let link = format!("(python/{})", path.file_name().unwrap().to_str().unwrap());
        assert!(table.contains(&link), "examples/README.md does not list {link}");
    }
}

/// Relative links of Markdown files lead somewhere.
#[test]
fn links_lead_somewhere() {
    let mut pages = files("docs", &["md"]);
    pages.extend(["README.md", "CHANGELOG.md", "examples/README.md"].map(|name| root().join(name)));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(page.parent().unwrap().join(target).exists(), "{}: {link} is not there", page.display());
        }
    }
}

/// One idea a file. Those that are longer say why.
#[test]
fn no_file_grows_without_a_reason() {
    let reasons = [
        ("src/bin/figa/curate.rs", "the steps of curation in their order"),
        ("src/bin/figa/output.rs", "what outlives a kill is best read in one piece"),
        ("src/bin/figa/show.rs", "the two faces of one comparison"),
    ];
    for path in files("src", &["rs"]) {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        let known = reasons.iter().any(|(known, _)| *known == name);
        assert_eq!(lines > 400, known, "{name} has {lines} lines");
    }
}

/// Each command of the Makefile that the README names is there.
#[test]
fn the_readme_names_commands_that_exist() {
    let makefile = read("Makefile");
    let readme = read("README.md");
    let named: BTreeSet<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("make "))
        .filter_map(|rest| rest.split_whitespace().next())
        .collect();
    assert!(named.contains("test"), "{named:?}");
    for command in named {
        assert!(makefile.contains(&format!("\n{command}:")), "the Makefile has no {command}");
    }
    assert!(read(".ci/run").contains("make test"));
}
