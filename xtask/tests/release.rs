//! The tree that is released: the address of the repository is everywhere, and the pages that registries show lead there.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use pulldown_cmark::{Event, Options, Parser, Tag};
use tempfile::TempDir;
use xtask::markdown::Markdown;
use xtask::workspace::packages;
use xtask::{files, read, report, root};

const REPOSITORY: &str = "https://forge.invalid/owner/figa-loss";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A copy of the repository that lacks nothing for a release.
struct Copy(TempDir);

impl Copy {
    fn new() -> Self {
        let copy = Self(tempfile::tempdir().expect("a temporary folder"));
        for path in files() {
            let to = copy.path(&path);
            std::fs::create_dir_all(to.parent().expect("a file is in a folder")).expect("folders can be made");
            std::fs::copy(root().join(&path), to).expect("files can be copied");
        }
        copy.replace(
            "Cargo.toml",
            "[workspace.package]",
            &format!("[workspace.package]\nrepository = \"{REPOSITORY}\""),
        );
        copy.replace("SECURITY.md", "[FILL IN: contact for security reports]", "the maintainers");
        copy.replace("CHANGELOG.md", &format!("## [{VERSION}] - unreleased"), &format!("## [{VERSION}] - 2026-01-31"));
        for arguments in [["init", "--quiet"], ["add", "--all"]] {
            assert!(Command::new("git").args(arguments).current_dir(&copy.0).status().expect("git runs").success());
        }
        copy
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn replace(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{path}: expected {from}");
        std::fs::write(self.path(path), text.replacen(from, to, 1)).expect("files can be written");
    }

    fn release(&self) -> Output {
        let mut command = Command::new("python3");
        command.arg("scripts/release.py").current_dir(&self.0).output().expect("python3 runs")
    }
}

/// The folder of a released tree.
static TREE: LazyLock<(Copy, PathBuf)> = LazyLock::new(|| {
    let copy = Copy::new();
    let output = copy.release();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = copy.path("target/release-tree");
    (copy, tree)
});

fn read_released(path: &str) -> String {
    std::fs::read_to_string(TREE.1.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The pages that registries show.
fn pages_of_packages() -> Vec<String> {
    let published = packages().into_iter().map(|package| package.folder()).filter(|folder| folder != "xtask/");
    published.map(|folder| folder + "README.md").filter(|path| root().join(path).exists()).collect()
}

/// The targets of all links and images of a page, in Markdown and HTML, and whether each is shown as an image.
fn targets(text: &str) -> Vec<(String, bool)> {
    let mut found = vec![];
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Link { dest_url, .. }) => found.push((dest_url.into_string(), false)),
            Event::Start(Tag::Image { dest_url, .. }) => found.push((dest_url.into_string(), true)),
            Event::Html(html) | Event::InlineHtml(html) => {
                for (attribute, is_image) in [("href=\"", false), ("src=\"", true), ("srcset=\"", true)] {
                    let values = html.split(attribute).skip(1).filter_map(|rest| rest.split('"').next());
                    found.extend(values.map(|value| (value.to_owned(), is_image)));
                }
            }
            _ => {}
        }
    }
    found
}

/// Why a target of a released page leads nowhere.
fn problem(target: &str, is_image: bool) -> Option<&'static str> {
    let Some(rest) = target.strip_prefix(&format!("{REPOSITORY}/")) else {
        return (!target.contains("://")).then_some("is relative");
    };
    let (kind, path) = rest.split_once(&format!("/v{VERSION}/"))?;
    let (path, anchor) = path.split_once('#').unwrap_or((path, ""));
    let file = root().join(path);
    match kind {
        "tree" if file.is_dir() => return None,
        "raw" if file.is_file() => return None,
        "blob" if file.is_file() && !is_image => {}
        _ => return Some("leads to no file of its kind"),
    }
    let has_anchor = || Markdown::parse(path, 1, &read(path)).headings.iter().any(|heading| heading.anchor == anchor);
    (!anchor.is_empty() && !has_anchor()).then_some("leads to no heading")
}

#[test]
fn links_of_package_pages_lead_into_the_repository() {
    let (mut problems, mut count) = (vec![], 0);
    for page in pages_of_packages() {
        for (target, is_image) in targets(&read_released(&page)) {
            count += usize::from(target.starts_with(REPOSITORY));
            problems.extend(problem(&target, is_image).map(|problem| format!("{page}: {target} {problem}")));
        }
    }
    assert!(count > 10, "only {count} links into the repository");
    report(&problems);
}

#[test]
fn only_the_targets_of_links_change() {
    for page in pages_of_packages() {
        let (before, after) = (read(&page), read_released(&page));
        let texts = |text: &str| -> Vec<String> {
            let events = Parser::new_ext(text, Options::ENABLE_TABLES);
            events
                .filter_map(|event| {
                    if let Event::Text(text) | Event::Code(text) = event { Some(text.into_string()) } else { None }
                })
                .collect()
        };
        assert_eq!(texts(&before), texts(&after), "{page}");
    }
}

