//! Levenshtein edit scripts with the tie-break of python-Levenshtein and RapidFuzz.

use std::hash::Hash;

use super::{EditOp, EditTag};

/// The shortest edit script from `source` to `dest`, in ascending order of position.
///
/// Among the equally short scripts it is the one that `Levenshtein.editops(source, dest)` of the Python package
/// returns:
///
/// 1. Items that both ends share are set aside, first the common prefix, then the common suffix.
/// 2. On what is left, with `D[i][j]` the distance of the first `i` source and `j` destination items, the script is
///    read backwards from the end: *delete* where `D[i-1][j] + 1 == D[i][j]`; otherwise *insert* where `j > 1` and
///    `D[i][j-1] + 1 == D[i-1][j-1]`; otherwise step diagonally, a *replace* if the items differ.
///
/// python-Levenshtein splits pairs of more than about 2048 x 2048 items and may break ties differently there; here
/// the rule holds at every size. Time and memory grow with the product of the two lengths that are left after step 1.
///
/// ```
/// use figa_loss::{EditOp, EditTag, editops};
///
/// let ops = editops(&[1, 2, 3], &[1, 4, 3, 5]);
/// assert_eq!(ops, [
///     EditOp { tag: EditTag::Replace, src_pos: 1, dest_pos: 1 },
///     EditOp { tag: EditTag::Insert, src_pos: 3, dest_pos: 3 },
/// ]);
/// ```
pub fn editops<T: Eq + Hash>(source: &[T], dest: &[T]) -> Vec<EditOp> {
    let (offset, source, dest) = strip(source, dest);
    let table = Table::fill(source, dest);
    let mut ops = Vec::with_capacity(table.at(source.len(), dest.len()) as usize);
    let (mut i, mut j) = (source.len(), dest.len());
    while i > 0 || j > 0 {
        // At the border j = 0 the first condition always holds. At j = 1 the second never does, so `j > 1` needs no
        // test of its own.
        let tag = if i > 0 && table.at(i - 1, j) + 1 == table.at(i, j) {
            i -= 1;
            EditTag::Delete
        } else if i == 0 || table.at(i, j - 1) + 1 == table.at(i - 1, j - 1) {
            j -= 1;
            EditTag::Insert
        } else {
            (i, j) = (i - 1, j - 1);
            if source[i] == dest[j] {
                continue;
            }
            EditTag::Replace
        };
        ops.push(EditOp { tag, src_pos: offset + i, dest_pos: offset + j });
    }
    ops.reverse();
    ops
}

/// The Levenshtein distance: how many insertions, deletions and substitutions [`editops`] needs.
///
/// ```
/// assert_eq!(figa_loss::distance(b"kitten", b"sitting"), 3);
/// ```
pub fn distance<T: Eq + Hash>(source: &[T], dest: &[T]) -> usize {
    let (_, source, dest) = strip(source, dest);
    let mut row: Vec<u32> = (0..=dest.len() as u32).collect();
    for (i, s) in source.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i as u32 + 1;
        for (j, d) in dest.iter().enumerate() {
            let cell = cell(diagonal, row[j + 1], row[j], s == d);
            diagonal = std::mem::replace(&mut row[j + 1], cell);
        }
    }
    row[dest.len()] as usize
}

/// The length of the common prefix, and the two sequences without their common prefix and suffix.
fn strip<'a, T: Eq>(source: &'a [T], dest: &'a [T]) -> (usize, &'a [T], &'a [T]) {
    let prefix = source.iter().zip(dest).take_while(|(s, d)| s == d).count();
    let (source, dest) = (&source[prefix..], &dest[prefix..]);
    let suffix = source.iter().rev().zip(dest.iter().rev()).take_while(|(s, d)| s == d).count();
    (prefix, &source[..source.len() - suffix], &dest[..dest.len() - suffix])
}

/// The recurrence of the edit distance.
fn cell(diagonal: u32, above: u32, left: u32, equal: bool) -> u32 {
    (diagonal + u32::from(!equal)).min(above + 1).min(left + 1)
}

/// `D[i][j]` for every `i` and `j`.
struct Table {
    width: usize,
    cells: Vec<u32>,
}

impl Table {
    fn fill<T: Eq>(source: &[T], dest: &[T]) -> Self {
        let width = dest.len() + 1;
        let mut cells = Vec::with_capacity((source.len() + 1) * width);
        cells.extend(0..width as u32);
        for (i, s) in source.iter().enumerate() {
            cells.push(i as u32 + 1);
            for (j, d) in dest.iter().enumerate() {
                let above = i * width + j + 1;
                let left = cells[cells.len() - 1];
                cells.push(cell(cells[above - 1], cells[above], left, s == d));
            }
        }
        Self { width, cells }
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells[i * self.width + j]
    }
}
