//! `cargo fuzz run model`: any chat template and any tokenizer give rows or an error, and never a panic.
//!
//! The template is a list of parts of a grammar, or the bytes as they are; the tokenizer is a valid one of which single
//! values are replaced.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use figa_loss::serde_json::{Value, from_str, json};
use figa_loss::{ChatOptions, PairEncoder, PromptTemplate, SpaRecord};
use libfuzzer_sys::{arbitrary, fuzz_target};

const STATEMENTS: &[&str] = &[
    "{% for m in messages %}BODY{% endfor %}",
    "{% for x in EXPR recursive %}BODY{{ loop(EXPR) }}{% endfor %}",
    "{% if EXPR %}BODY{% elif EXPR %}BODY{% else %}BODY{% endif %}",
    "{{ EXPR }}",
    "{{ EXPR }}",
    "{% set x = EXPR %}",
    "{% set y = EXPR, EXPR %}",
    "{% set n = namespace(a=EXPR) %}BODY",
    "{% set n = namespace() %}{% set n.a = EXPR %}BODY",
    "{% set n = namespace() %}{% set n.a, y = EXPR, EXPR %}BODY",
    "{% set n = namespace() %}{% set n.a | default(EXPR) %}BODY{% endset %}",
    "{% set x %}BODY{% endset %}",
    "{% macro f(a, b=EXPR) %}BODY{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(EXPR, EXPR, EXPR, c=EXPR) }}",
    "{% generation %}BODY{% endgeneration %}",
    "{{ m.content }}{{ messages[-1]['content'] }}</s>",
    "EXPR",
];

const EXPRESSIONS: &[&str] = &[
    "x",
    "y",
    "n",
    "n.a",
    "messages",
    "messages[0]",
    "messages[-1].content",
    "'%s %5d %%'",
    "'a b'",
    "0",
    "(-3)",
    "2.5",
    "1000000",
    "none",
    "true",
    "[EXPR, EXPR]",
    "[EXPR]",
    "{'a': EXPR, EXPR: EXPR}",
    "(EXPR, EXPR)",
    "(EXPR + EXPR)",
    "(EXPR ~ EXPR)",
    "(EXPR * EXPR)",
    "(EXPR % EXPR)",
    "(EXPR // EXPR % EXPR)",
    "(-EXPR ** EXPR * EXPR)",
    "(EXPR == EXPR)",
    "(EXPR < EXPR)",
    "(EXPR in EXPR)",
    "(EXPR not in EXPR)",
    "(EXPR is eq EXPR)",
    "(EXPR if EXPR else EXPR)",
    "(EXPR)[EXPR]",
    "(EXPR)[EXPR:EXPR]",
    "(EXPR)|tojson(indent=4)",
    "(EXPR)|string|sort|list",
    "(EXPR)|join('a')",
    "[EXPR, EXPR]|batch(3)",
    "{'a': EXPR}.items()",
    "(EXPR)|string|length",
    "'a b'.split(EXPR)",
    "'a'.center(EXPR)",
    "'{} {a}'.format(EXPR, a=EXPR)",
    "(EXPR)|string|map('string')|list",
    "range(9)|reverse",
    "dict(a=EXPR)",
    "[EXPR, EXPR]|zip([EXPR])|list",
    "(EXPR)|default(EXPR)",
    "(EXPR)|string|replace('a', 'bb')",
];

/// Values that replace one of the same kind.
const VALUES: &[&str] = &[
    "0",
    "1",
    "300",
    "4294967295",
    "\"\"",
    "\"a\"",
    "\"\u{e9}\"",
    "\"</s>\"",
    "\"<unk>\"",
    "[]",
    "{}",
    "true",
    "false",
    "{\"Regex\": \"(a*)*b|.\"}",
    "{\"Regex\": \"\"}",
    "{\"String\": \"\"}",
    "{\"String\": \"a\"}",
    "{\"</s>\": 0, \"a\": 7}",
];

