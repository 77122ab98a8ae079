//! The diffs of the crate `similar`, as spans.

use std::hash::Hash;

use similar::{Algorithm, DiffTag, capture_diff_slices};

use super::{EditTag, Span};

pub(super) fn spans<T: Eq + Hash>(algorithm: Algorithm, original: &[T], revised: &[T]) -> Vec<Span> {
    let spans = capture_diff_slices(algorithm, original, revised).into_iter().filter_map(|op| {
        let tag = match op.tag() {
            DiffTag::Equal => return None,
            DiffTag::Replace => EditTag::Replace,
            DiffTag::Insert => EditTag::Insert,
            DiffTag::Delete => EditTag::Delete,
        };
        Some(Span { tag, original: op.old_range(), revised: op.new_range() })
    });
    spans.collect()
}
