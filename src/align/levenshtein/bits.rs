//! Unlike pairs: the table of distances as bit-vectors, 64 cells a step (Myers 1999, Hyyro 2003).
//!
//! A column of the table is stored as its vertical differences: bit `i - 1` of `vp` says `D[i][j] - D[i-1][j] = 1`, that of `vn`
//! says -1. These are the very bits that the walk back asks for: *delete* is the bit `i` of `vp` in column `j`, *insert* that of `vn`
//! in column `j - 1`.
//!
//! **Band.** With `delta = n - m` and a limit `t >= delta`, only the diagonals `k = i - j` from `(delta - t) / 2` to
//! `(delta + t) / 2` are computed. Around them the table is taken to grow by one a step, so that every value is the cost of
//! some script, and exact wherever a cheapest script stays inside. If the corner comes out at `t` or less, all that the walk back reads is
//! exact: on its way from a cell `(i, j)` of cost `v` on a cheapest script, it compares with cells of cost at most `v`; a script to such a
//! cell visits no diagonal beyond the band, because what it spends on going there and back, it cannot spend on the way.
//! If the corner comes out above `t`, it is an upper bound of the distance and thereby a limit that will do.
//!
//! **Memory.** The columns are kept where they fit the budget. Where they do not, every so-many-th column is kept, and the walk back
//! computes the columns in between once more, from the right to the left, and only down to the row where it is.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::align::{EditOp, EditTag};

/// The end of a list.
const NONE: u32 = u32::MAX;

/// Words of `vp` that may be kept at a time, and of `vn` as many: 16 MiB together.
const WORDS: usize = 1 << 20;

#[derive(Debug, Default, Clone)]
pub(super) struct Bits {
    hasher: DefaultHashBuilder,
    symbols: HashTable<Symbol>,
    /// Which rows hold a symbol, 64 at a time.
    occurrences: Vec<Occurrence>,
    /// Per destination item the last of its occurrences in the source.
    dest: Vec<u32>,
    /// The current column: where its item matches, and its vertical differences.
    eq: Vec<u64>,
    vp: Vec<u64>,
    vn: Vec<u64>,
    /// The columns from the last checkpoint on, that one included.
    kept: Columns,
    /// Every so-many-th column, from column 0.
    checkpoints: Columns,
    plan: Plan,
}

/// An item of the source.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    position: u32,
    last: u32,
}

#[derive(Debug, Clone, Copy)]
struct Occurrence {
    rows: u64,
    block: u32,
    before: u32,
}

/// Which blocks of 64 rows are computed, and which columns are kept.
#[derive(Debug, Default, Clone, Copy)]
struct Plan {
    rows: usize,
    columns: usize,
    /// The least and the greatest diagonal `i - j` of the band.
    diagonals: (isize, isize),
    /// Distance of two checkpoints.
    stride: usize,
}

impl Plan {
    fn new(rows: usize, columns: usize, limit: usize, budget: usize) -> Self {
        let (delta, limit) = (rows as isize - columns as isize, limit as isize);
        let diagonals = ((delta - limit).div_euclid(2), (delta + limit + 1).div_euclid(2));
        let width = ((diagonals.1 - diagonals.0) as usize / 64 + 2).min(rows.div_ceil(64));
        // As many columns as the budget allows; but checkpoints take room as well, so no fewer than their number.
        let stride = (budget / width).max(columns.isqrt()).clamp(1, columns);
        Self { rows, columns, diagonals, stride }
    }

    /// First and last block of a column.
    fn blocks(&self, column: usize) -> (usize, usize) {
        let row = |diagonal: isize| (column as isize + diagonal).clamp(1, self.rows as isize) as usize;
        ((row(self.diagonals.0) - 1) / 64, (row(self.diagonals.1) - 1) / 64)
    }
}