/// Parts of a tokenizer that are valid, or nearly so.
const PARTS: &[(&str, &str)] = &[
    ("normalizer", r#"{"type": "Precompiled", "precompiled_charsmap": "CAAAAAAEAAAABAAAYQBiAA=="}"#),
    ("normalizer", r#"{"type": "Replace", "pattern": {"Regex": "a|"}, "content": "bcd"}"#),
    ("normalizer", r#"{"type": "Replace", "pattern": {"String": "a"}, "content": ""}"#),
    (
        "normalizer",
        r#"{"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Strip", "strip_left": true, "strip_right": true}]}"#,
    ),
    ("normalizer", r#"{"type": "Prepend", "prepend": "\u2581"}"#),
    (
        "normalizer",
        r#"{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}"#,
    ),
    ("pre_tokenizer", r#"{"type": "FixedLength", "length": 0}"#),
    (
        "pre_tokenizer",
        r#"{"type": "Split", "pattern": {"Regex": "(?:a+a+)+$|"}, "behavior": "Isolated", "invert": true}"#,
    ),
    (
        "pre_tokenizer",
        r#"{"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, {"type": "UnicodeScripts"}, {"type": "Punctuation", "behavior": "Removed"}]}"#,
    ),
    ("pre_tokenizer", r#"{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}"#),
    ("pre_tokenizer", r#"{"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": false}"#),
    ("pre_tokenizer", r#"{"type": "BertPreTokenizer"}"#),
    ("post_processor", r#"{"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}"#),
];

const TOKENIZERS: [&str; 4] = ["byte_level.json", "metaspace.json", "unigram.json", "word_piece.json"];

/// The longest template of the grammar.
const MAX_TEMPLATE: usize = 2000;

fn template(bytes: &mut arbitrary::Unstructured<'_>) -> arbitrary::Result<String> {
    let mut text = "BODY".to_owned();
    for (place, parts) in [("BODY", STATEMENTS), ("EXPR", EXPRESSIONS)] {
        while let Some(at) = text.find(place) {
            // With the end of the bytes, the first that holds no place.
            let last = if place == "BODY" { "" } else { "x" };
            let part = if text.len() < MAX_TEMPLATE && !bytes.is_empty() { *bytes.choose(parts)? } else { last };
            let next = if place == "BODY" && !bytes.is_empty() && text.len() < MAX_TEMPLATE { "BODY" } else { "" };
            text.replace_range(at..at + place.len(), &format!("{part}{next}"));
        }
    }
    Ok(text)
}

/// The places of all values within a value.
fn places(value: &Value, place: &str, found: &mut Vec<String>) {
    // A vocabulary is a single place, and not a few thousand.
    if place.ends_with("/vocab") || place.ends_with("/merges") {
        return found.push(place.to_owned());
    }
    found.push(place.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| places(value, &format!("{place}/{key}"), found)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(at, value)| places(value, &format!("{place}/{at}"), found));
        }
        _ => {}
    }
}

fn tokenizer(bytes: &mut arbitrary::Unstructured<'_>) -> arbitrary::Result<Value> {
    static VALID: OnceLock<Vec<Value>> = OnceLock::new();
    let valid = VALID.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers");
        TOKENIZERS.map(|name| from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()).to_vec()
    });
    let mut json = bytes.choose(valid)?.clone();
    for _ in 0..bytes.int_in_range(0..=2)? {
        let (name, part) = *bytes.choose(PARTS)?;
        json[name] = from_str(part).expect("JSON");
    }
    for _ in 0..bytes.int_in_range(0..=2)? {
        let mut found = vec![];
        places(&json, "", &mut found);
        let place = bytes.choose(&found)?;
        let new: Value = from_str(bytes.choose(VALUES)?).expect("JSON");
        let old = json.pointer_mut(place).expect("a place");
        if std::mem::discriminant(old) == std::mem::discriminant(&new) {
            *old = new;
        }
    }
    Ok(json)
}

fuzz_target!(|bytes: &[u8]| {
    // The hook of libFuzzer ends the process at any panic, also at one that becomes an error.
    figa_loss::hide_caught_panics();
    let mut bytes = arbitrary::Unstructured::new(bytes);
    let Ok(tokenizer) = tokenizer(&mut bytes) else { return };
    let Ok(text) = arbitrary::Arbitrary::arbitrary(&mut bytes) else { return };
    let text: String = text;
    let source = match bytes.arbitrary() {
        Ok(true) => template(&mut bytes).unwrap_or_default(),
        _ => String::from_utf8_lossy(bytes.peek_bytes(bytes.len()).unwrap_or_default()).into_owned(),
    };
    let folder = std::env::temp_dir().join(format!("figa-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.join("tokenizer_config.json"), json!({ "chat_template": source }).to_string()).unwrap();
    let Ok(mut encoder) = PairEncoder::read(&folder, Some("</s>")) else { return };
    let record = SpaRecord::new(&*text, "The sky is green", &*format!("The sky is {text}"));
    let _ = encoder.encode(&record);
    if let Ok(template) = PromptTemplate::for_model(&folder, &ChatOptions::default()) {
        encoder.template = template;
        let _ = encoder.encode(&record);
        let _ = encoder.compare(&record);
    }
});
