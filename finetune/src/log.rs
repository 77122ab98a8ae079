//! `metrics.jsonl`: a line for each step.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::metrics::StepMetrics;

/// The file of a run, open to append.
pub struct Log {
    path: PathBuf,
    /// Absent in a process that is not the first of the run.
    file: Option<File>,
    /// All lines, in the order of the steps.
    pub lines: Vec<StepMetrics>,
}

impl Log {
    /// The name of the file, in the folder of a run and in a checkpoint.
    pub const FILE: &str = "metrics.jsonl";

    /// Begins the file of a run with the lines of its checkpoint. A run that was killed may have written more since, and
    /// a power failure may have lost some.
    pub fn open(run: &Path, checkpoint: Option<&Path>, is_first: bool) -> Result<Self> {
        let mut lines = vec![];
        if let Some(saved) = checkpoint.map(|checkpoint| checkpoint.join(Self::FILE)) {
            let text = fs::read_to_string(&saved).with_context(|| saved.display().to_string())?;
            let read = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
            lines = read.with_context(|| saved.display().to_string())?;
        }
        let path = run.join(Self::FILE);
        let open = || {
            write(&path, &lines)?;
            File::options().append(true).open(&path).with_context(|| path.display().to_string())
        };
        let file = is_first.then(open).transpose()?;
        Ok(Self { path, file, lines })
    }

    /// Writes all lines into a checkpoint.
    pub fn save(&self, checkpoint: &Path) -> Result<()> {
        write(&checkpoint.join(Self::FILE), &self.lines)
    }

    /// Appends a line.
    pub fn write(&mut self, line: StepMetrics) -> Result<()> {
        if let Some(file) = &mut self.file {
            let text = serde_json::to_string(&line)? + "\n";
            file.write_all(text.as_bytes()).with_context(|| format!("writing {}", self.path.display()))?;
        }
        self.lines.push(line);
        Ok(())
    }
}

fn write(path: &Path, lines: &[StepMetrics]) -> Result<()> {
    let lines = lines.iter().map(|line| Ok(serde_json::to_string(line)? + "\n")).collect::<Result<String>>()?;
    figa_atomic_file::write(path, lines).with_context(|| format!("writing {}", path.display()))
}
