//! `cargo fuzz run read`: any text in any pieces, as lines and as an array; the same records or the same error however it is
//! cut, and never a panic.
#![no_main]

use std::io::{self, BufReader, Read};

use figa_loss::{Fields, Format, RecordReader};
use libfuzzer_sys::fuzz_target;

struct Pieces(Vec<u8>, Vec<u8>, usize);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self(text, sizes, at) = self;
        let size = usize::from(sizes.pop().unwrap_or(255)).max(1).min(buffer.len()).min(text.len() - *at);
        buffer[..size].copy_from_slice(&text[*at..*at + size]);
        *at += size;
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
        let pieces = BufReader::with_capacity(7, Pieces(text.clone(), sizes.clone(), 0));
        let whole = io::Cursor::new(text.clone());
        assert_eq!(
            read(RecordReader::from_text("x", format, pieces)),
            read(RecordReader::from_text("x", format, whole))
        );
    }
});
