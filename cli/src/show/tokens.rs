//! The tokens of two texts as they are shown: which characters each of them stands for.

use anyhow::Result;
use figa_loss::{LabelledTexts, LabelledToken, Side, TextComparer, TokenLabel};

use crate::encoding::lowercase;

/// Shown for a token that shares its characters with the token before.
const PLACEHOLDER: &str = "▯";

/// Two compared texts, ready to be shown.
pub struct ShownTexts {
    texts: LabelledTexts,
    original: Vec<ShownToken>,
    revised: Vec<ShownToken>,
}

/// A token and its text. Concatenated, gaps and texts are the whole text.
pub struct ShownToken {
    pub token: LabelledToken,
    /// The text between the token before and this one.
    pub gap: String,
    pub text: String,
}

impl ShownTexts {
    pub fn new(comparer: &TextComparer, original: &str, revised: &str) -> Result<Self> {
        let texts = comparer.compare(original, revised)?;
        let shown = |side, text| shown_tokens(text, texts.tokens(side));
        let (original, revised) = (shown(Side::Original, original), shown(Side::Revised, revised));
        Ok(Self { texts, original, revised })
    }

    pub fn tokens(&self, side: Side) -> &[ShownToken] {
        match side {
            Side::Original => &self.original,
            Side::Revised => &self.revised,
        }
    }

    /// Whether the revision removed or added this token.
    pub fn is_changed(&self, side: Side, at: usize) -> bool {
        self.texts.alignment().changed(side).get(at) == Some(&true)
    }
}

impl ShownToken {
    pub fn label(&self) -> String {
        lowercase(self.token.label)
    }

    /// Whether the label is kept or ignored. (A changed word may contain equal tokens.)
    pub fn is_kept(&self) -> bool {
        matches!(self.token.label, TokenLabel::Kept | TokenLabel::Ignored)
    }
}

fn shown_tokens(text: &str, tokens: &[LabelledToken]) -> Vec<ShownToken> {
    let mut written = 0;
    let mut shown = vec![];
    for (at, token) in tokens.iter().enumerate() {
        // Tokens that share a character overlap: the first one shows it.
        let start = token.range.start.max(written);
        let gap = text.get(written..start).unwrap_or_default();
        written = token.range.end.max(start);
        let text = match text.get(start..written) {
            _ if at + 1 == tokens.len() => TextComparer::EOS,
            None | Some("") => PLACEHOLDER,
            Some(text) => text,
        };
        // Many tokens begin with a space, which need not be shown as changed.
        let trimmed = Some(text.trim_start_matches(' ')).filter(|trimmed| !trimmed.is_empty()).unwrap_or(text);
        let spaces = &text[..text.len() - trimmed.len()];
        shown.push(ShownToken { token: token.clone(), gap: format!("{gap}{spaces}"), text: trimmed.to_owned() });
    }
    shown
}

/// A text without control characters except line breaks and tabs: they can control a terminal, and HTML forbids them.
pub fn printable(text: &str) -> String {
    let replace = |character: char| match character {
        '\n' | '\t' => character,
        _ if character.is_control() => char::REPLACEMENT_CHARACTER,
        _ => character,
    };
    text.replace("\r\n", "\n").chars().map(replace).collect()
}
