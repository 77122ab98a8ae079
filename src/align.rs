//! Which tokens did the revision change?
//!
//! [`Aligner::align`] compares an original and a revised sequence and returns an [`Alignment`]: one mask per sequence
//! (what was [removed](Alignment::removed), what was [added](Alignment::added)) and the [spans](Alignment::spans)
//! behind them. Items are anything that is `Eq + Hash + Ord`: token ids, words, characters.
//!
//! # Which aligner?
//!
//! * [`Aligner::Levenshtein`], the default, is what the FIGA paper's reference code uses. It makes as few insertions,
//!   deletions *and substitutions* as possible, and where several edit scripts are equally short it picks the one
//!   that `Levenshtein.editops(original, revised)` of the Python packages Levenshtein and RapidFuzz picks. For
//!   minimal revisions, which is what FIGA is about, stay with it.
//! * The diffs ([`Myers`](Aligner::Myers), [`Patience`](Aligner::Patience), [`Histogram`](Aligner::Histogram),
//!   [`Hunt`](Aligner::Hunt)) know insertions and deletions only, so their masks differ; where both meet, the run
//!   counts as substituted. `Myers` is minimal in that sense, and slow on long texts with little in common;
//!   `Patience` and `Histogram` anchor on rare items and need not be minimal. Choose one of them where whole
//!   paragraphs move: Levenshtein rather substitutes token for token, and then rewards and penalises almost all of
//!   them.
//!
//! `cargo run --release --no-default-features --features data --example aligners` shows what that means, here on the
//! embedded records, 252 short answers, and (in brackets) on 3,057 sentences and their corrections from the unit
//! tests of the crate harper-core 3.0.0:
//!
//! | aligner | tokens labelled unlike Levenshtein | time of a pair | marked of 2,500 tokens when the halves of a text trade places |
//! |---|---|---|---|
//! | Levenshtein | | 0.2 us (0.4) | 2,328 |
//! | Myers | 0.18 % (0.03) | 0.6 us (0.6) | 1,212 |
//! | Patience | 0.35 % (0.05) | 3.6 us (2.7) | 1,212 |
//! | Histogram | 0.18 % (0.02) | 0.7 us (0.7) | 1,212 |
//! | Hunt | 0.22 % (0.22) | 0.6 us (0.5) | 1,212 |
//!
//! # Words and phrases
//!
//! An alignment of tokens widens to [words](Alignment::words) or [phrases](Alignment::phrases); what the tokens mark
//! stays marked. [`Workspace`] aligns one pair after another without allocating, [`Aligner::align_all`] many pairs on
//! all cores.
//!
//! ```
//! use figa_loss::{Aligner, EditTag, editops};
//!
//! let original = ["Sydney", "is", "the", "capital", "."];
//! let revised = ["Canberra", "is", "the", "federal", "capital", "."];
//! let alignment = Aligner::Levenshtein.align(&original, &revised);
//! assert_eq!(alignment.removed(), [true, false, false, false, false]);
//! assert_eq!(alignment.added(), [true, false, false, true, false, false]);
//!
//! let ops = editops(&original, &revised);
//! assert_eq!(ops[1].tag, EditTag::Insert);
//! assert_eq!((ops[1].src_pos, ops[1].dest_pos), (3, 3));
//! ```

mod diff;
mod granularity;
mod levenshtein;

use std::hash::Hash;
use std::ops::Range;

pub use granularity::Granularity;
use levenshtein::Levenshtein;
pub use levenshtein::{distance, editops};

/// What an edit does, in the vocabulary of RapidFuzz and python-Levenshtein.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EditTag {
    /// One item of the source gives way to one of the destination.
    Replace,
    /// An item of the destination is new.
    Insert,
    /// An item of the source is gone.
    Delete,
}

impl EditTag {
    /// How many items of the source and of the destination one edit covers.
    fn lengths(self) -> (usize, usize) {
        match self {
            EditTag::Replace => (1, 1),
            EditTag::Insert => (0, 1),
            EditTag::Delete => (1, 0),
        }
    }
}

/// One step of an edit script from `source` to `dest`, as [`editops`] returns it.
///
/// Both positions count in the unedited sequences. An insert happens in front of `source[src_pos]`; a delete leaves
/// the script at `dest[dest_pos]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EditOp {
    /// Replace, insert or delete.
    pub tag: EditTag,
    /// Position in the source.
    pub src_pos: usize,
    /// Position in the destination.
    pub dest_pos: usize,
}

/// A maximal run of edits of one kind: `original[span.original]` became `revised[span.revised]`.
///
/// An [`EditTag::Insert`] has an empty `original` range, an [`EditTag::Delete`] an empty `revised` range. The two
/// ranges of an [`EditTag::Replace`] are equally long under [`Aligner::Levenshtein`]; under a diff they need not be.
///
/// ```
/// use figa_loss::{Aligner, EditTag, Span};
///
/// let alignment = Aligner::Levenshtein.align(b"colour", b"color");
/// assert_eq!(alignment.spans(), [Span { tag: EditTag::Delete, original: 4..5, revised: 4..4 }]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Span {
    /// Replace, insert or delete.
    pub tag: EditTag,
    /// The items that are no longer there.
    pub original: Range<usize>,
    /// The items that are new.
    pub revised: Range<usize>,
}

/// How to find the changes; see [which aligner?](crate::align#which-aligner)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Aligner {
    /// Fewest insertions, deletions and substitutions, with the ties of python-Levenshtein.
    #[default]
    Levenshtein,
    /// Fewest insertions and deletions.
    Myers,
    /// Anchors on items that occur once on both sides.
    Patience,
    /// Anchors on the rarest items, as `git diff --histogram` does.
    Histogram,
    /// Hunt's longest common subsequence over matching positions.
    Hunt,
}

