//! Parquet files of records: the same records, labels and errors as from lines.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray};
use arrow_json::reader::infer_json_schema;
use figa_loss::{Fields, RecordReader, SpaRecord};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::file::properties::WriterProperties;

/// Writes lines of JSON as Parquet, in row groups of `rows` rows.
fn write(path: &Path, lines: &str, rows: usize) {
    let (schema, _) = infer_json_schema(Cursor::new(lines), None).unwrap();
    let schema = Arc::new(schema);
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema.clone(), Some(properties)).unwrap();
    for batch in arrow_json::ReaderBuilder::new(schema).build(Cursor::new(lines)).unwrap() {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.close().unwrap();
}

fn read(path: &Path, fields: &Fields) -> Vec<Result<SpaRecord, String>> {
    let reader = RecordReader::open([path]).unwrap();
    reader.map(|raw| raw.unwrap().parse(fields).map_err(|error| error.to_string())).collect()
}

#[test]
fn rows_are_the_records_of_the_lines() {
    let folder = tempfile::tempdir().unwrap();
    let (lines, parquet) = (folder.path().join("x.jsonl"), folder.path().join("x.parquet"));
    let text: String = (0..700)
        .map(|i| {
            let input = if i % 3 == 0 { "null".into() } else { format!("\"line\\n{i} \\u00e9\"") };
            format!(
                "{{\"instruction\":\"q{i}\",\"input\":{input},\"original_output\":\"a{i}\",\
                 \"revised_output\":\"b{i}\",\"score\":{i}.5}}\n"
            )
        })
        .collect();
    fs::write(&lines, &text).unwrap();
    write(&parquet, &text, 100);
    let expected = read(&lines, &Fields::default());
    assert_eq!(expected.len(), 700);
    assert_eq!(read(&parquet, &Fields::default()), expected);
}

#[test]
fn conversations_are_lists_of_structs() {
    let folder = tempfile::tempdir().unwrap();
    let (lines, parquet) = (folder.path().join("x.jsonl"), folder.path().join("x.parquet"));
    let answer = |text: &str| {
        format!("[{{\"role\":\"user\",\"content\":\"Add.\"}},{{\"role\":\"assistant\",\"content\":\"{text}\"}}]")
    };
    let text = format!("{{\"chosen\":{},\"rejected\":{}}}\n", answer("3"), answer("4"));
    fs::write(&lines, &text).unwrap();
    write(&parquet, &text, 100);
    let mut fields = Fields::default();
    (fields.original, fields.revised) = ("rejected".into(), "chosen".into());
    let expected = read(&lines, &fields);
    assert!(expected[0].is_ok());
    assert_eq!(read(&parquet, &fields), expected);
}

#[test]
fn an_invalid_row_is_named_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let parquet = folder.path().join("x.parquet");
    let good = r#"{"instruction":"q","original_output":"a","revised_output":"b"}"#;
    let bad = r#"{"instruction":"q","original_output":"a"}"#;
    write(&parquet, &format!("{good}\n{bad}\n{good}\n"), 2);
    let read = read(&parquet, &Fields::default());
    let error = read[1].as_ref().unwrap_err();
    assert!(error.contains("x.parquet: row 2: ") && error.contains("revised_output"), "{error}");
    assert!(read[0].is_ok() && read[2].is_ok());

    fs::write(&parquet, "PAR1 cut off").unwrap();
    let error = RecordReader::open([&parquet]).unwrap().next().unwrap().unwrap_err().to_string();
    assert!(error.contains("x.parquet: ") && !error.contains('\n'), "{error}");
}

#[test]
fn labels_of_parquet_equal_those_of_lines() {
    let folder = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/spa_tiny.jsonl");
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/labels-tokenizer.json");
    let parquet = folder.path().join("x.parquet");
    write(&parquet, &fs::read_to_string(&data).unwrap(), 100);
    let label = |input: &Path, out: &str| {
        let out = folder.path().join(out);
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_figa"))
            .args(["label".as_ref(), input.as_os_str(), "--tokenizer".as_ref(), tokenizer.as_os_str()])
            .args(["--eos", "</s>", "--out"])
            .arg(&out)
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        fs::read(out).unwrap()
    };
    assert!(label(&parquet, "a.jsonl") == label(&data, "b.jsonl"));
}

/// A text that all rows share is once in the file, which has a few kilobytes.
#[test]
#[cfg(target_os = "linux")]
fn a_text_of_many_rows_is_not_in_memory_for_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let text = StringArray::from(vec!["x".repeat(17 << 20)]);
    let shared = DictionaryArray::new(Int32Array::from(vec![0; 100]), Arc::new(text));
    let batch = RecordBatch::try_from_iter([("instruction", Arc::new(shared) as ArrayRef)]).unwrap();
    let properties = WriterProperties::builder()
        .set_dictionary_page_size_limit(usize::MAX)
        .set_compression(parquet::basic::Compression::ZSTD(Default::default()))
        .build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(File::create(&path).unwrap(), batch.schema(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    assert!(path.metadata().unwrap().len() < 10_000);
    // In 1 GiB of memory.
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 1048576; exec \"$0\" curate x.parquet --max-words 1 --out k.jsonl"])
        .arg(env!("CARGO_BIN_EXE_figa"))
        .current_dir(folder.path())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with("error: x.parquet: row 1: the record has 17825810 bytes, more than the limit"),
        "{error}"
    );
}
