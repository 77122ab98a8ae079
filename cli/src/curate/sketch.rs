//! MinHash: a sketch of a record, from which the similarity of two records can be estimated.
//!
//! Texts are cut into shingles, sequences of three words. The similarity of two texts is the share of their shingles
//! that they have in common (Jaccard). That of two records is the similarity of their prompts or of their answers,
//! whichever is smaller: neither an instruction that all records share nor a common answer makes them similar.

use std::borrow::Cow;

use figa_loss::SpaRecord;
use twox_hash::XxHash64;

use crate::records::message_text;

/// Hashes per text. With 128, a similarity of 0.9 is estimated with a standard deviation of 0.03.
pub const HASHES: usize = 128;

const SHINGLE_WORDS: usize = 3;

/// The golden ratio in 64 bits, the increment of SplitMix64.
const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;

/// The smallest hash of all shingles, for each hash function.
pub type Minima = [u32; HASHES];

/// The sketches of the prompt and of both answers.
pub struct Sketch {
    pub prompt: Minima,
    pub answers: Minima,
}

/// Factor, which is odd, and summand of each hash function.
static HASH_FUNCTIONS: [[u64; 2]; HASHES] = {
    let mut functions = [[0; 2]; HASHES];
    let mut at = 0;
    while at < HASHES {
        let seed = 2 * at as u64;
        let factor = scramble(seed.wrapping_mul(INCREMENT) ^ INCREMENT) | 1;
        functions[at] = [factor, scramble((seed + 1).wrapping_mul(INCREMENT) ^ INCREMENT)];
        at += 1;
    }
    functions
};

impl Sketch {
    pub fn new(record: &SpaRecord) -> Self {
        let messages = record.messages.iter().map(message_text);
        let prompt = [&record.instruction, &record.input].map(Cow::from).into_iter().chain(messages);
        let answers = [&record.original_output, &record.revised_output].map(message_text);
        Self { prompt: minima(prompt), answers: minima(answers) }
    }
}

fn minima<'a>(texts: impl IntoIterator<Item = Cow<'a, str>>) -> Minima {
    let mut minima = [u32::MAX; HASHES];
    for (part, text) in (0..).zip(texts) {
        add_shingles(&mut minima, part, &text);
    }
    minima
}

/// Adds the shingles of a text. The same shingle in another part of the prompt, or in the other answer, counts as a different one.
fn add_shingles(minima: &mut Minima, part: u64, text: &str) {
    let words: Vec<u64> = text.split_whitespace().map(|word| XxHash64::oneshot(part, word.as_bytes())).collect();
    // A text of fewer words is one shingle.
    for shingle in words.windows(SHINGLE_WORDS.min(words.len()).max(1)) {
        let hash = shingle.iter().fold(0, |hash, &word| combine(hash, word));
        for (minimum, [factor, summand]) in minima.iter_mut().zip(&HASH_FUNCTIONS) {
            *minimum = (*minimum).min((hash.wrapping_mul(*factor).wrapping_add(*summand) >> 32) as u32);
        }
    }
}

/// Adds a value to the hash of a sequence.
pub fn combine(hash: u64, value: u64) -> u64 {
    scramble(hash ^ value).wrapping_add(INCREMENT)
}

/// The last step of SplitMix64.
const fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}
