//! Files on which a run depends, by their content: a resumed run must find them unchanged.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

/// A file and the hash of its content.
#[derive(Serialize, Deserialize, PartialEq)]
pub struct FileStamp {
    path: String,
    hash: String,
}

impl FileStamp {
    pub fn of_all(paths: &[impl AsRef<Path>]) -> Result<Vec<Self>> {
        paths.iter().map(|path| Self::of(path.as_ref())).collect()
    }

    fn of(path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| path.display().to_string())?;
        let hash = format!("{:016x}", XxHash64::oneshot(0, &content));
        Ok(Self { path: path.to_string_lossy().into(), hash })
    }

    /// The path of the first file that has changed, is new or is gone.
    pub fn first_change<'a>(before: &'a [Self], now: &'a [Self]) -> Option<&'a str> {
        let is_new = now.iter().find(|stamp| !before.contains(stamp));
        let changed = is_new.or_else(|| before.iter().find(|stamp| !now.contains(stamp)));
        changed.map(|stamp| &*stamp.path)
    }
}
