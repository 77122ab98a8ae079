//! Each file holds one idea, and a long file holds several.

use xtask::workspace::packages;
use xtask::{read, report};

const MAX_LINES: usize = 400;

#[test]
fn files_are_short() {
    let sources = packages().iter().flat_map(|package| package.sources()).collect::<Vec<String>>();
    let lines = sources.iter().map(|path| (path, read(path).lines().count()));
    let long = lines.filter(|(_, lines)| *lines > MAX_LINES);
    report(&long.map(|(path, lines)| format!("{path}: {lines} lines; split it by idea")).collect::<Vec<_>>());
}
