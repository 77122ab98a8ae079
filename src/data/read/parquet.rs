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

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 256;

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
        let batches = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| failed(io::Error::other(error)))?;
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
        let read = self.bytes * (self.row as u64 + batch.num_rows() as u64) / self.rows.max(1);
        self.position.fetch_add(read.saturating_sub(self.counted), Ordering::Relaxed);
        self.counted = read;
        Ok(true)
    }
}
