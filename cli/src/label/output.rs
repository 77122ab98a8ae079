//! An output file that is complete or absent, from a run that can be killed at any moment and resumed.
//!
//! Next to `OUT`, the folder `OUT.partial` holds what is done:
//!
//! ```text
//! OUT.partial/
//!   lock             locked while a run writes
//!   state.json       what was asked for, and how far the run is
//!   lines            the rows as JSON lines, or
//!   000000.parquet   the rows of each segment, a few thousand records, which become
//!   whole.parquet    one file in the end
//! ```
//!
//! The data of a segment is synced to the disk before the state that counts it. A resumed run discards what the state
//! does not count, so it writes the same bytes as a run that was never stopped. The finished file is renamed to `OUT`.
//! Rejected records and the reasons are kept the same way in `FILE.partial` and `FILE.why.jsonl.partial`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use figa_atomic_file::AtomicFile;
use figa_loss::RawRecord;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::appender::Appender;
use super::rows::{LabelledPair, OutputFormat, PreparedRows};
use super::table::{RowTable, join_segments, write_segment};
use crate::new_file::check_absent;
use crate::rejects::{BadRecord, reasons_path};

/// A segment is held in memory. It ends after this many records, or this many tokens if they come first.
const SEGMENT_RECORDS: usize = 4096;
const SEGMENT_TOKENS: usize = 4 << 20;

/// The output of a run. The progress of the run, `P`, is stored with it.
pub struct Output<P> {
    paths: Paths,
    format: OutputFormat,
    state: State<P>,
    lines: Appender,
    table: RowTable,
    /// Rejected records, and the reasons.
    rejected: Option<[Appender; 2]>,
    /// Records and tokens since the last commit.
    pending_records: usize,
    pending_tokens: usize,
    /// Locked as long as it is open.
    _lock: File,
}

/// The content of `state.json`.
#[derive(Serialize, Deserialize)]
struct State<P> {
    arguments: Value,
    inputs: Vec<FileStamp>,
    progress: P,
    /// Bytes of `lines`, of the rejected records and of the reasons.
    line_bytes: u64,
    rejected_bytes: u64,
    reason_bytes: u64,
    segments: usize,
    /// Everything is written, and only the renaming may be missing.
    finished: bool,
}

/// Shows whether a file has changed.
#[derive(Serialize, Deserialize, PartialEq)]
struct FileStamp {
    path: PathBuf,
    bytes: u64,
    modified: Duration,
}

impl<P: Serialize + DeserializeOwned + Default> Output<P> {
    /// Starts a file, or resumes one. Returns `None` if it is already complete.
    ///
    /// `arguments` and `inputs` are what the rows depend on; a run can only be resumed with the same ones.
    pub fn open(
        out: &Path,
        rejected: Option<&Path>,
        resume: bool,
        arguments: Value,
        inputs: &[PathBuf],
    ) -> Result<Option<Self>> {
        let format = OutputFormat::of(out)?;
        let paths = Paths::new(out, format, rejected);
        let found: Option<State<P>> = paths.read_state()?;
        let in_progress = found.as_ref().is_some_and(|state| !state.finished || paths.finished.exists());
        if resume && !in_progress && paths.out.exists() {
            paths.remove_partial();
            return Ok(None);
        }
        check_absent("--out", &paths.out)?;
        let lock = paths.lock()?;
        let inputs = inputs.iter().filter(|path| **path != Path::new("-"));
        let inputs = inputs.map(|path| FileStamp::of(path)).collect::<Result<Vec<_>>>()?;
        let state = match found {
            Some(state) => {
                state.check_resumable(&paths.partial, resume, &arguments, &inputs)?;
                state
            }
            None => {
                if let Some(rejected) = rejected {
                    check_absent("--skip-bad", rejected)?;
                    check_absent("--skip-bad", &reasons_path(rejected))?;
                }
                State::new(arguments, inputs)
            }
        };
        if state.finished {
            paths.deliver()?;
            return Ok(None);
        }
        Self::start(paths, format, state, lock).map(Some)
    }

