//! `cargo fuzz run read`: any text, as lines and as an array, gives the same records or the same error whether it is
//! read at once or in pieces.
#![no_main]

use std::io::{self, BufReader, Read};

use figa_loss::{Fields, Format, RecordReader};
use libfuzzer_sys::fuzz_target;

/// Small, so that records span several buffers.
const BUFFER: usize = 7;

/// Returns a text in pieces of given sizes.
struct Pieces {
    text: Vec<u8>,
    sizes: Vec<u8>,
    position: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.text[self.position..];
        let size = usize::from(self.sizes.pop().unwrap_or(u8::MAX)).max(1).min(buffer.len()).min(rest.len());
        buffer[..size].copy_from_slice(&rest[..size]);
        self.position += size;
        Ok(size)
    }
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>, u8)| {
    let (text, sizes, max_bytes) = input;
    for format in [Format::Lines, Format::Array] {
        let read = |mut reader: RecordReader| {
            reader.max_bytes = max_bytes.into();
            let records = reader.by_ref().map(|record| {
                let mut record = record.map_err(|error| error.to_string())?;
                let parsed = record.parse(&Fields::default()).map_err(|error| error.to_string());
                let mut bytes = vec![];
                record.write_to(&mut bytes).unwrap();
                Ok::<_, String>((record.line, bytes, parsed))
            });
            (records.collect::<Vec<_>>(), reader.blank_lines())
        };
        let pieces = Pieces { text: text.clone(), sizes: sizes.clone(), position: 0 };
        let pieces = BufReader::with_capacity(BUFFER, pieces);
        let whole = io::Cursor::new(text.clone());
        assert_eq!(
            read(RecordReader::from_text("x", format, pieces)),
            read(RecordReader::from_text("x", format, whole))
        );
    }
});
