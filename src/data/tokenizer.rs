//! Tokenizers of strangers. The crate `tokenizers` panics on some files and texts, and some files make it take all memory.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::{Encoding, NormalizedString, Normalizer, Tokenizer};

use super::guard::guarded;

/// How many times longer a normalizer may make any text, and how many bytes more.
const MAX_LONGER: usize = 8;
const MAX_MORE: usize = 1 << 24;
/// Bytes that are normalized at once where a text may grow more.
const PIECE: f64 = (1 << 20) as f64;
/// How many bytes a normalizer may make of one.
const MAX_GROWTH: f64 = 16_384.0;
/// Bytes of the added tokens after normalization, which reading a tokenizer does.
const MAX_ADDED: f64 = (1_u64 << 30) as f64;
/// Steps of a pre-tokenizer that may double a text.
const MAX_DOUBLINGS: usize = 4;
/// The same of those normalizers that have no parameters: NFKD makes 33 bytes of the 3 of U+FDFA.
const MAX_FIXED_GROWTH: f64 = 11.0;
/// Bytes of a token of a Unigram model. Its search tree is as deep, and takes the square of it at each character.
const MAX_UNIGRAM_TOKEN: usize = 512;
/// Characters of a word that WordPiece cuts, which takes the square of it.
const MAX_WORDPIECE_WORD: u64 = 4096;

/// Reads a tokenizer.
pub(super) fn parse(json: &[u8]) -> Result<Tokenizer, String> {
    let file: File = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    file.check()?;
    run(|| Tokenizer::from_bytes(json))
}

/// A text as tokens, without special tokens around it. `growth` is that of the tokenizer.
pub(super) fn encode(tokenizer: &Tokenizer, growth: f64, text: &str) -> Result<Encoding, String> {
    run(|| {
        let most = text.len() * MAX_LONGER + MAX_MORE;
        if let Some(normalizer) = tokenizer.get_normalizer().filter(|_| text.len() as f64 * growth > most as f64) {
            // It may grow too much, and rarely does: in pieces that cannot.
            let (mut rest, mut bytes) = (text, 0);
            while !rest.is_empty() {
                let size = ((PIECE / growth).max(4.0) as usize).min(rest.len());
                let end = (0..=size).rev().find(|&at| rest.is_char_boundary(at)).unwrap_or(0);
                let (piece, after) = rest.split_at(end);
                let mut piece = NormalizedString::from(piece);
                normalizer.normalize(&mut piece)?;
                (rest, bytes) = (after, bytes + piece.get().len());
                if bytes > most {
                    let len = text.len();
                    return Err(format!("its normalizer makes more than {most} bytes of a text of {len}").into());
                }
            }
        }
        tokenizer.encode(text, false)
    })
}

/// How many bytes the normalizer of a tokenizer makes of one, at worst.
pub(super) fn growth(tokenizer: &Tokenizer) -> Result<f64, String> {
    let json = |value: serde_json::Result<Value>| value.map_err(|error| error.to_string());
    let doublings = doublings(&json(serde_json::to_value(tokenizer.get_pre_tokenizer()))?);
    if doublings > MAX_DOUBLINGS {
        return Err(format!(
            "{doublings} ByteLevel in its pre-tokenizer, which double a text; at most {MAX_DOUBLINGS} are accepted"
        ));
    }
    checked_growth(&json(serde_json::to_value(tokenizer.get_normalizer()))?)
}

fn checked_growth(normalizer: &Value) -> Result<f64, String> {
    let growth = normalizer_growth(normalizer)?;
    match growth <= MAX_GROWTH {
        true => Ok(growth),
        false => Err(format!("its normalizer may make {growth} bytes of one; at most {MAX_GROWTH} are accepted")),
    }
}

/// How often a pre-tokenizer writes each byte as a character.
fn doublings(pre_tokenizer: &Value) -> usize {
    let steps = pre_tokenizer["pretokenizers"].as_array().into_iter().flatten();
    usize::from(pre_tokenizer["type"] == "ByteLevel") + steps.map(doublings).sum::<usize>()
}

