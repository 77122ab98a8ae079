//! Files and folders that are complete or absent: written under a hidden name, then renamed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// Lets `write` write a file.
pub fn file(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let save = || {
        let aside = hidden(path)?;
        write(&aside)?;
        File::open(&aside)?.sync_all()?;
        anyhow::Ok(fs::rename(&aside, path)?)
    };
    save().with_context(|| format!("writing {}", path.display()))
}

pub fn json(path: &Path, value: &impl Serialize) -> Result<()> {
    file(path, |aside| Ok(fs::write(aside, serde_json::to_string_pretty(value)? + "\n")?))
}

/// Lets `write` fill a folder, which then takes the place of one that may be there.
pub fn folder(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let save = || {
        let aside = hidden(path)?;
        if aside.exists() {
            fs::remove_dir_all(&aside)?; // of a run that was killed
        }
        fs::create_dir_all(&aside)?;
        let fill = || {
            write(&aside)?;
            for entry in fs::read_dir(&aside)? {
                File::open(entry?.path())?.sync_all()?;
            }
            if path.exists() {
                fs::remove_dir_all(path)?;
            }
            anyhow::Ok(fs::rename(&aside, path)?)
        };
        fill().inspect_err(|_| {
            // Half a folder is worth nothing, and the disk may be full.
            let _ = fs::remove_dir_all(&aside);
        })
    };
    save().with_context(|| format!("writing {}", path.display()))
}

/// With the same ending, which may tell a writer what to write.
fn hidden(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().context("a path without a name")?;
    Ok(path.with_file_name(format!(".part-{}", name.display())))
}
