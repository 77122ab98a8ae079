//! The chat template of a model, rendered as `transformers` 5 renders it.

mod bounds;
mod filters;
mod jinja;
mod json;
mod python;
mod syntax;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::{error, iter, panic, thread};

use jiff::Zoned;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use minijinja::value::{Serde, Value as Variable};
use minijinja::{Environment, ErrorKind, context};
use serde_json::{Map, Value};

use self::bounds::{MAX_STEPS, STEP_BYTES};
use super::guard::guarded;
use super::model_folder::ModelFolder;
use super::record::{CONVERSATION, Message};
use crate::error::{Error, Result};

/// The names of a message's reasoning; `transformers` copies the first to the other names that templates read.
pub(super) const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The name of a model's template for conversations with tools, if it has one.
const FOR_TOOLS: &str = "tool_use";
const DEFAULT: &str = "default";

/// The Jinja template with which a model turns a conversation into a text.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    jinja: Arc<Environment<'static>>,
    /// The file of each compiled template, for errors.
    places: BTreeMap<String, String>,
    variables: Map<String, Value>,
    /// The time that the template sees, if it asks for it.
    date: Option<String>,
}

/// How to read and render a [`ChatTemplate`].
///
/// ```no_run
/// use figa_loss::{ChatOptions, ChatTemplate};
///
/// let mut options = ChatOptions::default();
/// options.variables.insert("enable_thinking".into(), false.into());
/// options.date = Some("2026-01-31".into());
/// let template = ChatTemplate::read("path/to/model", &options)?;
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ChatOptions {
    /// Which of several named templates to use. By default it is the one called `default`, or `tool_use` for a record with
    /// tools.
    pub name: Option<String>,
    /// Variables that the template sees, such as `enable_thinking`. A record's `chat_template_kwargs` override them.
    pub variables: Map<String, Value>,
    /// What a template that asks for the time sees, as `2026-01-31` or `2026-01-31T12:00:00`. By default it is the time
    /// of reading the template, in the time zone of the system.
    pub date: Option<String>,
}

/// What a template renders.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Conversation<'a> {
    pub(super) messages: &'a [Message],
    pub(super) tools: Option<&'a Value>,
    pub(super) documents: Option<&'a Value>,
    pub(super) variables: Option<&'a Map<String, Value>>,
}

impl ChatTemplate {
    /// Reads the template in a model's folder; `None` if there is none.
    ///
    /// It is in `chat_template.jinja`, in `additional_chat_templates/`, in `chat_template.json` or in
    /// `tokenizer_config.json`; the first that exists is read.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Model`] for invalid JSON, an invalid template, or several
    /// templates of which none is called `default` or has the name that is asked for, [`Error::Value`] for an invalid
    /// date or variable.
    pub fn read(folder: impl AsRef<Path>, options: &ChatOptions) -> Result<Option<Self>> {
        let folder = ModelFolder::open(folder.as_ref())?;
        let mut sources = folder.templates()?;
        if sources.is_empty() && options.name.is_none() {
            return Ok(None);
        }
        if let Some(name) = CONVERSATION.into_iter().find(|&name| options.variables.contains_key(name)) {
            let expected = "a variable that is no part of the conversation";
            return Err(Error::Value { argument: "variables", expected, actual: name.into() });
        }
        let place = folder.path().display().to_string();
        let names: Vec<String> = sources.keys().cloned().collect();
        match &options.name {
            None => sources.retain(|name, _| [DEFAULT, FOR_TOOLS].contains(&&**name)),
            Some(chosen) => sources.retain(|name, _| name == chosen),
        }
        let wanted = options.name.as_deref().unwrap_or(DEFAULT);
        if !sources.contains_key(wanted) {
            let message = format!("has no chat template called {wanted:?}");
            return Err(match names.is_empty() {
                true => Error::Model { place, message: message + ", nor any other" },
                false => Error::Setting {
                    place,
                    message: format!("{message}; choose one by its name, {}", names.join(" or ")),
                    setting: "name",
                },
            });
        }
        if let Some(source) = sources.remove(wanted) {
            sources.insert(DEFAULT.into(), source);
        }
        let clock = clock(options.date.as_deref())?;
        let asks_for_time = sources.values().any(|source| source.text.contains("strftime_now"));
        let date = asks_for_time.then(|| clock.strftime("%Y-%m-%dT%H:%M:%S").to_string());
        let mut jinja = jinja::environment(clock).map_err(|error| explain(&place, &error))?;
        for (name, token) in folder.special_tokens()? {
            jinja.add_global(name, token);
        }
        let mut places = BTreeMap::new();
        for (name, source) in sources {
            let text = syntax::translate(&source.text).map_err(|refusal| Error::Model {
                place: format!("{}, line {}", source.place, refusal.line),
                message: refusal.reason,
            })?;
            let added = on_large_stack(|| jinja.add_template_owned(name.clone(), text));
            let added = added.map_err(|message| Error::Model { place: source.place.clone(), message })?;
            added.map_err(|error| explain(&source.place, &error))?;
            places.insert(name, source.place);
        }
        Ok(Some(Self { jinja: jinja.into(), places, variables: options.variables.clone(), date }))
    }

