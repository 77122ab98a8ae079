//! An even sample of a stream whose length is unknown.

/// Candidates that are kept for each item of the sample, so that each has one close to its place.
const CANDIDATES_PER_ITEM: usize = 16;

/// Items spread evenly over a stream. Every n-th item is a candidate, and n doubles when there are too many of them.
pub struct Sample<T> {
    wanted: usize,
    every: u64,
    candidates: Vec<T>,
    seen: u64,
}

impl<T> Sample<T> {
    pub fn new(wanted: usize) -> Self {
        Self { wanted, every: 1, candidates: vec![], seen: 0 }
    }

    pub fn push(&mut self, item: T) {
        if self.seen.is_multiple_of(self.every) {
            self.candidates.push(item);
        }
        self.seen += 1;
        if self.candidates.len() >= self.wanted.saturating_mul(CANDIDATES_PER_ITEM) {
            let mut keep = [true, false].into_iter().cycle();
            self.candidates.retain(|_| keep.next() == Some(true));
            self.every *= 2;
        }
    }

    /// Items of the stream so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Items of the sample.
    pub fn len(&self) -> u64 {
        self.seen.min(self.wanted as u64)
    }

    /// The sample, each item with its number in the stream, from 1.
    pub fn into_numbered(self) -> impl Iterator<Item = (u64, T)> {
        let (seen, len, every) = (self.seen, self.len(), self.every);
        let mut chosen = (0..len).map(move |i| i * seen / len / every).peekable();
        let candidates = (0..).zip(self.candidates).filter(move |(at, _)| chosen.next_if_eq(at).is_some());
        candidates.map(move |(at, item)| (at * every + 1, item))
    }
}
