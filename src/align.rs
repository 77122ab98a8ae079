//! Which tokens did the revision change?
//!
//! [`Aligner::align`] compares an original and a revised sequence and returns an [`Alignment`]: one mask per sequence
//! (what was [removed](Alignment::removed), what was [added](Alignment::added)) and the [spans](Alignment::spans)
//! behind them. Items are anything that is `Eq + Hash`: token ids, words, characters.
//!
//! # Which aligner?
//!
//! * For most users, [`Aligner::Levenshtein`], the default. It makes as few insertions, deletions *and substitutions* as
//!   possible, and among equally short edit scripts it returns the one that `Levenshtein.editops(original, revised)` of
//!   the Python packages Levenshtein and RapidFuzz returns, as the reference code of the FIGA paper does.
//! * Where whole paragraphs move, one of the diffs ([`Myers`](Aligner::Myers), [`Patience`](Aligner::Patience),
//!   [`Histogram`](Aligner::Histogram), [`Hunt`](Aligner::Hunt)). Levenshtein would substitute almost every token of the
//!   paragraph. Diffs only insert and delete, so their masks differ; an adjacent insertion and deletion count as a
//!   substitution. `Myers` is minimal in that sense, and slow on long texts with little in common; `Patience` and
//!   `Histogram` anchor on rare items and need not be minimal.
//!
//! `cargo run --release --no-default-features --features data --example aligners` prints this comparison, here for the
//! embedded records, 252 short answers, and (in brackets) for 3,057 sentences and their corrections from the unit tests
//! of the crate harper-core 3.0.0:
//!
//! | aligner | tokens labelled differently from Levenshtein | time of a pair | tokens marked of 2,500 when the halves of a text trade places |
//! |---|---|---|---|
//! | Levenshtein | | 0.2 us (0.4) | 2,328 |
//! | Myers | 0.18 % (0.03) | 0.6 us (0.6) | 1,212 |
//! | Patience | 0.35 % (0.05) | 3.6 us (2.7) | 1,212 |
//! | Histogram | 0.18 % (0.02) | 0.7 us (0.7) | 1,212 |
//! | Hunt | 0.22 % (0.22) | 0.6 us (0.5) | 1,212 |
//!
//! # Words and phrases
//!
//! [`Granularity::widen`] widens an alignment of tokens to words or phrases; what the tokens mark stays marked.
//! [`Aligner::align_all`] aligns many pairs on all cores.
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

use std::fmt;
use std::hash::Hash;
use std::ops::Range;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::side::Side;

pub use granularity::Granularity;
use levenshtein::Levenshtein;
pub use levenshtein::{distance, editops};

/// What an edit does, in the vocabulary of RapidFuzz and python-Levenshtein.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EditTag {
    /// One item of the source becomes one of the destination.
    Replace,
    /// An item of the destination is added.
    Insert,
    /// An item of the source is removed.
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
/// Both positions are those in the unedited sequences. An insert goes in front of `source[src_pos]`; after a delete, the
/// next item belongs at `dest[dest_pos]`.
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
/// ranges of an [`EditTag::Replace`] are equally long under [`Aligner::Levenshtein`]; under a diff they need not be. In an
/// alignment that was [widened](Granularity::widen), a replace may differ in length too, and cover kept items.
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
    /// The items that are removed.
    pub original: Range<usize>,
    /// The items that are added.
    pub revised: Range<usize>,
}

impl Span {
    /// The range on one side.
    ///
    /// ```
    /// use figa_loss::{Aligner, Side};
    ///
    /// let alignment = Aligner::Levenshtein.align(b"cat", b"cart");
    /// assert_eq!(alignment.spans()[0].range(Side::Revised), 2..3);
    /// ```
    pub fn range(&self, side: Side) -> Range<usize> {
        match side {
            Side::Original => self.original.clone(),
            Side::Revised => self.revised.clone(),
        }
    }

    /// The span that covers these ranges, not both of them empty.
    fn covering(original: Range<usize>, revised: Range<usize>) -> Self {
        let tag = match (original.is_empty(), revised.is_empty()) {
            (true, _) => EditTag::Insert,
            (_, true) => EditTag::Delete,
            _ => EditTag::Replace,
        };
        Self { tag, original, revised }
    }
}

/// How to find the changes; see [which aligner?](crate::align#which-aligner)
///
/// Its name, in lower case, is what `Display` writes and `FromStr` reads.
///
/// ```
/// use figa_loss::Aligner;
///
/// assert_eq!("myers".parse::<Aligner>()?, Aligner::Myers);
/// assert_eq!(Aligner::default().to_string(), "levenshtein");
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Aligner {
    /// Fewest insertions, deletions and substitutions, with the tie-breaking of python-Levenshtein.
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

impl fmt::Display for Aligner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", format!("{self:?}").to_lowercase())
    }
}

impl FromStr for Aligner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let expected = "levenshtein, myers, patience, histogram or hunt";
        let found = Self::ALL.iter().copied().find(|aligner| aligner.to_string() == text);
        found.ok_or_else(|| Error::Value { argument: "aligner", expected, actual: format!("{text:?}") })
    }
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
    pub fn align<T: Eq + Hash>(self, original: &[T], revised: &[T]) -> Alignment {
        let diff = |algorithm| diff::spans(algorithm, original, revised);
        let spans = match self {
            Self::Levenshtein => Levenshtein::of_thread(original.len() + revised.len(), |levenshtein| {
                join(levenshtein.editops(original, revised))
            }),
            Self::Myers => diff(similar::Algorithm::RawMyers),
            Self::Patience => diff(similar::Algorithm::Patience),
            Self::Histogram => diff(similar::Algorithm::Histogram),
            Self::Hunt => diff(similar::Algorithm::Hunt),
        };
        Alignment::new(original.len(), revised.len(), spans)
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
        T: Eq + Hash,
        S: AsRef<[T]> + Sync,
    {
        use rayon::prelude::*;
        let align = |(original, revised): &(S, S)| self.align(original.as_ref(), revised.as_ref());
        pairs.par_iter().with_min_len(16).map(align).collect()
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
    fn new(original_len: usize, revised_len: usize, spans: Vec<Span>) -> Self {
        let (mut removed, mut added) = (vec![false; original_len], vec![false; revised_len]);
        for span in &spans {
            removed[span.original.clone()].fill(true);
            added[span.revised.clone()].fill(true);
        }
        Self { removed, added, spans }
    }

    /// One flag per original item: was it deleted or substituted?
    pub fn removed(&self) -> &[bool] {
        &self.removed
    }

    /// One flag per revised item: was it inserted, or did it take another's place?
    pub fn added(&self) -> &[bool] {
        &self.added
    }

    /// [`removed`](Self::removed) for the original side, [`added`](Self::added) for the revised one.
    pub fn changed(&self, side: Side) -> &[bool] {
        match side {
            Side::Original => &self.removed,
            Side::Revised => &self.added,
        }
    }

    /// The changes in order; what lies between them was kept.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }
}

/// Joins adjacent edits of one kind into spans. (A kept item between two edits advances both positions, so comparing one
/// of them is enough.)
fn join(ops: &[EditOp]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
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
    spans
}
