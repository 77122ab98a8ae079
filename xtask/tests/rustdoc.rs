//! The pages of `docs` as rustdoc shows them, and the check of the links that it generates.

use std::fs;
use std::process::Command;

use xtask::root;

// A build script has no tests of its own.
#[allow(dead_code)]
#[path = "../../build.rs"]
mod build;

fn rewritten(page: &str, blob: Option<&str>) -> String {
    let read = |path: &str| format!("<svg>{path}</svg>");
    build::rewrite(page, |target| build::rustdoc_target(target, blob, read))
}

#[test]
fn links_of_pages_lead_to_modules_and_images_are_inside() {
    let page = "[a](figa.md#gate), [b [c]](losses.md) and ![d](figures/e.svg)\n[f](https://example.org/g.md) [h](#i)";
    let expected = "[a](../figa/index.html#gate), [b [c]](../losses/index.html) and \
                    ![d](data:image/svg+xml,%3Csvg%3Efigures/e.svg%3C/svg%3E)\n[f](https://example.org/g.md) [h](#i)";
    assert_eq!(rewritten(page, None), expected);
}

#[test]
fn files_of_the_repository_are_linked_where_it_is_published() {
    let page = "see [a *program*](../examples/a.py) and [b](experiments/README.md#log)";
    assert_eq!(rewritten(page, None), "see a *program* and b");
    let blob = Some("https://example.org/blob/v1");
    let expected = "see [a *program*](https://example.org/blob/v1/examples/a.py) and \
                    [b](https://example.org/blob/v1/docs/experiments/README.md#log)";
    assert_eq!(rewritten(page, blob), expected);
}

#[test]
fn code_and_plain_brackets_stay() {
    let page = "`[a](b.md)` ``c`[d](e.md)`` \\[f](g.md) [h] (i) ]\n```text\n[j](figa.md)\n```\n[B, S]: `x";
    assert_eq!(rewritten(page, None), page);
}

#[test]
fn dead_links_of_generated_pages_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let check = |page: &str| {
        fs::create_dir_all(folder.path().join("krate")).unwrap();
        fs::write(folder.path().join("krate/index.html"), page).unwrap();
        fs::write(folder.path().join("krate/b.html"), "<p id=here>").unwrap();
        let mut command = Command::new("python3");
        let output = command.arg(root().join("scripts/doc_links.py")).arg(folder.path()).arg("krate").output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let live = "<a href='b.html#here'>, <a href='https://example.org/c'>, <a id=d href='#d'>";
    assert_eq!(check(live), (true, String::new()));
    for (dead, problem) in [
        ("<a href='c.md'>", "c.md leads to no file"),
        ("<img src='figures/c.svg'>", "figures/c.svg leads to no file"),
        ("<a href='b.html#there'>", "b.html#there leads to no anchor"),
        ("<a href='#e'>", "#e leads to no anchor"),
    ] {
        let (ok, problems) = check(&format!("{live}\n{dead}"));
        assert!(!ok && problems.contains(&format!("krate/index.html:2: {problem}")), "{problems}");
    }
}
