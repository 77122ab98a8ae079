//! From one text to records: it is decompressed and cut.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::{BYTE_ORDER_MARK, Format, RawRecord, RawText, is_stdin};
use crate::error::{Error, Result};

/// Bytes that a decoder reads or writes at a time.
const BUFFER_BYTES: usize = 1 << 17;

/// A record longer than `max_bytes` goes to a temporary file if it has at most this many times its bytes, or this many
/// bytes. What is longer still, such as a file that decompresses to a single line without end, would fill the disk.
const SPILL_FACTOR: u64 = 16;
const SPILL_BYTES: u64 = 1 << 20;

/// Decodes gzip and Zstandard, recognised by their first bytes.
fn decompressed(mut text: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    // A pipe may give fewer bytes at first.
    let mut first = vec![];
    text.by_ref().take(4).read_to_end(&mut first)?;
    let kind = <[u8; 4]>::try_from(&*first);
    let text = BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(first).chain(text));
    Ok(match kind {
        Ok([0x1f, 0x8b, ..]) => {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::bufread::MultiGzDecoder::new(text)))
        }
        // A Zstandard frame, or one to skip, as pzstd and others put in front.
        Ok([0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18]) => {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::Decoder::with_buffer(text)?))
        }
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

/// Cuts one text into records.
pub(super) struct Splitter {
    path: Arc<Path>,
    /// `None` until the first byte decides.
    format: Option<Format>,
    text: Box<dyn BufRead + Send>,
    /// To detect that the file changes while it is read.
    opened: Option<Opened>,
    line: usize,
    array: Array,
}

/// A file as it was when it was opened.
pub(super) struct Opened {
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
    After,
}

impl Splitter {
    pub(super) fn new(
        path: Arc<Path>,
        format: Option<Format>,
        text: Box<dyn BufRead + Send>,
        opened: Option<Opened>,
    ) -> Self {
        Self { path, format, text, opened, line: 1, array: Array::Before }
    }

    pub(super) fn open(path: PathBuf, format: Option<Format>, position: &Arc<AtomicU64>) -> Result<Self> {
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
        Ok(Self::new(path.as_path().into(), format, text, opened))
    }

    pub(super) fn check_unchanged(&self) -> Result<()> {
        let Some(Opened { file, len, modified }) = &self.opened else { return Ok(()) };
        let now = file.metadata().and_then(|now| Ok((now.len(), now.modified()?)));
        match now {
            Ok(now) if now == (*len, *modified) => Ok(()),
            Ok(_) => Err(self.failed(io::Error::other("changed while it was read: start again when it is complete"))),
            Err(reason) => Err(self.failed(reason)),
        }
    }

    pub(super) fn next(&mut self, max_bytes: usize, blank_lines: &mut usize) -> Result<Option<RawRecord>> {
        let format = match self.format {
            Some(format) => format,
            None => {
                self.skip_mark()?;
                let is_array = self.skip_blanks()? == Some(b'[');
                if !is_array {
                    *blank_lines += self.line - 1;
                }
                *self.format.insert(if is_array { Format::Array } else { Format::Lines })
            }
        };
        match format {
            Format::Lines => self.next_line(max_bytes, blank_lines),
            Format::Array => self.next_element(max_bytes),
            #[cfg(feature = "parquet")]
            Format::Parquet => Err(self.broken("Parquet cannot be read from a text: name a .parquet file")),
        }
    }

    fn next_line(&mut self, max_bytes: usize, blank_lines: &mut usize) -> Result<Option<RawRecord>> {
        while !self.peek()?.is_empty() {
            let line = self.line;
            let mut text = Text::new(max_bytes);
            self.take_until(&mut text, |bytes| memchr::memchr(b'\n', bytes))?;
            if !text.is_blank {
                return Ok(Some(self.record(line, text)));
            }
            *blank_lines += 1;
        }
        Ok(None)
    }

