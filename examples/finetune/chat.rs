//! The chat template that a model brings along, rendered as `transformers` renders it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Deserialize;
use serde_json::Value;

use super::llama::read_json;

/// What `tokenizer_config.json` says. Tokens are texts, or objects with a field `content`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    /// A text, or a list of `{"name", "template"}`.
    chat_template: Value,
    bos_token: Value,
    eos_token: Value,
    pad_token: Value,
    unk_token: Value,
}

impl TokenizerConfig {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        if path.exists() { read_json(&path) } else { Ok(Self::default()) }
    }

    fn template(&self) -> Option<&str> {
        match &self.chat_template {
            Value::Array(named) => named.iter().find(|entry| entry["name"] == "default")?["template"].as_str(),
            template => template.as_str(),
        }
    }
}

const CONFIG: &str = "tokenizer_config.json";
/// Goes before the template in [`CONFIG`].
const FILE: &str = "chat_template.jinja";

pub struct ChatTemplate {
    environment: Environment<'static>,
    config: TokenizerConfig,
}

impl ChatTemplate {
    /// That of a model's folder, if there is one.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let config = TokenizerConfig::read(folder)?;
        let file = folder.join(FILE);
        let (place, source) = if file.exists() {
            let source = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            (file, source)
        } else {
            let Some(source) = config.template() else { return Ok(None) };
            (folder.join(CONFIG), source.to_owned())
        };
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        // What templates expect of Python: methods of str, list and dict, and three functions of `transformers`.
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<(), Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
            let now = jiff::Zoned::now();
            jiff::fmt::strtime::format(format, &now)
                .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
        });
        environment.add_template_owned("chat", source).map_err(|error| anyhow!("{}: {error}", place.display()))?;
        Ok(Some(Self { environment, config }))
    }

    /// The prompt for the answer to a user's first turn.
    pub fn render(&self, user: &str) -> Result<String> {
        let TokenizerConfig { bos_token, eos_token, pad_token, unk_token, .. } = &self.config;
        let [bos_token, eos_token, pad_token, unk_token] =
            [bos_token, eos_token, pad_token, unk_token].map(|token| text(token).unwrap_or_default());
        let variables = context! {
            messages => [context! { role => "user", content => user }],
            add_generation_prompt => true,
            bos_token, eos_token, pad_token, unk_token,
        };
        let template = self.environment.get_template("chat")?;
        template.render(variables).map_err(|error| anyhow!("the chat template: {error}"))
    }
}

/// The token that ends an answer, if `tokenizer_config.json` names one.
pub fn eos_token(folder: &Path) -> Result<Option<String>> {
    Ok(text(&TokenizerConfig::read(folder)?.eos_token).map(str::to_owned))
}

fn text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}
