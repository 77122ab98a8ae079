//! The folder of a model in the layout of Hugging Face, read as `transformers` 5 reads it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::tokenizer;
use crate::error::{Error, Result};

/// Bytes of any file of a model that is read.
const MAX_FILE: u64 = 256 << 20;

/// The tokens that a template knows by name.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The folder of further chat templates.
const TEMPLATE_FOLDER: &str = "additional_chat_templates";

/// The files of a model's folder that shape its rows, as far as they exist: the tokenizer, the chat templates and the
/// configurations. `path` is the folder, or a tokenizer's file in it. If they are the same, so are the rows of a record.
///
/// ```no_run
/// for file in figa_loss::model_files("path/to/model")? {
///     println!("{}", file.display());
/// }
/// # Ok::<(), figa_loss::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] for a folder that cannot be read.
pub fn model_files(path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let (folder, tokenizer) = folder_and_tokenizer(path.as_ref());
    let names = [
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "config.json",
        "chat_template.json",
        "chat_template.jinja",
    ];
    let mut files = vec![tokenizer];
    files.extend(names.map(|name| folder.join(name)));
    files.extend(further_templates(&folder)?.into_values());
    files.retain(|file| file.is_file());
    Ok(files)
}

/// A model's folder, with its `tokenizer_config.json`.
pub(super) struct ModelFolder {
    path: PathBuf,
    /// The tokenizer: `tokenizer.json`, or the file that was named.
    tokenizer: PathBuf,
    config: Value,
}

/// The source of a chat template.
pub(super) struct TemplateSource {
    /// The file, for errors.
    pub(super) place: String,
    pub(super) text: String,
}

impl ModelFolder {
    /// Opens a folder, or the folder of a tokenizer's file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let (folder, tokenizer) = folder_and_tokenizer(path);
        let config = read_json(&folder.join("tokenizer_config.json"))?;
        Ok(Self { path: folder, tokenizer, config })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The tokenizer, without padding and truncation.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer> {
        let json = read_file(&self.tokenizer)?.ok_or_else(|| self.no_tokenizer())?;
        let mut tokenizer = tokenizer::parse(&json).map_err(|reason| self.invalid_tokenizer(&reason))?;
        tokenizer.with_padding(None).with_truncation(None).map_err(Error::Tokenizer)?;
        Ok(tokenizer)
    }

    pub(super) fn invalid_tokenizer(&self, reason: &str) -> Error {
        Error::Model {
            place: self.tokenizer.display().to_string(),
            message: format!("not a valid tokenizer: {reason}"),
        }
    }

    /// Why there is no `tokenizer.json`, and how to get one.
    fn no_tokenizer(&self) -> Error {
        let path = self.path.display();
        let name = self.path.to_str().unwrap_or_default();
        let is_hub_id = name.split('/').count() == 2 && !name.starts_with(['.', '/']);
        let message = if !self.path.exists() && is_hub_id {
            format!(
                "no such folder; download the model first: hf download {name} --include '*.json' '*.jinja' \
                 --local-dir FOLDER"
            )
        } else if let Some(other) = ["tokenizer.model", "vocab.json", "vocab.txt", "tekken.json"]
            .into_iter()
            .find(|other| self.path.join(other).exists())
        {
            format!(
                "holds {other} but no tokenizer.json; make one with transformers: python3 -c \"from transformers import \
                 AutoTokenizer as T; T.from_pretrained('{name}').save_pretrained('{name}')\""
            )
        } else {
            return Error::Io {
                path: self.tokenizer.clone(),
                reason: io::Error::new(io::ErrorKind::NotFound, "no such file"),
            };
        };
        Error::Model { place: path.to_string(), message }
    }

    /// The chat templates by name; the only or main one is `default`.
    ///
    /// Files take precedence over the configuration: `chat_template.jinja` and `additional_chat_templates/*.jinja`, then
    /// `chat_template.json` of a processor, then `chat_template` in `tokenizer_config.json`.
    pub(super) fn templates(&self) -> Result<BTreeMap<String, TemplateSource>> {
        let mut templates = BTreeMap::new();
        let file = self.path.join("chat_template.jinja");
        if let Some(text) = read_text(&file)? {
            templates.insert("default".to_owned(), TemplateSource { place: file.display().to_string(), text });
        }
        for (name, file) in further_templates(&self.path)? {
            if let Some(text) = read_text(&file)? {
                templates.insert(name, TemplateSource { place: file.display().to_string(), text });
            }
        }
        if !templates.is_empty() {
            return Ok(templates);
        }
        let file = self.path.join("chat_template.json");
        let processor = read_json(&file)?;
        let (place, template) = match &processor["chat_template"] {
            Value::Null => (self.path.join("tokenizer_config.json"), &self.config["chat_template"]),
            template => (file, template),
        };
        let place = format!("{}, chat_template", place.display());
        match template {
            Value::String(text) => {
                templates.insert("default".to_owned(), TemplateSource { place, text: text.clone() });
            }
            Value::Array(list) => {
                for named in list {
                    let (Some(name), Some(text)) = (named["name"].as_str(), named["template"].as_str()) else {
                        let message = "expected a list of {\"name\": ..., \"template\": ...}".to_owned();
                        return Err(Error::Model { place, message });
                    };
                    let place = format!("{place} {name:?}");
                    templates.insert(name.to_owned(), TemplateSource { place, text: text.to_owned() });
                }
            }
            Value::Object(named) => {
                for (name, text) in named.iter().filter_map(|(name, text)| Some((name, text.as_str()?))) {
                    let place = format!("{place} {name:?}");
                    templates.insert(name.to_owned(), TemplateSource { place, text: text.to_owned() });
                }
            }
            _ => {}
        }
        Ok(templates)
    }