impl Bits {
    /// Looks up where each item of `dest` occurs in `source`. Neither may be empty.
    pub(super) fn prepare<T: Eq + Hash>(&mut self, source: &[T], dest: &[T]) {
        let Self { hasher, symbols, occurrences, .. } = self;
        symbols.clear();
        occurrences.clear();
        for (position, item) in source.iter().enumerate() {
            let same = |symbol: &Symbol| source[symbol.position as usize] == *item;
            let rehash = |symbol: &Symbol| hasher.hash_one(&source[symbol.position as usize]);
            let (block, row) = ((position / 64) as u32, 1 << (position % 64));
            let symbol = symbols
                .entry(hasher.hash_one(item), same, rehash)
                .or_insert(Symbol { position: position as u32, last: NONE })
                .into_mut();
            match occurrences.get_mut(symbol.last as usize) {
                Some(occurrence) if occurrence.block == block => occurrence.rows |= row,
                _ => {
                    occurrences.push(Occurrence { rows: row, block, before: symbol.last });
                    symbol.last = occurrences.len() as u32 - 1;
                }
            }
        }
        self.dest.clear();
        self.dest.extend(dest.iter().map(|item| {
            let same = |symbol: &Symbol| source[symbol.position as usize] == *item;
            symbols.find(hasher.hash_one(item), same).map_or(NONE, |symbol| symbol.last)
        }));
        self.plan.rows = source.len();
    }

    /// The distance if it is at most `limit`, else an upper bound of it that is above `limit`.
    pub(super) fn run(&mut self, limit: usize) -> usize {
        self.run_within(limit, WORDS)
    }

    pub(super) fn run_within(&mut self, limit: usize, budget: usize) -> usize {
        let plan = Plan::new(self.plan.rows, self.dest.len(), limit, budget);
        self.plan = plan;
        let blocks = plan.rows.div_ceil(64);
        self.eq.clear();
        self.eq.resize(blocks, 0);
        self.enter(blocks);
        self.checkpoints.clear();
        let mut last = plan.blocks(0).1;
        let mut bottom = 64 * (last as i64 + 1);
        for column in 0..=plan.columns {
            let (first, next_last) = plan.blocks(column);
            if column > 0 {
                bottom += 64 * (next_last - last) as i64;
                last = next_last;
                bottom += self.step(column, first, last);
            }
            if column % plan.stride == 0 && column < plan.columns {
                self.checkpoints.push(first, &self.vp[first..=last], &self.vn[first..=last]);
                self.kept.clear();
            }
            self.kept.push(first, &self.vp[first..=last], &self.vn[first..=last]);
        }
        // The last block may go on below the last row.
        let below = match plan.rows % 64 {
            0 => 0,
            rows => !0 << rows,
        };
        let differences =
            i64::from((self.vp[last] & below).count_ones()) - i64::from((self.vn[last] & below).count_ones());
        (bottom - differences) as usize
    }

    /// The column before the first: no block below has been seen yet, and each would be reached by deletions.
    fn enter(&mut self, blocks: usize) {
        self.vp.clear();
        self.vp.resize(blocks, !0);
        self.vn.clear();
        self.vn.resize(blocks, 0);
    }

    /// Moves on to `column`, and returns the horizontal difference at the bottom of block `last`.
    fn step(&mut self, column: usize, first: usize, last: usize) -> i64 {
        let head = self.dest[column - 1];
        let mut at = head;
        while let Some(occurrence) = self.occurrences.get(at as usize) {
            self.eq[occurrence.block as usize] = occurrence.rows;
            at = occurrence.before;
        }
        // The row above grows by one a column: it is row 0, or outside of the band.
        let (mut up, mut down) = (1, 0);
        let columns = self.vp[first..=last].iter_mut().zip(&mut self.vn[first..=last]);
        for ((vp, vn), eq) in columns.zip(&self.eq[first..=last]) {
            let eq = eq | down;
            let zero = ((eq & *vp).wrapping_add(*vp) ^ *vp) | eq | *vn;
            let hp = *vn | !(zero | *vp);
            let hn = zero & *vp;
            let (hp_shifted, hn_shifted) = (hp << 1 | up, hn << 1 | down);
            (up, down) = (hp >> 63, hn >> 63);
            *vp = hn_shifted | !(zero | hp_shifted);
            *vn = zero & hp_shifted;
        }
        at = head;
        while let Some(occurrence) = self.occurrences.get(at as usize) {
            self.eq[occurrence.block as usize] = 0;
            at = occurrence.before;
        }
        up as i64 - down as i64
    }

