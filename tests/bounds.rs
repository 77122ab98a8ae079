//! What one record may cost: time, memory and disk are bounded, and an error says which bound to raise.
#![cfg(feature = "data")]

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};

use figa_loss::tokenizers::{Tokenizer, models::wordlevel::WordLevel, pre_tokenizers::whitespace::WhitespaceSplit};
use figa_loss::{Error, Format, PairEncoder, PromptTemplate, RawRecord, RecordReader, SpaRecord, TextComparer};

/// The error that ends a file that holds a record without an end.
fn endless(reader: RecordReader) -> String {
    let mut records: Vec<Result<RawRecord, Error>> = reader.collect();
    let error = records.pop().unwrap().unwrap_err().to_string();
    assert!(records.iter().all(Result::is_ok));
    error
}

#[test]
fn a_record_without_an_end_is_not_read_to_its_end() {
    let message = "the record does not end after 1048576 bytes, far beyond the limit of one record: if it is no mistake, \
                   raise the limit (max_bytes)";
    for (format, start, byte) in [
        (Format::Lines, "{}\n", b'x'),
        (Format::Lines, "{}\n", b' '),
        (Format::Array, "[{},\n\"", b'x'),
        (Format::Array, "[{},\n{", b'{'),
    ] {
        let text = io::Cursor::new(start).chain(io::repeat(byte));
        let mut reader = RecordReader::from_text("x.jsonl", format, BufReader::new(text));
        reader.max_bytes = 1000;
        assert_eq!(endless(reader), format!("x.jsonl:2: {message}"));
    }
    // 100 MiB from 100 KiB.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl.gz");
    let mut encoder = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
    io::copy(&mut io::repeat(b'x').take(100 << 20), &mut encoder).unwrap();
    encoder.finish().unwrap();
    let mut reader = RecordReader::open([&path]).unwrap();
    reader.max_bytes = 2 << 20;
    let error = endless(reader);
    assert!(error.contains("x.jsonl.gz:1: the record does not end after 33554432 bytes"), "{error}");
}

/// The first bytes of a compressed text may come one by one.
#[test]
#[cfg(unix)]
fn compression_is_recognised_in_pieces() {
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    let text = b"{\"a\": 1}\n{\"a\": 2}\n";
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gz.write_all(text).unwrap();
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0][..], &zstd::encode_all(&text[..], 1).unwrap()].concat();
    for bytes in
        [text.to_vec(), gz.finish().unwrap(), zstd::encode_all(&text[..], 1).unwrap(), skipped, b"{}".into(), vec![]]
    {
        let expected = if bytes.len() < 3 { bytes.len() / 2 } else { 2 };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let writer = thread::spawn({
            let path = path.clone();
            move || {
                let mut pipe = fs::OpenOptions::new().write(true).open(path).unwrap();
                for (byte, at) in bytes.iter().zip(0..) {
                    pipe.write_all(&[*byte]).unwrap();
                    if at < 5 {
                        thread::sleep(Duration::from_millis(5));
                    }
                }
            }
        });
        let records: Vec<RawRecord> = RecordReader::open([&path]).unwrap().map(Result::unwrap).collect();
        writer.join().unwrap();
        assert_eq!(records.len(), expected);
    }
}

#[test]
fn an_answer_of_too_many_tokens_is_an_error() {
    let vocab = ["</s>", "a", "b"].into_iter().zip(0..).map(|(token, id)| (token.to_owned(), id)).collect();
    let model = WordLevel::builder().vocab(vocab).unk_token("</s>".into()).build().unwrap();
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
    let mut encoder = PairEncoder::new(tokenizer, "</s>").unwrap();
    encoder.template = PromptTemplate::Plain;
    let mut comparer = TextComparer::default();
    assert_eq!((encoder.max_answer_tokens, comparer.max_answer_tokens), (131_072, 131_072));
    // Four tokens, and EOS.
    let (long, short) = ("a b a b", "a b");
    for (original, revised, side) in [(long, short, "original"), (short, long, "revised")] {
        let record = SpaRecord::new("a b a b a b a b", original, revised);
        (encoder.max_answer_tokens, comparer.max_answer_tokens) = (4, 4);
        let message = format!(
            "the {side} answer has 5 tokens, more than the limit of one answer, 4: raise it \
             (max_answer_tokens), or drop the record"
        );
        assert_eq!(encoder.encode(&record).unwrap_err().to_string(), message);
        assert_eq!(encoder.compare(&record).unwrap_err().to_string(), message);
        assert_eq!(comparer.compare(original, revised).unwrap_err().to_string(), message);
        (encoder.max_answer_tokens, comparer.max_answer_tokens) = (5, 5);
        assert!(encoder.encode(&record).is_ok() && comparer.compare(original, revised).is_ok());
    }
}
