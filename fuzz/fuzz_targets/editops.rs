//! `cargo fuzz run editops`: the script of any two sequences turns one into the other, with the fewest edits.
#![no_main]

use figa_loss::{EditTag, distance, editops};
use libfuzzer_sys::fuzz_target;

/// The distance by the plain table, of which one row is kept.
fn table_distance(source: &[u8], dest: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=dest.len()).collect();
    for (i, s) in source.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, d) in dest.iter().enumerate() {
            let cell = (diagonal + usize::from(s != d)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cell);
        }
    }
    row[dest.len()]
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (source, dest) = input;
    let ops = editops(&source, &dest);
    let (mut out, mut next) = (Vec::new(), 0);
    for op in &ops {
        out.extend_from_slice(&source[next..op.src_pos]);
        assert_eq!(out.len(), op.dest_pos);
        next = op.src_pos + usize::from(op.tag != EditTag::Insert);
        if op.tag != EditTag::Delete {
            out.push(dest[op.dest_pos]);
        }
    }
    out.extend_from_slice(&source[next..]);
    assert_eq!(out, dest);
    assert_eq!(ops.len(), table_distance(&source, &dest));
    assert_eq!(ops.len(), distance(&source, &dest));
});