    /// Discards what the state does not count, and stores the state.
    fn start(paths: Paths, format: OutputFormat, state: State<P>, lock: File) -> Result<Self> {
        let lines = Appender::open(&paths.lines(), state.line_bytes)?;
        let open = |path: &PathBuf| {
            let records = Appender::open(&with_suffix(path, ".partial"), state.rejected_bytes)?;
            let reasons = with_suffix(&reasons_path(path), ".partial");
            anyhow::Ok([records, Appender::open(&reasons, state.reason_bytes)?])
        };
        let rejected = paths.rejected.as_ref().map(open).transpose()?;
        let output = Self {
            paths,
            format,
            state,
            lines,
            table: RowTable::default(),
            rejected,
            pending_records: 0,
            pending_tokens: 0,
            _lock: lock,
        };
        output.write_state()?;
        Ok(output)
    }

    /// How far the run is.
    pub fn progress(&self) -> &P {
        &self.state.progress
    }

    /// The progress to change; it is stored by the next [`commit`](Self::commit).
    pub fn progress_mut(&mut self) -> &mut P {
        &mut self.state.progress
    }

    pub fn format(&self) -> OutputFormat {
        self.format
    }

    /// Adds the rows of the record with this number.
    pub fn push(&mut self, record: u64, LabelledPair { tokens, rows }: LabelledPair) -> Result<()> {
        self.pending_records += 1;
        self.pending_tokens += tokens;
        match rows {
            PreparedRows::Json(fields) => self.lines.write(format!("{{\"record\":{record}{fields}}}\n").as_bytes()),
            PreparedRows::Pair(pair) => {
                self.table.push(record, &pair);
                Ok(())
            }
        }
    }

    /// Writes a bad record and the reason to the files for them. Returns false if there are none.
    pub fn reject(&mut self, raw: &mut RawRecord, bad: &BadRecord) -> Result<bool> {
        self.pending_records += 1;
        let Some([records, reasons]) = &mut self.rejected else { return Ok(false) };
        records.write_record(raw)?;
        reasons.write(bad.json()?.as_bytes())?;
        Ok(true)
    }

    /// Whether it is time to [`commit`](Self::commit).
    pub fn is_segment_full(&self) -> bool {
        self.pending_records >= SEGMENT_RECORDS || self.pending_tokens >= SEGMENT_TOKENS
    }

    /// Ends a segment. A resumed run continues after it.
    pub fn commit(&mut self) -> Result<()> {
        if let Some(rows) = self.table.take() {
            write_file(&self.paths.segment(self.state.segments), |file| write_segment(file, &rows))?;
            self.state.segments += 1;
        }
        self.state.line_bytes = self.lines.sync()?;
        if let Some([records, reasons]) = &mut self.rejected {
            (self.state.rejected_bytes, self.state.reason_bytes) = (records.sync()?, reasons.sync()?);
        }
        (self.pending_records, self.pending_tokens) = (0, 0);
        self.write_state()
    }

    /// Makes everything one file with the name `OUT`, and returns the progress at the end.
    pub fn finish(mut self) -> Result<P> {
        self.commit()?;
        if self.format == OutputFormat::Parquet {
            let segments: Vec<PathBuf> = (0..self.state.segments).map(|number| self.paths.segment(number)).collect();
            write_file(&self.paths.finished, |file| join_segments(&segments, file))?;
        }
        self.state.finished = true;
        self.write_state()?;
        self.paths.deliver()?;
        Ok(self.state.progress)
    }

    fn write_state(&self) -> Result<()> {
        let path = self.paths.state();
        let json = serde_json::to_vec_pretty(&self.state)?;
        figa_atomic_file::write(&path, json).with_context(|| format!("writing {}", path.display()))
    }
}

/// The arguments of the unfinished run whose output is `out`, if there is one.
pub fn arguments(out: &Path) -> Result<Option<Value>> {
    let paths = Paths::new(out, OutputFormat::of(out)?, None);
    Ok(paths.read_state::<Value>()?.map(|state| state.arguments))
}

