//! Records mapped on all cores, in their order.

use std::collections::VecDeque;
use std::{iter, mem};

use super::{RawRecord, RecordReader};
use crate::error::Result;

/// Records are mapped by chunks, which end after this many records or bytes.
const CHUNK_RECORDS: usize = 512;
const CHUNK_BYTES: u64 = 4 << 20;

impl RecordReader {
    /// Maps the records on all cores (feature `rayon`). The order is kept; up to about a thousand are in memory at a time.
    /// After an error the iteration continues. If it is dropped early, the reader still returns the other records.
    ///
    /// ```
    /// # use figa_loss::{Fields, Format, RecordReader};
    /// let text = br#"{"instruction": "", "original_output": "a", "revised_output": "an"}"#;
    /// let mut reader = RecordReader::from_text("pairs.jsonl", Format::Lines, &text[..]);
    /// for length in reader.map_in_order(|raw| Ok(raw.parse(&Fields::default())?.revised_output.text().len())) {
    ///     assert_eq!(length?, 2);
    /// }
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    pub fn map_in_order<T: Send>(
        &mut self,
        work: impl Fn(&RawRecord) -> Result<T> + Sync,
    ) -> impl Iterator<Item = Result<T>> {
        let mut results = VecDeque::new();
        iter::from_fn(move || {
            if results.is_empty() {
                let mut chunk = mem::take(&mut self.ahead);
                if chunk.is_empty() {
                    chunk = self.chunk();
                }
                let (mapped, next) = both(|| map_chunk(&chunk, &work), || self.chunk());
                results = mapped;
                chunk.extend(next);
                self.ahead = chunk;
            }
            // A record leaves the reader together with its result.
            let record = self.ahead.pop_front()?;
            match results.pop_front()? {
                Some(result) => Some(result),
                None => Some(Err(record.err()?)),
            }
        })
    }

    /// The next records, as many as are mapped at a time.
    fn chunk(&mut self) -> VecDeque<Result<RawRecord>> {
        let mut bytes = 0;
        let mut chunk = VecDeque::new();
        while chunk.len() < CHUNK_RECORDS && bytes < CHUNK_BYTES {
            let Some(record) = self.read() else { break };
            bytes += record.as_ref().map_or(0, RawRecord::size);
            chunk.push_back(record);
        }
        chunk
    }
}

/// The result of each record; `None` for what could not be read.
type Mapped<T> = VecDeque<Option<Result<T>>>;

#[cfg(feature = "rayon")]
fn map_chunk<T: Send>(
    chunk: &VecDeque<Result<RawRecord>>,
    work: &(impl Fn(&RawRecord) -> Result<T> + Sync),
) -> Mapped<T> {
    use rayon::prelude::*;
    let results: Vec<_> = chunk.par_iter().map(|record| record.as_ref().ok().map(work)).collect();
    results.into()
}

#[cfg(not(feature = "rayon"))]
fn map_chunk<T>(chunk: &VecDeque<Result<RawRecord>>, work: &impl Fn(&RawRecord) -> Result<T>) -> Mapped<T> {
    chunk.iter().map(|record| record.as_ref().ok().map(work)).collect()
}

#[cfg(feature = "rayon")]
use rayon::join as both;

#[cfg(not(feature = "rayon"))]
fn both<A, B>(a: impl FnOnce() -> A, b: impl FnOnce() -> B) -> (A, B) {
    (a(), b())
}
