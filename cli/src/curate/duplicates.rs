//! Records with the same prompt and answers as an earlier one.

use figa_loss::SpaRecord;
use rustc_hash::FxHashSet;
use twox_hash::XxHash64;

/// The hashes of the records so far: 8 bytes per record. Among a million different records, the chance that two have
/// the same hash is 1 in 37 million.
#[derive(Default)]
pub struct Duplicates(FxHashSet<u64>);

impl Duplicates {
    /// Returns false if an earlier record has this hash.
    pub fn insert(&mut self, hash: u64) -> bool {
        self.0.insert(hash)
    }
}

/// A hash of the prompt and the answers.
pub fn record_hash(record: &SpaRecord) -> u64 {
    let SpaRecord { instruction, input, messages, original_output, revised_output, .. } = record;
    let parts = serde_json::to_vec(&(instruction, input, messages, original_output, revised_output));
    XxHash64::oneshot(0, &parts.expect("texts have a JSON form"))
}
