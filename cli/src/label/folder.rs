//! The folder `OUT.partial` of an unfinished run.
//!
//! Somebody else may have put a folder or a link there, and a user may keep files of their own in a folder of that name.
//! So it is created anew, or taken over only if its state says that it belongs to `OUT`; what is in it is opened without
//! following links; and only files that a run writes are removed.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use figa_atomic_file::{check_own_folder, create_folder, name_of_partial, open_own};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::new_file::with_suffix;

const LOCK: &str = "lock";
const STATE: &str = "state.json";
const WHOLE: &str = "whole.parquet";
/// The names of files that grow.
pub const LINES: &str = "lines";
pub const REJECTED: &str = "rejected";
pub const REASONS: &str = "rejected.why.jsonl";

/// The folder, locked for this run. Dropping it removes it, unless it is [kept](Self::keep).
pub struct PartialFolder {
    path: PathBuf,
    is_kept: bool,
    /// Locked as long as it is open.
    _lock: File,
}

impl PartialFolder {
    pub fn path_of(out: &Path) -> PathBuf {
        with_suffix(out, ".partial")
    }

    /// Creates the folder, or takes over that of an earlier run.
    pub fn open(out: &Path) -> Result<Self> {
        let path = Self::path_of(out);
        match create_folder(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => check_is_of(&path, out)?,
            created => created.with_context(|| format!("--out: creating {}", path.display()))?,
        }
        let lock = open_or_create(&path.join(LOCK))?;
        ensure!(lock.try_lock().is_ok(), "--out: another run is writing {}", path.display());
        Ok(Self { path, is_kept: false, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn segment(&self, number: usize) -> PathBuf {
        self.path.join(format!("{number:06}.parquet"))
    }

    pub fn whole(&self) -> PathBuf {
        self.path.join(WHOLE)
    }

    /// Leaves the folder for a run that resumes this one, or not.
    pub fn keep(&mut self, is_kept: bool) {
        self.is_kept = is_kept;
    }

    /// The state of the run before, if there was one.
    pub fn read_state<S: DeserializeOwned>(&self) -> Result<Option<S>> {
        read_state(&self.path)
    }

    pub fn write_state(&self, state: &impl serde::Serialize) -> Result<()> {
        let path = self.path.join(STATE);
        let json = serde_json::to_vec_pretty(state)?;
        figa_atomic_file::write(&path, json).with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for PartialFolder {
    /// What cannot be removed does no harm: the output is complete, or there is none.
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let names = fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| is_ours(name)).collect();
        // As long as the state is there, the folder is known to be ours.
        names.sort_by_key(|name| [STATE, LOCK].iter().position(|last| last == name));
        for name in names {
            let _ = fs::remove_file(self.path.join(name));
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// The arguments of the unfinished run whose output is `out`, if there is one.
pub fn arguments(out: &Path) -> Result<Option<Value>> {
    let path = PartialFolder::path_of(out);
    if check_is_of(&path, out).is_err() {
        // The run itself says what is wrong with the folder.
        return Ok(None);
    }
    Ok(read_state::<Value>(&path)?.map(|mut state| state["arguments"].take()))
}

/// Opens a file of the folder, or creates it.
pub fn open_or_create(path: &Path) -> Result<File> {
    let options = OpenOptions::new().write(true).clone();
    let file = match open_own(path, &options) {
        Err(error) if error.kind() == ErrorKind::NotFound => options.clone().create_new(true).open(path),
        file => file,
    };
    file.with_context(|| format!("--out: {}", path.display()))
}

/// Checks that a folder is that of an unfinished run with the output `out`.
fn check_is_of(path: &Path, out: &Path) -> Result<()> {
    let refused = |reason: &str| {
        format!(
            "--out: {} is not the folder of an unfinished run ({reason}): name another file, or move that away",
            path.display()
        )
    };
    if let Err(error) = check_own_folder(path) {
        bail!(refused(&error.to_string()));
    }
    let state: Option<Value> = read_state(path)?;
    let Some(state) = state else {
        // A run may have been stopped before it had a state, or while it removed the folder.
        for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
            let entry = entry?;
            let (name, is_empty) = (entry.file_name(), entry.metadata()?.len() == 0);
            let is_early = |name: &str| name == LOCK && is_empty || name_of_partial(name) == Some(STATE);
            let is_early = name.to_str().is_some_and(is_early);
            ensure!(is_early, refused(&format!("it holds {} but no {STATE}", name.display())));
        }
        return Ok(());
    };
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    ensure!(state["out"] == *name, refused(&format!("its {STATE} does not name {name}")));
    Ok(())
}

fn read_state<S: DeserializeOwned>(folder: &Path) -> Result<Option<S>> {
    let path = folder.join(STATE);
    let read = || {
        let mut file = match open_own(&path, OpenOptions::new().read(true)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut json = vec![];
        file.read_to_end(&mut json)?;
        anyhow::Ok(Some(serde_json::from_slice(&json)?))
    };
    read().with_context(|| format!("--out: {}", path.display()))
}

/// Whether a run gives a file in its folder this name.
fn is_ours(name: &str) -> bool {
    let is_segment = |name: &str| {
        name.strip_suffix(".parquet")
            .is_some_and(|number| number.len() >= 6 && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_named = |name: &str| [LOCK, STATE, WHOLE, LINES, REJECTED, REASONS].contains(&name) || is_segment(name);
    is_named(name_of_partial(name).unwrap_or(name))
}
