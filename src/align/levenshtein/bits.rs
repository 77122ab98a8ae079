//! Dissimilar sequences: the table of distances as bit-vectors, 64 cells per step (Myers 1999, Hyyro 2003).
//!
//! A column of the table is stored as its vertical differences: bit `i - 1` of `vp` is set if
//! `D[i][j] - D[i-1][j] = 1`, and of `vn` if the difference is -1. These are the bits that the traceback reads: *delete*
//! is bit `i - 1` of `vp` in column `j`, *insert* is bit `i - 1` of `vn` in column `j - 1`.
//!
//! **Band.** With `delta = n - m` and a limit `t >= |delta|`, only the diagonals `k = i - j` from `(delta - t) / 2` to
//! `(delta + t) / 2` are computed. Outside of them, the table is assumed to grow by one per step. Every value is then
//! the cost of some script, and it is exact if a cheapest script stays inside the band. If the value in the corner is at
//! most `t`, everything that the traceback reads is exact: from a cell `(i, j)` of cost `v` on a cheapest script, it
//! compares with cells of cost at most `v`, and a script that leaves the band and returns costs more than that. If the
//! value in the corner is greater than `t`, it is an upper bound of the distance, and thus a sufficient limit for a
//! second run.
//!
//! **Band of matches.** Where matches are rare, as between texts over a large vocabulary, a much narrower band is
//! enough, whatever the distance. Suppose a script leaves the band on diagonal `hi` and returns to it `L` rows further
//! down, with `q` deletions (so at most `q` diagonals beyond), as many insertions, and `a` matches. This part costs
//! `L + q - a`, whereas staying on diagonal `hi` costs at most `L`. So if, for every `q`, fewer than `q` matches lie on
//! the first `q` diagonals beyond `hi`, leaving the band is always more expensive, and the same holds below the band.
//! All values inside are then exact, and every cheapest script stays inside.
//!
//! **Memory.** Columns are kept while they fit a small budget, which also keeps them in the cache. If they do not fit,
//! columns at a fixed stride are kept as checkpoints, and the traceback recomputes the columns between two of them, from
//! right to left and only down to its current row.

use std::ops::Range;

use super::symbols::{END, Symbols};
use crate::align::{EditOp, EditTag};

/// The number of blocks kept between two checkpoints: 512 KiB.
const BUDGET: usize = 1 << 15;

/// The vertical differences of 64 rows of a column.
#[derive(Debug, Clone, Copy)]
struct Block {
    vp: u64,
    vn: u64,
}

/// What a block passes to the block below it: the carry of the addition, and whether `D` grows (`up`) or shrinks
/// (`down`) from the previous column.
#[derive(Debug, Clone, Copy)]
struct Carry {
    add: bool,
    up: u64,
    down: u64,
}

impl Carry {
    /// Above the first block, which is row 0 or outside of the band, `D` grows by one per column.
    const TOP: Self = Self { add: false, up: 1, down: 0 };

    fn difference(self) -> i64 {
        self.up as i64 - self.down as i64
    }
}

impl Block {
    /// The block in the next column, given its matches and the carry from above. A whole column is one addition of
    /// long numbers, so only the carry depends on the block above.
    #[inline]
    fn advance(self, eq: u64, above: Carry) -> (Self, Carry) {
        let Self { vp, vn } = self;
        let (sum, first) = (eq & vp).overflowing_add(vp);
        let (sum, second) = sum.overflowing_add(u64::from(above.add));
        let zero = (sum ^ vp) | eq | vn;
        let (hp, hn) = (vn | !(zero | vp), zero & vp);
        let (hp_below, hn_below) = (hp << 1 | above.up, hn << 1 | above.down);
        let block = Self { vp: hn_below | !(zero | hp_below), vn: zero & hp_below };
        (block, Carry { add: first | second, up: hp >> 63, down: hn >> 63 })
    }

    /// The same for a column without any match: nothing is added, and `D` shrinks nowhere.
    #[inline]
    fn advance_unmatched(self, above: Carry) -> (Self, Carry) {
        let Self { vp, vn } = self;
        let hp_below = !vp << 1 | above.up;
        (Self { vp: !(vn | hp_below), vn: vn & hp_below }, Carry { up: !vp >> 63, ..Carry::TOP })
    }
}

