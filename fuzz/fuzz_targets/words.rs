//! `cargo fuzz run words`: any two sequences and any ranges as words; a named error, or masks that leave equal
//! sequences.
#![no_main]

use figa_loss::{Aligner, Error};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>, Vec<(u8, u8)>, Vec<(u8, u8)>, u8)| {
    let (original, revised, original_words, revised_words, max_gap) = input;
    let ranges = |words: &[(u8, u8)]| words.iter().map(|&(a, b)| a.into()..b.into()).collect::<Vec<_>>();
    let tokens = Aligner::Levenshtein.align(&original, &revised);
    let kept = |items: &[u8], changed: &[bool]| -> Vec<u8> {
        items.iter().zip(changed).filter(|(_, changed)| !**changed).map(|(&item, _)| item).collect()
    };
    let phrases = tokens.phrases(max_gap.into());
    assert_eq!(kept(&original, phrases.removed()), kept(&revised, phrases.added()));
    match tokens.words(&ranges(&original_words), &ranges(&revised_words)) {
        Ok(words) => assert_eq!(kept(&original, words.removed()), kept(&revised, words.added())),
        Err(Error::Value { argument, .. }) => assert!(argument.ends_with("_words")),
        Err(error) => panic!("{error}"),
    }
});
