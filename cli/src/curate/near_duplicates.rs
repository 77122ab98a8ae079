//! Records that are nearly the same as an earlier one: locality-sensitive hashing over MinHash sketches.

use std::collections::HashMap;
use std::num::NonZeroU32;

use rustc_hash::FxBuildHasher;

use super::sketch::{HASHES, Minima, Sketch, combine};

/// How many of the hashes find candidates; all of them then decide.
const BANDED_HASHES: usize = 64;

/// The share of similar records that may be missed.
const MISSED: f64 = 0.001;

/// One byte of each hash, which is enough to compare.
type Digest = [u8; HASHES];

/// An index of the kept records. Two records are candidates if they agree in a band: in a few hashes of the prompt and
/// in as many of the answers. A kept record takes 0.5 KiB at a similarity of 0.9, and 1.3 KiB at 0.5.
pub struct NearDuplicates {
    similarity: f64,
    /// Hashes of the prompt in a band.
    band_hashes: usize,
    /// Of the prompt and of the answers of each record.
    digests: Vec<[Digest; 2]>,
    /// For each band, the number of the last record with such hashes. Numbers begin at 1.
    last: Vec<HashMap<u32, u32, FxBuildHasher>>,
    /// For each record and band, the number of the record before it with such hashes.
    previous: Vec<Option<NonZeroU32>>,
}

impl NearDuplicates {
    /// Below a similarity of 0.5, even all bands together would miss too many.
    pub fn new(similarity: f64) -> Self {
        let missed = |hashes: i32| (1.0 - similarity.powi(2 * hashes)).powi(BANDED_HASHES as i32 / hashes);
        // Smaller bands would miss fewer, but give more candidates to compare.
        let band_hashes = [8, 4, 2].into_iter().find(|&hashes| missed(hashes) < MISSED).unwrap_or(1) as usize;
        let last = vec![HashMap::default(); BANDED_HASHES / band_hashes];
        Self { similarity, band_hashes, digests: vec![], last, previous: vec![] }
    }

    /// Adds a record. Returns false, and adds nothing, if an earlier one is similar.
    pub fn insert(&mut self, sketch: &Sketch) -> bool {
        let digest = [&sketch.prompt, &sketch.answers].map(digest);
        let keys = self.band_keys(sketch);
        if keys.iter().enumerate().any(|(band, &key)| self.has_similar(band, key, &digest)) {
            return false;
        }
        self.digests.push(digest);
        let number = self.digests.len() as u32;
        for (last, key) in self.last.iter_mut().zip(keys) {
            self.previous.push(last.insert(key, number).and_then(NonZeroU32::new));
        }
        true
    }

    /// A hash of each band.
    fn band_keys(&self, sketch: &Sketch) -> Vec<u32> {
        let [prompt, answers] =
            [&sketch.prompt, &sketch.answers].map(|minima| minima[..BANDED_HASHES].chunks_exact(self.band_hashes));
        let key = |(prompt, answers): (&[u32], &[u32])| {
            let hash = prompt.iter().chain(answers).fold(0, |hash, &minimum| combine(hash, u64::from(minimum)));
            (hash >> 32) as u32
        };
        prompt.zip(answers).map(key).collect()
    }

    /// Whether one of the records with this key in this band is similar.
    fn has_similar(&self, band: usize, key: u32, digest: &[Digest; 2]) -> bool {
        let mut candidate = self.last[band].get(&key).copied();
        while let Some(number) = candidate {
            let at = number as usize - 1;
            if self.are_similar(&self.digests[at], digest) {
                return true;
            }
            candidate = self.previous[at * self.last.len() + band].map(Into::into);
        }
        false
    }

    fn are_similar(&self, a: &[Digest; 2], b: &[Digest; 2]) -> bool {
        a.iter().zip(b).all(|(a, b)| estimated_similarity(a, b) >= self.similarity)
    }
}

fn digest(minima: &Minima) -> Digest {
    minima.map(|minimum| minimum as u8)
}

fn estimated_similarity(a: &Digest, b: &Digest) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    // Different hashes can have the same byte.
    let by_chance = 1.0 / 256.0;
    (equal as f64 / HASHES as f64 - by_chance) / (1.0 - by_chance)
}