/// A block that the band has not reached yet: each row costs one more deletion.
const DELETIONS: Block = Block { vp: !0, vn: 0 };

#[derive(Debug, Default, Clone)]
pub(super) struct Bits {
    /// The matches of the current pair.
    pub(super) symbols: Symbols,
    plan: Plan,
    /// How many matches lie on each diagonal, from `-columns` on.
    matches: Vec<u32>,
    /// The matches of the current column; 0 between columns.
    eq: Vec<u64>,
    /// The columns from the last checkpoint on, inclusive; `plan.width` blocks each.
    kept: Vec<Block>,
    /// Every `plan.stride`-th column, from column 0; `plan.width` blocks each.
    checkpoints: Vec<Block>,
}

/// The least and the greatest diagonal `i - j` of a band.
pub(super) type Diagonals = (isize, isize);

/// Which blocks of 64 rows are computed, and which columns are kept.
#[derive(Debug, Default, Clone, Copy)]
struct Plan {
    rows: isize,
    diagonals: Diagonals,
    /// The greatest number of blocks in a column.
    width: usize,
    /// The number of columns from one checkpoint to the next.
    stride: usize,
}

impl Plan {
    fn new(rows: usize, columns: usize, diagonals: Diagonals, budget: usize) -> Self {
        let width = ((diagonals.1 - diagonals.0) as usize / 64 + 2).min(rows.div_ceil(64));
        // Checkpoints take memory as well: there should be at most as many of them as columns between two.
        let stride = (budget / width).max(columns.isqrt()).clamp(1, columns);
        Self { rows: rows as isize, diagonals, width, stride }
    }

    /// First and last block of a column.
    #[inline]
    fn blocks(&self, column: usize) -> (usize, usize) {
        let row = |diagonal: isize| (column as isize + diagonal).min(self.rows).max(1) as usize;
        ((row(self.diagonals.0) - 1) / 64, (row(self.diagonals.1) - 1) / 64)
    }

    /// A lower bound of how many columns, from this one on, have the same blocks.
    fn columns_alike(&self, column: usize) -> usize {
        let until_next_block = |diagonal: isize| match column as isize + diagonal {
            row if row >= self.rows => usize::MAX,
            row => (64 - (row - 1).rem_euclid(64)) as usize,
        };
        until_next_block(self.diagonals.0).min(until_next_block(self.diagonals.1))
    }
}

impl Bits {
    /// The band for a distance of at most `limit`, which must be at least the difference in length.
    pub(super) fn band_of_limit(&self, limit: usize) -> Diagonals {
        let (delta, limit) = (self.symbols.rows as isize - self.symbols.dest.len() as isize, limit as isize);
        ((delta - limit + 1).div_euclid(2), (delta + limit).div_euclid(2))
    }

    /// The band of matches, unless there are too many to count.
    pub(super) fn band_of_matches(&mut self) -> Option<Diagonals> {
        let Self { symbols, matches, .. } = self;
        let (rows, columns) = (symbols.rows, symbols.dest.len());
        matches.clear();
        // The end of the lists of occurrences lies below the last block.
        matches.resize(rows + columns + 192, 0);
        let most = 2 * (rows + columns) as i64;
        let mut remaining = most;
        for (column, &occurrence) in symbols.dest.iter().enumerate() {
            symbols.visit(occurrence, |block, mut rows| {
                remaining -= i64::from(rows.count_ones());
                // Mostly there is one match or none; a branch between the two would often be mispredicted.
                loop {
                    let row = 64 * block + rows.trailing_zeros() as usize;
                    matches[row + columns - column] += u32::from(rows != 0);
                    rows &= rows.wrapping_sub(1);
                    if rows == 0 {
                        break;
                    }
                }
            });
            if remaining < 0 {
                return None;
            }
        }
        let (low, high) = (columns.min(rows), columns.max(rows));
        let between: u32 = matches[low..=high].iter().sum();
        let mut outside = most - remaining - i64::from(between);
        let least = low as isize - edge(matches[..low].iter().rev(), &mut outside);
        let greatest = high as isize + edge(matches[high + 1..=rows + columns].iter(), &mut outside);
        Some((least - columns as isize, greatest - columns as isize))
    }