    /// The time that the template sees, such as `2026-01-31T12:00:00`; `None` if it does not ask for it.
    pub fn date(&self) -> Option<&str> {
        self.date.as_deref()
    }

    /// Whether the name of a variable, such as `tools`, occurs in the template.
    ///
    /// ```no_run
    /// use figa_loss::ChatTemplate;
    ///
    /// if let Some(template) = ChatTemplate::read("path/to/model", &Default::default())? {
    ///     println!("tools reach the model: {}", template.mentions("tools"));
    /// }
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    pub fn mentions(&self, variable: &str) -> bool {
        let mut templates = self.places.keys().filter_map(|name| self.jinja.get_template(name).ok());
        templates.any(|template| template.source().contains(variable))
    }

    /// The text of a conversation, followed by the header of the next answer if `add_generation_prompt`.
    ///
    /// As in `transformers` 5, fields of a message that are null are left out, and its reasoning has all the names
    /// that templates know it by: `reasoning_content` and `thinking`.
    ///
    /// # Errors
    /// [`Error::Model`] if the template raises one, as some do for unknown roles.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_all(&Conversation { messages, ..Conversation::default() }, &[None], add_generation_prompt)
            .map(|mut texts| texts.remove(0))
    }

    /// The texts of a conversation that ends in each of the `last` messages; in none for `None`.
    pub(super) fn render_all(
        &self,
        conversation: &Conversation<'_>,
        last: &[Option<&Message>],
        add_generation_prompt: bool,
    ) -> Result<Vec<String>> {
        let name = match conversation.tools {
            Some(_) if self.places.contains_key(FOR_TOOLS) => FOR_TOOLS,
            _ => DEFAULT,
        };
        let place = &self.places[name];
        let jinja = self.jinja_for(conversation, last);
        let template = jinja.get_template(name).map_err(|error| explain(place, &error))?;
        let messages: Vec<Variable> = conversation.messages.iter().map(variable).collect();
        let mut variables: BTreeMap<&str, Variable> = BTreeMap::new();
        for (name, value) in self.variables.iter().chain(conversation.variables.into_iter().flatten()) {
            variables.insert(name, Variable::from(Serde(value)));
        }
        variables.insert("tools", optional(conversation.tools));
        variables.insert("documents", optional(conversation.documents));
        variables.insert("add_generation_prompt", add_generation_prompt.into());
        let render = |last: &Option<&Message>| {
            let messages: Variable = messages.iter().cloned().chain(last.map(variable)).collect();
            let context = context! { messages, ..Variable::from_pairs(variables.clone()) };
            let text = guarded(|| template.render(context));
            let text = text.map_err(|message| Error::Model { place: place.clone(), message })?;
            text.map_err(|error| match is_out_of_steps(&error) {
                true => out_of_steps(place, jinja.fuel().unwrap_or_default()),
                false => explain(place, &error),
            })
        };
        last.iter().map(render).collect()
    }

    /// The environment with at least as many steps as the conversation has bytes.
    fn jinja_for(&self, conversation: &Conversation<'_>, last: &[Option<&Message>]) -> Cow<'_, Environment<'static>> {
        let messages = conversation.messages.iter().chain(last.iter().copied().flatten()).map(Message::fields);
        let values = [conversation.tools, conversation.documents].into_iter().flatten();
        let maps = messages.chain(conversation.variables).map(map_bytes);
        let bytes = maps.chain(values.map(value_bytes)).sum::<usize>() as u64;
        if bytes <= MAX_STEPS {
            return Cow::Borrowed(&self.jinja);
        }
        let mut jinja = Environment::clone(&self.jinja);
        jinja.set_fuel(Some(bytes));
        Cow::Owned(jinja)
    }
}