/// Lets `write` write a file that is complete or absent.
fn write_file(path: &Path, write: impl FnOnce(&mut AtomicFile) -> Result<()>) -> Result<()> {
    let write = || {
        let mut file = AtomicFile::create(path)?;
        write(&mut file)?;
        anyhow::Ok(file.commit()?)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

impl<P: Default> State<P> {
    fn new(arguments: Value, inputs: Vec<FileStamp>) -> Self {
        let progress = P::default();
        Self {
            arguments,
            inputs,
            progress,
            line_bytes: 0,
            rejected_bytes: 0,
            reason_bytes: 0,
            segments: 0,
            finished: false,
        }
    }
}

impl<P> State<P> {
    /// Checks that a run with these arguments and inputs would write the same rows.
    fn check_resumable(&self, partial: &Path, resume: bool, arguments: &Value, inputs: &[FileStamp]) -> Result<()> {
        let partial = partial.display();
        ensure!(resume, "--out: {partial} holds an unfinished run: continue it with --resume, or remove it");
        ensure!(
            self.arguments == *arguments,
            "--resume: the run in {partial} has other arguments: repeat those, or remove {partial}"
        );
        // A pattern may match more or fewer files than before.
        let is_new = |stamp: &&FileStamp| !self.inputs.contains(stamp);
        let is_gone = |stamp: &&FileStamp| !inputs.contains(stamp);
        if let Some(changed) = inputs.iter().find(is_new).or_else(|| self.inputs.iter().find(is_gone)) {
            let path = changed.path.display();
            bail!("--resume: {path} has changed since the run began: remove {partial} to start again");
        }
        Ok(())
    }
}

impl FileStamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata = path.metadata().with_context(|| path.display().to_string())?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self { path: path.into(), bytes: metadata.len(), modified })
    }
}

struct Paths {
    out: PathBuf,
    /// The folder of the unfinished run.
    partial: PathBuf,
    /// The file in it that becomes `out`.
    finished: PathBuf,
    rejected: Option<PathBuf>,
}

impl Paths {
    fn new(out: &Path, format: OutputFormat, rejected: Option<&Path>) -> Self {
        let partial = with_suffix(out, ".partial");
        let finished = partial.join(match format {
            OutputFormat::JsonLines => "lines",
            OutputFormat::Parquet => "whole.parquet",
        });
        Self { out: out.into(), partial, finished, rejected: rejected.map(Path::to_owned) }
    }

    fn lines(&self) -> PathBuf {
        self.partial.join("lines")
    }

    fn segment(&self, number: usize) -> PathBuf {
        self.partial.join(format!("{number:06}.parquet"))
    }

    fn state(&self) -> PathBuf {
        self.partial.join("state.json")
    }

    fn read_state<P: DeserializeOwned>(&self) -> Result<Option<State<P>>> {
        let path = self.state();
        let read = || match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            json => anyhow::Ok(Some(serde_json::from_slice(&json?)?)),
        };
        read().with_context(|| path.display().to_string())
    }

    /// Creates the folder, and locks it for this run.
    fn lock(&self) -> Result<File> {
        let partial = self.partial.display();
        fs::create_dir_all(&self.partial).with_context(|| format!("--out: creating {partial}"))?;
        let lock = File::create(self.partial.join("lock"))?;
        ensure!(lock.try_lock().is_ok(), "--out: another run is writing {partial}");
        Ok(lock)
    }

    /// Gives the finished files their names, unless an earlier run did so before it was stopped.
    fn deliver(&self) -> Result<()> {
        let rejected = self.rejected.iter().flat_map(|path| [path.clone(), reasons_path(path)]);
        let rejected = rejected.map(|path| (with_suffix(&path, ".partial"), path));
        for (from, to) in rejected.chain([(self.finished.clone(), self.out.clone())]) {
            if from.exists() {
                figa_atomic_file::rename(&from, &to)
                    .with_context(|| format!("renaming {} to {}", from.display(), to.display()))?;
            }
        }
        self.remove_partial();
        Ok(())
    }

    /// The file is complete, so it is no failure if the folder cannot be removed.
    fn remove_partial(&self) {
        let _ = fs::remove_dir_all(&self.partial);
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