impl Aligner {
    /// All of them, the default first.
    ///
    /// ```
    /// use figa_loss::Aligner;
    ///
    /// for &aligner in Aligner::ALL {
    ///     println!("{aligner:?}: {:?}", aligner.align(b"dabca", b"cbaac").removed());
    /// }
    /// ```
    pub const ALL: &[Self] = &[Self::Levenshtein, Self::Myers, Self::Patience, Self::Histogram, Self::Hunt];

    /// Aligns `original` with `revised`. Empty sequences are fine.
    pub fn align<T: Eq + Hash + Ord>(self, original: &[T], revised: &[T]) -> Alignment {
        let mut alignment = Alignment::default();
        let items = original.len() + revised.len();
        Levenshtein::of_thread(items, |levenshtein| alignment.align(self, levenshtein, original, revised));
        alignment
    }

    /// Aligns many pairs on all cores; the order is kept.
    ///
    /// ```
    /// use figa_loss::Aligner;
    ///
    /// let alignments = Aligner::Levenshtein.align_all(&[(vec![1, 2], vec![1]), (vec![3], vec![3])]);
    /// assert_eq!(alignments[0].removed(), [false, true]);
    /// ```
    #[cfg(feature = "rayon")]
    pub fn align_all<T, S>(self, pairs: &[(S, S)]) -> Vec<Alignment>
    where
        T: Eq + Hash + Ord,
        S: AsRef<[T]> + Sync,
    {
        use rayon::prelude::*;
        let align = |(original, revised): &(S, S)| self.align(original.as_ref(), revised.as_ref());
        pairs.par_iter().with_min_len(16).map(align).collect()
    }
}

/// Memory that one alignment after another can use. Once it has grown to the largest pair, aligning with
/// [`Aligner::Levenshtein`] allocates nothing more.
///
/// ```
/// use figa_loss::{Aligner, Workspace};
///
/// let mut workspace = Workspace::default();
/// for (original, revised) in [("to go", "to have gone"), ("a", "an")] {
///     let alignment = workspace.align(Aligner::Levenshtein, original.as_bytes(), revised.as_bytes());
///     assert!(alignment.added().contains(&true));
/// }
/// assert_eq!(workspace.editops(&[1, 2], &[2]).len(), 1);
/// ```
#[derive(Debug, Default, Clone)]
pub struct Workspace {
    levenshtein: Levenshtein,
    alignment: Alignment,
}

impl Workspace {
    /// [`editops`] in this memory.
    pub fn editops<T: Eq + Hash>(&mut self, source: &[T], dest: &[T]) -> &[EditOp] {
        self.levenshtein.editops(source, dest)
    }

    /// [`Aligner::align`] in this memory.
    pub fn align<T: Eq + Hash + Ord>(&mut self, aligner: Aligner, original: &[T], revised: &[T]) -> &Alignment {
        self.alignment.align(aligner, &mut self.levenshtein, original, revised);
        &self.alignment
    }
}

/// The changes between two sequences. The items that neither mask marks are the same on both sides, in the same order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Alignment {
    removed: Vec<bool>,
    added: Vec<bool>,
    spans: Vec<Span>,
}

impl Alignment {
    fn align<T: Eq + Hash + Ord>(
        &mut self,
        aligner: Aligner,
        levenshtein: &mut Levenshtein,
        original: &[T],
        revised: &[T],
    ) {
        let mut spans = std::mem::take(&mut self.spans);
        spans.clear();
        let diff = |algorithm| diff::spans(algorithm, original, revised);
        match aligner {
            Aligner::Levenshtein => join(levenshtein.editops(original, revised), &mut spans),
            Aligner::Myers => spans.extend(diff(similar::Algorithm::RawMyers)),
            Aligner::Patience => spans.extend(diff(similar::Algorithm::Patience)),
            Aligner::Histogram => spans.extend(diff(similar::Algorithm::Histogram)),
            Aligner::Hunt => spans.extend(diff(similar::Algorithm::Hunt)),
        }
        self.set(original.len(), revised.len(), spans);
    }

    fn set(&mut self, original_len: usize, revised_len: usize, spans: Vec<Span>) {
        for (mask, len) in [(&mut self.removed, original_len), (&mut self.added, revised_len)] {
            mask.clear();
            mask.resize(len, false);
        }
        for span in &spans {
            self.removed[span.original.clone()].fill(true);
            self.added[span.revised.clone()].fill(true);
        }
        self.spans = spans;
    }

    /// One flag per original item: was it deleted or substituted?
    pub fn removed(&self) -> &[bool] {
        &self.removed
    }

    /// One flag per revised item: was it inserted, or did it take another's place?
    pub fn added(&self) -> &[bool] {
        &self.added
    }

    /// The changes in order; what lies between them was kept.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }
}

/// Joins edits that continue each other into spans. (A kept item between two edits moves both positions on, so one of
/// them tells.)
fn join(ops: &[EditOp], spans: &mut Vec<Span>) {
    for op in ops {
        let (src, dest) = op.tag.lengths();
        match spans.last_mut() {
            Some(last) if last.tag == op.tag && last.original.end == op.src_pos => {
                last.original.end += src;
                last.revised.end += dest;
            }
            _ => spans.push(Span {
                tag: op.tag,
                original: op.src_pos..op.src_pos + src,
                revised: op.dest_pos..op.dest_pos + dest,
            }),
        }
    }
}
