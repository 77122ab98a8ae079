//! The aligners: against python-Levenshtein, and the properties of every alignment.

use figa_loss::{Aligner, Alignment, EditOp, EditTag, Error, Granularity, distance, editops};
use proptest::prelude::*;

#[cfg(feature = "data")]
#[test]
fn editops_equal_those_of_python_levenshtein() {
    #[derive(serde::Deserialize)]
    struct Pair {
        source: Vec<serde_json::Value>,
        dest: Vec<serde_json::Value>,
        ops: Vec<(usize, usize, usize)>,
    }
    const TAGS: [EditTag; 3] = [EditTag::Replace, EditTag::Insert, EditTag::Delete];

    let lines = include_str!("fixtures/editops.jsonl").lines();
    let mut pairs = 0;
    for (number, line) in lines.enumerate() {
        let pair: Pair = serde_json::from_str(line).unwrap();
        let expected: Vec<EditOp> =
            pair.ops.iter().map(|&(tag, src_pos, dest_pos)| EditOp { tag: TAGS[tag], src_pos, dest_pos }).collect();
        assert_eq!(editops(&pair.source, &pair.dest), expected, "pair {}", number + 1);
        assert_eq!(distance(&pair.source, &pair.dest), expected.len(), "pair {}", number + 1);
        pairs += 1;
    }
    assert!(pairs > 3000, "only {pairs} pairs in the fixture");
}

/// Applies the script to `source`. Reads only the items of `dest` that the script inserts.
fn apply(ops: &[EditOp], source: &[u8], dest: &[u8]) -> Vec<u8> {
    let (mut out, mut next) = (Vec::new(), 0);
    for op in ops {
        out.extend_from_slice(&source[next..op.src_pos]);
        assert_eq!(out.len(), op.dest_pos, "{op:?} is at the wrong place");
        next = op.src_pos + usize::from(op.tag != EditTag::Insert);
        if op.tag != EditTag::Delete {
            out.push(dest[op.dest_pos]);
        }
    }
    out.extend_from_slice(&source[next..]);
    out
}

fn kept<T: Clone>(items: &[T], changed: &[bool]) -> Vec<T> {
    items.iter().zip(changed).filter(|&(_, &changed)| !changed).map(|(item, _)| item.clone()).collect()
}

/// Checks that the spans are in order, leave kept runs of equal length between them, and agree with the masks.
fn check_spans(alignment: &Alignment) {
    let (mut original, mut revised) = (0, 0);
    let (mut removed, mut added) = (vec![], vec![]);
    for span in alignment.spans() {
        assert_eq!(
            span.original.start - original,
            span.revised.start - revised,
            "kept runs differ in length at {span:?}"
        );
        removed.resize(span.original.start, false);
        added.resize(span.revised.start, false);
        (original, revised) = (span.original.end, span.revised.end);
        removed.resize(original, true);
        added.resize(revised, true);
        let tag = match (span.original.is_empty(), span.revised.is_empty()) {
            (false, false) => EditTag::Replace,
            (true, false) => EditTag::Insert,
            (false, true) => EditTag::Delete,
            (true, true) => panic!("an empty span"),
        };
        assert_eq!(span.tag, tag);
    }
    removed.resize(alignment.removed().len(), false);
    added.resize(alignment.added().len(), false);
    assert_eq!((&*removed, &*added), (alignment.removed(), alignment.added()));
}

/// Two sequences over a small alphabet, the second either unrelated or an edited copy of the first.
fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let side = || (1..6u8).prop_flat_map(|alphabet| prop::collection::vec(0..alphabet, 0..40));
    let edited = (side(), prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, 0..5u8), 0..12)).prop_map(
        |(source, edits)| {
            let mut dest = source.clone();
            for (index, kind, item) in edits {
                let at = index.index(dest.len() + 1);
                match kind {
                    0 => dest.insert(at, item),
                    1 if at < dest.len() => dest[at] = item,
                    2 if at < dest.len() => drop(dest.remove(at)),
                    _ => {}
                }
            }
            (source, dest)
        },
    );
    prop_oneof![(side(), side()), edited]
}

