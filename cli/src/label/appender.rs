//! A file that grows, and that can be cut back to a known length.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use figa_loss::RawRecord;

use super::folder::open_or_create;

const BUFFER_BYTES: usize = 1 << 20;

/// Appends to a file.
pub struct Appender {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Appender {
    /// Opens or creates the file and cuts it to its first `bytes`, the length that the last [`sync`](Self::sync) gave.
    pub fn open(path: &Path, bytes: u64) -> Result<Self> {
        let open = || {
            let mut file = open_or_create(path)?;
            let actual = file.metadata()?.len();
            ensure!(actual >= bytes, "expected the {bytes} bytes that the last run wrote, got {actual}");
            file.set_len(bytes)?;
            file.seek(SeekFrom::End(0))?;
            anyhow::Ok(Self { path: path.into(), file: BufWriter::with_capacity(BUFFER_BYTES, file) })
        };
        open().with_context(|| path.display().to_string())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Writes the bytes of a record, even if it does not fit into memory.
    pub fn write_record(&mut self, raw: &mut RawRecord) -> Result<()> {
        raw.write_to(&mut self.file).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Syncs the file to the disk and returns its length.
    pub fn sync(&mut self) -> Result<u64> {
        let mut sync = || {
            self.file.flush()?;
            self.file.get_ref().sync_data()?;
            self.file.stream_position()
        };
        sync().with_context(|| format!("writing {}", self.path.display()))
    }
}
