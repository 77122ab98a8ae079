//! An output file that is complete or absent, from a run that can be killed at any moment and resumed.
//!
//! Next to `OUT`, the folder `OUT.partial` holds what is done:
//!
//! ```text
//! OUT.partial/
//!   lock                 locked while a run writes
//!   state.json           what was asked for, and how far the run is
//!   lines                the rows as JSON lines, or
//!   000000.parquet       the rows of each segment, a few thousand records, which become
//!   whole.parquet        one file in the end
//!   rejected             rejected records, and
//!   rejected.why.jsonl   the reasons
//! ```
//!
//! The data of a segment is synced to the disk before the state that counts it. A resumed run discards what the state
//! does not count, so it writes the same bytes as a run that was never stopped. The finished files are renamed in the end,
//! that of the rows last. A run that fails before its first segment is complete leaves no folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use figa_atomic_file::{AtomicFile, rename_new};
use figa_loss::RawRecord;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::appender::Appender;
use super::consumed::Consumed;
use super::folder::{LINES, PartialFolder, REASONS, REJECTED};
use super::rows::{LabelledPair, OutputFormat, PreparedRows};
use super::state::{Origin, State};
use super::table::{RowTable, join_segments, write_segment};
use crate::new_file::{check_absent, is_taken};
use crate::rejects::{BadRecord, rejected_paths};

/// A segment is held in memory. It ends after this many records, or this many tokens if they come first.
const SEGMENT_RECORDS: usize = 4096;
const SEGMENT_TOKENS: usize = 4 << 20;

/// The output of a run. The progress of the run, `P`, is stored with it.
pub struct Output<P> {
    paths: Paths,
    folder: PartialFolder,
    state: State<P>,
    lines: Appender,
    table: RowTable,
    /// Rejected records, and the reasons.
    rejected: Option<[Appender; 2]>,
    /// Records and tokens since the last commit.
    pending_records: usize,
    pending_tokens: usize,
}

/// The files that a run writes.
pub struct Paths {
    pub out: PathBuf,
    pub format: OutputFormat,
    /// For rejected records; the reasons are beside it.
    pub rejected: Option<PathBuf>,
}

impl<P: Serialize + DeserializeOwned + Default> Output<P> {
    /// Starts a file, or resumes one. Returns `None` if it is already complete.
    pub fn open(paths: Paths, resume: bool, origin: Origin) -> Result<Option<Self>> {
        let is_complete = resume && is_taken(&paths.out);
        if is_complete && !is_taken(&PartialFolder::path_of(&paths.out)) {
            return Ok(None);
        }
        let mut folder = PartialFolder::open(&paths.out)?;
        let state = match folder.read_state()?.filter(State::has_rows) {
            None if is_complete => return Ok(None),
            None => State::new(&paths.out, origin),
            Some(state) => {
                folder.keep(true);
                let partial = folder.path().display();
                ensure!(resume, "--out: {partial} holds an unfinished run: continue it with --resume, or remove it");
                state.origin.check_same(&origin, folder.path())?;
                ensure!(
                    paths.rejected.is_some() || state.rejected_bytes == 0,
                    "--resume: the run in {partial} has rejected records: name a file for them with --skip-bad"
                );
                state
            }
        };
        if state.finished {
            paths.deliver(&mut folder)?;
            return Ok(None);
        }
        paths.check_absent()?;
        Self::start(paths, folder, state).map(Some)
    }

    /// Stores the state, and discards what it does not count.
    fn start(paths: Paths, folder: PartialFolder, state: State<P>) -> Result<Self> {
        folder.write_state(&state)?;
        let open = |name, bytes| Appender::open(&folder.path().join(name), bytes);
        let lines = open(LINES, state.line_bytes)?;
        let rejected = match paths.rejected {
            Some(_) => Some([open(REJECTED, state.rejected_bytes)?, open(REASONS, state.reason_bytes)?]),
            None => None,
        };
        let table = RowTable::default();
        Ok(Self { paths, folder, state, lines, table, rejected, pending_records: 0, pending_tokens: 0 })
    }

    /// How far the run is.
    pub fn progress(&self) -> &P {
        &self.state.progress
    }

    /// The progress to change; it is stored by the next [`commit`](Self::commit).
    pub fn progress_mut(&mut self) -> &mut P {
        &mut self.state.progress
    }

    /// The records that the run has consumed.
    pub fn consumed(&self) -> &Consumed {
        &self.state.consumed
    }

    /// The same to change, as the progress is.
    pub fn consumed_mut(&mut self) -> &mut Consumed {
        &mut self.state.consumed
    }

    /// Whether a resumed run would continue behind the first record.
    pub fn is_resumable(&self) -> bool {
        self.state.has_rows()
    }

    /// The folder that holds what is done.
    pub fn folder(&self) -> &Path {
        self.folder.path()
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
            write_file(&self.folder.segment(self.state.segments), |file| write_segment(file, &rows))?;
            self.state.segments += 1;
        }
        self.state.line_bytes = self.lines.sync()?;
        if let Some([records, reasons]) = &mut self.rejected {
            (self.state.rejected_bytes, self.state.reason_bytes) = (records.sync()?, reasons.sync()?);
        }
        (self.pending_records, self.pending_tokens) = (0, 0);
        self.folder.write_state(&self.state)?;
        self.folder.keep(self.state.has_rows());
        Ok(())
    }

    /// Makes everything one file with the name `OUT`, and returns the progress at the end.
    pub fn finish(mut self) -> Result<P> {
        self.commit()?;
        if self.paths.format == OutputFormat::Parquet {
            let segments: Vec<PathBuf> = (0..self.state.segments).map(|number| self.folder.segment(number)).collect();
            write_file(&self.folder.whole(), |file| join_segments(&segments, file))?;
        }
        self.state.finished = true;
        self.folder.write_state(&self.state)?;
        self.folder.keep(true);
        self.paths.deliver(&mut self.folder)?;
        Ok(self.state.progress)
    }
}

impl Paths {
    fn check_absent(&self) -> Result<()> {
        check_absent("--out", &self.out)?;
        for path in rejected_paths(self.rejected.as_deref()) {
            check_absent("--skip-bad", &path)?;
        }
        Ok(())
    }

    /// Gives the finished files their names, unless an earlier run did so before it was stopped.
    fn deliver(&self, folder: &mut PartialFolder) -> Result<()> {
        let whole = match self.format {
            OutputFormat::JsonLines => folder.path().join(LINES),
            OutputFormat::Parquet => folder.whole(),
        };
        let rejected = [REJECTED, REASONS].into_iter().zip(rejected_paths(self.rejected.as_deref()));
        let rejected = rejected.map(|(name, path)| ("--skip-bad", folder.path().join(name), path));
        for (argument, from, to) in rejected.chain([("--out", whole, self.out.clone())]) {
            if is_taken(&from) {
                rename_new(&from, &to)
                    .with_context(|| format!("{argument}: renaming {} to {}", from.display(), to.display()))?;
            }
        }
        if !is_taken(&self.out) {
            let partial = folder.path().display();
            bail!("--resume: {} was complete and is gone: remove {partial} to start again", self.out.display());
        }
        folder.keep(false);
        Ok(())
    }
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
