//! Files that are complete or absent.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Nothing that is there is written over.
pub fn check_new(argument: &str, path: &Path) -> Result<()> {
    ensure!(!path.exists(), "{argument}: {} is there already: name another file, or remove it", path.display());
    Ok(())
}

/// Writes a file under another name and renames it once it is on the disk.
pub fn write(path: &Path, write: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let aside = with_ending(path, ".tmp");
    let save = || {
        let file = File::create(&aside)?;
        write(&file)?;
        file.sync_all()?;
        anyhow::Ok(fs::rename(&aside, path)?)
    };
    let saved = save().inspect_err(|_| drop(fs::remove_file(&aside)));
    saved.with_context(|| format!("writing {}", path.display()))
}

pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}
