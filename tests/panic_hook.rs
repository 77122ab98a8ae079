//! The library leaves a program's panic hook alone, unless the program asks it to hide the panics of tokenizers.
#![cfg(feature = "data")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, panic, thread};

use figa_loss::serde_json::{Value, from_str, json};
use figa_loss::{PairEncoder, PromptTemplate, SpaRecord, hide_caught_panics};
use tempfile::TempDir;

/// Alone in its process, which has one hook.
#[test]
fn panics_of_a_tokenizer_reach_the_hook_until_they_are_hidden() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    panic::set_hook(Box::new(|_| {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }));
    let calls = || CALLS.swap(0, Ordering::Relaxed);
    let folder = TempDir::new().unwrap();
    let mut json: Value = from_str(&fs::read_to_string("tests/fixtures/tokenizers/byte_level.json").unwrap()).unwrap();
    json["pre_tokenizer"] = json!({ "type": "FixedLength", "length": 0 });
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let mut encoder = PairEncoder::read(folder.path(), Some("</s>")).unwrap();
    encoder.template = PromptTemplate::Plain;
    let is_error = || encoder.encode(&SpaRecord::new("Colour?", "green", "blue")).is_err();
    let panics = || thread::spawn(|| panic!("of the program")).join().is_err();

    assert!(is_error());
    assert_eq!(calls(), 1, "the hook of the program");
    assert!(panics());
    assert_eq!(calls(), 1);

    hide_caught_panics();
    hide_caught_panics();
    assert!(is_error());
    assert_eq!(calls(), 0, "hidden");
    assert!(panics());
    assert_eq!(calls(), 1, "other panics are not hidden");
}
