//! What `state.json` holds: what a run was asked for, and how far it is.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::consumed::Consumed;
use crate::stamp::FileStamp;

#[derive(Serialize, Deserialize)]
pub struct State<P> {
    /// The file name of the output, by which the folder is known to belong to it.
    pub out: String,
    pub origin: Origin,
    pub progress: P,
    pub consumed: Consumed,
    /// Bytes of the rows as lines, of the rejected records and of the reasons.
    pub line_bytes: u64,
    pub rejected_bytes: u64,
    pub reason_bytes: u64,
    pub segments: usize,
    /// Everything is written, and only the renaming may be missing.
    pub finished: bool,
}

/// What the rows depend on, besides the records. A run can only be resumed with the same.
#[derive(Serialize, Deserialize)]
pub struct Origin {
    /// Of this program.
    version: String,
    arguments: Value,
    files: Vec<FileStamp>,
}

impl<P: Default> State<P> {
    pub fn new(out: &Path, origin: Origin) -> Self {
        Self {
            out: out.file_name().unwrap_or_default().to_string_lossy().into(),
            origin,
            progress: P::default(),
            consumed: Consumed::default(),
            line_bytes: 0,
            rejected_bytes: 0,
            reason_bytes: 0,
            segments: 0,
            finished: false,
        }
    }
}

impl<P> State<P> {
    /// Whether it counts anything that has been written.
    pub fn has_rows(&self) -> bool {
        self.finished || self.segments > 0 || self.line_bytes + self.rejected_bytes > 0
    }
}

impl Origin {
    pub fn new(arguments: Value, files: &[PathBuf]) -> Result<Self> {
        Ok(Self { version: env!("CARGO_PKG_VERSION").into(), arguments, files: FileStamp::of_all(files)? })
    }

    /// Checks that a run of this origin, whose folder is `partial`, can be resumed as one of `now`.
    pub fn check_same(&self, now: &Self, partial: &Path) -> Result<()> {
        let partial = partial.display();
        ensure!(
            self.version == now.version,
            "--resume: the run in {partial} is of figa {}, and this is {}: continue it with that one, or remove {partial}",
            self.version,
            now.version
        );
        ensure!(
            self.arguments["weights"].is_object(),
            "--resume: the run in {partial} does not say what its tokens weigh, as those of older versions: remove {partial} to \
             start again"
        );
        if let Some(name) = first_difference(&self.arguments, &now.arguments) {
            let flag = if name == "inputs" { name.to_owned() } else { format!("--{}", name.replace('_', "-")) };
            bail!(
                "--resume: {flag} is another one than in the run in {partial}: repeat its arguments, or remove {partial}"
            );
        }
        if let Some(path) = FileStamp::first_change(&self.files, &now.files) {
            bail!("--resume: {path} has changed since the run began: restore it, or remove {partial} to start again");
        }
        Ok(())
    }
}

/// The first argument that has another value.
fn first_difference<'a>(before: &'a Value, now: &'a Value) -> Option<&'a str> {
    let names = [before, now].into_iter().filter_map(Value::as_object).flat_map(|arguments| arguments.keys());
    names.map(|name| &**name).find(|name| before[name] != now[name])
}
