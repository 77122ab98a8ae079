//! The definition of the edit script in its plainest form: the oracle of the fast methods' tests.

use crate::align::{EditOp, EditTag};

pub(super) fn editops<T: Eq>(source: &[T], dest: &[T]) -> Vec<EditOp> {
    let (prefix, source, dest) = super::strip(source, dest);
    let width = dest.len() + 1;
    let mut table: Vec<u32> = (0..width as u32).collect();
    for (i, s) in source.iter().enumerate() {
        table.push(i as u32 + 1);
        for (j, d) in dest.iter().enumerate() {
            let (above, left) = (i * width + j + 1, table.len() - 1);
            table.push((table[above - 1] + u32::from(s != d)).min(table[above] + 1).min(table[left] + 1));
        }
    }
    let at = |i: usize, j: usize| table[i * width + j];

    let mut ops = Vec::new();
    let (mut i, mut j) = (source.len(), dest.len());
    while i > 0 || j > 0 {
        let tag = if j == 0 || (i > 0 && at(i - 1, j) + 1 == at(i, j)) {
            i -= 1;
            EditTag::Delete
        } else if i == 0 || at(i, j - 1) + 1 == at(i - 1, j - 1) {
            j -= 1;
            EditTag::Insert
        } else {
            (i, j) = (i - 1, j - 1);
            if source[i] == dest[j] {
                continue;
            }
            EditTag::Replace
        };
        ops.push(EditOp { tag, src_pos: prefix + i, dest_pos: prefix + j });
    }
    ops.reverse();
    ops
}