proptest! {
    #[test]
    fn editops_turn_the_source_into_the_destination_in_distance_steps((source, dest) in pair()) {
        let ops = editops(&source, &dest);
        prop_assert_eq!(apply(&ops, &source, &dest), dest.clone());
        prop_assert_eq!(ops.len(), distance(&source, &dest));
        prop_assert_eq!(distance(&source, &dest), distance(&dest, &source));
    }

    #[test]
    fn unmarked_items_are_equal_on_both_sides((original, revised) in pair()) {
        for &aligner in Aligner::ALL {
            let alignment = aligner.align(&original, &revised);
            prop_assert_eq!(kept(&original, alignment.removed()), kept(&revised, alignment.added()), "{:?}", aligner);
            check_spans(&alignment);
        }
    }

    #[test]
    fn wider_alignments_keep_every_mark(
        (original, revised) in pair(),
        max_gap in 0..5usize,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let tokens = Aligner::Levenshtein.align(&original, &revised);
        let words = |len: usize| {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
            cuts.sort();
            // Every other range between cuts is a word; each other item is a word of its own.
            cuts.chunks_exact(2).map(|word| word[0]..word[1]).collect::<Vec<_>>()
        };
        let (original_words, revised_words) = (words(original.len()), words(revised.len()));
        let wider = [
            Granularity::Phrase(max_gap).widen(tokens.clone(), &[], &[]).unwrap(),
            Granularity::Word.widen(tokens.clone(), &numbers(&original_words), &numbers(&revised_words)).unwrap(),
        ];
        for alignment in &wider {
            check_spans(alignment);
            prop_assert_eq!(kept(&original, alignment.removed()), kept(&revised, alignment.added()));
            let marks = |alignment: &Alignment| [alignment.removed(), alignment.added()].concat();
            prop_assert!(marks(&tokens).iter().zip(marks(alignment)).all(|(token, wide)| !token || wide));
        }
        for (words, mask) in [(&original_words, wider[1].removed()), (&revised_words, wider[1].added())] {
            for word in words {
                let changed = &mask[word.clone()];
                prop_assert!(changed.iter().all(|&c| c) || changed.iter().all(|&c| !c), "half a word at {:?}", word);
            }
        }
        for spans in tokens.spans().windows(2) {
            let between = spans[0].original.end..spans[1].original.start;
            let joined = between.len() <= max_gap;
            prop_assert!(wider[0].removed()[between].iter().all(|&changed| changed == joined));
        }
        for spans in wider[0].spans().windows(2) {
            prop_assert!(spans[1].original.start - spans[0].original.end > max_gap);
        }
    }

    #[test]
    #[cfg(feature = "rayon")]
    fn all_cores_give_the_results_of_one(pairs in prop::collection::vec(pair(), 1..6)) {
        for &aligner in Aligner::ALL {
            let one_by_one: Vec<_> = pairs.iter().map(|(original, revised)| aligner.align(original, revised)).collect();
            prop_assert_eq!(aligner.align_all(&pairs), one_by_one);
        }
    }

    #[test]
    fn myers_makes_the_fewest_insertions_and_deletions((original, revised) in pair()) {
        let changes = |aligner: Aligner| {
            let alignment = aligner.align(&original, &revised);
            alignment.removed().iter().chain(alignment.added()).filter(|&&changed| changed).count()
        };
        for &aligner in Aligner::ALL {
            prop_assert!(changes(Aligner::Myers) <= changes(aligner), "{:?}", aligner);
        }
    }
}

