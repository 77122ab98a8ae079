//! A program's panic hook is called for its own panics, and not for those of a tokenizer, which are errors.
#![cfg(feature = "data")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, panic, thread};

use figa_loss::serde_json::{Value, from_str, json};
use figa_loss::{PairEncoder, PromptTemplate, SpaRecord};
use tempfile::TempDir;

/// Alone in its process, as it has one hook.
#[test]
fn other_panics_reach_the_hook_of_the_program() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    panic::set_hook(Box::new(|_| {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }));
    let folder = TempDir::new().unwrap();
    let mut json: Value = from_str(&fs::read_to_string("tests/fixtures/tokenizers/byte_level.json").unwrap()).unwrap();
    json["pre_tokenizer"] = json!({ "type": "FixedLength", "length": 0 });
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let mut encoder = PairEncoder::read(folder.path(), Some("</s>")).unwrap();
    encoder.template = PromptTemplate::Plain;
    assert!(encoder.encode(&SpaRecord::new("Colour?", "green", "blue")).is_err());
    assert_eq!(CALLS.load(Ordering::Relaxed), 0);
    assert!(thread::spawn(|| panic!("of the program")).join().is_err());
    assert_eq!(CALLS.load(Ordering::Relaxed), 1);
}
