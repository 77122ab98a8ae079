//! Reading records: from pieces, compressed files and broken files, and into batches.
#![cfg(feature = "data")]

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use figa_loss::{Batching, EncodedPair, Error, Example, Fields, Format, RecordReader, Result, SpaRecord, TokenLabel};
use proptest::prelude::*;

/// Returns a text in pieces of given sizes.
struct Pieces {
    text: Vec<u8>,
    sizes: Vec<usize>,
    position: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.text[self.position..];
        let size = self.sizes.pop().unwrap_or(usize::MAX).min(buffer.len()).min(rest.len());
        buffer[..size].copy_from_slice(&rest[..size]);
        self.position += size;
        Ok(size)
    }
}

fn row(len: usize, id: u32) -> Example {
    Example::new(vec![id; len], vec![0; len], vec![0.0; len], vec![TokenLabel::Kept; len]).unwrap()
}

fn batching(max_tokens: usize, window: usize, seed: u64) -> Batching {
    let mut batching = Batching::default();
    (batching.max_tokens, batching.window, batching.seed) = (max_tokens, window, seed);
    batching
}

/// The line and the bytes of each record, or the error.
fn raw(mut reader: RecordReader) -> Vec<Result<(usize, Vec<u8>), String>> {
    let text = |record: Result<figa_loss::RawRecord>| {
        let mut record = record.map_err(|error| error.to_string())?;
        let mut bytes = vec![];
        record.write_to(&mut bytes).unwrap();
        Ok((record.line, bytes))
    };
    reader.by_ref().map(text).collect()
}

fn record(answer: &str) -> SpaRecord {
    SpaRecord::new("i", "", answer)
}

proptest! {
    /// Any text gives the same records whether it is read in pieces or at once.
    #[test]
    fn the_sizes_of_reads_do_not_matter(
        parts in prop::collection::vec(prop::sample::select(
            vec!["{", "}", "[", "]", ",", "\"", "\\", "\n", "\r\n", " ", "a", "é", "\u{feff}", "{\"a\": [1, \"]\"]}"]
        ), 0..60),
        sizes in prop::collection::vec(1usize..7, 0..200),
        max_bytes in 1usize..20,
    ) {
        let text = parts.concat().into_bytes();
        for format in [Format::Lines, Format::Array] {
            let pieces = Pieces { text: text.clone(), sizes: sizes.clone(), position: 0 };
            let mut in_pieces = RecordReader::from_text("x", format, BufReader::with_capacity(5, pieces));
            in_pieces.max_bytes = max_bytes;
            let whole = RecordReader::from_text("x", format, io::Cursor::new(text.clone()));
            prop_assert_eq!(raw(in_pieces), raw(whole));
        }
    }

    /// Records survive writing and reading, as lines and as an array.
    #[test]
    fn written_records_are_read_back(
        answers in prop::collection::vec(any::<String>(), 0..8),
        blanks in "[ \n\t]{0,3}",
    ) {
        let records: Vec<SpaRecord> = answers.iter().map(|answer| record(answer)).collect();
        let json: Vec<String> = records.iter().map(|record| serde_json::to_string(record).unwrap()).collect();
        let lines = json.join("\n");
        let array = format!("{blanks}[{blanks}{}{blanks}]{blanks}", json.join(&format!("{blanks},{blanks}")));
        for (format, text) in [(Format::Lines, lines), (Format::Array, array)] {
            let reader = RecordReader::from_text("x", format, io::Cursor::new(text));
            let read: Result<Vec<_>> = reader.map(|raw| raw?.parse(&Fields::default())).collect();
            prop_assert_eq!(&read.unwrap(), &records);
        }
    }

    /// Every pair is in exactly one batch, and no batch exceeds the budget.
    #[test]
    fn batches_hold_every_pair_within_the_budget(
        lengths in prop::collection::vec((1usize..30, 1usize..30), 0..60),
        window in 1usize..20,
        seed: u64,
    ) {
        const BUDGET: usize = 80;
        let pair = |(&(original, revised), id)| EncodedPair::new(row(original, id), row(revised, id));
        let pairs: Vec<_> = lengths.iter().zip(0..).map(pair).collect();
        let batching = batching(BUDGET, window, seed);
        let batches: Vec<_> = batching.batches(pairs.clone().into_iter().map(Ok)).map(Result::unwrap).collect();
        let again: Vec<_> = batching.batches(pairs.clone().into_iter().map(Ok)).map(Result::unwrap).collect();
        prop_assert_eq!(&batches, &again);
        for batch in &batches {
            let longest = batch.iter().flat_map(|pair| [pair.original.len(), pair.revised.len()]).max();
            prop_assert!(2 * batch.len() * longest.unwrap() <= BUDGET);
        }
        let mut names: Vec<u32> = batches.iter().flatten().map(|pair| pair.original.input_ids()[0]).collect();
        names.sort();
        prop_assert_eq!(names, (0..pairs.len() as u32).collect::<Vec<_>>());
    }
}

