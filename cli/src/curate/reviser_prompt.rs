//! The prompt that the reviser gets with each record.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use figa_loss::SpaRecord;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, Serde};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context};
use serde_json::value::RawValue;

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

    /// The prompt for a record with this JSON, without white space at its end.
    pub fn render(&self, record: &SpaRecord, json: &str) -> Result<String> {
        let SpaRecord { instruction, input, output, original_output, messages, .. } = record;
        let all_fields = Value::from_object(LazyFields(serde_json::from_str(json)?));
        let messages: Vec<Value> = messages.iter().map(|message| Serde(message).into()).collect();
        let original_output = message_text(original_output);
        let variables = context! { instruction, input, output, original_output, messages, ..all_fields };
        let prompt = self.jinja.get_template(TEMPLATE).and_then(|template| template.render(variables));
        let prompt = prompt.map_err(|error| explain(&self.place, &error))?;
        Ok(prompt.trim_end().to_owned())
    }
}

/// The fields of a record. Only those that a template uses are parsed, so no other one can be wrong.
#[derive(Debug)]
struct LazyFields(HashMap<String, Box<RawValue>>);

impl Object for LazyFields {
    fn get_value(self: &Arc<Self>, name: &Value) -> Option<Value> {
        let name = name.as_str()?;
        let value = serde_json::from_str::<serde_json::Value>(self.0.get(name)?.get());
        let error = |error| Error::new(ErrorKind::CannotDeserialize, format!("the field `{name}`: {error}"));
        Some(value.map_or_else(|reason| error(reason).into(), |value| Serde(value).into()))
    }
}

fn explain(place: &str, error: &Error) -> anyhow::Error {
    let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    anyhow!("{place}{line}: {}{detail}", error.kind())
}
