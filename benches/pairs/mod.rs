//! Pairs of token sequences for the benches of alignment.

use std::ops::Range;

use rand::{Rng, rngs::StdRng};

/// Token ids of a vocabulary of common size.
pub const VOCAB: Range<u32> = 0..32_000;

/// As many ids outside of [`VOCAB`].
pub const OTHERS: Range<u32> = 32_000..64_000;

/// `n` random tokens.
pub fn tokens(rng: &mut StdRng, n: usize, ids: Range<u32>) -> Vec<u32> {
    (0..n).map(|_| rng.random_range(ids.clone())).collect()
}

/// A copy in which each token is substituted, followed by a new one or deleted with a total probability of `rate`.
pub fn edited(rng: &mut StdRng, source: &[u32], rate: f64) -> Vec<u32> {
    let mut dest = Vec::with_capacity(source.len());
    for &token in source {
        match rng.random_bool(rate).then(|| rng.random_range(0..3)) {
            None => dest.push(token),
            Some(0) => dest.push(rng.random_range(VOCAB)),
            Some(1) => dest.extend([token, rng.random_range(VOCAB)]),
            Some(_) => {}
        }
    }
    dest
}
