//! Files of records as a stream: whatever their number, size and compression, a few records are in memory at a time.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use std::{iter, mem};

use super::record::{Fields, SpaRecord};
use crate::error::{Error, Result};

/// How records follow each other in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One record a line; blank lines are allowed.
    Lines,
    /// One array of records.
    Array,
}

/// The text of one record, before anyone has looked whether it is one.
#[derive(Debug)]
pub struct RawRecord {
    /// The file; `-` is the standard input.
    pub path: Arc<Path>,
    /// The line in which it begins, from 1.
    pub line: usize,
    /// Its bytes, without the line break behind it.
    pub text: RawText,
}

/// See [`RawRecord::text`].
#[derive(Debug)]
pub enum RawText {
    /// In memory.
    Bytes(Vec<u8>),
    /// Longer than [`RecordReader::max_bytes`], and therefore in a temporary file, together with its length.
    Spilled(File, u64),
}

impl RawRecord {
    /// The record that the text says.
    ///
    /// # Errors
    /// [`Error::Record`] with path, line and column.
    pub fn parse(&self, fields: &Fields) -> Result<SpaRecord> {
        match &self.text {
            RawText::Bytes(bytes) if bytes.trim_ascii_start().starts_with(b"[") => {
                Err(self.broken(1, 1, "a record is one object; one array of records is .json".into()))
            }
            RawText::Bytes(bytes) => fields.parse(without_mark(bytes)).map_err(|error| {
                // serde_json ends its messages with a position of its own, which would contradict ours.
                let message = error.to_string();
                let message = message.rsplit_once(" at line ").map_or(&*message, |(message, _)| message);
                self.broken(error.line(), error.column(), message.into())
            }),
            RawText::Spilled(_, bytes) => {
                Err(self.broken(1, 1, format!("the record has {bytes} bytes, more than are read of one")))
            }
        }
    }

    /// [`Error::Record`] with a position within the record, from 1.
    fn broken(&self, line: usize, column: usize, message: String) -> Error {
        let line = self.line + line.max(1) - 1;
        Error::Record { path: (*self.path).into(), line, column: column.max(1), message }
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        match &self.text {
            RawText::Bytes(bytes) => bytes.len() as u64,
            RawText::Spilled(_, bytes) => *bytes,
        }
    }