/// Also in a field that is not read: the record is to be written again as a text.
#[test]
fn a_record_is_utf_8_as_a_whole() {
    let text =
        [&br#"{"instruction": "i", "original_output": "a", "revised_output": "b", "x": ""#[..], b"\xff\"}"].concat();
    let mut reader = RecordReader::from_text("pairs.jsonl", Format::Lines, std::io::Cursor::new(text));
    let error = reader.next().unwrap().unwrap().parse(&Fields::default()).unwrap_err();
    assert_eq!(error.to_string(), "pairs.jsonl:1: byte 75 is not UTF-8");
}

#[test]
fn batching_is_by_length_and_passes_errors_through() {
    let pair = |len| Ok(EncodedPair::new(row(len, 0), row(len, 0)));
    let small = batching(40, 8192, 0);
    let mut sizes: Vec<Vec<usize>> = small
        .batches([10, 1, 10, 1, 1].map(pair))
        .map(|batch| batch.unwrap().iter().map(|pair| pair.revised.len()).collect())
        .collect();
    sizes.sort();
    assert_eq!(sizes, [vec![1, 1, 1], vec![10, 10]]);
    let orders: std::collections::HashSet<String> = (0..20)
        .map(|seed| {
            let batches = batching(40, 8192, seed).batches((1..20).map(pair));
            format!("{:?}", batches.map(|batch| batch.unwrap().len()).collect::<Vec<_>>())
        })
        .collect();
    assert!(orders.len() > 1, "the seed has no effect");

    let failing = [pair(3), Err(Error::Value { argument: "x", expected: "", actual: String::new() }), pair(4)];
    let batches: Vec<_> = small.batches(failing).collect();
    assert!(batches[0].is_ok() && batches[1].is_err());
    let error = small.batches([pair(21)]).next().unwrap().unwrap_err().to_string();
    assert_eq!(error, "max_tokens: expected room for every pair, got 40 for a pair of 2 rows, together 42 tokens");
    let no_window: Vec<_> = batching(40, 0, 0).batches([pair(1)]).take(2).collect();
    assert!(matches!(no_window[..], [Err(_)]));
}

fn answers(inputs: &[&Path]) -> Vec<String> {
    let reader = RecordReader::open(inputs).unwrap();
    reader.map(|raw| raw.unwrap().parse(&Fields::default()).unwrap().revised_output.text().into_owned()).collect()
}

#[test]
fn inputs_may_be_compressed_or_several_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let json = |answer: &str| serde_json::to_string(&record(answer)).unwrap();
    fs::write(path("a.jsonl"), format!("{}\n\n{}", json("1"), json("2"))).unwrap();
    // Two members, as in the output of `cat a.gz b.gz`.
    let mut gz = vec![];
    for answer in ["3", "4"] {
        let mut encoder = flate2::write::GzEncoder::new(&mut gz, flate2::Compression::fast());
        writeln!(encoder, "{}", json(answer)).unwrap();
        encoder.finish().unwrap();
    }
    fs::write(path("b.jsonl.gz"), &gz).unwrap();
    let array = format!("[{},\n {}]", json("5"), json("6"));
    fs::write(path("c.json.zst"), zstd::encode_all(array.as_bytes(), 1).unwrap()).unwrap();
    assert_eq!(answers(&[&path("a.jsonl"), &path("b.jsonl.gz"), &path("c.json.zst")]), ["1", "2", "3", "4", "5", "6"]);

    let reader = RecordReader::open([path("a.jsonl")]).unwrap();
    let position = reader.position();
    let mut blank = RecordReader::open([path("a.jsonl")]).unwrap();
    assert_eq!((blank.by_ref().count(), blank.blank_lines()), (2, 1));
    assert_eq!(reader.count(), 2);
    assert_eq!(position.load(std::sync::atomic::Ordering::Relaxed), fs::metadata(path("a.jsonl")).unwrap().len());

    let error =
        |path: &Path| match RecordReader::open([path]).map(|reader| raw(reader).into_iter().find_map(Result::err)) {
            Ok(error) => error.expect("an error"),
            Err(error) => error.to_string(),
        };
    fs::write(path("cut.jsonl.gz"), &gz[..gz.len() - 9]).unwrap();
    assert!(error(&path("cut.jsonl.gz")).contains("cut.jsonl.gz: "), "{}", error(&path("cut.jsonl.gz")));
    fs::write(path("cut.json"), &array[..array.len() - 1]).unwrap();
    assert!(error(&path("cut.json")).contains("cut.json:2: the array does not end: the file is cut off"));
    fs::write(path("more.json"), format!("{array}\n{array}")).unwrap();
    assert!(error(&path("more.json")).contains("more.json:3: there is text after the array"));
    assert!(error(&path("none.jsonl")).contains("none.jsonl: No such file"));
    assert!(error(&path("x.csv.gz")).contains("x.csv.gz"));
    assert!(error(folder.path()).contains("expected .jsonl or .ndjson"));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    fs::write(&path, "{}\n{}\n").unwrap();
    let mut reader = RecordReader::open([&path]).unwrap();
    assert!(reader.next().unwrap().is_ok());
    File::options().append(true).open(&path).unwrap().write_all(b"{}\n").unwrap();
    let last = reader.last().unwrap().unwrap_err().to_string();
    assert!(last.contains("a.jsonl: changed while it was read"), "{last}");
}

