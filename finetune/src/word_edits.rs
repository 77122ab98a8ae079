//! How many of an answer's edits are those of the reference: F0.5, as in the evaluation of grammatical error correction.

use std::iter::Sum;
use std::ops::Range;

use figa_loss::Aligner;
use serde::Serialize;

/// Edits of some answers.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct EditCounts {
    /// Those that answer and reference have in common.
    correct: usize,
    /// Those of the answers.
    made: usize,
    /// Those of the references.
    wanted: usize,
}

impl EditCounts {
    /// Those of an answer that corrects `source`. Edits are equal if they replace the same words of the source by the same
    /// words.
    pub fn of(source: &str, answer: &str, reference: &str) -> Self {
        let (made, wanted) = (edits(source, answer), edits(source, reference));
        let correct = made.iter().filter(|edit| wanted.contains(edit)).count();
        Self { correct, made: made.len(), wanted: wanted.len() }
    }

    /// `1.25 P R / (0.25 P + R)`, where precision counts more than recall. `None` if nobody has edited anything.
    pub fn f_half(&self) -> Option<f64> {
        let share = |all: usize| if all == 0 { 1.0 } else { self.correct as f64 / all as f64 };
        let (precision, recall) = (share(self.made), share(self.wanted));
        match (self.made + self.wanted, self.correct) {
            (0, _) => None,
            (_, 0) => Some(0.0),
            _ => Some(1.25 * precision * recall / (0.25 * precision + recall)),
        }
    }
}

impl Sum for EditCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, counts| Self {
            correct: sum.correct + counts.correct,
            made: sum.made + counts.made,
            wanted: sum.wanted + counts.wanted,
        })
    }
}

/// The words that are replaced, and those that replace them. Adjacent edits are one.
fn edits<'a>(source: &str, target: &'a str) -> Vec<(Range<usize>, Vec<&'a str>)> {
    let words = |text: &'a str| text.split_whitespace().collect::<Vec<_>>();
    let (source, target) = (source.split_whitespace().collect::<Vec<_>>(), words(target));
    let mut merged: Vec<(Range<usize>, Range<usize>)> = vec![];
    for span in Aligner::Levenshtein.align(&source, &target).spans() {
        match merged.last_mut() {
            Some((from, to)) if from.end == span.original.start && to.end == span.revised.start => {
                (from.end, to.end) = (span.original.end, span.revised.end);
            }
            _ => merged.push((span.original.clone(), span.revised.clone())),
        }
    }
    merged.into_iter().map(|(from, to)| (from, target[to].to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f_half(answers: &[(&str, &str, &str)]) -> Option<f64> {
        let counts = answers.iter().map(|(source, answer, reference)| EditCounts::of(source, answer, reference));
        counts.sum::<EditCounts>().f_half()
    }

    #[test]
    fn adjacent_edits_are_one() {
        assert_eq!(edits("He go home .", "He goes home now ."), [(1..2, vec!["goes"]), (3..3, vec!["now"])]);
        assert_eq!(edits("a b c", "x y z w"), [(0..3, vec!["x", "y", "z", "w"])]);
        assert!(edits("same words", "same  words").is_empty());
    }

    #[test]
    fn precision_counts_more_than_recall() {
        let (source, reference) = ("he go home yesterday", "He went home yesterday");
        assert_eq!(f_half(&[(source, reference, reference)]), Some(1.0));
        assert_eq!(f_half(&[(source, source, reference)]), Some(0.0));
        assert_eq!(f_half(&[(source, source, source)]), None);
        // One edit of two that are wanted, and one that is not.
        let (source, reference) = ("a b c d e", "A b C d e");
        let half = f_half(&[(source, "A b c d E", reference)]).unwrap();
        assert!((half - 0.5).abs() < 1e-12);
        // P = 1, R = 1/2; and P = 2/3, R = 1.
        let few = f_half(&[(source, "A b c d e", reference)]).unwrap();
        let many = f_half(&[(source, "A b C d E", reference)]).unwrap();
        assert!((few - 1.25 * 0.5 / 0.75).abs() < 1e-12);
        assert!((many - 1.25 * 2.0 / 3.0 / (0.5 / 3.0 + 1.0)).abs() < 1e-12);
        // Counts are added up over answers.
        let both = f_half(&[(source, "A b c d e", reference), ("a", "a", "b")]).unwrap();
        assert!((both - 1.25 / 3.0 / (0.25 + 1.0 / 3.0)).abs() < 1e-12);
    }
}
