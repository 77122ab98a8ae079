//! Which of the two answers.

use std::fmt;

/// One of the two answers of a pair.
///
/// ```
/// use figa_loss::{Aligner, Side};
///
/// let alignment = Aligner::Levenshtein.align(b"colour", b"color");
/// let changed = Side::ALL.map(|side| alignment.changed(side).iter().filter(|&&changed| changed).count());
/// assert_eq!(changed, [1, 0]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The model's own answer.
    Original,
    /// The improved answer.
    Revised,
}

impl Side {
    /// Both, the original first.
    pub const ALL: [Self; 2] = [Self::Original, Self::Revised];

    /// Its place in [`ALL`](Self::ALL).
    #[cfg(feature = "data")]
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Original => "original",
            Self::Revised => "revised",
        })
    }
}