#[test]
fn a_record_that_is_too_long_is_stored_on_disk() {
    let long = format!("{{\"instruction\": \"{}\"}}", "x".repeat(100_000));
    let text = format!("{{}}\n{long}\n{{}}\n");
    let mut reader = RecordReader::from_text("x.jsonl", Format::Lines, io::Cursor::new(text.clone()));
    reader.max_bytes = 1000;
    let mut written = vec![];
    for (mut raw, line) in reader.map(Result::unwrap).zip(1..) {
        assert_eq!((raw.line, raw.bytes().is_none()), (line, line == 2));
        let error = raw.parse(&Fields::default()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("x.jsonl:{line}:")), "{error}");
        let message = format!("the record has {} bytes, more than the limit of one record", long.len());
        assert_eq!(error.contains(&message), line == 2, "{error}");
        raw.write_to(&mut written).unwrap();
    }
    assert_eq!(written, text.as_bytes());
}

#[test]
fn parallel_work_keeps_the_order_and_the_errors() {
    let text: String = (0..3000).map(|i| if i == 2000 { "{\n".into() } else { format!("{{\"i\": {i}}}\n") }).collect();
    let mut reader = RecordReader::from_text("x.jsonl", Format::Lines, io::Cursor::new(text));
    let lines: Vec<_> = reader
        .map_in_order(|raw| match raw.bytes() {
            Some(bytes) if bytes.len() > 1 => Ok(raw.line),
            _ => Err(raw.parse(&Fields::default()).unwrap_err()),
        })
        .collect();
    assert_eq!(lines.len(), 3000);
    for (line, expected) in lines.iter().zip(1..) {
        assert_eq!(line.as_ref().ok(), (expected != 2001).then_some(&expected));
    }
}

#[test]
fn a_reader_that_is_dropped_early_has_taken_no_more_than_it_gave() {
    let text: String = (0..3000).map(|i| format!("{{\"i\": {i}}}\n")).collect();
    for taken in [0, 1, 511, 512, 513, 2000] {
        let mut reader = RecordReader::from_text("x.jsonl", Format::Lines, io::Cursor::new(text.clone()));
        let lines: Vec<_> = reader.map_in_order(|raw| Ok(raw.line)).take(taken).map(Result::unwrap).collect();
        assert!(lines.into_iter().eq(1..=taken));
        // One after another, and mapped again.
        let next = reader.next().unwrap().unwrap().line;
        let rest: Vec<_> = reader.map_in_order(|raw| Ok(raw.line)).map(Result::unwrap).collect();
        assert!(next == taken + 1 && rest.into_iter().eq(taken + 2..=3000), "{taken}");
    }
}

