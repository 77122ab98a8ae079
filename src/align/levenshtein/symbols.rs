//! The rows of the table that each item matches, 64 at a time.

use std::hash::{BuildHasher, Hash};

use rustc_hash::FxBuildHasher;

/// The end of every list of blocks: an entry for a block below the last one, so it can be visited like any other.
pub(super) const END: u32 = 0;

/// The positions of the destination's items in the source, by an open-addressing table that keeps its memory.
#[derive(Debug, Default, Clone)]
pub(super) struct Symbols {
    /// The number of items in the source.
    pub(super) rows: usize,
    /// For each item of the destination, the last block of the source that holds it.
    pub(super) dest: Vec<u32>,
    /// The position of an item's first occurrence, or [`EMPTY`]. The number of slots is a power of two, large enough that
    /// the lookup of an absent item mostly finds an empty slot at once.
    slots: Vec<u32>,
    /// For the position of an item's first occurrence, the last block that holds it, which leads to the others.
    last: Vec<u32>,
    blocks: Vec<MatchBlock>,
}

const EMPTY: u32 = u32::MAX;

/// The rows of one block that hold the same item.
#[derive(Debug, Clone, Copy)]
struct MatchBlock {
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
        self.blocks.clear();
        self.blocks.reserve(source.len() + 1);
        self.blocks.push(MatchBlock { rows: 0, block: source.len().div_ceil(64) as u32, before: END });
        for (position, item) in source.iter().enumerate() {
            let slot = self.find(source, item);
            if self.slots[slot] == EMPTY {
                self.slots[slot] = position as u32;
            }
            let last = &mut self.last[self.slots[slot] as usize];
            let (block, row) = ((position / 64) as u32, 1 << (position % 64));
            let matches = &mut self.blocks[*last as usize];
            if matches.block == block {
                matches.rows |= row;
            } else {
                let before = std::mem::replace(last, self.blocks.len() as u32);
                self.blocks.push(MatchBlock { rows: row, block, before });
            }
        }
        let mut last_blocks = std::mem::take(&mut self.dest);
        last_blocks.clear();
        last_blocks.extend(dest.iter().map(|item| {
            let first = self.slots[self.find(source, item)];
            self.last.get(first as usize).map_or(END, |&last| last)
        }));
        self.dest = last_blocks;
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

    /// Calls `each(block, rows)` for a block and all before it that hold the same item.
    #[inline]
    pub(super) fn visit(&self, mut at: u32, mut each: impl FnMut(usize, u64)) {
        loop {
            let MatchBlock { rows, block, before } = self.blocks[at as usize];
            each(block as usize, rows);
            at = before;
            if at == END {
                break;
            }
        }
    }
}