    /// The cost of the cheapest script within the band.
    pub(super) fn run(&mut self, band: Diagonals) -> usize {
        self.run_within(band, BUDGET)
    }

    pub(super) fn run_within(&mut self, band: Diagonals, budget: usize) -> usize {
        let (rows, columns) = (self.symbols.rows, self.symbols.dest.len());
        let plan = Plan::new(rows, columns, band, budget);
        self.plan = plan;
        self.eq.clear();
        self.eq.resize(rows.div_ceil(64), 0);
        self.kept.resize((plan.stride + 1) * plan.width, DELETIONS);
        self.kept[..plan.width].fill(DELETIONS);
        self.checkpoints.clear();
        self.checkpoints.extend_from_slice(&self.kept[..plan.width]);
        let mut bottom = 64 * (plan.blocks(0).1 as i64 + 1);
        for start in (0..columns).step_by(plan.stride) {
            let end = columns.min(start + plan.stride);
            bottom += self.advance(start, end, usize::MAX);
            if end < columns {
                let from = plan.stride * plan.width;
                self.checkpoints.extend_from_slice(&self.kept[from..from + plan.width]);
                self.kept.copy_within(from..from + plan.width, 0);
            }
        }
        // The last block may extend below the last row, where nothing matches and D never decreases.
        let below = match rows % 64 {
            0 => 0,
            rows => !0 << rows,
        };
        let (first, last) = plan.blocks(columns);
        let corner = &self.kept[((columns - 1) % plan.stride + 1) * plan.width + last - first];
        bottom as usize - (corner.vp & below).count_ones() as usize
    }

    /// Computes the columns after `start` up to `end`, down to block `lowest` at most; `kept` begins with column
    /// `start`. Returns the difference of `D` at the bottom between the last column and the first.
    fn advance(&mut self, start: usize, end: usize, lowest: usize) -> i64 {
        let plan = self.plan;
        let blocks = |column| {
            let (first, last) = plan.blocks(column);
            (first, last.min(lowest))
        };
        let mut difference = 0;
        let mut before = blocks(start);
        let mut column = start + 1;
        while column <= end {
            let now = blocks(column);
            if now != before {
                difference += self.shift(column - start, self.symbols.dest[column - 1], before, now);
                (before, column) = (now, column + 1);
                continue;
            }
            let same = plan.columns_alike(column).min(end + 1 - column);
            let run = (column - start, column - 1..column - 1 + same, now.0);
            difference += match now.1 - now.0 {
                0 => self.run_of::<1>(run),
                1 => self.run_of::<2>(run),
                2 => self.run_of::<3>(run),
                3 => self.run_of::<4>(run),
                _ => run.1.zip(run.0..).map(|(at, index)| self.shift(index, self.symbols.dest[at], now, now)).sum(),
            };
            column += same;
        }
        difference
    }

    /// Computes the column at `index` in `kept`, with blocks from `first` to `last`, from the previous one.
    fn shift(&mut self, index: usize, occurrence: u32, before: (usize, usize), (first, last): (usize, usize)) -> i64 {
        let Self { symbols, plan, eq, kept, .. } = self;
        let (old, new) = kept[(index - 1) * plan.width..].split_at_mut(plan.width);
        let known = before.1 + 1 - first;
        let columns = new.iter_mut().zip(&old[first - before.0..][..known]);
        let mut carry = Carry::TOP;
        if occurrence == END {
            for (new, old) in columns {
                (*new, carry) = old.advance_unmatched(carry);
            }
            if last > before.1 {
                (new[known], carry) = DELETIONS.advance_unmatched(carry);
            }
        } else {
            symbols.visit(occurrence, |block, rows| eq[block] = rows);
            for ((new, old), eq) in columns.zip(&eq[first..=last]) {
                (*new, carry) = old.advance(*eq, carry);
            }
            if last > before.1 {
                (new[known], carry) = DELETIONS.advance(eq[last], carry);
            }
            symbols.visit(occurrence, |block, _| eq[block] = 0);
        }
        64 * (last - before.1) as i64 + carry.difference()
    }

