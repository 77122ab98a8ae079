//! Finds the files of a model: in a local folder, or on the Hugging Face hub, which it downloads them from once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;

/// Downloaded if the model has them.
const OPTIONAL: [&str; 5] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.json",
    "chat_template.jinja",
];
/// Redirects on one host that a download may take.
const MAX_REDIRECTS: usize = 10;
const WEIGHTS: &str = "model.safetensors";
/// Names the shards if the weights are in several files.
const INDEX: &str = "model.safetensors.index.json";

/// The folder of `model`: a local one, or that of a hub id (`owner/name` or `owner/name@revision`) in the cache that
/// Python uses too. Files in the cache are used as they are, without a check for newer ones.
///
/// # Errors
/// Those of [`fetch`].
pub fn folder(model: &str) -> Result<PathBuf> {
    if Path::new(model).is_dir() {
        return Ok(model.into());
    }
    let variable = |name| env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let home = variable("HF_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cache/huggingface")));
    let home = home.context("--model: found no home folder for downloads; set HF_HOME")?;
    let cache = Cache::new(home.join("hub"));
    let token = variable("HF_TOKEN").or_else(|| cache.token());
    let mut api = ApiBuilder::from_cache(cache.clone()).with_token(token.clone()).with_retries(3);
    if let Some(endpoint) = variable("HF_ENDPOINT") {
        api = api.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    fetch(&api.build()?, &cache, token.as_deref(), model)
}

/// Downloads the files of a model that the cache lacks, and returns their folder. `cache` and `token` are those of `api`.
///
/// # Errors
/// One line that names the model and the file, and what to do.
pub fn fetch(api: &Api, cache: &Cache, token: Option<&str>, id: &str) -> Result<PathBuf> {
    let (name, revision) = id.split_once('@').unwrap_or((id, "main"));
    let is_id = name.split('/').count() == 2 && is_plain(name) && is_plain(revision);
    ensure!(is_id, "--model: {id:?} is neither a folder nor a hub id (owner/name)");
    let model = |revision: &str| Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned());
    let absent = |file: &str| {
        anyhow!("--model {id}: no such folder, and no {file} on the hub (404); check the name and the revision")
    };

    let download = |revision: &str, file: &str| {
        let repo = api.repo(model(revision));
        check_headers(&repo.url(file), token).with_context(|| format!("--model {id}"))?;
        optional(id, file, repo.download(file))
    };
    let config = match cache.repo(model(revision)).get("config.json") {
        Some(config) => config,
        None => download(revision, "config.json")?.ok_or_else(|| absent("config.json"))?,
    };
    let folder = config.parent().context("a file without a folder")?;
    // All other files by commit: the branch may move, and the files would end up in two folders.
    let commit = folder.file_name().context("a folder without a name")?.to_string_lossy();
    let is_cached = |file: &str| folder.join(file).exists();
    let get = |file: &str| anyhow::Ok(is_cached(file) || download(&commit, file)?.is_some());
    let require = |file: &str| if get(file)? { Ok(()) } else { Err(absent(file)) };

    require("tokenizer.json")?;
    let has_weights = is_cached(WEIGHTS) || is_cached(INDEX);
    for file in OPTIONAL {
        match get(file) {
            // The optional files precede the weights, so a cache with weights is usable without a network.
            Err(_) if has_weights => break,
            result => result?,
        };
    }
    // A cached index means that there is no single file to request.
    if is_cached(INDEX) && !is_cached(WEIGHTS) || !get(WEIGHTS)? {
        ensure!(get(INDEX)?, "--model {id}: neither {WEIGHTS} nor {INDEX} on the hub (404); check the model's page");
        for shard in shards(&folder.join(INDEX))? {
            require(&shard)?;
        }
    }
    Ok(folder.to_owned())
}

/// Checks the headers that the library makes paths of. An endpoint that is not the hub may send anything.
fn check_headers(url: &str, token: Option<&str>) -> Result<()> {
    let agent = ureq::AgentBuilder::new().try_proxy_from_env(true).redirects(0).build();
    let host = url.match_indices('/').nth(2).map_or(url, |(at, _)| &url[..at]);
    let mut url = url.to_owned();
    for _ in 0..MAX_REDIRECTS {
        let mut request = agent.get(&url).set("Range", "bytes=0-0");
        if let Some(token) = token {
            request = request.set("Authorization", &format!("Bearer {token}"));
        }
        // The library meets the same error, and `optional` explains it.
        let Ok(response) = request.call() else { return Ok(()) };
        for name in ["x-repo-commit", "x-linked-etag", "etag"] {
            let value = response.header(name).unwrap_or_default().replace('"', "");
            ensure!(
                value.is_empty() || is_plain(&value),
                "the hub sent {name}: {value:?}, which is no name for a file"
            );
        }
        // The library reads the headers behind a redirect on the same host.
        match response.header("location") {
            Some(path) if path.starts_with('/') && !path.starts_with("//") => url = format!("{host}{path}"),
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// The path of a downloaded file; `None` if the hub does not have it.
fn optional(id: &str, file: &str, path: Result<PathBuf, ApiError>) -> Result<Option<PathBuf>> {
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
        _ => bail!("--model {id}: cannot download {file}: {reason}; check the network, or name a local folder"),
    }
}

/// The files that an index names, all of them in its folder.
pub(crate) fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let invalid = |reason: String| anyhow!("{}: {reason}", index.display());
    let text = fs::read_to_string(index).map_err(|error| invalid(error.to_string()))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let names = json["weight_map"].as_object().ok_or_else(|| invalid("weight_map is missing".to_owned()))?.values();
    let shard = |name: &Value| match name.as_str() {
        Some(name) if is_plain(name) => Ok(name.to_owned()),
        _ => Err(invalid(format!("{name} is not a valid name of a shard"))),
    };
    names.map(shard).collect()
}

/// Whether a relative path cannot leave its folder, neither in a URL nor on any system.
fn is_plain(path: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    path.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_plain))
}