    /// The edit script, last edit first, after a run that found the distance.
    pub(super) fn walk_back<T: Eq>(&mut self, source: &[T], dest: &[T], mut emit: impl FnMut(EditOp)) {
        let plan = self.plan;
        let (mut i, mut j) = (plan.rows, plan.columns);
        let mut start = (plan.columns - 1) / plan.stride * plan.stride;
        while i > 0 || j > 0 {
            if j == start && j > 0 && i > 0 {
                start -= plan.stride;
                self.compute_again(start, j, i);
            }
            let tag = if i > 0 && (j == 0 || self.kept.vp(j - start, i)) {
                i -= 1;
                EditTag::Delete
            } else if i == 0 || self.kept.vn(j - 1 - start, i) {
                j -= 1;
                EditTag::Insert
            } else {
                (i, j) = (i - 1, j - 1);
                if source[i] == dest[j] {
                    continue;
                }
                EditTag::Replace
            };
            emit(EditOp { tag, src_pos: i, dest_pos: j });
        }
    }

    /// Keeps the columns from the checkpoint at `start` to `end`, down to `row`.
    fn compute_again(&mut self, start: usize, end: usize, row: usize) {
        self.enter(self.plan.rows.div_ceil(64));
        let (first, vp, vn) = self.checkpoints.column(start / self.plan.stride);
        self.vp[first..first + vp.len()].copy_from_slice(vp);
        self.vn[first..first + vn.len()].copy_from_slice(vn);
        self.kept.clear();
        for column in start..=end {
            let (first, last) = self.plan.blocks(column);
            let last = last.min((row - 1) / 64);
            if column > start {
                self.step(column, first, last);
            }
            self.kept.push(first, &self.vp[first..=last], &self.vn[first..=last]);
        }
    }
}

/// Columns, or parts of them, in a row.
#[derive(Debug, Default, Clone)]
struct Columns {
    vp: Vec<u64>,
    vn: Vec<u64>,
    /// Per column, where it starts in `vp` and `vn`, and its first block.
    starts: Vec<(usize, usize)>,
}

impl Columns {
    fn clear(&mut self) {
        self.vp.clear();
        self.vn.clear();
        self.starts.clear();
    }

    fn push(&mut self, first_block: usize, vp: &[u64], vn: &[u64]) {
        self.starts.push((self.vp.len(), first_block));
        self.vp.extend_from_slice(vp);
        self.vn.extend_from_slice(vn);
    }

    fn column(&self, index: usize) -> (usize, &[u64], &[u64]) {
        let (start, first_block) = self.starts[index];
        let end = self.starts.get(index + 1).map_or(self.vp.len(), |next| next.0);
        (first_block, &self.vp[start..end], &self.vn[start..end])
    }

    /// Is `D[i][j] - D[i-1][j] = 1` in this column? False outside of the band.
    fn vp(&self, index: usize, i: usize) -> bool {
        let (first_block, vp, _) = self.column(index);
        bit(vp, first_block, i)
    }

    /// Is `D[i][j] - D[i-1][j] = -1` in this column? False outside of the band.
    fn vn(&self, index: usize, i: usize) -> bool {
        let (first_block, _, vn) = self.column(index);
        bit(vn, first_block, i)
    }
}

fn bit(words: &[u64], first_block: usize, i: usize) -> bool {
    let word = ((i - 1) / 64).checked_sub(first_block).and_then(|block| words.get(block));
    word.is_some_and(|word| word >> ((i - 1) % 64) & 1 == 1)
}