/// Runs a function of `tokenizers`, which may panic.
pub(super) fn run<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    guarded(work)?.map_err(|error| error.to_string())
}

/// What is checked of `tokenizer.json` before it is loaded.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    #[serde(default)]
    content: String,
}

#[derive(Deserialize, Default)]
struct Model {
    #[serde(default)]
    max_input_chars_per_word: Value,
    #[serde(default)]
    vocab: Vocab,
}

impl File {
    fn check(&self) -> Result<(), String> {
        let growth = checked_growth(&self.normalizer)?;
        let added: usize = self.added_tokens.iter().map(|token| token.content.len()).sum();
        if added as f64 * growth > MAX_ADDED {
            return Err(format!("its normalizer may make {growth} bytes of each of the {added} of its added tokens"));
        }
        let Model { max_input_chars_per_word: word, vocab } = &self.model;
        if word.as_u64().is_some_and(|word| word > MAX_WORDPIECE_WORD) {
            return Err(format!("max_input_chars_per_word is {word}; at most {MAX_WORDPIECE_WORD} are accepted"));
        }
        if vocab.longest > MAX_UNIGRAM_TOKEN {
            let longest = vocab.longest;
            return Err(format!(
                "a token of {longest} bytes in a Unigram model; at most {MAX_UNIGRAM_TOKEN} are accepted"
            ));
        }
        Ok(())
    }
}

/// The longest token of a vocabulary that is a list, which Unigram models have.
#[derive(Default)]
struct Vocab {
    longest: usize,
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Longest;

        impl<'de> Visitor<'de> for Longest {
            type Value = Vocab;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a vocabulary")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab::default();
                while let Some((token, _)) = list.next_element::<(String, IgnoredAny)>()? {
                    vocab.longest = vocab.longest.max(token.len());
                }
                Ok(vocab)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Vocab::default())
            }

            fn visit_unit<E>(self) -> Result<Vocab, E> {
                Ok(Vocab::default())
            }
        }

        deserializer.deserialize_any(Longest)
    }
}

fn normalizer_growth(normalizer: &Value) -> Result<f64, String> {
    let bytes = |value: &Value| value.as_str().map_or(0, str::len) as f64;
    Ok(match normalizer["type"].as_str() {
        None => 1.0,
        Some("Sequence") => {
            let mut growth = 1.0;
            for part in normalizer["normalizers"].as_array().into_iter().flatten() {
                growth *= normalizer_growth(part)?;
            }
            growth
        }
        Some("Prepend") => 1.0 + bytes(&normalizer["prepend"]),
        Some("Replace") => {
            let content = bytes(&normalizer["content"]);
            match normalizer["pattern"]["String"].as_str() {
                Some(text) if !text.is_empty() => (content / text.len() as f64).max(1.0),
                // It may match nothing, in front of each byte.
                _ => 1.0 + content,
            }
        }
        Some("Precompiled") => charsmap_growth(normalizer["precompiled_charsmap"].as_str().unwrap_or_default())?,
        Some("Lowercase" | "StripAccents" | "Strip" | "Nmt") => 1.5,
        Some("ByteLevel") => 2.0,
        Some(_) => MAX_FIXED_GROWTH,
    })
}

/// Checks the map of a `Precompiled` normalizer, in base64: the length of a table, the table, and texts that end in NUL.
fn charsmap_growth(base64: &str) -> Result<f64, String> {
    let bytes = BASE64.decode(base64).map_err(|error| format!("its precompiled_charsmap: {error}"))?;
    let (length, rest) = bytes.split_first_chunk().ok_or("its precompiled_charsmap is empty")?;
    let length = u32::from_le_bytes(*length) as usize / 4 * 4;
    let texts = rest.get(length..).ok_or("its precompiled_charsmap is cut off")?;
    let longest = texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    Ok((longest as f64).max(1.0))
}
