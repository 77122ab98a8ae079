//! Commands in pages, doc comments and help texts: the targets, packages, scripts and flags that they name exist.

use std::collections::{BTreeMap, BTreeSet};

use xtask::markdown::Markdown;
use xtask::program::{Program, flag};
use xtask::rust::docs;
use xtask::shell::commands;
use xtask::workspace::{Package, packages};
use xtask::{files, pages, read, report, root};

/// The programs whose commands are checked in indented lines.
const PROGRAMS: [&str; 5] = ["cargo", "figa", "make", "pip", "python3"];

/// Flags of cargo that pages name outside a command.
const CARGO_FLAGS: [&str; 3] = ["features", "no-default-features", "release"];

#[test]
fn commands_in_documents_exist() {
    let repository = Repository::read();
    let (mut seen, mut problems) = (BTreeSet::new(), vec![]);
    for (place, code) in documented_code() {
        for command in commands(&code) {
            let Some(problem) = repository.problem(&command) else { continue };
            seen.insert(command[0].clone());
            problems.extend(problem.map(|problem| format!("{place}: {problem}: {}", command.join(" "))));
        }
    }
    assert_eq!(seen, ["cargo", "figa", "make", "python3"].map(String::from).into(), "programs in documents");
    report(&problems);
}

#[test]
fn flags_in_backticks_exist() {
    let repository = Repository::read();
    let known: BTreeSet<&String> =
        repository.programs.values().flat_map(|program| program.commands.values()).flatten().collect();
    let (mut count, mut problems) = (0, vec![]);
    for page in pages() {
        for code in page.code.iter().filter(|code| code.language.is_none() && code.text.starts_with("--")) {
            for flag in code.text.split_whitespace().filter_map(flag) {
                count += 1;
                if !known.contains(&flag.to_owned()) && !CARGO_FLAGS.contains(&flag) {
                    problems.push(format!("{}: no program has the flag --{flag}", page.at(code.line)));
                }
            }
        }
    }
    assert!(count > 5, "only {count} flags");
    report(&problems);
}

#[test]
fn ci_runs_the_tests_as_the_readme_does() {
    let readme = pages().into_iter().find(|page| page.path == "README.md").expect("there is a README");
    let readme: Vec<Vec<String>> = readme.code.iter().flat_map(|code| commands(&code.text)).collect();
    let is_test = |command: &&Vec<String>| command.contains(&"test".into()) && command[0] == "make";
    let test = readme.iter().find(is_test).expect("README.md: expected make test");
    assert!(commands(&read(".ci/run")).contains(test), ".ci/run: expected {}, as in README.md", test.join(" "));
}

/// The code in pages, doc comments and texts of programs, with its place.
fn documented_code() -> Vec<(String, String)> {
    let files = files();
    let sources = files.iter().filter(|path| path.ends_with(".rs"));
    let documents = pages().into_iter().chain(sources.flat_map(|path| docs(path)));
    let code =
        |page: Markdown| page.code.iter().map(|code| (page.at(code.line), code.text.clone())).collect::<Vec<_>>();
    let mut found: Vec<(String, String)> = documents.flat_map(code).collect();
    // In help texts and in Python, commands are indented lines.
    for path in files.iter().filter(|path| path.ends_with(".rs") || path.ends_with(".py")) {
        let text = read(path);
        let is_command = |line: &str| {
            line.starts_with("  ") && line.split_whitespace().next().is_some_and(|word| PROGRAMS.contains(&word))
        };
        let lines = text.lines().zip(1..).filter(|(line, _)| is_command(line));
        found.extend(lines.map(|(line, number)| (format!("{path}:{number}"), line.replace("\\\"", "\""))));
    }
    found
}

/// The names that commands may use.
struct Repository {
    make_targets: BTreeSet<String>,
    packages: Vec<Package>,
    /// The programs and examples by name.
    programs: BTreeMap<String, Program>,
}

