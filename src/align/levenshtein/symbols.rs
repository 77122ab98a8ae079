//! The rows of the table that each item matches, 64 at a time.

use std::hash::{BuildHasher, Hash};

use rustc_hash::FxBuildHasher;

/// The end of every list of occurrences: an occurrence in a block below the last one, so it can be visited like any other.
pub(super) const END: u32 = 0;

/// The positions of the destination's items in the source, by an open-addressing table that keeps its memory.
#[derive(Debug, Default, Clone)]
pub(super) struct Symbols {
    /// The number of items in the source.
    pub(super) rows: usize,
    /// For each item of the destination, its last occurrence in the source.
    pub(super) dest: Vec<u32>,
    /// The position of an item's first occurrence, or [`EMPTY`]. The number of slots is a power of two, large enough that
    /// the lookup of an absent item mostly finds an empty slot at once.
    slots: Vec<u32>,
    /// For the position of a first occurrence, the last occurrence, which leads to the others.
    last: Vec<u32>,
    occurrences: Vec<Occurrence>,
}

const EMPTY: u32 = u32::MAX;

/// The rows of one block that hold the same item.
#[derive(Debug, Clone, Copy)]
struct Occurrence {
    rows: u64,
    block: u32,
    before: u32,
}

impl Symbols {
    /// Looks up where each item of `dest` occurs in `source`. Neither may be empty.
    pub(super) fn prepare<T: Eq + Hash>(&mut self, source: &[T], dest: &[T]) {
        self.rows = source.len();
        self.slots.clear();
        self.slots.resize((4 * source.len()).next_power_of_two(), EMPTY);
        self.last.clear();
        self.last.resize(source.len(), END);
        self.occurrences.clear();
        self.occurrences.reserve(source.len() + 1);
        self.occurrences.push(Occurrence { rows: 0, block: source.len().div_ceil(64) as u32, before: END });
        for (position, item) in source.iter().enumerate() {
            let slot = self.find(source, item);
            if self.slots[slot] == EMPTY {
                self.slots[slot] = position as u32;
            }
            let last = &mut self.last[self.slots[slot] as usize];
            let (block, row) = ((position / 64) as u32, 1 << (position % 64));
            let occurrence = &mut self.occurrences[*last as usize];
            if occurrence.block == block {
                occurrence.rows |= row;
            } else {
                let before = std::mem::replace(last, self.occurrences.len() as u32);
                self.occurrences.push(Occurrence { rows: row, block, before });
            }
        }
        let mut occurrences = std::mem::take(&mut self.dest);
        occurrences.clear();
        occurrences.extend(dest.iter().map(|item| {
            let first = self.slots[self.find(source, item)];
            self.last.get(first as usize).map_or(END, |&last| last)
        }));
        self.dest = occurrences;
    }

    /// The slot that holds the item, or the empty one where it belongs.
    fn find<T: Eq + Hash>(&self, source: &[T], item: &T) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = FxBuildHasher.hash_one(item) as usize & mask;
        while let Some(same) = source.get(self.slots[slot] as usize) {
            if same == item {
                break;
            }
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// Calls `each(block, rows)` for an occurrence and all before it.
    #[inline]
    pub(super) fn visit(&self, mut occurrence: u32, mut each: impl FnMut(usize, u64)) {
        loop {
            let Occurrence { rows, block, before } = self.occurrences[occurrence as usize];
            each(block as usize, rows);
            occurrence = before;
            if occurrence == END {
                break;
            }
        }
    }
}
