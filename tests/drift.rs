//! What drifts apart unless a test holds it together: manifest, changelog, documentation, examples.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[cfg(feature = "data")]
#[path = "../examples/aligners.rs"]
#[expect(dead_code, reason = "its main is the example's")]
mod aligners;

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

/// The pages that people read.
fn pages() -> Vec<PathBuf> {
    let mut pages = files("docs", &["md"]);
    pages.extend(["README.md", "CHANGELOG.md", "examples/README.md"].map(|name| root().join(name)));
    pages
}

/// What stands between the fences of a page.
fn fences(page: &str) -> String {
    page.split("```").skip(1).step_by(2).collect()
}

/// What stands between fences or backticks.
fn code(page: &str) -> String {
    let spans = page.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2).chain(["\n"]));
    fences(page) + &spans.collect::<Vec<_>>().join("\n")
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
    for page in pages() {
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

/// What `make`, `cargo --example`, `cargo --bench` and `python3` are asked for in code of the pages is there.
#[test]
fn commands_exist() {
    let (manifest, makefile) = (read("Cargo.toml"), read("Makefile"));
    let mut seen = BTreeSet::new();
    for page in pages() {
        for line in code(&fs::read_to_string(&page).unwrap()).lines() {
            for pair in line.split_whitespace().collect::<Vec<_>>().windows(2) {
                let there = match *pair {
                    ["make", target] => makefile.contains(&format!("\n{target}:")),
                    ["--example", name] => manifest.contains(&format!("[[example]]\nname = \"{name}\"")),
                    ["--bench", name] => manifest.contains(&format!("[[bench]]\nname = \"{name}\"")),
                    ["--test", name] => root().join(format!("tests/{name}.rs")).exists(),
                    ["python3", script] if script.ends_with(".py") => root().join(script).exists(),
                    ["figa", command] => read("src/bin/figa/main.rs").contains(&format!("mod {command};")),
                    _ => continue,
                };
                assert!(there, "{}: there is no {}", page.display(), pair.join(" "));
                seen.insert(pair[0].to_owned());
            }
        }
    }
    assert_eq!(seen, ["--bench", "--example", "figa", "make", "python3"].map(String::from).into());
    assert!(code(&read("README.md")).contains("make test") && read(".ci/run").contains("make test"));
}

/// Each section of a page that quotes a measurement names the command that prints it.
#[test]
fn measurements_name_their_command() {
    let mut measured = 0;
    for page in pages() {
        for section in fs::read_to_string(&page).unwrap().split("\n## ") {
            let words: Vec<&str> = section.split(|c: char| c.is_whitespace() || "|()".contains(c)).collect();
            let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
            let is_unit = |word: &str| {
                let units = ["%", "±", "us", "ms", "s", "seconds", "minutes", "KiB", "MiB", "GiB", "tokens/s"];
                units.contains(&word.trim_end_matches(['.', ',', ';', ':']))
            };
            if words.windows(2).any(|pair| is_number(pair[0]) && is_unit(pair[1])) {
                let commands = ["cargo run ", "cargo bench", "make ", "python3 ", "figa "];
                let named = commands.iter().any(|command| code(section).contains(command));
                assert!(named, "{}: no command prints the numbers of {section}", page.display());
                measured += 1;
            }
        }
    }
    assert!(measured >= 3, "{measured} sections with measurements");
}

/// The table of the module `align` is what the example prints, but for times and for data that is not here.
#[cfg(feature = "data")]
#[test]
fn the_table_of_aligners_is_up_to_date() {
    let printed = aligners::compare(&root().join("examples/data/spa_tiny.jsonl")).unwrap();
    let page = read("src/align.rs");
    assert!(printed.contains("252 pairs") && page.contains("252 short answers"), "{printed}");
    let mut compared = 0;
    for line in page.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let mut rows = printed.lines().skip(4).map(|row| row.split_whitespace().collect::<Vec<_>>());
        let Some(row) = rows.find(|row| row[0] == cells[0]) else { continue };
        let (unlike, moved) = (row[3], row[row.len() - 1]);
        let quoted = cells[1].split(' ').next().filter(|quoted| !quoted.is_empty());
        assert_eq!(quoted.unwrap_or("0.00"), unlike, "{line}: {printed}");
        assert_eq!(cells[3].replace(',', ""), moved, "{line}: {printed}");
        compared += 1;
    }
    assert_eq!(compared, 5);
}

/// What a reader can name stands in an example: of the documentation, of the README, or of the folder `examples`.
#[test]
fn every_public_item_is_in_an_example() {
    let sources: Vec<String> = files("src", &["rs"])
        .into_iter()
        .filter(|path| !path.starts_with(root().join("src/bin")))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let comment = |line: &str| {
        let line = line.trim_start();
        line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).map(str::to_owned)
    };
    let mut examples = String::new();
    for source in &sources {
        examples += &fences(&source.lines().filter_map(comment).collect::<Vec<_>>().join("\n"));
    }
    for page in pages() {
        examples += &fences(&fs::read_to_string(page).unwrap());
    }
    for path in files("examples", &["rs"]) {
        examples += &fs::read_to_string(path).unwrap();
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let shown: BTreeSet<&str> = examples.split(|c| !is_part(c)).collect();

    let public = sources.iter().flat_map(|source| source.lines()).filter_map(|line| {
        let item = line.trim_start().strip_prefix("pub ")?;
        let kinds = ["const ", "fn ", "struct ", "enum ", "type "];
        let item = kinds.iter().fold(item, |item, kind| item.strip_prefix(kind).unwrap_or(item));
        item.split(|c| !is_part(c)).next().filter(|name| !["use", "mod"].contains(name))
    });
    let public: BTreeSet<&str> = public.collect();
    assert!(public.contains("figa_loss") && public.contains("max_bytes") && public.len() > 100, "{public:?}");
    let missing: Vec<_> = public.difference(&shown).collect();
    assert!(missing.is_empty(), "no example shows {missing:?}");
}