    fn next_element(&mut self, max_bytes: usize) -> Result<Option<RawRecord>> {
        if self.array == Array::Before {
            self.skip_mark()?;
            match self.skip_blanks()? {
                Some(b'[') => self.text.consume(1),
                _ => return Err(self.broken("expected an array of records")),
            }
            self.array = Array::AtFirst;
        }
        if self.array == Array::After {
            return match self.skip_blanks()? {
                None => Ok(None),
                Some(_) => {
                    Err(self.broken("there is text after the array: a file holds one array, or one record per line"))
                }
            };
        }
        self.skip_blanks()?;
        let line = self.line;
        let (mut text, mut scan) = (Text::new(max_bytes), Scan::default());
        let end = self.take_until(&mut text, |bytes| bytes.iter().position(|&byte| scan.ends_at(byte)))?;
        let first = mem::replace(&mut self.array, if end == Some(b']') { Array::After } else { Array::Inside });
        match end {
            None => Err(self.broken("the array does not end: the file is cut off")),
            Some(b']') if first == Array::AtFirst && text.is_blank => self.next_element(max_bytes),
            Some(_) if text.is_blank => Err(self.broken("expected a record: there is a trailing or a doubled comma")),
            Some(_) => Ok(Some(self.record(line, text))),
        }
    }

    /// Moves everything in front of the byte that `find` finds to `text`, then consumes and returns that byte.
    fn take_until(&mut self, text: &mut Text, mut find: impl FnMut(&[u8]) -> Option<usize>) -> Result<Option<u8>> {
        loop {
            let buffer = fill(&mut *self.text, &self.path)?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let found = find(buffer);
            let end = found.map(|at| buffer[at]);
            let (part, used) = found.map_or((buffer, buffer.len()), |at| (&buffer[..at], at + 1));
            text.push(part, || format!("{}:{}", self.path.display(), self.line))?;
            self.line += memchr::memchr_iter(b'\n', &buffer[..used]).count();
            self.text.consume(used);
            if found.is_some() {
                return Ok(end);
            }
        }
    }

    /// Skips a byte order mark, which may arrive in pieces. Half of one is an error.
    fn skip_mark(&mut self) -> Result<()> {
        for (byte, found) in BYTE_ORDER_MARK.iter().zip(0..) {
            if self.peek()?.first() != Some(byte) {
                return if found == 0 { Ok(()) } else { Err(self.broken("incomplete byte order mark")) };
            }
            self.text.consume(1);
        }
        Ok(())
    }

    /// The first byte that is not blank; it is not consumed.
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
        RawRecord { path: self.path.clone(), line, in_rows: false, text: text.finish() }
    }

    fn broken(&self, message: &str) -> Error {
        Error::Record { place: format!("{}:{}", self.path.display(), self.line), message: message.into() }
    }

    fn failed(&self, reason: io::Error) -> Error {
        Error::Io { path: (*self.path).into(), reason }
    }
}

fn fill<'a>(text: &'a mut dyn BufRead, path: &Path) -> Result<&'a [u8]> {
    text.fill_buf().map_err(|reason| Error::Io { path: path.into(), reason })
}

/// Finds the end of an array's element: a comma or a bracket at depth 0.
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

/// The bytes of a record: in memory, or in a file once there are too many.
pub(super) struct Text {
    bytes: Vec<u8>,
    max_bytes: usize,
    spilled: Option<File>,
    len: u64,
    is_blank: bool,
}

impl Text {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { bytes: vec![], max_bytes, spilled: None, len: 0, is_blank: true }
    }

    pub(super) fn push(&mut self, part: &[u8], place: impl Fn() -> String) -> Result<()> {
        self.len += part.len() as u64;
        self.is_blank = self.is_blank && part.trim_ascii().is_empty();
        if self.len <= self.max_bytes as u64 {
            self.bytes.extend_from_slice(part);
            return Ok(());
        }
        let limit = (self.max_bytes as u64).saturating_mul(SPILL_FACTOR).max(SPILL_BYTES);
        if self.len > limit {
            let message = format!(
                "the record does not end after {limit} bytes, far beyond the limit of one record: if it is no mistake, \
                 raise the limit"
            );
            return Err(Error::Setting { place: place(), message, setting: "max_bytes" });
        }
        self.spill(part).map_err(|error| Error::Record {
            place: place(),
            message: format!(
                "a record longer than {} bytes goes to the temporary folder {} (TMPDIR): {error}",
                self.max_bytes,
                env::temp_dir().display()
            ),
        })
    }

    /// Adds to the temporary file, which begins with what was in memory.
    fn spill(&mut self, part: &[u8]) -> io::Result<()> {
        let file = match &mut self.spilled {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        file.write_all(&mem::take(&mut self.bytes))?;
        file.write_all(part)
    }

    pub(super) fn finish(self) -> RawText {
        match self.spilled {
            None => RawText::Bytes(self.bytes),
            Some(file) => RawText::Spilled(file, self.len),
        }
    }
}