#[test]
fn equally_short_scripts_are_chosen_by_the_documented_rule() {
    use EditTag::{Delete, Insert, Replace};
    let ops = |source: &str, dest: &str| -> Vec<(EditTag, usize, usize)> {
        editops(source.as_bytes(), dest.as_bytes()).iter().map(|op| (op.tag, op.src_pos, op.dest_pos)).collect()
    };
    assert_eq!(ops("", ""), []);
    assert_eq!(ops("", "ab"), [(Insert, 0, 0), (Insert, 0, 1)]);
    assert_eq!(ops("ab", ""), [(Delete, 0, 0), (Delete, 1, 0)]);
    assert_eq!(ops("aaaa", "aa"), [(Delete, 2, 2), (Delete, 3, 2)]);
    assert_eq!(ops("ab", "ba"), [(Insert, 0, 0), (Delete, 1, 2)]);
    assert_eq!(ops("kitten", "sitting"), [(Replace, 0, 0), (Replace, 4, 4), (Insert, 6, 6)]);
}

#[test]
fn the_aligners_differ() {
    // A pair that all five align differently; an x marks a change. The masks of the diffs are those of `similar` 3.
    let masks = Aligner::ALL.iter().map(|aligner| {
        let alignment = aligner.align(b"dabca", b"cbaac");
        let mask = |mask: &[bool]| mask.iter().map(|&changed| if changed { 'x' } else { '.' }).collect::<String>();
        format!("{} {}", mask(alignment.removed()), mask(alignment.added()))
    });
    assert_eq!(masks.collect::<Vec<_>>(), ["x.x.x xx.x.", "x.x.x xxx..", "xx.x. x..xx", "xx..x x.xx.", "xxx.. .x.xx"]);
}

#[test]
fn equal_steps_join_into_one_span() {
    let alignment = Aligner::Levenshtein.align(b"xabcy", b"xdefyzz");
    let spans: Vec<_> = alignment.spans().iter().map(|s| (s.tag, s.original.clone(), s.revised.clone())).collect();
    assert_eq!(spans, [(EditTag::Replace, 1..4, 1..4), (EditTag::Insert, 5..5, 5..7)]);
}

/// The word number of each item, as `widen` expects them.
fn numbers(words: &[std::ops::Range<usize>]) -> Vec<Option<u32>> {
    let mut numbers = vec![None; words.last().map_or(0, |last| last.end)];
    for (word, number) in words.iter().zip(0..) {
        numbers[word.clone()].fill(Some(number));
    }
    numbers
}

#[test]
fn a_changed_word_marks_its_counterpart() {
    // in|correct is -> correct is: "correct" is kept, but belongs to a changed word, so it is marked on both sides.
    let tokens = Aligner::Levenshtein.align(&["in", "correct", "is"], &["correct", "is"]);
    let words = |tokens: &Alignment, original: &[Option<u32>], revised: &[Option<u32>]| {
        Granularity::Word.widen(tokens.clone(), original, revised).unwrap()
    };
    let wide = words(&tokens, &[Some(0), Some(0), Some(1)], &[Some(0), Some(1)]);
    assert_eq!((wide.removed(), wide.added()), (&[true, true, false][..], &[true, false][..]));
    // Without numbers, every token is a word of its own.
    assert_eq!(words(&tokens, &[], &[]), tokens);
    // Without changes there is nothing to widen.
    let same = Aligner::Levenshtein.align(b"abc", b"abc");
    assert_eq!(words(&same, &[Some(0), Some(0), Some(1)], &[Some(0), Some(0), Some(1)]), same);
    assert_eq!(Granularity::Phrase(9).widen(same.clone(), &[], &[]).unwrap(), same);
}

