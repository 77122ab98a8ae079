//! The tokens of two texts as they are shown: which characters each of them stands for.

use figa_loss::{LabelledTexts, LabelledToken, Side, TokenLabel};

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
    pub fn new(texts: LabelledTexts) -> Self {
        let shown = |side| shown_tokens(texts.text(side), texts.tokens(side));
        let (original, revised) = (shown(Side::Original), shown(Side::Revised));
        Self { texts, original, revised }
    }

    /// The text in front of both, as the model sees it; empty for texts that are shown alone.
    pub fn prompt(&self) -> &str {
        self.texts.prompt()
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
    for token in tokens {
        // Tokens that share a character overlap: the first one shows it.
        let start = token.range.start.max(written);
        let gap = text.get(written..start).unwrap_or_default();
        written = token.range.end.max(start);
        let text = match text.get(start..written) {
            _ if token.label == TokenLabel::Eos => &token.name,
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
