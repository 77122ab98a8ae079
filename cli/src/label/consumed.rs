//! Which records a run has consumed: a hash for each input, by which a resumed run knows that it skips the same ones.
//! What follows them may have changed: a bad record that has been fixed, for example.

use std::hash::Hasher;
use std::io;
use std::path::Path;

use figa_loss::RawRecord;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

/// The inputs in their order, as far as they are consumed.
#[derive(Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Consumed(Vec<ConsumedInput>);

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct ConsumedInput {
    path: String,
    records: u64,
    /// Of the hashes of its records.
    hash: u64,
}

impl Consumed {
    /// Adds the next record, by the path of its input and its [hash](record_hash).
    pub fn add(&mut self, path: &Path, hash: u64) {
        let path = path.to_string_lossy();
        if self.0.last().is_none_or(|input| input.path != path) {
            self.0.push(ConsumedInput { path: path.into(), records: 0, hash: 0 });
        }
        let input = self.0.last_mut().expect("one was added");
        input.records += 1;
        input.hash = XxHash64::oneshot(input.hash, &hash.to_le_bytes());
    }

    /// The first input of which not the same records have been consumed.
    pub fn first_difference(&self, other: &Self) -> Option<&str> {
        let mut others = other.0.iter();
        let differs = |input: &&ConsumedInput| others.next() != Some(*input);
        self.0.iter().find(differs).map(|input| &*input.path)
    }
}

/// The hash of a record's bytes.
pub fn record_hash(raw: &RawRecord) -> io::Result<u64> {
    if let Some(bytes) = raw.bytes() {
        return Ok(XxHash64::oneshot(0, bytes));
    }
    let mut hash = HashWriter(XxHash64::with_seed(0));
    raw.try_clone()?.write_to(&mut hash)?;
    Ok(hash.0.finish())
}

struct HashWriter(XxHash64);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