    /// The same for a run of columns that all have the same few blocks, which stay in registers. The run is its first
    /// index in `kept`, its positions in `dest`, and its first block.
    #[inline]
    fn run_of<const W: usize>(&mut self, (index, items, first): (usize, Range<usize>, usize)) -> i64 {
        let Self { symbols, plan, eq, kept, .. } = self;
        let (old, new) = kept.split_at_mut(index * plan.width);
        let mut blocks = [DELETIONS; W];
        blocks.copy_from_slice(&old[(index - 1) * plan.width..][..W]);
        let mut difference = 0;
        for (&occurrence, new) in symbols.dest[items].iter().zip(new.chunks_exact_mut(plan.width)) {
            let mut carry = Carry::TOP;
            if occurrence == END {
                for block in &mut blocks {
                    (*block, carry) = block.advance_unmatched(carry);
                }
            } else {
                symbols.visit(occurrence, |block, rows| eq[block] = rows);
                for (block, eq) in blocks.iter_mut().zip(&eq[first..first + W]) {
                    (*block, carry) = block.advance(*eq, carry);
                }
                symbols.visit(occurrence, |block, _| eq[block] = 0);
            }
            new[..W].copy_from_slice(&blocks);
            difference += carry.difference();
        }
        difference
    }

    /// The edit script, last edit first, after a run that found the distance.
    pub(super) fn traceback<T: Eq>(&mut self, source: &[T], dest: &[T], mut emit: impl FnMut(EditOp)) {
        let plan = self.plan;
        let (mut i, mut j) = (source.len(), dest.len());
        let mut start = (j - 1) / plan.stride * plan.stride;
        let mut first = plan.blocks(j).0;
        while i > 0 || j > 0 {
            if i > 0 && j > 0 && j == start {
                start -= plan.stride;
                let from = start / plan.stride * plan.width;
                self.kept[..plan.width].copy_from_slice(&self.checkpoints[from..from + plan.width]);
                self.advance(start, j, (i - 1) / 64);
            }
            let tag = if i > 0 && (j == 0 || self.bit(j - start, first, i, |block| block.vp)) {
                i -= 1;
                EditTag::Delete
            } else {
                first = plan.blocks(j - 1).0;
                // No cheapest script goes below the band, where the column to the left is not computed.
                let inside = (i as isize - j as isize) < plan.diagonals.1;
                if i == 0 || (inside && self.bit(j - 1 - start, first, i, |block| block.vn)) {
                    j -= 1;
                    EditTag::Insert
                } else {
                    (i, j) = (i - 1, j - 1);
                    if source[i] == dest[j] {
                        continue;
                    }
                    EditTag::Replace
                }
            };
            emit(EditOp { tag, src_pos: i, dest_pos: j });
        }
    }

    /// The bit of row `i` in the kept column at `index`, whose first block is `first`.
    #[inline]
    fn bit(&self, index: usize, first: usize, i: usize, word: impl Fn(&Block) -> u64) -> bool {
        let block = &self.kept[index * self.plan.width + (i - 1) / 64 - first];
        word(block) >> ((i - 1) % 64) & 1 == 1
    }
}

/// The smallest number of diagonals outwards beyond which every further run of diagonals has fewer matches than
/// diagonals. The search ends when the remaining `matches` cannot change the result.
fn edge<'a>(outwards: impl Iterator<Item = &'a u32>, matches: &mut i64) -> isize {
    let (mut sum, mut most, mut edge) = (0, 0, 0);
    for (&count, diagonal) in outwards.zip(1..) {
        sum += i64::from(count) - 1;
        *matches -= i64::from(count);
        if sum >= most {
            (most, edge) = (sum, diagonal);
        } else if sum + *matches < most {
            break;
        }
    }
    edge
}
