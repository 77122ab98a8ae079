//! `metrics.jsonl`: a line for each step.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::metrics::StepMetrics;

/// The file of a run, open to append.
pub struct Log {
    path: PathBuf,
    file: File,
    /// All lines, in the order of the steps.
    pub lines: Vec<StepMetrics>,
}

impl Log {
    /// Opens the file and keeps the lines of the first `steps` steps. A run that was killed may have written more since
    /// its last checkpoint.
    pub fn open(path: &Path, steps: usize) -> Result<Self> {
        let name = path.display();
        let text = if path.exists() { fs::read_to_string(path) } else { Ok(String::new()) };
        let text = text.with_context(|| name.to_string())?;
        let kept: Vec<&str> = text.lines().take(steps).collect();
        let lines = kept.iter().map(|line| serde_json::from_str(line)).collect::<Result<Vec<StepMetrics>, _>>();
        let lines = lines.with_context(|| name.to_string())?;
        ensure!(
            lines.len() == steps,
            "{name}: expected at least {steps} lines, the steps of the latest checkpoint, found {}; start a new run",
            lines.len()
        );
        let kept: String = kept.iter().map(|line| format!("{line}\n")).collect();
        figa_atomic_file::write(path, kept).with_context(|| format!("writing {name}"))?;
        let file = File::options().append(true).open(path).with_context(|| name.to_string())?;
        Ok(Self { path: path.into(), file, lines })
    }

    /// Appends a line.
    pub fn write(&mut self, line: StepMetrics) -> Result<()> {
        let text = serde_json::to_string(&line)? + "\n";
        self.file.write_all(text.as_bytes()).with_context(|| format!("writing {}", self.path.display()))?;
        self.lines.push(line);
        Ok(())
    }
}
