//! The words of a text, whatever the tokenizer takes for one.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// The number of the word that each token begins in; `None` for white space, which is part of no word.
///
/// Words are those of Unicode (UAX 29). A token belongs to the word of its first character that is not white space.
pub(super) fn word_numbers(text: &str, tokens: &[Range<usize>]) -> Vec<Option<u32>> {
    let ends: Vec<usize> = text.split_word_bound_indices().map(|(start, word)| start + word.len()).collect();
    let number = |token: &Range<usize>| {
        let shown = text.get(token.clone()).map_or(0, |shown| shown.len() - shown.trim_start().len());
        let first = token.start + shown;
        if first >= token.end {
            return None;
        }
        u32::try_from(ends.partition_point(|&end| end <= first)).ok()
    };
    tokens.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::word_numbers;

    #[test]
    fn a_token_belongs_to_the_word_that_it_begins() {
        let text = "Don't  go home, 日本 é";
        let numbers = |tokens: &[(usize, usize)]| {
            word_numbers(text, &tokens.iter().map(|&(start, end)| start..end).collect::<Vec<_>>())
        };
        // Don | 't | two spaces | " go" | " ho" | "me" | "," | 日 | 本
        let words = numbers(&[(0, 3), (3, 5), (5, 7), (6, 9), (9, 12), (12, 14), (14, 15), (16, 19), (19, 22)]);
        assert_eq!((words[0], words[1], words[2]), (words[1], words[0], None));
        assert_eq!(words[4], words[5]);
        let distinct = [words[0], words[3], words[4], words[6], words[7], words[8]];
        assert!(distinct.windows(2).all(|pair| pair[0] < pair[1]), "{distinct:?}");
        // Tokens that share a character are in one word; an empty token is in none.
        assert_eq!(numbers(&[(23, 25), (23, 25), (7, 7)])[..2], [numbers(&[(23, 25)])[0]; 2]);
        assert_eq!(numbers(&[(7, 7)]), [None]);
    }
}
