//! Dissimilar sequences over a large vocabulary: 64 diagonals of the table, one word per column (Hyyro 2003).
//!
//! The columns are those of [`bits`](super::bits), except that each starts one row below the previous one: bit `b` of
//! column `j` belongs to row `i = j + low + b`, which always lies on diagonal `low + b`. Matches outside of the window
//! are counted. Only if they are so few that no cheapest script leaves the window (by the argument of the band of
//! matches) is the result valid.
//!
//! Above row 1, the window has vertical differences of 0 and no matches. All values there equal those of row 0,
//! `D[0][j] = j`, as row 1 requires. Rows below the last one do not affect those above.

use super::symbols::Symbols;
use crate::align::{EditOp, EditTag};

const WIDTH: isize = 64;

/// The largest distance between the diagonals of the two corners: at least a quarter of the window lies on either side.
const MAX_DELTA: usize = 32;

/// The step of the traceback from each cell of a column, one bit per diagonal. A replace sets none of the bits.
#[derive(Debug, Default, Clone, Copy)]
struct Steps {
    same: u64,
    delete: u64,
    insert: u64,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Window {
    /// The diagonal of bit 0.
    low: isize,
    /// For each column, from column 1 on.
    steps: Vec<Steps>,
    /// The number of matches on each diagonal outside of the window, from `-columns` on.
    outside: Vec<u32>,
}

impl Window {
    /// The distance, or `None` if a cheapest script might leave the window.
    pub(super) fn run(&mut self, symbols: &Symbols) -> Option<usize> {
        let (rows, columns) = (symbols.rows, symbols.dest.len());
        if rows.abs_diff(columns) > MAX_DELTA {
            return None;
        }
        let delta = rows as isize - columns as isize;
        let low = delta.div_euclid(2) - WIDTH / 2;
        self.low = low;
        self.outside.clear();
        self.outside.resize(rows + columns, 0);
        let mut room = rows + columns;
        self.steps.resize(columns, Steps::default());
        // Two of the four differences are kept negated, which takes one operation less per column.
        let (mut vp, mut not_vn) = (!0 << -low, !0);
        let mut distance = delta.max(0) as u64;
        for ((&occurrence, steps), column) in symbols.dest.iter().zip(&mut self.steps).zip(1..) {
            let first = low + column;
            let mut eq = 0;
            symbols.visit(occurrence, |block, mut rows| {
                // Mostly there is one match or none; a branch between the two would often be mispredicted.
                loop {
                    let bit = WIDTH * block as isize + rows.trailing_zeros() as isize + 1 - first;
                    let inside = (bit as usize) < WIDTH as usize;
                    eq |= u64::from(inside & (rows != 0)) << (bit & (WIDTH - 1));
                    if !inside & (rows != 0) {
                        self.outside[(low + bit + columns as isize) as usize] += 1;
                        room = room.saturating_sub(1);
                    }
                    rows &= rows.wrapping_sub(1);
                    if rows == 0 {
                        break;
                    }
                }
            });
            if room == 0 {
                return None;
            }
            let zero = ((eq & vp).wrapping_add(vp) ^ vp) | (eq | !not_vn);
            let (not_hp, hn) = ((zero | vp) & not_vn, zero & vp);
            let insert = !not_vn;
            // The next column starts one row further down, so each difference moves to the bit of the row above. The
            // row that enters at the bottom matches nothing.
            let not_zero = !(zero >> 1);
            (vp, not_vn) = (hn | not_zero & not_hp, not_zero | not_hp);
            let delete = vp << 1;
            *steps = Steps { same: zero & !(delete | insert), delete, insert: insert & !delete };
            distance += !zero >> (delta - low) & 1;
        }
        let below = &self.outside[..(columns as isize + low).max(0) as usize];
        let above = &self.outside[(rows + columns).min((columns as isize + low + WIDTH) as usize)..];
        let matches = rows + columns - room;
        (never_pays(below.iter().rev(), matches) && never_pays(above.iter(), matches)).then_some(distance as usize)
    }

    /// The edit script, last edit first, after a run that found the distance.
    pub(super) fn traceback(&self, source_len: usize, dest_len: usize, mut emit: impl FnMut(EditOp)) {
        let (mut i, mut j) = (source_len, dest_len);
        let mut bit = i as isize - j as isize - self.low;
        while i > 0 && j > 0 {
            let steps = self.steps[j - 1];
            let at = |word: u64| (word >> bit & 1) as usize;
            if at(steps.same) == 1 {
                (i, j) = (i - 1, j - 1);
                continue;
            }
            let (delete, insert) = (at(steps.delete), at(steps.insert));
            (i, j) = (i - 1 + insert, j - 1 + delete);
            bit += insert as isize - delete as isize;
            let tag = [EditTag::Replace, EditTag::Insert, EditTag::Delete][insert + 2 * delete];
            emit(EditOp { tag, src_pos: i, dest_pos: j });
        }
        (0..i).rev().for_each(|src_pos| emit(EditOp { tag: EditTag::Delete, src_pos, dest_pos: 0 }));
        (0..j).rev().for_each(|dest_pos| emit(EditOp { tag: EditTag::Insert, src_pos: 0, dest_pos }));
    }
}

/// Whether every run of diagonals outwards has fewer matches than diagonals, given at most `matches` in total.
fn never_pays<'a>(outwards: impl Iterator<Item = &'a u32>, matches: usize) -> bool {
    let mut sum = 0;
    outwards.zip(1..=matches as u32).all(|(&count, diagonals)| {
        sum += count;
        sum < diagonals
    })
}