impl Repository {
    fn read() -> Self {
        let makefile = read("Makefile");
        let targets = makefile.lines().filter(|line| !line.starts_with(['\t', '.', '#']) && !line.contains(":="));
        let make_targets = targets.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect();
        let packages = packages();
        let mut programs = BTreeMap::new();
        for package in &packages {
            let others = packages.iter().filter(|other| package.depends_on(other));
            let others: Vec<String> = others.flat_map(Package::sources).collect();
            for target in &package.targets {
                let program = match &*target.kind[0] {
                    "bin" => Program::read(&package.sources(), &others),
                    "example" => Program::read(&[target.source()], &[]),
                    _ => continue,
                };
                programs.insert(target.name.clone(), program);
            }
        }
        Self { make_targets, packages, programs }
    }

    /// `None` for a command that cannot be checked; otherwise its problem, if any.
    fn problem(&self, command: &[String]) -> Option<Option<String>> {
        let rest = &command[1..];
        Some(match &*command[0] {
            "make" if !rest.is_empty() => self.make_problem(rest),
            "cargo" if !rest.is_empty() => self.cargo_problem(rest),
            "python3" if rest.first().is_some_and(|script| script.ends_with(".py")) => python_problem(rest),
            "figa" if !rest.is_empty() => self.programs["figa"].problem(rest),
            _ => return None,
        })
    }

    fn make_problem(&self, rest: &[String]) -> Option<String> {
        let mut targets = rest.iter().filter(|word| !word.contains('=') && !word.starts_with('-'));
        let unknown = targets.find(|target| !self.make_targets.contains(*target))?;
        Some(format!("the Makefile has no target {unknown}"))
    }

    fn cargo_problem(&self, rest: &[String]) -> Option<String> {
        let own = rest.iter().position(|word| word == "--").unwrap_or(rest.len());
        let (rest, arguments) = (&rest[..own], rest.get(own + 1..).unwrap_or_default());
        let values = |flags: &[&str]| -> Vec<&str> {
            let pairs = rest.windows(2).filter(|pair| flags.contains(&&*pair[0]));
            pairs.map(|pair| &*pair[1]).collect()
        };
        let package = match &*rest[0] {
            // These name packages of this workspace and of others.
            "install" | "add" => rest[1..].iter().find(|word| self.package(word).is_some())?,
            // The reader's own crate: this workspace has no program at its root.
            "init" => return None,
            "run" if rest.len() == 1 => return None,
            _ => values(&["-p", "--package"]).first().copied().unwrap_or("figa-loss"),
        };
        let Some(package) = self.package(package) else { return Some(format!("there is no package {package}")) };
        if rest[0] == "install" && !package.targets.iter().any(|target| target.kind == ["bin"]) {
            return Some(format!("{} has no program", package.name));
        }
        if rest[0] == "fuzz" {
            let target = rest.last().filter(|_| rest.len() > 2)?;
            let path = format!("fuzz/fuzz_targets/{target}.rs");
            return (!root().join(&path).exists()).then(|| format!("there is no {path}"));
        }
        for kind in ["bin", "example", "test", "bench"] {
            for name in values(&[&format!("--{kind}")]) {
                if package.target(kind, name).is_none() {
                    return Some(format!("{} has no {kind} {name}", package.name));
                }
            }
        }
        let features = values(&["-F", "--features"]);
        if let Some(name) = features.iter().flat_map(|list| list.split(',')).find(|name| !package.has_feature(name)) {
            return Some(format!("{} has no feature {name}", package.name));
        }
        if rest[0] != "run" {
            return None;
        }
        let example = values(&["--example"]).first().and_then(|name| package.target("example", name));
        let program = example.or_else(|| package.targets.iter().find(|target| target.kind == ["bin"]));
        match program {
            Some(program) => self.programs[&program.name].problem(arguments),
            None => Some(format!("{} has no program", package.name)),
        }
    }

    fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }
}

/// Checks that the script exists, and that it has each flag in quotes.
fn python_problem(rest: &[String]) -> Option<String> {
    let script = &rest[0];
    if !root().join(script).exists() {
        return Some(format!("there is no {script}"));
    }
    let text = read(script);
    let unknown = rest.iter().filter_map(|word| flag(word)).find(|flag| !text.contains(&format!("\"--{flag}\"")));
    unknown.map(|flag| format!("{script} has no flag --{flag}"))
}
