//! Files of records as a stream: a few records are in memory at a time, whatever the files' number, size and compression.

mod diagnosis;
mod parallel;
#[cfg(feature = "parquet")]
mod parquet;
mod split;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use diagnosis::diagnose;
use split::Splitter;

use super::record::{Fields, Invalid, SpaRecord, would_be_dropped};
use crate::error::{Error, Result};

/// The format of a file of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// One record a line; blank lines are skipped.
    Lines,
    /// One array of records.
    Array,
    /// Parquet, with a record in each row (feature `parquet`). Only for files: it cannot be read from a text.
    #[cfg(feature = "parquet")]
    Parquet,
}

/// The text of one record, not parsed yet.
///
/// ```
/// use figa_loss::{Fields, Format, RawRecord, RecordReader};
///
/// let text = "\n{\"instruction\": \"Spell\"\n";
/// let mut reader = RecordReader::from_text("pairs.jsonl", Format::Lines, text.as_bytes());
/// reader.max_bytes = 1 << 20;
/// let raw: RawRecord = reader.next().expect("one record")?;
/// assert_eq!((raw.line, raw.size(), reader.blank_lines()), (2, 23, 1));
/// assert!(raw.bytes().is_some(), "no longer than max_bytes");
///
/// assert!(raw.parse(&Fields::default()).is_err(), "the brace is not closed");
/// let mut rejected = vec![];
/// raw.try_clone()?.write_to(&mut rejected)?;
/// assert_eq!(rejected, b"{\"instruction\": \"Spell\"\n");
///
/// let fixed = raw.with_text(r#"{"instruction": "Spell", "original_output": "cat", "revised_output": "c, a, t"}"#);
/// assert_eq!((fixed.place(), fixed.parse(&Fields::default())?.instruction), (raw.place(), "Spell".into()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct RawRecord {
    /// The file; `-` is the standard input.
    pub path: Arc<Path>,
    /// The line in which it begins, or its row in a Parquet file, from 1.
    pub line: usize,
    in_rows: bool,
    text: RawText,
}

/// The bytes of a record, without the line break after it.
#[derive(Debug)]
enum RawText {
    /// In memory.
    Bytes(Vec<u8>),
    /// Longer than [`RecordReader::max_bytes`], and therefore in a temporary file, together with its length.
    Spilled(File, u64),
}

impl RawRecord {
    /// Where it is, for messages: `file:line`, or `file: row` in a Parquet file.
    pub fn place(&self) -> String {
        let (path, line) = (self.path.display(), self.line);
        if self.in_rows { format!("{path}: row {line}") } else { format!("{path}:{line}") }
    }

    /// Parses the text.
    ///
    /// # Errors
    /// [`Error::Record`] with its place, for invalid JSON with the column.
    pub fn parse(&self, fields: &Fields) -> Result<SpaRecord> {
        let invalid = |message| Error::Record { place: self.place(), message };
        match &self.text {
            RawText::Bytes(bytes) if bytes.trim_ascii_start().starts_with(b"[") => {
                Err(invalid("expected an object, got an array; one array of records is a .json file".into()))
            }
            RawText::Bytes(bytes) => {
                let record = fields.parse(without_mark(bytes)).map_err(|error| match error {
                    Invalid::Record(message) => invalid(message),
                    Invalid::Unnamed(key) => {
                        Error::Setting { place: self.place(), message: would_be_dropped(key), setting: key }
                    }
                    Invalid::Json(error) => {
                        let (line, column, message) = diagnose(bytes, &error);
                        let place = match self.in_rows {
                            true => self.place(),
                            false => format!("{}:{}:{column}", self.path.display(), self.line + line - 1),
                        };
                        Error::Record { place, message }
                    }
                })?;
                match str::from_utf8(bytes) {
                    Ok(_) => Ok(record),
                    // In a field that is not read.
                    Err(error) => Err(invalid(format!("byte {} is not UTF-8", error.valid_up_to() + 1))),
                }
            }
            RawText::Spilled(_, bytes) => Err(Error::Setting {
                place: self.place(),
                message: format!("the record has {bytes} bytes, more than the limit of one record: raise it"),
                setting: "max_bytes",
            }),
        }
    }

