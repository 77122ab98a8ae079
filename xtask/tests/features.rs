//! The table of features in the crate page against the manifest.

use std::collections::BTreeSet;

use xtask::report;
use xtask::rust::docs;
use xtask::workspace::packages;

#[test]
fn the_crate_page_explains_every_feature() {
    let packages = packages();
    let library = packages.iter().find(|package| package.name == "figa-loss").expect("the library is a member");
    let is_default = |feature: &str| library.features["default"].iter().any(|name| name == feature);
    let expected: BTreeSet<(&str, bool)> =
        library.features.keys().filter(|name| *name != "default").map(|name| (&**name, is_default(name))).collect();

    let page = docs("src/lib.rs").into_iter().next().expect("the crate has a page");
    let mut rows = page.rows.iter().skip_while(|row| row.cells[0] != "feature");
    rows.next().expect("the crate page has a table of features");
    let rows = rows.filter(|row| row.cells[0] != "(none)");
    let explained: BTreeSet<(&str, bool)> = rows.map(|row| (&*row.cells[0], row.cells[1] == "yes")).collect();

    let only_here = explained.difference(&expected).map(|(name, is_default)| {
        format!("src/lib.rs: the table has the feature {name} (default: {is_default}), which Cargo.toml lacks")
    });
    let only_there = expected.difference(&explained).map(|(name, is_default)| {
        format!("Cargo.toml: the table in src/lib.rs lacks the feature {name} (default: {is_default})")
    });
    report(&only_here.chain(only_there).collect::<Vec<_>>());
}
