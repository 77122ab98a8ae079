//! The packages of the workspace, as cargo sees them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::{files, output, read, root};

/// A member of the workspace.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its features, each with what it enables.
    pub features: BTreeMap<String, Vec<String>>,
    /// Its libraries, programs, examples, tests and benches.
    pub targets: Vec<Target>,
    dependencies: Vec<Dependency>,
    manifest_path: PathBuf,
}

/// A dependency of a package.
#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
}

/// A target of a package.
#[derive(Debug, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// `bin`, `example` and so on.
    pub kind: Vec<String>,
    src_path: PathBuf,
}

/// All members of the workspace.
pub fn packages() -> Vec<Package> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let mut command = Command::new(env!("CARGO"));
    let metadata = output(command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]));
    serde_json::from_str::<Metadata>(&metadata).expect("cargo prints metadata").packages
}

/// A manifest.
pub fn manifest(path: &str) -> toml::Table {
    read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

impl Package {
    /// The path of the manifest, relative to the root.
    pub fn manifest(&self) -> String {
        relative(&self.manifest_path)
    }

    /// The folder relative to the root, with a trailing slash; empty for the package at the root.
    pub fn folder(&self) -> String {
        self.manifest().strip_suffix("Cargo.toml").expect("a manifest is called Cargo.toml").into()
    }

    /// The target of a kind and a name.
    pub fn target(&self, kind: &str, name: &str) -> Option<&Target> {
        self.targets.iter().find(|target| target.kind.iter().any(|one| one == kind) && target.name == name)
    }

    /// Whether it depends on another package.
    pub fn depends_on(&self, other: &Self) -> bool {
        self.dependencies.iter().any(|dependency| dependency.name == other.name)
    }

    /// Whether it has a feature.
    pub fn has_feature(&self, name: &str) -> bool {
        self.features.contains_key(name)
    }

    /// The Rust files of its library and its programs.
    pub fn sources(&self) -> Vec<String> {
        let folder = self.folder() + "src/";
        files().into_iter().filter(|path| path.starts_with(&folder) && path.ends_with(".rs")).collect()
    }
}

impl Target {
    /// The path of its main file, relative to the root.
    pub fn source(&self) -> String {
        relative(&self.src_path)
    }
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).expect("the workspace is below the root");
    path.to_str().expect("paths of the repository are UTF-8").into()
}
