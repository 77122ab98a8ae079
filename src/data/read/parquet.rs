//! Records of a Parquet file: each row becomes a record of JSON, so that what follows is the same for all formats.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_json::WriterBuilder;
use arrow_json::writer::LineDelimited;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use super::RawRecord;
use super::split::Text;
use crate::error::{Error, Result};

/// Rows that are decoded at a time: at most so many, and fewer if they have more bytes.
const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 16 << 20;

/// Reads the rows of one file.
pub(super) struct ParquetRows {
    path: Arc<Path>,
    batches: ParquetRecordBatchReader,
    /// Lines of JSON, and how much of them has been returned.
    json: Vec<u8>,
    returned: usize,
    /// The row that was returned last, from 1.
    row: usize,
    rows: u64,
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
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let batch_rows = batch_rows(builder.metadata());
        let batches = builder.with_batch_size(batch_rows).build().map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self {
            path: path.as_path().into(),
            batches,
            json: vec![],
            returned: 0,
            row: 0,
            rows,
            bytes,
            counted: 0,
            position: position.clone(),
        })
    }

    pub(super) fn next(&mut self, max_bytes: usize) -> Result<Option<RawRecord>> {
        while self.returned == self.json.len() {
            if !self.decode().map_err(|reason| Error::Io { path: (*self.path).into(), reason })? {
                return Ok(None);
            }
        }
        let rest = &self.json[self.returned..];
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let mut text = Text::new(max_bytes);
        text.push(&rest[..end]).map_err(|reason| Error::Io { path: (*self.path).into(), reason })?;
        self.returned = (self.returned + end + 1).min(self.json.len());
        self.row += 1;
        Ok(Some(RawRecord { path: self.path.clone(), line: self.row, in_rows: true, text: text.finish() }))
    }

    /// Decodes the next rows; false at the end.
    fn decode(&mut self) -> io::Result<bool> {
        let Some(batch) = self.batches.next().transpose().map_err(io::Error::other)? else { return Ok(false) };
        self.json.clear();
        self.returned = 0;
        // A column of a table has a value in every row, so null means that the record lacks the field.
        let builder = WriterBuilder::new().with_explicit_nulls(false);
        let mut writer = builder.build::<_, LineDelimited>(&mut self.json);
        writer.write(&batch).and_then(|()| writer.finish()).map_err(io::Error::other)?;
        let read = share(self.bytes, self.row as u64 + batch.num_rows() as u64, self.rows);
        self.position.fetch_add(read.saturating_sub(self.counted), Ordering::Relaxed);
        self.counted = read;
        Ok(true)
    }
}

/// How many rows to decode at a time, by their size in the row group with the largest ones.
fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let row_bytes = |group: &RowGroupMetaData| group.total_byte_size() / group.num_rows().max(1);
    let largest = metadata.row_groups().iter().map(row_bytes).max().unwrap_or(0);
    (BATCH_BYTES / usize::try_from(largest).unwrap_or(0).max(1)).clamp(1, BATCH_ROWS)
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
