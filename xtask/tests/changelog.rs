//! The changelog against the manifests.

use xtask::{markdown::Markdown, read, report, workspace::packages};

#[test]
fn the_changelog_has_a_heading_for_the_version_of_every_package() {
    let page = Markdown::parse("CHANGELOG.md", 1, &read("CHANGELOG.md"));
    let has_heading =
        |version: &str| page.headings.iter().any(|heading| heading.text.starts_with(&format!("[{version}]")));
    let missing = packages().into_iter().filter(|package| !has_heading(&package.version));
    let problem = |package: xtask::workspace::Package| {
        format!("CHANGELOG.md: {} has version {}, which has no heading [{1}]", package.name, package.version)
    };
    report(&missing.map(problem).collect::<Vec<_>>());
}
