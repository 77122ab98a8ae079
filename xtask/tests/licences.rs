//! Each package holds the licences as files of its own: links become texts on Windows, and packages cannot hold them.

use std::path::Path;

use xtask::workspace::packages;
use xtask::{read, report, root};

const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];

#[test]
fn each_package_has_the_licences_of_the_root() {
    let mut problems = vec![];
    for folder in packages().iter().map(|package| package.folder()).filter(|folder| folder != "xtask/") {
        for licence in LICENCES {
            let path = format!("{folder}{licence}");
            let is_file = root().join(&path).symlink_metadata().is_ok_and(|metadata| metadata.is_file());
            if !is_file || read(&path) != read(licence) {
                problems.push(format!("{path}: expected a copy of {licence} at the root"));
            }
        }
    }
    report(&problems);
}

#[test]
fn the_licence_names_the_authors_of_the_manifest() {
    let manifest = xtask::workspace::manifest("Cargo.toml");
    let authors = manifest["workspace"]["package"]["authors"].as_array().expect("a list");
    let author = authors[0].as_str().expect("a name");
    for path in ["LICENSE-MIT", "CITATION.cff", "python/pyproject.toml"] {
        assert!(Path::new(&root().join(path)).exists() && read(path).contains(author), "{path}: expected {author}");
    }
}