    /// The special tokens that have a name.
    ///
    /// `special_tokens_map.json` counts only where `tokenizer_config.json` has no `added_tokens_decoder`.
    pub(super) fn special_tokens(&self) -> Result<BTreeMap<String, String>> {
        let mut sources = vec![&self.config];
        let map = read_json(&self.path.join("special_tokens_map.json"))?;
        if self.config["added_tokens_decoder"].is_null() {
            sources.push(&map);
        }
        let mut tokens = BTreeMap::new();
        for source in sources {
            for name in SPECIAL_TOKENS {
                if let Some(token) = token_text(&source[name]) {
                    tokens.insert(name.to_owned(), token.to_owned());
                }
            }
            // A list of further tokens has no names.
            for (name, token) in source["extra_special_tokens"].as_object().into_iter().flatten() {
                if let Some(token) = token_text(token) {
                    tokens.insert(name.clone(), token.to_owned());
                }
            }
        }
        Ok(tokens)
    }

    /// The ids of `generation_config.json` that stop an answer, or else those of `config.json`; the first is the EOS.
    pub(super) fn eos_ids(&self) -> Result<Vec<u32>> {
        for name in ["generation_config.json", "config.json"] {
            let ids = match &read_json(&self.path.join(name))?["eos_token_id"] {
                Value::Array(several) => several.iter().filter_map(Value::as_u64).collect(),
                one => Vec::from_iter(one.as_u64()),
            };
            let ids: Vec<u32> = ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect();
            if !ids.is_empty() {
                return Ok(ids);
            }
        }
        Ok(vec![])
    }
}

/// The folder of a model, or of a tokenizer's file, and the file.
fn folder_and_tokenizer(path: &Path) -> (PathBuf, PathBuf) {
    // Also a device or a pipe, which is then refused by name.
    let is_file = path.exists() && !path.is_dir() || path.extension().is_some_and(|extension| extension == "json");
    match is_file {
        true => (path.parent().unwrap_or(Path::new("")).to_owned(), path.to_owned()),
        false => (path.to_owned(), path.join("tokenizer.json")),
    }
}

/// The chat templates of `additional_chat_templates` with their names, in the order of the names.
fn further_templates(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let folder = folder.join(TEMPLATE_FOLDER);
    let mut templates = BTreeMap::new();
    if folder.is_dir() {
        let failed = |reason| Error::Io { path: folder.clone(), reason };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let name = file.file_name().and_then(|name| name.to_str()?.strip_suffix(".jinja")).map(str::to_owned);
            templates.extend(name.map(|name| (name, file)));
        }
    }
    Ok(templates)
}

/// A token is a string, or an object with the string as `content`.
fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// The content of a configuration file; null if there is none.
fn read_json(file: &Path) -> Result<Value> {
    let text = read_text(file)?.unwrap_or_else(|| "null".to_owned());
    serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| Error::Model { place: file.display().to_string(), message: error.to_string() })
}

/// The text of a file; `None` if there is none.
fn read_text(file: &Path) -> Result<Option<String>> {
    let Some(bytes) = read_file(file)? else { return Ok(None) };
    let invalid = |_| Error::Model { place: file.display().to_string(), message: "not valid UTF-8".into() };
    String::from_utf8(bytes).map(Some).map_err(invalid)
}

/// The bytes of a file; `None` if there is none. Pipes and devices may have no end, and are refused.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let failed = |reason| Error::Io { path: path.into(), reason };
    let refuse = |message: String| Err(Error::Model { place: path.display().to_string(), message });
    let metadata = match fs::metadata(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        metadata => metadata.map_err(failed)?,
    };
    if metadata.is_dir() {
        return refuse("expected a file, got a folder".into());
    }
    if !metadata.is_file() {
        return refuse("expected a file, got a pipe or a device; copy it to a file".into());
    }
    let too_large = format!("a file of more than {} MiB, which no file of a model needs", MAX_FILE >> 20);
    if metadata.len() > MAX_FILE {
        return refuse(too_large);
    }
    // A file of `/proc` says that it is empty.
    let mut bytes = vec![];
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return refuse(too_large);
    }
    Ok(Some(bytes))
}
