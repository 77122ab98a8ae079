//! The chat template that a model brings along, rendered as `transformers` renders it.

use std::path::Path;
use std::{fs, io};

use anyhow::{Result, anyhow};
use jiff::{Zoned, fmt::strtime};
use minijinja::value::{Kwargs, Value as Variable};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

pub struct ChatTemplate {
    jinja: Environment<'static>,
    /// Where the template is from.
    place: String,
}

impl ChatTemplate {
    /// That of `chat_template.jinja` in a model's folder, else of `tokenizer_config.json`, if either has one.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let config = read_config(folder)?;
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
        let mut jinja = Environment::new();
        jinja.set_syntax(minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // In Python, there is nothing to iterate over in None.
        jinja.add_test("iterable", |it: &Variable| !it.is_none() && minijinja::tests::is_iterable(it));
        jinja.add_filter("tojson", to_json);
        jinja.add_function("raise_exception", |message: &str| -> Result<(), Error> { Err(invalid(message)) });
        jinja.add_function("strftime_now", |format: &str| strtime::format(format, &Zoned::now()).map_err(invalid));
        for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            jinja.add_global(name, special_token(&config, name).map_or(Variable::UNDEFINED, Variable::from));
        }
        jinja.add_template_owned("chat", without_marks(&source)).map_err(|error| explain(&place, &error))?;
        Ok(Some(Self { jinja, place }))
    }

    /// The prompt for the answer to a user's first message.
    pub fn render(&self, user: &str) -> Result<String> {
        let messages = [context! { role => "user", content => user }];
        let variables = context! { messages, add_generation_prompt => true, tools => (), documents => () };
        let text = self.jinja.get_template("chat").and_then(|template| template.render(variables));
        text.map_err(|error| explain(&self.place, &error))
    }
}

/// The token that ends an answer, if `tokenizer_config.json` names one.
pub fn eos_token(folder: &Path) -> Result<Option<String>> {
    Ok(special_token(&read_config(folder)?, "eos_token").map(str::to_owned))
}

/// What `tokenizer_config.json` says; null if there is none.
fn read_config(folder: &Path) -> Result<Value> {
    let file = folder.join("tokenizer_config.json");
    let text = read_if_any(&file)?.unwrap_or_else(|| "null".to_owned());
    serde_json::from_str(&text).map_err(|error| anyhow!("{}: {error}", file.display()))
}

fn read_if_any(file: &Path) -> Result<Option<String>> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).map_err(|error| anyhow!("{}: {error}", file.display())),
    }
}

/// A token is a text, or an object with its text as `content`.
fn special_token<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    config[name].as_str().or_else(|| config[name]["content"].as_str())
}

/// What marks answers for training does not change the prompt. Python reads any end of line as `\n`.
fn without_marks(source: &str) -> String {
    let source =
        source.replace("\r\n", "\n").replace("{% generation", "{% if true").replace("{%- generation", "{%- if true");
    source.replace("{% endgeneration", "{% endif").replace("{%- endgeneration", "{%- endif")
}

/// As Python's `json.dumps` with `ensure_ascii=False`.
fn to_json(value: Variable, options: Kwargs) -> Result<String, Error> {
    let (indent, _): (Option<u8>, Option<bool>) = (options.get("indent")?, options.get("ensure_ascii")?);
    options.assert_all_used()?;
    let (mut json, space) = (vec![], " ".repeat(indent.unwrap_or(0).into()));
    let formatter = PrettyFormatter::with_indent(space.as_bytes());
    value.serialize(&mut Serializer::with_formatter(&mut json, formatter)).map_err(invalid)?;
    let json = String::from_utf8(json).map_err(invalid)?;
    // Lines end between values only: within a text, an end of line is escaped.
    Ok(if indent.is_some() { json } else { json.replace(",\n", ", ").replace('\n', "") })
}

fn invalid(reason: impl ToString) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.to_string())
}

fn explain(place: &str, error: &Error) -> anyhow::Error {
    let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
    anyhow!("{place}{line}: {}", error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
}