    /// Writes its bytes as they are, and a line break.
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
/// * `.jsonl` and `.ndjson` hold one record a line, `.json` one array of them; so do the same names with `.gz` or `.zst`
///   behind them.
/// * `-` is the standard input, in either form, compressed or not.
/// * What is neither a file nor `-` may be a pattern, such as `data/*.jsonl.gz`; its files come in the order of their
///   names.
///
/// ```no_run
/// use figa_loss::{Fields, RecordReader};
///
/// for record in RecordReader::open(["pairs-*.jsonl.gz"])? {
///     let record = record?.parse(&Fields::default())?;
///     println!("{}", record.revised_output);
/// }
/// # Ok::<(), figa_loss::Error>(())
/// ```
pub struct RecordReader {
    paths: std::vec::IntoIter<PathBuf>,
    now: Option<Splitter>,
    /// Records of more bytes are not kept in memory: they go to a temporary file, and do not [parse](RawRecord::parse).
    /// 64 MiB by default.
    pub max_bytes: usize,
    blank_lines: usize,
    position: Arc<AtomicU64>,
}

impl RecordReader {
    /// Finds the files; they are opened one by one.
    ///
    /// # Errors
    /// [`Error::Io`] where there is no such file, [`Error::Format`] for a name that says no format, [`Error::Value`]
    /// for a pattern that is none or that no file fits.
    pub fn open(inputs: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<Self> {
        let mut paths = vec![];
        for input in inputs {
            paths.extend(files(input.as_ref())?);
        }
        for path in &paths {
            format(path)?;
        }
        Ok(Self::new(paths, None))
    }

    /// The records of a text that comes from elsewhere; `name` stands for its path.
    pub fn from_text(name: impl AsRef<Path>, format: Format, text: impl BufRead + Send + 'static) -> Self {
        Self::new(vec![], Some(Splitter::new(name.as_ref().into(), Some(format), Box::new(text), None)))
    }

    fn new(paths: Vec<PathBuf>, now: Option<Splitter>) -> Self {
        Self { paths: paths.into_iter(), now, max_bytes: 64 << 20, blank_lines: 0, position: Arc::default() }
    }

    /// The files that have not been opened yet.
    pub fn files(&self) -> &[PathBuf] {
        self.paths.as_slice()
    }

    /// How many blank lines, which are no records, have been read so far.
    pub fn blank_lines(&self) -> usize {
        self.blank_lines
    }

    /// How many bytes of the files have been read so far, as they lie there. Shared, to be looked at meanwhile.
    pub fn position(&self) -> Arc<AtomicU64> {
        self.position.clone()
    }

    /// Maps the records on all cores (feature `rayon`). The order is kept; a few hundred are in memory at a time.
    ///
    /// ```
    /// # use figa_loss::{Fields, Format, RecordReader};
    /// let text = br#"{"instruction": "", "original_output": "a", "revised_output": "an"}"#;
    /// let mut reader = RecordReader::from_text("pairs.jsonl", Format::Lines, &text[..]);
    /// for length in reader.map_in_order(|raw| Ok(raw.parse(&Fields::default())?.revised_output.len())) {
    ///     assert_eq!(length?, 2);
    /// }
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    pub fn map_in_order<T: Send>(
        &mut self,
        work: impl Fn(RawRecord) -> Result<T> + Sync,
    ) -> impl Iterator<Item = Result<T>> {
        let mut next = self.chunk();
        let mut done = vec![].into_iter();
        iter::from_fn(move || {
            while done.len() == 0 {
                let now = mem::take(&mut next);
                if now.is_empty() {
                    return None;
                }
                let (results, chunk) = both(|| map_chunk(now, &work), || self.chunk());
                (done, next) = (results.into_iter(), chunk);
            }
            done.next()
        })
    }

    /// The next records, a few MiB of them at most or the one that has more.
    fn chunk(&mut self) -> Vec<Result<RawRecord>> {
        let mut bytes = 0;
        let mut chunk = vec![];
        while chunk.len() < 512 && bytes < 4 << 20 {
            let Some(record) = self.next() else { break };
            bytes += record.as_ref().map_or(0, RawRecord::bytes);
            chunk.push(record);
        }
        chunk
    }
}

#[cfg(feature = "rayon")]
fn map_chunk<T: Send>(
    chunk: Vec<Result<RawRecord>>,
    work: &(impl Fn(RawRecord) -> Result<T> + Sync),
) -> Vec<Result<T>> {
    use rayon::prelude::*;
    chunk.into_par_iter().map(|record| work(record?)).collect()
}

#[cfg(not(feature = "rayon"))]
fn map_chunk<T>(chunk: Vec<Result<RawRecord>>, work: &impl Fn(RawRecord) -> Result<T>) -> Vec<Result<T>> {
    chunk.into_iter().map(|record| work(record?)).collect()
}

#[cfg(feature = "rayon")]
use rayon::join as both;

#[cfg(not(feature = "rayon"))]
fn both<A, B>(a: impl FnOnce() -> A, b: impl FnOnce() -> B) -> (A, B) {
    (a(), b())
}

impl Iterator for RecordReader {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.now.is_none() {
                match Splitter::open(self.paths.next()?, &self.position) {
                    Ok(splitter) => self.now = Some(splitter),
                    Err(error) => return Some(Err(error)),
                }
            }
            let splitter = self.now.as_mut()?;
            match splitter.next(self.max_bytes, &mut self.blank_lines) {
                Ok(Some(record)) => return Some(Ok(record)),
                Ok(None) => {
                    let unchanged = splitter.check_unchanged();
                    self.now = None;
                    if let Err(error) = unchanged {
                        return Some(Err(error));
                    }
                }
                Err(error) => {
                    // What comes after it could not be told apart.
                    (self.now, self.paths) = (None, vec![].into_iter());
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The files that an argument means.
fn files(input: &Path) -> Result<Vec<PathBuf>> {
    if is_stdin(input) || input.exists() {
        return Ok(vec![input.into()]);
    }
    let expected = "a file, or a pattern with at least one that fits";
    let actual = || input.display().to_string();
    let pattern = input.to_str().filter(|pattern| pattern.contains(['*', '?', '[']));
    let Some(pattern) = pattern else {
        format(input)?;
        let reason = fs::metadata(input).err().unwrap_or_else(|| io::ErrorKind::NotFound.into());
        return Err(Error::Io { path: input.into(), reason });
    };
    let found = glob::glob(pattern).map_err(|error| Error::Value {
        argument: "inputs",
        expected,
        actual: format!("{}: {error}", actual()),
    })?;
    let found: Vec<PathBuf> = found
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Io { path: error.path().into(), reason: error.into() })?;
    if found.is_empty() {
        return Err(Error::Value { argument: "inputs", expected, actual: actual() });
    }
    Ok(found)
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// By the name; none for the standard input, whose first byte tells.
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
        Some("json") => Ok(Some(Format::Array)),
        _ => Err(Error::Format { path: path.into() }),
    }
}

/// Lets gzip and Zstandard through a decoder, by their first bytes.
fn decompressed(text: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let mut text = BufReader::with_capacity(1 << 17, text);
    Ok(match text.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(1 << 17, flate2::bufread::MultiGzDecoder::new(text))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(BufReader::with_capacity(1 << 17, zstd::Decoder::with_buffer(text)?)),
        _ => Box::new(text),
    })
}

/// Counts what is read.
struct Counted {
    file: File,
    position: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.position.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

/// Cuts one text into records.
struct Splitter {
    path: Arc<Path>,
    /// None until the first byte has told.
    format: Option<Format>,
    text: Box<dyn BufRead + Send>,
    /// To notice that the file changes while it is read.
    opened: Option<Opened>,
    line: usize,
    array: Array,
}

/// A file as it was when it was opened.
struct Opened {
    file: File,
    len: u64,
    modified: SystemTime,
}

/// Where in an array the text is.
#[derive(Clone, Copy, PartialEq)]
enum Array {
    Before,
    AtFirst,
    Inside,
    Behind,
}

impl Splitter {
    fn new(path: Arc<Path>, format: Option<Format>, text: Box<dyn BufRead + Send>, opened: Option<Opened>) -> Self {
        Self { path, format, text, opened, line: 1, array: Array::Before }
    }

