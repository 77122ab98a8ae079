//! Tokenizers that panic, or grow texts without end, are errors of the file or of the record, and print nothing.
#![cfg(feature = "data")]

use std::fs;

use base64::prelude::*;
use figa_loss::serde_json::{Value, from_str, json};
use figa_loss::{Error, PairEncoder, PromptTemplate, SpaRecord};
use tempfile::TempDir;

/// A tokenizer of the fixtures with one value replaced.
fn tokenizer(name: &str, place: &str, value: Value) -> Value {
    let mut json: Value =
        from_str(&fs::read_to_string(format!("tests/fixtures/tokenizers/{name}.json")).unwrap()).unwrap();
    *json.pointer_mut(place).expect(place) = value;
    json
}

fn read(json: &Value) -> Result<PairEncoder, Error> {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let mut encoder = PairEncoder::read(folder.path(), Some("</s>"))?;
    encoder.template = PromptTemplate::Plain;
    Ok(encoder)
}

#[track_caller]
fn assert_refused(json: &Value, reason: &str) {
    let error = read(json).map(drop).expect_err(reason).to_string();
    assert!(error.contains("tokenizer.json") && error.contains(reason) && !error.contains('\n'), "{error}");
}

/// The error of a record of `text`, which is one line.
#[track_caller]
fn record_error(json: &Value, text: &str) -> String {
    let encoder = read(json).unwrap();
    let error = encoder.encode(&SpaRecord::new("Colour?", text, "It is blue.")).map(drop).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn charsmap(bytes: &[u8]) -> Value {
    json!({ "type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(bytes) })
}

#[test]
fn panics_are_errors() {
    let table = [&8_u32.to_le_bytes()[..], &[0, 4, 0, 0, 0, 4, 0, 0], b"a\0b\0"].concat();
    let broken = [
        tokenizer("byte_level", "/normalizer", charsmap(&table)),
        tokenizer("byte_level", "/pre_tokenizer", json!({ "type": "FixedLength", "length": 0 })),
    ];
    for json in &broken {
        let error = record_error(json, "It is green.");
        assert!(error.starts_with("tokenizer: it panics: "), "{error}");
    }
    let special = json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "[X]", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
        "special_tokens": { "[X]": { "id": "[X]", "ids": [1, 2], "tokens": ["x"] } },
    });
    for json in [
        tokenizer("byte_level", "/post_processor", special),
        tokenizer("byte_level", "/model/continuing_subword_prefix", "a long prefix".into()),
    ] {
        if let Err(error) = read(&json) {
            let error = error.to_string();
            assert!(error.contains("tokenizer.json: not a valid tokenizer: ") && !error.contains('\n'), "{error}");
        }
    }
}

#[test]
fn tables_are_checked_before_they_are_loaded() {
    let length = u32::MAX.to_le_bytes();
    assert_refused(&tokenizer("byte_level", "/normalizer", charsmap(&length)), "its precompiled_charsmap is cut off");
    assert_refused(&tokenizer("byte_level", "/normalizer", charsmap(&[1])), "its precompiled_charsmap is empty");
    let sequence = json!({ "type": "Sequence", "normalizers": [charsmap(&length)] });
    assert_refused(&tokenizer("byte_level", "/normalizer", sequence), "its precompiled_charsmap is cut off");
    let long = json!([["</s>", 0.0], ["x".repeat(1000), 0.0]]);
    assert_refused(&tokenizer("unigram", "/model/vocab", long), "a token of 1000 bytes in a Unigram model");
    let word = tokenizer("word_piece", "/model/max_input_chars_per_word", 1_000_000_000.into());
    assert_refused(&word, "max_input_chars_per_word is 1000000000; at most 4096 are accepted");
}

#[test]
fn texts_do_not_grow_without_end() {
    let replace =
        |text: &str, content: String| json!({ "type": "Replace", "pattern": { "String": text }, "content": content });
    let regex = json!({ "type": "Replace", "pattern": { "Regex": "" }, "content": "x".repeat(100_000) });
    for normalizer in [replace("e", "x".repeat(100_000)), regex, charsmap(&[&[0; 4][..], &[b'x'; 100_000]].concat())] {
        assert_refused(&tokenizer("byte_level", "/normalizer", normalizer), "at most 16384 are accepted");
    }
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let levels = json!({ "type": "Sequence", "pretokenizers": vec![byte_level; 60] });
    assert_refused(&tokenizer("byte_level", "/pre_tokenizer", levels), "60 ByteLevel in its pre-tokenizer");
    let mut added = tokenizer("byte_level", "/normalizer", replace("e", "x".repeat(10_000)));
    added["added_tokens"][0]["content"] = "e".repeat(200_000).into();
    assert_refused(&added, "of its added tokens");
    let doubling = json!({ "type": "Sequence", "normalizers": vec![replace("e", "ee".into()); 60] });
    assert_refused(&tokenizer("byte_level", "/normalizer", doubling), "at most 16384 are accepted");
    let some = json!({ "type": "Sequence", "normalizers": vec![replace("e", "ee".into()); 13] });
    let json = tokenizer("byte_level", "/normalizer", some);
    let error = record_error(&json, &"e".repeat(40_000));
    assert!(error.contains("its normalizer makes more than 17"), "{error}");
    // It could grow as much, and does not.
    let text = "I'm not. ".repeat(5_000);
    assert!(read(&json).unwrap().encode(&SpaRecord::new("Colour?", &*text, "It is blue.")).is_ok());
}

#[test]
fn regular_expressions_end() {
    let pattern = json!({ "Regex": r"(?:a+a+)+\z" });
    let split = json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false });
    let error = record_error(&tokenizer("byte_level", "/pre_tokenizer", split), &format!("{}!", "a".repeat(100)));
    assert!(error.contains("retry-limit"), "{error}");
}
