//! The chat template of a model, rendered as `transformers` renders it.

use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use jiff::{Zoned, fmt::strtime};
use minijinja::value::{Kwargs, Value as Variable};
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::record::Message;
use crate::error::{Error, Result};

/// The Jinja template with which a model turns a conversation into a prompt.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    jinja: Arc<Environment<'static>>,
    /// The file, for errors.
    place: String,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja` in a model's folder, or else the template in `tokenizer_config.json`; `None` if
    /// there is neither.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Model`] for invalid JSON or an invalid template.
    pub fn read(folder: impl AsRef<Path>) -> Result<Option<Self>> {
        let folder = folder.as_ref();
        let config = read_config(folder, "tokenizer_config.json")?;
        let file = folder.join("chat_template.jinja");
        let (place, source) = if let Some(source) = read_if_any(&file)? {
            (file.display().to_string(), source)
        } else {
            let file = folder.join("tokenizer_config.json").display().to_string();
            let source = match &config["chat_template"] {
                Value::Array(all) => all.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str()),
                template => template.as_str(),
            };
            let Some(source) = source else { return Ok(None) };
            (format!("{file}, chat_template"), source.to_owned())
        };
        let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let mut jinja = Environment::new();
        jinja.set_syntax(syntax.map_err(|error| explain(&place, &error))?);
        jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // Python's None is not iterable.
        jinja.add_test("iterable", |it: &Variable| !it.is_none() && minijinja::tests::is_iterable(it));
        jinja.add_filter("tojson", to_json);
        jinja
            .add_function("raise_exception", |message: &str| -> Result<(), minijinja::Error> { Err(invalid(message)) });
        jinja.add_function("strftime_now", |format: &str| strtime::format(format, &Zoned::now()).map_err(invalid));
        for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            jinja.add_global(name, special_token(&config, name).map_or(Variable::UNDEFINED, Variable::from));
        }
        jinja.add_template_owned("chat", without_marks(&source)).map_err(|error| explain(&place, &error))?;
        Ok(Some(Self { jinja: jinja.into(), place }))
    }

    /// The prompt for the next answer in a conversation.
    ///
    /// # Errors
    /// [`Error::Model`] if the template raises one, as some do for unknown roles.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let messages = messages.iter().map(|Message { role, content }| context! { role, content });
        let messages: Vec<Variable> = messages.collect();
        let variables = context! { messages, add_generation_prompt => true, tools => (), documents => () };
        let text = self.jinja.get_template("chat").and_then(|template| template.render(variables));
        text.map_err(|error| explain(&self.place, &error))
    }
}

/// The token that ends an answer, by its text or its id, if the model's folder names one.
pub(super) fn eos_token(folder: &Path, token: impl Fn(u32) -> Option<String>) -> Result<Option<String>> {
    if let Some(token) = special_token(&read_config(folder, "tokenizer_config.json")?, "eos_token") {
        return Ok(Some(token.to_owned()));
    }
    let id = match &read_config(folder, "config.json")?["eos_token_id"] {
        Value::Array(several) => several.first().and_then(Value::as_u64),
        one => one.as_u64(),
    };
    Ok(id.and_then(|id| token(u32::try_from(id).ok()?)))
}

/// The content of a configuration file; null if there is none.
fn read_config(folder: &Path, name: &str) -> Result<Value> {
    let file = folder.join(name);
    let text = read_if_any(&file)?.unwrap_or_else(|| "null".to_owned());
    serde_json::from_str(&text)
        .map_err(|error| Error::Model { place: file.display().to_string(), message: error.to_string() })
}

fn read_if_any(file: &Path) -> Result<Option<String>> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).map_err(|reason| Error::Io { path: file.into(), reason }),
    }
}

/// A token is a string, or an object with the string as `content`.
fn special_token<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    config[name].as_str().or_else(|| config[name]["content"].as_str())
}

/// Removes the marks of answers for training, which do not change the prompt. Python reads any end of line as `\n`.
fn without_marks(source: &str) -> String {
    let source =
        source.replace("\r\n", "\n").replace("{% generation", "{% if true").replace("{%- generation", "{%- if true");
    source.replace("{% endgeneration", "{% endif").replace("{%- endgeneration", "{%- endif")
}

/// As Python's `json.dumps` with `ensure_ascii=False`.
fn to_json(value: Variable, options: Kwargs) -> Result<String, minijinja::Error> {
    let (indent, _): (Option<u8>, Option<bool>) = (options.get("indent")?, options.get("ensure_ascii")?);
    options.assert_all_used()?;
    let (mut json, space) = (vec![], " ".repeat(indent.unwrap_or(0).into()));
    let formatter = PrettyFormatter::with_indent(space.as_bytes());
    value.serialize(&mut Serializer::with_formatter(&mut json, formatter)).map_err(invalid)?;
    let json = String::from_utf8(json).map_err(invalid)?;
    // Line ends stand between values only: within a string they are escaped.
    Ok(if indent.is_some() { json } else { json.replace(",\n", ", ").replace('\n', "") })
}

fn invalid(reason: impl ToString) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, reason.to_string())
}

fn explain(place: &str, error: &minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
    let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::Model { place: format!("{place}{line}"), message }
}
