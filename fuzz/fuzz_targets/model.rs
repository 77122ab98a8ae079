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

const STATEMENTS: [&str; 24] = [
    "{% for m in messages %}",
    "{% for x in EXPR recursive %}",
    "{% endfor %}",
    "{% if EXPR %}",
    "{% elif EXPR %}",
    "{% else %}",
    "{% endif %}",
    "{{ EXPR }}",
    "{% set x = EXPR %}",
    "{% set x = EXPR, EXPR %}",
    "{% set n.a = EXPR %}",
    "{% set n.a, y = EXPR, EXPR %}",
    "{% set n.a %}",
    "{% set n.a | default(EXPR) %}",
    "{% endset %}",
    "{% macro f(a, b=EXPR) %}",
    "{{ varargs }}",
    "{{ kwargs }}",
    "{% endmacro %}",
    "{{ f(EXPR, EXPR, c=EXPR) }}",
    "{{ loop(EXPR) }}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% set n = namespace(a=EXPR) %}",
];

const EXPRESSIONS: [&str; 48] = [
    "x",
    "y",
    "n",
    "n.a",
    "m",
    "m.content",
    "m['content']",
    "messages",
    "f",
    "loop",
    "'%s %5d %%'",
    "'a b'",
    "0",
    "-3",
    "2.5",
    "1000000",
    "none",
    "true",
    "[EXPR, EXPR]",
    "[EXPR]",
    "{'a': EXPR, EXPR: EXPR}",
    "(EXPR, EXPR)",
    "(EXPR)",
    "EXPR + EXPR",
    "EXPR ~ EXPR",
    "EXPR * EXPR",
    "EXPR % EXPR",
    "EXPR // EXPR",
    "EXPR ** EXPR",
    "EXPR == EXPR",
    "EXPR < EXPR",
    "EXPR in EXPR",
    "EXPR not in EXPR",
    "EXPR is eq EXPR",
    "EXPR if EXPR else EXPR",
    "EXPR[EXPR]",
    "EXPR[EXPR:EXPR]",
    "EXPR|tojson(indent=EXPR)",
    "EXPR|sort|list",
    "EXPR|join(EXPR)",
    "EXPR|batch(3)",
    "EXPR.items()",
    "EXPR.split(EXPR)",
    "EXPR.center(EXPR)",
    "EXPR.format(EXPR, a=EXPR)",
    "EXPR|map('string')|list",
    "range(EXPR)",
    "dict(a=EXPR)",
];

const VALUES: [&str; 16] = [
    "0",
    "-1",
    "1e300",
    "4294967295",
    "null",
    "\"\"",
    "\"a\"",
    "\"\u{e9}\"",
    "\"</s>\"",
    "[]",
    "{}",
    "true",
    "{\"Regex\": \"(a*)*b|.\"}",
    "{\"String\": \"a\"}",
    "{\"type\": \"FixedLength\", \"length\": 0}",
    "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"CAAAAAAEAAAABAAAYQBiAA==\"}",
];

const TOKENIZERS: [&str; 4] = ["byte_level.json", "metaspace.json", "unigram.json", "word_piece.json"];

/// The longest template of the grammar.
const MAX_TEMPLATE: usize = 2000;

fn template(bytes: &mut arbitrary::Unstructured<'_>) -> arbitrary::Result<String> {
    let mut text = String::new();
    while !bytes.is_empty() && text.len() < MAX_TEMPLATE {
        text += bytes.choose(&STATEMENTS)?;
        while let Some(at) = text.find("EXPR") {
            // With the end of the bytes, the first: a name.
            let expression = if text.len() < MAX_TEMPLATE { bytes.choose(&EXPRESSIONS).unwrap_or(&"x") } else { "x" };
            text.replace_range(at..at + "EXPR".len(), expression);
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
    for _ in 0..bytes.int_in_range(0..=3)? {
        let mut found = vec![];
        places(&json, "", &mut found);
        let place = bytes.choose(&found)?;
        *json.pointer_mut(place).expect("a place") = from_str(bytes.choose(&VALUES)?).expect("JSON");
    }
    Ok(json)
}

fuzz_target!(|bytes: &[u8]| {
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
