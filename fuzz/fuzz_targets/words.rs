//! `cargo fuzz run words`: for any two sequences and any word numbers, the kept tokens of both sides are equal, or an
//! error names the argument.
#![no_main]

use figa_loss::{Aligner, Error, Granularity};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>, Vec<Option<u8>>, Vec<Option<u8>>, u8)| {
    let (original, revised, original_words, revised_words, max_gap) = input;
    let numbers = |words: &[Option<u8>]| words.iter().map(|word| word.map(u32::from)).collect::<Vec<_>>();
    let tokens = Aligner::Levenshtein.align(&original, &revised);
    let kept = |items: &[u8], changed: &[bool]| -> Vec<u8> {
        items.iter().zip(changed).filter(|(_, changed)| !**changed).map(|(&item, _)| item).collect()
    };
    let phrases = Granularity::Phrase(max_gap.into()).widen(tokens.clone(), &[], &[]).expect("phrases need no words");
    assert_eq!(kept(&original, phrases.removed()), kept(&revised, phrases.added()));
    match Granularity::Word.widen(tokens, &numbers(&original_words), &numbers(&revised_words)) {
        Ok(words) => assert_eq!(kept(&original, words.removed()), kept(&revised, words.added())),
        Err(Error::Value { argument, .. }) => assert!(argument.ends_with("_words")),
        Err(error) => panic!("{error}"),
    }
});