    fn open(path: PathBuf, position: &Arc<AtomicU64>) -> Result<Self> {
        let open = || {
            if is_stdin(&path) {
                return Ok((decompressed(io::stdin())?, None));
            }
            let file = File::open(&path)?;
            let metadata = file.metadata()?;
            let opened = match metadata.is_file() {
                true => Some(Opened { file: file.try_clone()?, len: metadata.len(), modified: metadata.modified()? }),
                false => None, // A pipe has neither.
            };
            Ok((decompressed(Counted { file, position: position.clone() })?, opened))
        };
        let (text, opened) = open().map_err(|reason| Error::Io { path: path.clone(), reason })?;
        Ok(Self::new(path.as_path().into(), format(&path)?, text, opened))
    }

    fn check_unchanged(&self) -> Result<()> {
        let Some(Opened { file, len, modified }) = &self.opened else { return Ok(()) };
        let now = file.metadata().and_then(|now| Ok((now.len(), now.modified()?)));
        match now {
            Ok(now) if now == (*len, *modified) => Ok(()),
            Ok(_) => Err(self.failed(io::Error::other("changed while it was read: start again when it is complete"))),
            Err(reason) => Err(self.failed(reason)),
        }
    }

    fn next(&mut self, max_bytes: usize, blank_lines: &mut usize) -> Result<Option<RawRecord>> {
        let format = match self.format {
            Some(format) => format,
            None => {
                let is_array = without_mark(self.peek()?).trim_ascii_start().first() == Some(&b'[');
                *self.format.insert(if is_array { Format::Array } else { Format::Lines })
            }
        };
        match format {
            Format::Lines => self.next_line(max_bytes, blank_lines),
            Format::Array => self.next_element(max_bytes),
        }
    }

    fn next_line(&mut self, max_bytes: usize, blank_lines: &mut usize) -> Result<Option<RawRecord>> {
        while !self.peek()?.is_empty() {
            let line = self.line;
            let mut text = Text::new(max_bytes);
            self.take_until(&mut text, |bytes| memchr::memchr(b'\n', bytes))?;
            if !text.is_blank() {
                return Ok(Some(self.record(line, text)));
            }
            *blank_lines += 1;
        }
        Ok(None)
    }

