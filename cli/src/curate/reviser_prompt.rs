//! The prompt that the reviser gets with each record.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use figa_loss::SpaRecord;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use super::candidate::Candidate;
use crate::records::message_text;

const TEMPLATE: &str = "reviser";

/// A Jinja template, and where it is from.
pub struct ReviserPrompt {
    jinja: Environment<'static>,
    place: String,
}

impl ReviserPrompt {
    /// Reads the template from a file, or takes the built-in one, which asks for minimal edits.
    pub fn new(file: Option<&Path>) -> Result<Self> {
        let (place, source) = match file {
            None => ("--reviser: the built-in prompt".to_owned(), include_str!("reviser.j2").to_owned()),
            Some(file) => {
                let place = format!("--reviser-prompt: {}", file.display());
                let source = fs::read_to_string(file).with_context(|| place.clone())?;
                (place, source)
            }
        };
        let mut jinja = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        jinja.set_syntax(syntax.map_err(|error| explain(&place, &error))?);
        // A misspelt field must not go unnoticed.
        jinja.set_undefined_behavior(UndefinedBehavior::Strict);
        jinja.add_template_owned(TEMPLATE, source).map_err(|error| explain(&place, &error))?;
        Ok(Self { jinja, place })
    }

    /// The prompt for a record, without white space at its end.
    pub fn render(&self, candidate: &Candidate) -> Result<String> {
        let SpaRecord { instruction, input, output, original_output, messages, .. } = &candidate.record;
        let all_fields: Value = serde_json::from_str(&candidate.json)?;
        let messages: Vec<Value> = messages.iter().map(|message| Serde(message).into()).collect();
        let original_output = message_text(original_output);
        let variables = context! { instruction, input, output, original_output, messages, ..all_fields };
        let prompt = self.jinja.get_template(TEMPLATE).and_then(|template| template.render(variables));
        let prompt = prompt.map_err(|error| explain(&self.place, &error)).with_context(|| candidate.place.clone())?;
        Ok(prompt.trim_end().to_owned())
    }
}

fn explain(place: &str, error: &minijinja::Error) -> anyhow::Error {
    let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    anyhow!("{place}{line}: {}{detail}", error.kind())
}
