//! Records that came before, word for word or nearly so.

use std::collections::HashMap;
use std::num::NonZeroU32;

use figa_loss::SpaRecord;
use rustc_hash::{FxBuildHasher, FxHashSet};
use twox_hash::XxHash64;

/// Records with the same prompt and answers. Of a record, 8 bytes are remembered: among a million records, the chance
/// that one is taken for another is 1 : 30 million.
#[derive(Default)]
pub struct Seen(FxHashSet<u64>);

impl Seen {
    pub fn key(record: &SpaRecord) -> u64 {
        let SpaRecord { instruction, input, messages, original_output, revised_output, .. } = record;
        let parts = serde_json::to_vec(&(instruction, input, messages, original_output, revised_output));
        XxHash64::oneshot(0, &parts.expect("texts"))
    }

    /// False if there was one like it.
    pub fn insert(&mut self, key: u64) -> bool {
        self.0.insert(key)
    }
}

/// Hashes of a text, by which the similarity of two is estimated: 0.9 within 0.03 in two of three cases.
const HASHES: usize = 128;
/// How many of them are used to find candidates.
const BANDED: usize = 64;
/// Words of a shingle.
const SHINGLE: usize = 3;

/// MinHash of a record: of its prompt, and of its answers. The similarity of two texts is the share of their shingles,
/// runs of three words, that they have in common (Jaccard); that of two records is the smaller of the two, so that
/// neither one instruction for all records nor a common answer makes them duplicates.
pub struct Sketch {
    minima: [[u32; HASHES]; 2],
}

impl Sketch {
    pub fn new(record: &SpaRecord) -> Self {
        let messages = record.messages.iter().map(|message| &message.content);
        let prompt = [&record.instruction, &record.input].into_iter().chain(messages);
        let mut minima = [[u32::MAX; HASHES]; 2];
        for (part, text) in prompt.enumerate() {
            add(&mut minima[0], part as u64, text);
        }
        for (part, text) in [&record.original_output, &record.revised_output].into_iter().enumerate() {
            add(&mut minima[1], part as u64, text);
        }
        Self { minima }
    }

    /// Enough of it to compare.
    fn digest(&self) -> Digest {
        self.minima.map(|minima| minima.map(|minimum| minimum as u8))
    }
}

/// Adds the shingles of a text; the same shingle in another part is another one.
fn add(minima: &mut [u32; HASHES], part: u64, text: &str) {
    let words: Vec<u64> = text.split_whitespace().map(|word| XxHash64::oneshot(part, word.as_bytes())).collect();
    // A text of fewer words is one shingle.
    for shingle in words.windows(SHINGLE.min(words.len()).max(1)) {
        let hash = shingle.iter().fold(0, |hash, word| scramble(hash ^ word).wrapping_add(MIX));
        for (minimum, [factor, summand]) in minima.iter_mut().zip(&PERMUTATIONS) {
            *minimum = (*minimum).min((hash.wrapping_mul(*factor).wrapping_add(*summand) >> 32) as u32);
        }
    }
}

const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

/// The last step of SplitMix64.
const fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// Factor, which is odd, and summand of each hash.
static PERMUTATIONS: [[u64; 2]; HASHES] = {
    let mut permutations = [[0; 2]; HASHES];
    let mut at = 0;
    while at < HASHES {
        let seed = 2 * at as u64;
        permutations[at] = [scramble(seed.wrapping_mul(MIX) ^ MIX) | 1, scramble((seed + 1).wrapping_mul(MIX) ^ MIX)];
        at += 1;
    }
    permutations
};

/// One byte of each hash.
type Digest = [[u8; HASHES]; 2];

/// Records that are nearly the same as an earlier one. Candidates are those that agree in a band, a few hashes of the
/// prompt and as many of the answers; the digests decide. Of each record that is kept, 0.5 KiB are remembered at a
/// similarity of 0.9, and 1.3 KiB at 0.5.
pub struct Near {
    similarity: f64,
    /// Hashes of the prompt in a band.
    rows: usize,
    digests: Vec<Digest>,
    /// For each band, the last record with such hashes.
    last: Vec<HashMap<u32, u32, FxBuildHasher>>,
    /// For each record and band, the record before it with such hashes.
    previous: Vec<Option<NonZeroU32>>,
}

impl Near {
    /// At least 0.5, as below that even all bands together find too few.
    pub fn new(similarity: f64) -> Self {
        // As many rows as find all but one in a thousand pairs: fewer only mean more candidates.
        let missed = |rows: i32| (1.0 - similarity.powi(2 * rows)).powi(BANDED as i32 / rows);
        let rows = [8, 4, 2].into_iter().find(|&rows| missed(rows) < 0.001).unwrap_or(1) as usize;
        let last = vec![HashMap::default(); BANDED / rows];
        Self { similarity, rows, digests: vec![], last, previous: vec![] }
    }

    /// False if there was one like it; only those that there was none like are remembered.
    pub fn insert(&mut self, sketch: &Sketch) -> bool {
        let (digest, bands) = (sketch.digest(), self.last.len());
        let [prompt, answers] = sketch.minima.each_ref().map(|minima| minima[..BANDED].chunks_exact(self.rows));
        let key = |rows: (&[u32], &[u32])| {
            let rows = rows.0.iter().chain(rows.1);
            (rows.fold(0, |hash, &minimum| scramble(hash ^ u64::from(minimum)).wrapping_add(MIX)) >> 32) as u32
        };
        let keys: Vec<u32> = prompt.zip(answers).map(key).collect();
        for (band, key) in keys.iter().enumerate() {
            // Numbers of records begin at 1.
            let mut candidate = self.last[band].get(key).copied();
            while let Some(number) = candidate {
                let at = number as usize - 1;
                if self.are_similar(&self.digests[at], &digest) {
                    return false;
                }
                candidate = self.previous[at * bands + band].map(Into::into);
            }
        }
        self.digests.push(digest);
        let number = self.digests.len() as u32;
        for (last, key) in self.last.iter_mut().zip(keys) {
            self.previous.push(last.insert(key, number).and_then(NonZeroU32::new));
        }
        true
    }

    fn are_similar(&self, one: &Digest, other: &Digest) -> bool {
        one.iter().zip(other).all(|(one, other)| {
            let agreeing = one.iter().zip(other).filter(|(one, other)| one == other).count();
            // Bytes also agree by chance.
            let chance = 1.0 / 256.0;
            (agreeing as f64 / HASHES as f64 - chance) / (1.0 - chance) >= self.similarity
        })
    }
}