    fn next_element(&mut self, max_bytes: usize) -> Result<Option<RawRecord>> {
        if self.array == Array::Before {
            if self.peek()?.starts_with(b"\xEF\xBB\xBF") {
                self.text.consume(3);
            }
            match self.skip_blanks()? {
                Some(b'[') => self.text.consume(1),
                _ => return Err(self.broken("a .json file is one array of records; one record a line is .jsonl")),
            }
            self.array = Array::AtFirst;
        }
        if self.array == Array::Behind {
            return match self.skip_blanks()? {
                None => Ok(None),
                Some(_) => Err(self.broken("there is text behind the array")),
            };
        }
        self.skip_blanks()?;
        let line = self.line;
        let (mut text, mut scan) = (Text::new(max_bytes), Scan::default());
        let end = self.take_until(&mut text, |bytes| bytes.iter().position(|&byte| scan.ends_at(byte)))?;
        let first = mem::replace(&mut self.array, if end == Some(b']') { Array::Behind } else { Array::Inside });
        match end {
            None => Err(self.broken("the array does not end: the file is cut off")),
            Some(b']') if first == Array::AtFirst && text.is_blank() => self.next_element(max_bytes),
            Some(_) => Ok(Some(self.record(line, text))),
        }
    }

    /// Moves what stands in front of the byte that `find` finds to `text`, and then that byte away, which it returns.
    fn take_until(&mut self, text: &mut Text, mut find: impl FnMut(&[u8]) -> Option<usize>) -> Result<Option<u8>> {
        loop {
            let buffer = fill(&mut *self.text, &self.path)?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let found = find(buffer);
            let end = found.map(|at| buffer[at]);
            let (part, used) = found.map_or((buffer, buffer.len()), |at| (&buffer[..at], at + 1));
            text.push(part).map_err(|reason| Error::Io { path: (*self.path).into(), reason })?;
            self.line += memchr::memchr_iter(b'\n', &buffer[..used]).count();
            self.text.consume(used);
            if found.is_some() {
                return Ok(end);
            }
        }
    }

    /// The first byte that is not blank, which stays.
    fn skip_blanks(&mut self) -> Result<Option<u8>> {
        loop {
            let buffer = fill(&mut *self.text, &self.path)?;
            let blank = buffer.len() - buffer.trim_ascii_start().len();
            if blank == 0 {
                return Ok(buffer.first().copied());
            }
            self.line += memchr::memchr_iter(b'\n', &buffer[..blank]).count();
            self.text.consume(blank);
        }
    }

    fn peek(&mut self) -> Result<&[u8]> {
        fill(&mut *self.text, &self.path)
    }

    fn record(&self, line: usize, text: Text) -> RawRecord {
        RawRecord { path: self.path.clone(), line, text: text.finish() }
    }

    fn broken(&self, message: &str) -> Error {
        Error::Record { path: (*self.path).into(), line: self.line, column: 1, message: message.into() }
    }

    fn failed(&self, reason: io::Error) -> Error {
        Error::Io { path: (*self.path).into(), reason }
    }
}

fn fill<'a>(text: &'a mut dyn BufRead, path: &Path) -> Result<&'a [u8]> {
    text.fill_buf().map_err(|reason| Error::Io { path: path.into(), reason })
}

/// Finds the end of an array's element: a comma or a bracket that is inside of nothing.
#[derive(Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    fn ends_at(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b',' | b']' if self.depth == 0 => return true,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        false
    }
}

/// The bytes of a record: in memory, and in a file from the moment that they are too many.
struct Text {
    bytes: Vec<u8>,
    max_bytes: usize,
    spilled: Option<File>,
    len: u64,
}

impl Text {
    fn new(max_bytes: usize) -> Self {
        Self { bytes: vec![], max_bytes, spilled: None, len: 0 }
    }

    fn push(&mut self, part: &[u8]) -> io::Result<()> {
        self.len += part.len() as u64;
        if self.spilled.is_none() && self.len > self.max_bytes as u64 {
            let mut file = tempfile::tempfile()?;
            file.write_all(&mem::take(&mut self.bytes))?;
            self.spilled = Some(file);
        }
        match &mut self.spilled {
            None => self.bytes.extend_from_slice(part),
            Some(file) => file.write_all(part)?,
        }
        Ok(())
    }

    fn is_blank(&self) -> bool {
        self.spilled.is_none() && self.bytes.trim_ascii().is_empty()
    }

    fn finish(self) -> RawText {
        match self.spilled {
            None => RawText::Bytes(self.bytes),
            Some(file) => RawText::Spilled(file, self.len),
        }
    }
}
