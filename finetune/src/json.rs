//! JSON files.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};

/// Reads a value from a file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    serde_json::from_reader(BufReader::new(file)).with_context(|| path.display().to_string())
}

/// Reads a value from a file, if there is one.
pub fn read_if_exists<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    path.exists().then(|| read(path)).transpose()
}

/// Writes a value to a file that is complete or absent.
pub fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    figa_atomic_file::write(path, text).with_context(|| format!("writing {}", path.display()))
}