fn parse(json: &str, fields: &Fields) -> Result<SpaRecord, String> {
    let mut reader = RecordReader::from_text("x.jsonl", Format::Lines, io::Cursor::new(json.replace('\n', " ")));
    reader.next().unwrap().unwrap().parse(fields).map_err(|error| error.to_string())
}

#[test]
fn fields_may_have_other_names_and_answers_may_be_conversations() {
    let mut preferences = Fields::default();
    preferences.instruction = "prompt".into();
    preferences.original = "rejected".into();
    preferences.revised = "chosen".into();
    let record = parse(r#"{"prompt": "Add.", "chosen": "3", "rejected": "4", "score": [1]}"#, &preferences).unwrap();
    assert_eq!(
        (&*record.instruction, &*record.original_output.text(), &*record.revised_output.text()),
        ("Add.", "4", "3")
    );
    // One field may serve as two.
    let mut both = preferences.clone();
    both.output = "chosen".into();
    let record = parse(r#"{"prompt": "Add.", "chosen": "3", "rejected": "4"}"#, &both).unwrap();
    assert_eq!((&*record.output, &*record.revised_output.text()), ("3", "3"));

    let user = r#"{"role": "user", "content": "Add.", "name": "A"}"#;
    let says = |text: &str| format!(r#"{{"role": "assistant", "content": "{text}"}}"#);
    let implicit = format!(r#"{{"chosen": [{user}, {}], "rejected": [{user}, {}]}}"#, says("3"), says("4"));
    let explicit = format!(r#"{{"prompt": [{user}], "chosen": [{}], "rejected": [{}]}}"#, says("3"), says("4"));
    let record = parse(&implicit, &preferences).unwrap();
    assert_eq!(record, parse(&explicit, &preferences).unwrap());
    assert_eq!((record.messages.len(), &*record.messages[0].text(), &*record.revised_output.text()), (1, "Add.", "3"));

    for (json, expected) in [
        (r#"{"prompt": "a", "rejected": "b"}"#.into(), "the field `chosen` is missing"),
        (r#"{"chosen": "a", "rejected": "b"}"#.into(), "the field `prompt` is missing"),
        (r#"{"prompt": null, "chosen": "a", "rejected": "b"}"#.into(), "`prompt` is null"),
        (r#"{"prompt": "a", "prompt": "b"}"#.into(), "duplicate field `prompt`"),
        (r#"{"prompt": "a", "chosen": [], "rejected": "b"}"#.into(), "`chosen` holds no message"),
        (
            format!(r#"{{"prompt": "a", "chosen": [{user}], "rejected": "b"}}"#),
            "`chosen`: the last message has the role \"user\", expected \"assistant\"",
        ),
        (
            format!(r#"{{"chosen": [{user}, {}], "rejected": [{}]}}"#, says("3"), says("4")),
            "`rejected` has 0 messages in front of its answer and `chosen` has 1, expected the same",
        ),
        (implicit.replacen('{', r#"{"prompt": "more", "#, 1), "both `prompt` and the answers' messages hold a prompt"),
        (explicit.replacen('{', r#"{"input": "more", "#, 1), "both messages and `input` hold a prompt"),
        (
            r#"{"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}"#.into(),
            "`prompt`, message 1: has no content",
        ),
        (r#"{"prompt": "a", "chosen": "b", "rejected": "c"} {}"#.into(), "trailing characters"),
    ] {
        let error = parse(&json, &preferences).unwrap_err();
        assert!(error.contains(expected) && error.starts_with("x.jsonl:1:"), "{json}: {error}");
    }
}

/// Prompt and answers of a record, as messages.
fn shape(record: &SpaRecord) -> (Vec<(String, String)>, String, String) {
    let messages = record.messages.iter().map(|message| (message.role().to_owned(), message.text().into_owned()));
    (messages.collect(), record.original_output.text().into_owned(), record.revised_output.text().into_owned())
}

#[test]
fn records_of_many_shapes_are_the_same_record() {
    let mut fields = Fields::default();
    (fields.instruction, fields.original, fields.revised) = ("prompt".into(), "data.no".into(), "data.yes".into());
    fields.system = Some("system".into());
    let expected =
        (vec![("system".into(), "Be brief.".into()), ("user".into(), "Why?".into())], "No.".into(), "Yes.".into());
    let [system, user] = [r#"{"role": "system", "content": "Be brief."}"#, r#"{"role": "User", "content": "Why?"}"#];
    let answer = |text: &str| format!(r#"{{"role": "Assistant", "content": "{text}"}}"#);
    let [no, yes] = ["No.", "Yes."].map(answer);
    let gpt = |text: &str| format!(r#"{{"from": "gpt", "value": "{text}"}}"#);
    for json in [
        // The system message as a column, and as a message.
        r#"{"system": "Be brief.", "prompt": "Why?", "data": {"no": "No.", "yes": "Yes."}}"#.to_owned(),
        format!(r#"{{"prompt": [{system}, {user}], "data": {{"no": "No.", "yes": "Yes."}}}}"#),
        // A name with dots; an answer as a message, in a list, and with the conversation in front of it.
        format!(r#"{{"prompt": [{system}, {user}], "data.no": {no}, "data.yes": [{yes}]}}"#),
        format!(r#"{{"data": {{"no": [{system}, {user}, {no}], "yes": [{system}, {user}, {yes}]}}}}"#),
        // The question once more, as text; null is as good as absent.
        format!(
            r#"{{"prompt": "Why?", "data": {{"no": [{system}, {user}, {no}], "yes": [{system}, {user}, {yes}]}}}}"#
        ),
        format!(r#"{{"prompt": null, "data": {{"no": [{system}, {user}, {no}], "yes": [{system}, {user}, {yes}]}}}}"#),
        // ShareGPT.
        format!(
            r#"{{"prompt": [{{"from": "system", "value": "Be brief."}}, {{"from": "human", "value": "Why?"}}],
                 "data": {{"no": {}, "yes": {}}}}}"#,
            gpt("No."),
            gpt("Yes.")
        ),
        // Text parts.
        format!(
            r#"{{"prompt": [{system}, {{"role": "user", "content": [{{"type": "text", "text": "Why"}}, {{"text": "?"}}]}}],
                 "data": {{"no": "No.", "yes": "Yes."}}}}"#
        ),
    ] {
        let record = parse(&json, &fields).unwrap();
        assert_eq!(shape(&record), expected, "{json}");
        // It can be written and read again.
        let again = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<SpaRecord>(&again).unwrap(), record, "{again}");
    }
}

#[test]
fn dialogues_in_one_text_are_read_as_turns() {
    let text = |answer: &str| format!("\n\nHuman: Why?\n\nAssistant: Because.\n\nHuman: So?\n\nAssistant: {answer}");
    let json = serde_json::json!({ "original_output": text("No."), "revised_output": text("Yes.") }).to_string();
    let record = parse(&json, &Fields::default()).unwrap();
    let turns =
        [("user", "Why?"), ("assistant", "Because."), ("user", "So?")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(shape(&record), (turns.to_vec(), " No.".into(), " Yes.".into()));
    assert!(record.instruction.ends_with("\n\nAssistant:"), "{}", record.instruction);
    let again = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<SpaRecord>(&again).unwrap(), record, "{again}");
    let mut fields = Fields::default();
    fields.system = Some("system".into());
    let record = parse(&json.replacen('{', r#"{"system": "s","#, 1), &fields).unwrap();
    assert_eq!((record.messages.len(), record.original_output.text()), (4, "No.".into()));
    let error = parse(&json.replacen('{', r#"{"input": "n","#, 1), &fields).unwrap_err();
    assert!(error.contains("both the dialogues and `input` hold a prompt"), "{error}");
    let other = json.replacen("Because", "Hence", 1);
    let error = parse(&other, &Fields::default()).unwrap_err();
    assert!(error.contains("only the last turn may be edited"), "{error}");
}

#[test]
fn a_record_says_whether_its_answers_were_cut_off() {
    for (reason, is_truncated) in [("\"length\"", true), ("\"stop\"", false), ("null", false)] {
        let json = r#"{"instruction": "i", "original_output": "a", "revised_output": "b", "finish_reason": REASON}"#;
        let record = parse(&json.replace("REASON", reason), &Fields::default()).unwrap();
        assert_eq!(record.is_truncated, is_truncated, "{reason}");
        let again = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<SpaRecord>(&again).unwrap(), record, "{again}");
    }
}

#[test]
fn nothing_that_belongs_to_a_prompt_is_dropped() {
    let with =
        |field: &str| format!(r#"{{{field}, "instruction": "i", "original_output": "a", "revised_output": "b"}}"#);
    for (field, expected) in [
        (r#""system": "s""#, "`system` would be dropped: remove it, or name its field (system)"),
        (r#""tools": [{}]"#, "`tools` would be dropped"),
        (r#""documents": [{}]"#, "`documents` would be dropped"),
        (r#""history": [["q", "a"]]"#, "`history` is not read"),
        (r#""chat_template_kwargs": {"tools": []}"#, "`chat_template_kwargs` holds `tools`, which is no variable"),
        (r#""chat_template_kwargs": 1"#, "`chat_template_kwargs` is a number, expected an object"),
        (r#""finish_reason": ["length"]"#, "`finish_reason` is a list, expected a string"),
    ] {
        let error = parse(&with(field), &Fields::default()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    for field in [r#""system": """#, r#""tools": null"#, r#""history": []"#, r#""score": NaN"#] {
        assert_eq!(parse(&with(field), &Fields::default()).is_ok(), !field.contains("NaN"), "{field}");
    }
    let mut fields = Fields::default();
    fields.tools = Some("tools".into());
    let list = parse(&with(r#""tools": [{"name": "f"}]"#), &fields).unwrap();
    assert_eq!(parse(&with(r#""tools": "[{\"name\": \"f\"}]""#), &fields).unwrap(), list);
    assert!(parse(&with(r#""tools": [1]"#), &fields).unwrap_err().contains("expected a list of objects"));

    let message = |fields: &str| {
        let json = format!(r#"{{"instruction": [{{{fields}}}], "original_output": "a", "revised_output": "b"}}"#);
        parse(&json, &Fields::default()).map(|record| record.messages[0].clone())
    };
    let call = message(r#""role": "assistant", "content": null, "tool_calls": [{"id": 7}], "name": "n""#).unwrap();
    assert_eq!(call.fields().keys().collect::<Vec<_>>(), ["role", "content", "tool_calls", "name"]);
    let share_gpt = message(r#""from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}""#).unwrap();
    assert_eq!(share_gpt.get("tool_calls").unwrap()[0]["function"]["name"], "f");
    for (fields, expected) in [
        (r#""role": "user""#, "`instruction`, message 1: has no content"),
        (r#""role": "user", "content": null"#, "content is null, expected a string or a list of parts"),
        (r#""role": 1, "content": "x""#, "role is a number, expected a string"),
        (r#""content": "x""#, "has no role"),
        (
            r#""role": "user", "content": [{"type": "image"}]"#,
            "content, part 1 is of the type \"image\", and only text is read",
        ),
    ] {
        let error = message(fields).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn text_that_is_not_json_is_named_as_what_it_is() {
    let good = r#"{"instruction": "i", "original_output": "a", "revised_output": "b"}"#;
    let utf16: Vec<u8> = [0xfeff].into_iter().chain(good.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    for (bytes, expected) in [
        (utf16, "the text is UTF-16"),
        (good.replace('b', "\0").into_bytes(), "NUL bytes"),
        (good.replace("\"b\"", "-Infinity").into_bytes(), "-Infinity is not JSON"),
        (good.replace('b', "\\ud800").into_bytes(), "a lone surrogate"),
        (good.replace("\"b\"}", "\"b\",}").into_bytes(), "trailing comma"),
        (b"{\n".to_vec(), "the record is incomplete"),
    ] {
        let mut reader = RecordReader::from_text("x.jsonl", Format::Lines, io::Cursor::new(bytes));
        let error = reader.next().unwrap().unwrap().parse(&Fields::default()).unwrap_err().to_string();
        assert!(error.starts_with("x.jsonl:1:") && error.contains(expected) && !error.contains('\n'), "{error}");
    }
}