#[test]
fn manifests_name_the_repository() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(&TREE.1)
        .output()
        .expect("cargo runs");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    let published: Vec<_> = packages.iter().filter(|package| package["publish"].is_null()).collect();
    assert!(published.len() > 3, "only {} packages are published", published.len());
    for package in published {
        for key in ["repository", "homepage"] {
            assert_eq!(package[key], REPOSITORY, "{key} of {}", package["name"]);
        }
        for key in ["authors", "description", "license", "readme", "keywords", "categories", "rust_version"] {
            let is_empty = package[key].is_null() || package[key].as_array().is_some_and(Vec::is_empty);
            assert!(!is_empty, "{}: expected {key}", package["name"]);
        }
    }
    assert!(
        read_released("cli/Cargo.toml")
            .contains(&format!("\ndocumentation = \"{REPOSITORY}/blob/v{VERSION}/cli/README.md\"\n"))
    );
    let python: toml::Table = read_released("python/pyproject.toml").parse().expect("a table");
    let urls = python["project"]["urls"].as_table().expect("a table");
    for (name, url) in urls {
        assert!(url.as_str().is_some_and(|url| url.starts_with(REPOSITORY)), "{name} is {url}");
    }
    assert!(
        read_released("CITATION.cff")
            .contains(&format!("\nrepository-code: \"{REPOSITORY}\"\ndate-released: 2026-01-31\n"))
    );
    assert!(read_released("CHANGELOG.md").ends_with(&format!("\n[{VERSION}]: {REPOSITORY}/releases/tag/v{VERSION}\n")));
}

#[test]
fn what_is_missing_is_one_line_that_says_where() {
    let copy = Copy::new();
    let refuse = |path: &str, from: &str, to: &str, expected: &str| {
        copy.replace(path, from, to);
        let output = copy.release();
        assert!(!output.status.success(), "{path} with {to}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("release: {expected}\n"));
        assert!(!copy.path("target/release-tree").exists(), "{path} with {to}");
        copy.replace(path, to, from);
    };
    let address = format!("repository = \"{REPOSITORY}\"");
    let found = |found: &str| format!("expected a repository like https://HOST/OWNER/NAME, found {found}");
    refuse(
        "Cargo.toml",
        &address,
        "# none",
        "Cargo.toml: expected repository = \"https://HOST/OWNER/NAME\" in [workspace.package], found none",
    );
    for wrong in
        ["http://forge.invalid/owner/name", "https://forge.invalid/owner/name.git", "https://forge.invalid/owner/name/"]
    {
        refuse("Cargo.toml", &address, &format!("repository = \"{wrong}\""), &format!("Cargo.toml: {}", found(wrong)));
    }
    refuse(
        "SECURITY.md",
        "the maintainers",
        "[FILL IN: contact]",
        "SECURITY.md:5: expected text in place of [FILL IN: contact]",
    );
    let line = |path: &str, text: &str| copy.read(path).lines().position(|line| line.contains(text)).expect(text) + 1;
    let heading = format!("## [{VERSION}]");
    refuse(
        "CHANGELOG.md",
        &format!("{heading} - 2026-01-31"),
        &format!("{heading} - unreleased"),
        &format!(
            "CHANGELOG.md:{}: expected {heading} - YYYY-MM-DD, found {heading} - unreleased",
            line("CHANGELOG.md", &heading)
        ),
    );
    refuse(
        "cli/README.md",
        "# figa-cli",
        "# [figa-cli](../docs/chosing.md)",
        "cli/README.md:1: the link ../docs/chosing.md leads to no file that git tracks",
    );
}

#[test]
fn links_are_found_in_all_their_forms() {
    let copy = Copy::new();
    let page = "\
# Title
[a](docs/figa.md#title \"t\") [![b](docs/figures/packing.svg)](docs) [over
two lines](<LICENSE-MIT>) [c] <img src=\"docs/figures/packing.svg\"> [d](#title) [e](https://x.invalid/y)

`[code](none)` ``[`code`](none)`` <!-- [comment](none) -->

```sh
[fenced](none)
```

[c]: src/lib.rs
";
    let before = copy.read("README.md");
    copy.replace("README.md", &before, page);
    let output = copy.release();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let at = |kind: &str, path: &str| format!("{REPOSITORY}/{kind}/v{VERSION}/{path}");
    let expected = page
        .replace("(docs/figa.md#title", &format!("({}", at("blob", "docs/figa.md#title")))
        .replace("docs/figures/packing.svg", &at("raw", "docs/figures/packing.svg"))
        .replace("](docs)", &format!("]({})", at("tree", "docs")))
        .replace("<LICENSE-MIT>", &format!("<{}>", at("blob", "LICENSE-MIT")))
        .replace("(#title)", &format!("({})", at("blob", "README.md#title")))
        .replace("src/lib.rs", &at("blob", "src/lib.rs"));
    assert_eq!(copy.read("target/release-tree/README.md"), expected);
    assert!(Path::new(&copy.path("target/release-tree/Cargo.lock")).exists());
}