fn map_bytes(map: &Map<String, Value>) -> usize {
    map.iter().map(|(name, value)| name.len() + value_bytes(value)).sum()
}

/// The bytes of all texts in a value.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(value_bytes).sum(),
        Value::Object(map) => map_bytes(map),
        _ => 0,
    }
}

/// Runs what needs more stack than a thread may have left: the parser nests as deeply as [`bounds`] allow.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    const STACK: usize = 1 << 26;
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || guarded(work));
        let result = thread.map_err(|error| format!("no thread can be started: {error}"))?.join();
        result.unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// None in Python, not undefined, for what is absent.
fn optional(value: Option<&Value>) -> Variable {
    value.map_or(Variable::from(()), |value| Serde(value).into())
}

/// A message as the template sees it.
fn variable(message: &Message) -> Variable {
    let fields = message.fields().iter().filter(|(_, value)| !value.is_null());
    let mut fields: Vec<(&str, Variable)> =
        fields.map(|(name, value)| (&**name, Variable::from(Serde(value)))).collect();
    let reasoning = REASONING_FIELDS.into_iter().find_map(|name| message.get(name));
    if let Some(reasoning) = reasoning.map(|reasoning| Variable::from(Serde(reasoning))) {
        if message.get("thinking").is_none() {
            fields.insert(0, ("thinking", reasoning.clone()));
        }
        match fields.iter_mut().find(|(name, _)| *name == "reasoning_content") {
            Some((_, value)) => *value = reasoning,
            None => fields.push(("reasoning_content", reasoning)),
        }
    }
    Variable::from_pairs(fields)
}

/// A time without a zone, or now.
fn clock(date: Option<&str>) -> Result<Zoned> {
    let Some(date) = date else { return Ok(Zoned::now()) };
    let parsed = date.parse::<DateTime>().and_then(|date| date.to_zoned(TimeZone::UTC));
    parsed.map_err(|_| Error::Value {
        argument: "date",
        expected: "a date such as 2026-01-31, or a time such as 2026-01-31T12:00:00",
        actual: date.into(),
    })
}

/// Whether an error, or what caused it, is that the steps of a template are used up.
fn is_out_of_steps(error: &minijinja::Error) -> bool {
    let first: &(dyn error::Error + 'static) = error;
    let mut causes = iter::successors(Some(first), |error| error.source());
    causes.any(|cause| cause.downcast_ref().is_some_and(|it: &minijinja::Error| it.kind() == ErrorKind::OutOfFuel))
}

fn out_of_steps(place: &str, steps: u64) -> Error {
    let bytes = steps.saturating_mul(STEP_BYTES as u64);
    let message = format!(
        "the chat template takes more than {steps} steps for this conversation, or creates more than {bytes} bytes; look \
         for a loop without end in it"
    );
    Error::Model { place: place.to_owned(), message }
}

fn explain(place: &str, error: &minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
    let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::Model { place: format!("{place}{line}"), message }
}
