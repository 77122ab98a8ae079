//! Records of a Parquet file: each row becomes a record of JSON, so that what follows is the same for all formats.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_json::WriterBuilder;
use arrow_json::writer::LineDelimited;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::RawRecord;
use super::split::Text;
use crate::error::{Error, Result};

/// Reads the rows of one file.
pub(super) struct ParquetRows {
    path: Arc<Path>,
    rows: ParquetRecordBatchReader,
    /// The row that was returned last, from 1.
    row: usize,
    count: u64,
    /// Bytes of the file, and how many of them count as read.
    bytes: u64,
    counted: u64,
    position: Arc<AtomicU64>,
}

impl ParquetRows {
    pub(super) fn open(path: PathBuf, position: &Arc<AtomicU64>) -> Result<Self> {
        let failed = |reason: io::Error| Error::Io { path: path.clone(), reason };
        let file = File::open(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(io::Error::other(error)))?;
        let count = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        // One row at a time: rows that share a text have it once in the file, but each its own copy in memory.
        let rows = builder.with_batch_size(1).build().map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self { path: path.as_path().into(), rows, row: 0, count, bytes, counted: 0, position: position.clone() })
    }

    pub(super) fn next(&mut self, max_bytes: usize) -> Result<Option<RawRecord>> {
        let decoded = self.decode().map_err(|reason| Error::Io { path: (*self.path).into(), reason })?;
        let Some(json) = decoded else { return Ok(None) };
        let mut text = Text::new(max_bytes);
        text.push(json.trim_ascii_end(), || format!("{}: row {}", self.path.display(), self.row))?;
        Ok(Some(RawRecord { path: self.path.clone(), line: self.row, in_rows: true, text: text.finish() }))
    }

    /// The next row as a line of JSON.
    fn decode(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(batch) = self.rows.next().transpose().map_err(io::Error::other)? else { return Ok(None) };
        let mut json = vec![];
        // A column of a table has a value in every row, so null means that the record lacks the field.
        let builder = WriterBuilder::new().with_explicit_nulls(false);
        let mut writer = builder.build::<_, LineDelimited>(&mut json);
        writer.write(&batch).and_then(|()| writer.finish()).map_err(io::Error::other)?;
        self.row += 1;
        let read = share(self.bytes, self.row as u64, self.count);
        self.position.fetch_add(read.saturating_sub(self.counted), Ordering::Relaxed);
        self.counted = read;
        Ok(Some(json))
    }
}

/// The bytes of a file that count as read after some of its rows. A broken file may name any number of rows.
fn share(bytes: u64, read: u64, rows: u64) -> u64 {
    let share = u128::from(bytes) * u128::from(read.min(rows)) / u128::from(rows.max(1));
    u64::try_from(share).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_share_does_not_overflow() {
        assert_eq!(share(100, 1, 4), 25);
        assert_eq!(share(1 << 41, 1 << 24, 1 << 25), 1 << 40);
        assert_eq!(share(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
        assert_eq!((share(100, 5, 0), share(100, 5, 4)), (0, 100));
    }
}