#[test]
fn words_are_runs_of_equal_numbers() {
    // a|b|c d|e, and a token outside of all words.
    let numbers = [Some(0), Some(0), Some(0), Some(1), Some(1), None];
    for (revised, changed) in [(b"xbcde.", 0..3), (b"abcxe.", 3..5), (b"abcdex", 5..6)] {
        let tokens = Aligner::Levenshtein.align(b"abcde.", revised);
        let wide = |granularity: Granularity| granularity.widen(tokens.clone(), &numbers, &numbers).unwrap();
        let mask: Vec<bool> = (0..6).map(|at| changed.contains(&at)).collect();
        assert_eq!((wide(Granularity::Word).removed(), wide(Granularity::Word).added()), (&*mask, &*mask));
        assert_eq!((wide(Granularity::Token), wide(Granularity::Phrase(1))), (tokens.clone(), tokens.clone()));
    }
    let tokens = Aligner::Levenshtein.align(b"abcde", b"abcxe");
    // Tokens without a number do not form a word.
    let alone = Granularity::Word.widen(tokens.clone(), &[None; 5], &[None; 5]).unwrap();
    assert_eq!(alone, tokens);
}

#[test]
fn more_word_numbers_than_tokens_are_an_error() {
    let tokens = Aligner::Levenshtein.align(b"abc", b"abd");
    let words =
        |original: &[Option<u32>], revised: &[Option<u32>]| Granularity::Word.widen(tokens.clone(), original, revised);
    let error = words(&[Some(0); 4], &[]).unwrap_err().to_string();
    assert_eq!(error, "original_words: expected at most one entry for each token, got 4 for 3 tokens");
    assert!(matches!(words(&[], &[None; 4]), Err(Error::Value { argument: "revised_words", .. })));
}

#[test]
fn long_repetitive_sequences_are_fast() {
    // The table of distances would have 10^12 cells.
    let (long, longer) = (vec![7u32; 1_000_000], vec![7u32; 1_000_100]);
    assert_eq!(editops(&long, &longer).len(), longer.len() - long.len());
    let mut edited = long.clone();
    (edited[10], edited[999_990]) = (1, 2);
    assert_eq!(editops(&long, &edited).len(), 2);
    assert_eq!(editops(&long, &[]).len(), long.len());
    // A shifted copy whose items match on every other diagonal.
    let stripes: Vec<u32> = (0..20_000).map(|i| i % 2).collect();
    assert_eq!(editops(&stripes, &stripes[1..]).len(), 1);
    let blocks: Vec<u32> = (0..20_000).map(|i| i / 100 % 2).collect();
    assert_eq!(distance(&blocks, &stripes), editops(&blocks, &stripes).len());
}

#[test]
fn items_with_equal_hashes_are_distinguished() {
    #[derive(PartialEq, Eq)]
    struct Collides(u8);
    impl std::hash::Hash for Collides {
        fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
    }
    let plain: [Vec<u8>; 2] = [0, 1].map(|shift| (0..200u8).map(|i| i.wrapping_mul(77 + shift) % 50).collect());
    let colliding = plain.each_ref().map(|items| items.iter().map(|&item| Collides(item)).collect::<Vec<_>>());
    assert_eq!(editops(&colliding[0], &colliding[1]), editops(&plain[0], &plain[1]));
}

#[test]
fn aligners_and_granularities_have_names() {
    for &aligner in Aligner::ALL {
        assert_eq!(aligner.to_string().parse::<Aligner>().unwrap(), aligner);
    }
    for granularity in [Granularity::Token, Granularity::Word, Granularity::Phrase(0), Granularity::Phrase(12)] {
        assert_eq!(granularity.to_string().parse::<Granularity>().unwrap(), granularity);
    }
    let error = "Diff".parse::<Aligner>().unwrap_err().to_string();
    assert!(error.starts_with("aligner: expected ") && error.ends_with(", got \"Diff\""), "{error}");
    assert!(Aligner::ALL.iter().all(|aligner| error.contains(&aligner.to_string())), "{error}");
    for text in ["phrase", "phrase:", "phrase:-1", "word:2", ""] {
        let error = text.parse::<Granularity>().unwrap_err().to_string();
        assert_eq!(error, format!("granularity: expected token, word or phrase:N, got {text:?}"));
    }
}
