//! Where a model's files are: in a local folder, or on the Hugging Face hub, from which they are fetched once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;

/// Fetched where a model has them.
const OPTIONAL: [&str; 3] = ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"];
const WEIGHTS: &str = "model.safetensors";
/// Names the files of weights that are in several.
const INDEX: &str = "model.safetensors.index.json";

/// The folder of `model`: itself, or that of a hub id (`owner/name` or `owner/name@revision`) in the cache that Python
/// uses, too. What is in the cache is taken as it is, without a look for anything newer.
pub fn folder(model: &str) -> Result<PathBuf> {
    if Path::new(model).is_dir() {
        return Ok(model.into());
    }
    let variable = |name| env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let home = variable("HF_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cache/huggingface")));
    let cache = Cache::new(home.context("--model: set HF_HOME, there is no home folder for downloads")?.join("hub"));
    let token = variable("HF_TOKEN").or_else(|| cache.token());
    let mut api = ApiBuilder::from_cache(cache).with_token(token).with_retries(3);
    if let Some(endpoint) = variable("HF_ENDPOINT") {
        api = api.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    fetch(&api.build()?, model)
}

/// Fetches what the cache lacks of a model's files.
pub fn fetch(api: &Api, id: &str) -> Result<PathBuf> {
    let (name, revision) = id.split_once('@').unwrap_or((id, "main"));
    let is_id = name.split('/').count() == 2 && is_plain(name) && is_plain(revision);
    ensure!(is_id, "--model: {id:?} is neither a folder nor a hub id (owner/name)");
    let repo = |revision: &str| api.repo(Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned()));
    let absent =
        |file: &str| anyhow!("--model {id}: no such folder, and no {file} on the hub (404); check name and revision");

    let config = if_any(id, "config.json", repo(revision).get("config.json"))?.ok_or_else(|| absent("config.json"))?;
    let folder = config.parent().context("a file in no folder")?;
    // By commit, as a branch that moves meanwhile would scatter the files over two folders.
    let repo = repo(&folder.file_name().context("a folder without a name")?.to_string_lossy());
    let is_here = |file: &str| folder.join(file).exists();
    let get = |file: &str| anyhow::Ok(is_here(file) || if_any(id, file, repo.download(file))?.is_some());
    let need = |file: &str| if get(file)? { Ok(()) } else { Err(absent(file)) };

    need("tokenizer.json")?;
    let has_weights = is_here(WEIGHTS) || is_here(INDEX);
    for file in OPTIONAL {
        match get(file) {
            // Asked for before the weights: whoever has those, without a network perhaps, goes on without an answer.
            Err(_) if has_weights => break,
            answer => answer?,
        };
    }
    // With an index here, there is no single file to ask for.
    if is_here(INDEX) && !is_here(WEIGHTS) || !get(WEIGHTS)? {
        ensure!(get(INDEX)?, "--model {id}: neither {WEIGHTS} nor {INDEX} on the hub (404)");
        for shard in shards(&folder.join(INDEX))? {
            need(&shard)?;
        }
    }
    Ok(folder.to_owned())
}

/// A file's path; none if the hub has no such file.
fn if_any(id: &str, file: &str, path: Result<PathBuf, ApiError>) -> Result<Option<PathBuf>> {
    let error = match path {
        Ok(path) => return Ok(Some(path)),
        Err(error) => error,
    };
    let reason = error.to_string();
    let status = match error {
        ApiError::RequestError(error) => error.into_response().map(|response| response.status()),
        _ => None,
    };
    match status {
        Some(404) => Ok(None),
        Some(code @ (401 | 403)) => bail!(
            "--model {id}: no access to {file} ({code}); check the name, accept the model's terms on its page, and set \
             HF_TOKEN"
        ),
        _ => bail!("--model {id}: {file} cannot be fetched: {reason}; check the network, or name a local folder"),
    }
}

/// The files that an index names.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let broken = |why: String| anyhow!("{}: {why}", index.display());
    let text = fs::read_to_string(index).map_err(|error| broken(error.to_string()))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
    let names = json["weight_map"].as_object().ok_or_else(|| broken("no weight_map".to_owned()))?.values();
    let shard = |name: &Value| match name.as_str() {
        Some(name) if is_plain(name) => Ok(name.to_owned()),
        _ => Err(broken(format!("{name} is no name of a shard"))),
    };
    names.map(shard).collect()
}

/// Whether a path stays below where it starts, in URLs and on every system.
fn is_plain(path: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    path.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_plain))
}