    /// Its bytes, without the line break after it; `None` if there are more than [`RecordReader::max_bytes`].
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.text {
            RawText::Bytes(bytes) => Some(bytes),
            RawText::Spilled(..) => None,
        }
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        match &self.text {
            RawText::Bytes(bytes) => bytes.len() as u64,
            RawText::Spilled(_, bytes) => *bytes,
        }
    }

    /// A second handle on the same text.
    ///
    /// # Errors
    /// Those of the temporary file that holds a long record.
    pub fn try_clone(&self) -> io::Result<Self> {
        let text = match &self.text {
            RawText::Bytes(bytes) => RawText::Bytes(bytes.clone()),
            RawText::Spilled(file, bytes) => RawText::Spilled(file.try_clone()?, *bytes),
        };
        Ok(Self { path: self.path.clone(), line: self.line, in_rows: self.in_rows, text })
    }

    /// A record in the same place with another text.
    pub fn with_text(&self, text: impl Into<String>) -> Self {
        Self { path: self.path.clone(), text: RawText::Bytes(text.into().into()), ..*self }
    }

    /// Writes its bytes as they are, and a line break.
    ///
    /// # Errors
    /// Those of `to`, and of the temporary file that holds a long record.
    pub fn write_to(&mut self, mut to: impl Write) -> io::Result<()> {
        match &mut self.text {
            RawText::Bytes(bytes) => to.write_all(bytes)?,
            RawText::Spilled(file, _) => {
                file.seek(SeekFrom::Start(0))?;
                io::copy(file, &mut to)?;
            }
        }
        to.write_all(b"\n")
    }
}

/// The records of one file after another, in constant memory.
///
/// * `.jsonl` and `.ndjson` hold one record per line, `.json` one array of records or one record per line; so do the same
///   names followed by `.gz` or `.zst`.
/// * `.parquet` holds a record in each row (feature `parquet`).
/// * `-` is the standard input, lines or an array, compressed or not.
///
/// ```no_run
/// use figa_loss::{Fields, RecordReader};
///
/// for record in RecordReader::open(["pairs-1.jsonl.gz", "pairs-2.jsonl.gz"])? {
///     let record = record?.parse(&Fields::default())?;
///     println!("{}", record.revised_output.text());
/// }
/// # Ok::<(), figa_loss::Error>(())
/// ```
pub struct RecordReader {
    paths: std::vec::IntoIter<PathBuf>,
    now: Option<Records>,
    /// Records that were read and not returned yet.
    ahead: VecDeque<Result<RawRecord>>,
    /// Records of more bytes go to a temporary file instead of memory, and do not [parse](RawRecord::parse). 16 MiB by
    /// default. A record of more than 16 times as many, and of more than 1 MiB, ends the iteration with an error.
    pub max_bytes: usize,
    blank_lines: usize,
    position: Arc<AtomicU64>,
}

impl SpaRecord {
    /// Reads all records of a file into memory; [`RecordReader`] reads one after another.
    ///
    /// # Errors
    /// [`Error::Format`] for a name without a known ending, [`Error::Io`] when the file cannot be read,
    /// [`Error::Record`] with its place for the first invalid record.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<Self>> {
        let fields = Fields::default();
        RecordReader::open([path])?.map(|raw| raw?.parse(&fields)).collect()
    }
}

