//! Checks of the repository itself: two places that must agree are read and compared.
//!
//! `cargo test -p xtask` runs all checks, without libtorch. Each file of `tests` holds the checks of one subject; this
//! library reads what they compare: Markdown pages, Rust sources, manifests and shell commands.

pub mod markdown;
pub mod program;
pub mod rust;
pub mod shell;
pub mod workspace;

use std::path::Path;
use std::process::Command;

use markdown::Markdown;

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

/// The text of a file, whose path is relative to the root.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The paths, relative to the root, of all files that git tracks or would add.
pub fn files() -> Vec<String> {
    let listed = output(Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]));
    let mut files: Vec<String> = listed.split_terminator('\0').map(String::from).collect();
    // Git lists a file until its removal is staged.
    files.retain(|path| root().join(path).is_file());
    files.sort();
    files.dedup();
    files
}

/// The Markdown pages of the repository.
pub fn pages() -> Vec<Markdown> {
    let pages = files().into_iter().filter(|path| path.ends_with(".md"));
    pages.map(|path| Markdown::parse(&path, 1, &read(&path))).collect()
}

/// What a command prints when it runs in the root.
pub fn output(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Fails if there are problems, and prints them all.
#[track_caller]
pub fn report(problems: &[String]) {
    assert!(problems.is_empty(), "problems: {}\n{}", problems.len(), problems.join("\n"));
}
