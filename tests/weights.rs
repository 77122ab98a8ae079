//! Labels and weights: every row of the table in the module `weights`.

use figa_loss::TokenLabel::{Deleted, Eos, Ignored, Inserted, Kept, Substituted};
use figa_loss::{Aligner, Error, FigaWeights, IGNORE_INDEX, Side, TokenLabel, label_tokens};

const EOS: u32 = 0;

fn labels(original: &[u32], revised: &[u32]) -> (Vec<TokenLabel>, Vec<TokenLabel>) {
    let alignment = Aligner::Levenshtein.align(original, revised);
    let side = |side, tokens| label_tokens(&alignment, side, tokens, &EOS).unwrap();
    (side(Side::Original, original), side(Side::Revised, revised))
}

#[test]
fn every_kind_of_change_has_its_label() {
    // 2 is replaced by 9, 4 is deleted, 7 is inserted.
    let (original, revised) = labels(&[1, 2, 3, 4, 5, 6, EOS], &[1, 9, 3, 5, 6, 7, EOS]);
    assert_eq!(original, [Kept, Substituted, Kept, Deleted, Kept, Kept, Eos]);
    assert_eq!(revised, [Kept, Substituted, Kept, Kept, Kept, Inserted, Eos]);
}

#[test]
fn the_first_eos_is_labelled_eos_in_every_alignment() {
    let (original, revised) = labels(&[1, EOS, 2, EOS], &[EOS, 3, EOS]);
    assert_eq!(original.iter().filter(|&&label| label == Eos).count(), 1);
    assert_eq!((original[1], revised[0]), (Eos, Eos));
    assert_ne!(revised[2], Eos);
    // Without an EOS token there is no such label.
    assert_eq!(labels(&[1], &[1]), (vec![Kept], vec![Kept]));
}

#[test]
fn tokens_that_were_not_aligned_are_an_error() {
    let alignment = Aligner::Levenshtein.align(&[1, 2, EOS], &[1, EOS]);
    let message = label_tokens(&alignment, Side::Original, &[1, EOS], &EOS).unwrap_err().to_string();
    assert_eq!(
        message,
        "tokens: expected the sequence that was aligned on this side, got 2 tokens, where 3 original tokens were \
         aligned"
    );
}

#[test]
fn weights_follow_the_table() {
    let weights = FigaWeights { alpha: 2.0, beta: 0.25, gamma: 0.125, eos: 0.5 };
    let row = |side| [Ignored, Kept, Inserted, Substituted, Deleted, Eos].map(|label| weights.weight(side, label));
    assert_eq!(row(Side::Revised), [0.0, 0.125, 2.0, 2.0, 0.0, 0.5]);
    assert_eq!(row(Side::Original), [0.0, 0.0, 0.0, -0.25, -0.25, 0.0]);
    assert_eq!(IGNORE_INDEX, -100);
    let (original, revised) = ([1, 2, EOS], [1, 3, EOS]);
    let alignment = Aligner::Levenshtein.align(&original, &revised);
    assert_eq!(weights.of(&alignment, Side::Original, &original, &EOS).unwrap(), [0.0, -0.25, 0.0]);
    assert_eq!(weights.of(&alignment, Side::Revised, &revised, &EOS).unwrap(), [0.125, 2.0, 0.5]);
    assert!(weights.of(&alignment, Side::Revised, &original[1..], &EOS).is_err());
}

#[test]
fn the_named_weights_are_the_default_and_those_of_the_paper() {
    assert_eq!(FigaWeights::default(), FigaWeights { alpha: 1.0, beta: 0.5, gamma: 0.3, eos: 0.3 });
    assert_eq!(FigaWeights::paper(), FigaWeights { alpha: 1.0, beta: 0.5, gamma: 0.0, eos: 1.0 });
    let named = FigaWeights::NAMED.map(|(name, weights)| format!("{name}: {weights}"));
    let expected = ["default: alpha 1, beta 0.5, gamma 0.3, eos 0.3", "paper: alpha 1, beta 0.5, gamma 0, eos 1"];
    assert_eq!(named, expected);
    for (name, weights) in FigaWeights::NAMED {
        assert_eq!(name.parse::<FigaWeights>().unwrap(), weights);
    }
    assert!("Paper".parse::<FigaWeights>().is_err());
}

#[test]
fn weights_that_are_not_finite_or_negative_are_named_in_the_error() {
    for (weights, name) in [
        (FigaWeights { alpha: f32::NAN, ..Default::default() }, "weights.alpha"),
        (FigaWeights { beta: -0.5, ..Default::default() }, "weights.beta"),
        (FigaWeights { alpha: -1.0, ..Default::default() }, "weights.alpha"),
        (FigaWeights { gamma: -0.1, ..Default::default() }, "weights.gamma"),
        (FigaWeights { gamma: f32::INFINITY, ..Default::default() }, "weights.gamma"),
        (FigaWeights { eos: -1.0, ..Default::default() }, "weights.eos"),
    ] {
        assert!(matches!(weights.validate(), Err(Error::Value { argument, .. }) if argument == name), "{name}");
    }
}
