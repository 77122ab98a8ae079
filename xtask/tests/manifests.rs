//! Versions and lints are declared once, in the manifest of the workspace.

use toml::{Table, Value};
use xtask::report;
use xtask::workspace::{manifest, packages};

const DEPENDENCIES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// All dependencies, including those for one platform.
fn dependencies(manifest: &Table) -> impl Iterator<Item = (&String, &Value)> {
    let platforms = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let tables = [manifest].into_iter().chain(platforms.filter_map(Value::as_table));
    tables.flat_map(|table| DEPENDENCIES.iter().filter_map(|name| table.get(*name)?.as_table())).flat_map(Table::iter)
}

fn is_inherited(value: Option<&Value>) -> bool {
    value.and_then(|value| value.get("workspace")).and_then(Value::as_bool) == Some(true)
}

#[test]
fn members_inherit_from_the_workspace() {
    let shared = manifest("Cargo.toml")["workspace"]["package"].as_table().expect("a table").clone();
    let mut problems = vec![];
    for path in packages().iter().map(|package| package.manifest()) {
        let member = manifest(&path);
        // The address of the repository gets into the members when a release is made.
        let keys = shared.keys().filter(|key| *key != "repository");
        for key in keys.filter(|key| !is_inherited(member["package"].get(*key))) {
            problems.push(format!("{path}: expected {key}.workspace = true in [package]"));
        }
        if !is_inherited(member.get("lints")) {
            problems.push(format!("{path}: expected workspace = true in [lints]"));
        }
        for (name, _) in dependencies(&member).filter(|(_, value)| !is_inherited(Some(value))) {
            problems.push(format!("{path}: expected {name}.workspace = true, and the version in the workspace"));
        }
    }
    report(&problems);
}

#[test]
fn the_dependencies_of_the_workspace_are_in_use_and_have_its_version() {
    let root = manifest("Cargo.toml");
    let members: Vec<Table> = packages().iter().map(|package| manifest(&package.manifest())).collect();
    let used: Vec<&String> = members.iter().flat_map(dependencies).map(|(name, _)| name).collect();
    let version = &root["workspace"]["package"]["version"];
    let mut problems = vec![];
    for (name, dependency) in root["workspace"]["dependencies"].as_table().expect("a table") {
        if !used.contains(&name) {
            problems.push(format!("Cargo.toml: no member depends on {name}"));
        }
        if dependency.get("path").is_some() && dependency.get("version") != Some(version) {
            problems.push(format!("Cargo.toml: expected version {version} for {name}, which is a member"));
        }
    }
    report(&problems);
}