impl RecordReader {
    /// Checks that the files exist and have a format. They are opened one by one.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that does not exist, [`Error::Format`] for a name without a known ending.
    pub fn open(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<Self> {
        let paths: Vec<PathBuf> = paths.into_iter().map(|path| path.as_ref().into()).collect();
        for path in &paths {
            format(path)?;
            if !is_stdin(path) {
                fs::metadata(path).map_err(|reason| Error::Io { path: path.clone(), reason })?;
            }
        }
        Ok(Self::new(paths, None))
    }

    /// The records of a text from anywhere; `name` is its path in errors.
    pub fn from_text(name: impl AsRef<Path>, format: Format, text: impl BufRead + Send + 'static) -> Self {
        Self::new(vec![], Some(Records::Text(Splitter::new(name.as_ref().into(), Some(format), Box::new(text), None))))
    }

    fn new(paths: Vec<PathBuf>, now: Option<Records>) -> Self {
        let (paths, ahead) = (paths.into_iter(), VecDeque::new());
        Self { paths, now, ahead, max_bytes: 16 << 20, blank_lines: 0, position: Arc::default() }
    }

    /// The files that have not been opened yet.
    pub fn files(&self) -> &[PathBuf] {
        self.paths.as_slice()
    }

    /// How many blank lines have been skipped so far.
    pub fn blank_lines(&self) -> usize {
        self.blank_lines
    }

    /// How many bytes of the files have been read so far, before decompression. The counter is shared, so that a
    /// progress bar can follow it.
    pub fn position(&self) -> Arc<AtomicU64> {
        self.position.clone()
    }

    /// Reads the next record from the files.
    fn read(&mut self) -> Option<Result<RawRecord>> {
        loop {
            if self.now.is_none() {
                match Records::open(self.paths.next()?, &self.position) {
                    Ok(records) => self.now = Some(records),
                    Err(error) => return Some(Err(error)),
                }
            }
            let records = self.now.as_mut()?;
            match records.next(self.max_bytes, &mut self.blank_lines) {
                Ok(Some(record)) => return Some(Ok(record)),
                Ok(None) => {
                    let unchanged = records.check_unchanged();
                    self.now = None;
                    if let Err(error) = unchanged {
                        return Some(Err(error));
                    }
                }
                Err(error) => {
                    // Where the next record begins is unknown.
                    (self.now, self.paths) = (None, vec![].into_iter());
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The records of one file.
enum Records {
    Text(Splitter),
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::ParquetRows>),
}

impl Records {
    fn open(path: PathBuf, position: &Arc<AtomicU64>) -> Result<Self> {
        match format(&path)? {
            #[cfg(feature = "parquet")]
            Some(Format::Parquet) => Ok(Self::Parquet(parquet::ParquetRows::open(path, position)?.into())),
            format => Ok(Self::Text(Splitter::open(path, format, position)?)),
        }
    }

    fn next(&mut self, max_bytes: usize, blank_lines: &mut usize) -> Result<Option<RawRecord>> {
        match self {
            Self::Text(splitter) => splitter.next(max_bytes, blank_lines),
            #[cfg(feature = "parquet")]
            Self::Parquet(rows) => rows.next(max_bytes),
        }
    }

    fn check_unchanged(&self) -> Result<()> {
        match self {
            Self::Text(splitter) => splitter.check_unchanged(),
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => Ok(()),
        }
    }
}

impl Iterator for RecordReader {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.ahead.pop_front().or_else(|| self.read())
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// By the name; `None` if the first byte decides.
fn format(path: &Path) -> Result<Option<Format>> {
    if is_stdin(path) {
        return Ok(None);
    }
    let extension = |path: &Path| Some(path.extension()?.to_str()?.to_ascii_lowercase());
    let stem = match extension(path).as_deref() {
        Some("gz" | "zst") => path.with_extension(""),
        _ => path.into(),
    };
    match extension(&stem).as_deref() {
        Some("jsonl" | "ndjson") => Ok(Some(Format::Lines)),
        // An array, or lines: the first byte decides.
        Some("json") => Ok(None),
        #[cfg(feature = "parquet")]
        Some("parquet") if stem == path => Ok(Some(Format::Parquet)),
        _ => Err(Error::Format { path: path.into() }),
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}
