//! A new crate that follows the README builds, runs, and prints what the README shows.

use std::fs;
use std::process::Command;

use xtask::markdown::Markdown;
use xtask::{read, root};

/// The block of Rust in the README that contains a text.
fn block<'a>(readme: &'a Markdown, contains: &str) -> &'a str {
    let mut blocks = readme.code.iter().filter(|code| code.language.as_deref() == Some("rust"));
    let found = blocks.find(|code| code.text.contains(contains));
    &found.unwrap_or_else(|| panic!("README.md: expected a block of Rust with {contains}")).text
}

/// The version in `tch@VERSION`.
fn tch_version(readme: &Markdown) -> &str {
    let words = readme.code.iter().flat_map(|code| code.text.split_whitespace());
    words.into_iter().find_map(|word| word.strip_prefix("tch@")).expect("README.md: expected cargo add ... tch@VERSION")
}

#[test]
#[ignore = "compiles torch-sys, which takes minutes; make nightly runs it"]
fn the_loss_works_in_a_new_crate() {
    let readme = Markdown::parse("README.md", 1, &read("README.md"));
    let folder = tempfile::tempdir().unwrap();
    // The repository stands for the registry. Its lock file is not used.
    let manifest = format!(
        "[package]\nname = \"door\"\nedition = \"2024\"\n[dependencies]\nfiga-loss = {{ path = {:?} }}\ntch = \"{}\"\n",
        root(),
        tch_version(&readme)
    );
    fs::create_dir(folder.path().join("src")).unwrap();
    for (path, text) in [
        ("Cargo.toml", &*manifest),
        ("build.rs", block(&readme, "rustc-link-arg")),
        ("src/main.rs", block(&readme, "figa_loss(&")),
    ] {
        fs::write(folder.path().join(path), text).unwrap();
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet"]).current_dir(folder.path());
    // What is compiled stays for the next time.
    cargo.env("CARGO_TARGET_DIR", root().join("target/fresh-crate")).env("CARGO_PROFILE_DEV_DEBUG", "0");
    let output = cargo.output().unwrap();
    let [printed, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{errors}");
    assert!(!printed.trim().is_empty(), "the program of the README prints nothing");
    for line in printed.lines() {
        assert!(readme.code.iter().any(|code| code.text.contains(line)), "README.md does not show the output {line:?}");
    }
}
