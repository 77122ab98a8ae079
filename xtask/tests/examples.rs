//! The table of examples against the folder, and the public items against the examples.

use std::collections::BTreeSet;

use xtask::markdown::Markdown;
use xtask::rust::{docs, public_names};
use xtask::workspace::packages;
use xtask::{files, pages, read, report};

/// The packages whose public items other people call.
const LIBRARIES: [&str; 3] = ["figa-loss", "figa-atomic-file", "tch-c10d"];

#[test]
fn the_table_lists_every_example() {
    let page = Markdown::parse("examples/README.md", 1, &read("examples/README.md"));
    let packages = packages();
    let targets = packages.iter().flat_map(|package| &package.targets);
    let mut expected: Vec<String> =
        targets.filter(|target| target.kind == ["example"]).map(|target| target.source()).collect();
    expected.extend(files().into_iter().filter(|path| path.starts_with("examples/python/") && path.ends_with(".py")));
    assert!(expected.len() >= 5, "{expected:?}");

    let is_listed = |path: &str| {
        let in_folder = |target: &str| target.strip_prefix("../").map_or(format!("examples/{target}"), String::from);
        page.links.iter().any(|link| in_folder(&link.target) == path)
    };
    let missing = expected.iter().filter(|path| !is_listed(path));
    report(&missing.map(|path| format!("examples/README.md: no link to {path}")).collect::<Vec<_>>());
}

#[test]
fn every_public_item_is_in_an_example() {
    let packages = packages();
    let libraries = packages.iter().filter(|package| LIBRARIES.contains(&&*package.name));
    let sources: Vec<String> = libraries.flat_map(|package| package.sources()).collect();

    let documents = sources.iter().flat_map(|path| docs(path)).chain(pages());
    let code = documents.flat_map(|document| document.code).filter(|code| code.is_rust()).map(|code| code.text);
    // The program finetune is the largest example.
    let is_example = |path: &String| path.starts_with("examples/") || path.starts_with("finetune/src/");
    let examples = files().into_iter().filter(|path| is_example(path) && path.ends_with(".rs"));
    let shown: Vec<String> = code.chain(examples.map(|path| read(&path))).collect();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let shown: BTreeSet<&str> = shown.iter().flat_map(|code| code.split(|c| !is_part(c))).collect();

    let (mut count, mut problems) = (0, vec![]);
    for path in &sources {
        let names = public_names(path);
        count += names.len();
        let missing = names.into_iter().filter(|name| !shown.contains(&**name));
        problems.extend(missing.map(|name| format!("{path}: no example shows the public {name}")));
    }
    assert!(count > 100, "only {count} public names");
    report(&problems);
}
