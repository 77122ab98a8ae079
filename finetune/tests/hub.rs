//! Downloads from a hub, which these tests run themselves.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use figa_finetune::hub;
use hf_hub::Cache;
use hf_hub::api::sync::{Api, ApiBuilder};
use tempfile::TempDir;

/// A hub with one model, `owner/name`. Like the real one, it redirects text to another path and weights to another
/// host, and ignores the range of a request that accepts compressed text.
struct Hub {
    address: String,
    files: TempDir,
    cache: TempDir,
    state: Arc<Mutex<State>>,
}

/// The commit of `main`, the token that it requires, and the files that it has sent.
#[derive(Default)]
struct State {
    commit: String,
    token: Option<String>,
    sent: Vec<String>,
}

impl Hub {
    fn new(files: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State { commit: "c1".to_owned(), ..State::default() }));
        let hub = Self { address, files: folder(files), cache: TempDir::new().unwrap(), state };
        let (address, folder, state) = (hub.address.clone(), hub.files.path().to_owned(), hub.state.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &address, &folder, &mut state.lock().unwrap());
            }
        });
        hub
    }

    fn api(&self, address: &str, token: Option<&str>) -> Api {
        let api = ApiBuilder::from_cache(self.cache()).with_progress(false);
        api.with_endpoint(format!("http://{address}")).with_token(token.map(str::to_owned)).build().unwrap()
    }

    fn cache(&self) -> Cache {
        Cache::new(self.cache.path().join("hub"))
    }

    fn fetch_from(&self, address: &str, token: Option<&str>, id: &str) -> Result<PathBuf, String> {
        hub::fetch(&self.api(address, token), &self.cache(), token, id).map_err(|error| format!("{error:#}"))
    }

    /// The file names in the folder that a fetch returns, or its error; and the files that the hub sent for it.
    fn fetch(&self, id: &str) -> (Result<Vec<String>, String>, Vec<String>) {
        let found = self.fetch_from(&self.address, None, id).map(|folder| {
            assert!(folder.ends_with("hub/models--owner--name/snapshots/c1"), "{folder:?}");
            names(&folder)
        });
        (found, std::mem::take(&mut self.state.lock().unwrap().sent))
    }
}

fn answer(mut stream: TcpStream, address: &str, folder: &Path, state: &mut State) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    let Some(request) = lines.next() else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
    let header = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let path = request.split(' ').nth(1).unwrap();
    let mut send = |status: &str, headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n", body.len());
        // The client may have closed the connection.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    };
    if state.token.is_some() && header("authorization") != state.token.as_deref() {
        return send("401 Unauthorized", "", b"");
    }
    let (place, revision, file) = match path.trim_start_matches('/').splitn(5, '/').collect::<Vec<_>>()[..] {
        ["owner", "name", "resolve", revision, file] => ("hub", revision, file),
        [place @ ("text" | "weights"), revision, file] => (place, revision, file),
        _ => return send("404 Not Found", "", b""),
    };
    let commit = if revision == "main" { &state.commit } else { revision };
    let Ok(body) = fs::read(folder.join(file)) else { return send("404 Not Found", "", b"") };
    let tags = format!("etag: \"{file}-{commit}\"\r\nx-repo-commit: {commit}\r\n");
    match (place, file.ends_with(".safetensors")) {
        ("hub", true) => {
            let tags = tags.replace("etag", "x-linked-etag");
            send("302 Found", &format!("{tags}location: http://{address}/weights/{commit}/{file}\r\n"), b"")
        }
        ("hub", false) => send("307 Temporary Redirect", &format!("{tags}location: /text/{commit}/{file}\r\n"), b""),
        ("text", _) if header("accept-encoding").is_some() => send("200 OK", &tags, &body),
        _ => {
            let (from, to) = header("range").unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap_or(body.len() - 1));
            if to > 0 {
                state.sent.push(file.to_owned());
            }
            let range = format!("{tags}content-range: bytes {from}-{to}/{}\r\n", body.len());
            send("206 Partial Content", &range, &body[from..=to])
        }
    }
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names.into_iter().map(|name| name.into_string().unwrap()).collect()
}

const SMALL: [(&str, &str); 2] = [("config.json", "{\"model_type\": \"llama\"}"), ("tokenizer.json", "{ }")];

#[test]
fn a_model_is_downloaded_once() {
    let hub = Hub::new(&SMALL);
    for (name, text) in [("model.safetensors", "weights"), ("tokenizer_config.json", "{ }"), ("README.md", "text")] {
        fs::write(hub.files.path().join(name), text).unwrap();
    }
    let all = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let (found, mut sent) = hub.fetch("owner/name");
    assert_eq!(found.unwrap(), all);
    sent.sort();
    assert_eq!(sent, all);
    let (found, sent) = hub.fetch("owner/name");
    assert_eq!(found.unwrap(), all);
    assert_eq!(sent, [""; 0]);
    let (found, sent) = hub.fetch("owner/name@c1");
    assert_eq!((found.unwrap().len(), sent.len()), (4, 0));
    let weights = hub.cache.path().join("hub/models--owner--name/snapshots/c1/model.safetensors");
    assert_eq!(fs::read_to_string(weights).unwrap(), "weights");
}

#[test]
fn shards_are_downloaded_once_and_then_need_no_network() {
    let hub = Hub::new(&SMALL);
    let index =
        r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;
    let files = [("model.safetensors.index.json", index), ("model-1.safetensors", "one")];
    for (name, text) in files {
        fs::write(hub.files.path().join(name), text).unwrap();
    }
    let error = hub.fetch("owner/name").0.unwrap_err();
    assert!(error.contains("no model-2.safetensors on the hub (404)"), "{error}");
    fs::write(hub.files.path().join("model-2.safetensors"), "two").unwrap();
    let (found, sent) = hub.fetch("owner/name");
    assert_eq!(found.unwrap().len(), 5);
    assert_eq!(sent, ["model-2.safetensors"]);

    let unreachable = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert_eq!(names(&hub.fetch_from(&unreachable, None, "owner/name").unwrap()).len(), 5);
    let error = hub.fetch_from(&unreachable, None, "owner/other").unwrap_err();
    assert!(error.starts_with("--model owner/other: cannot download config.json: "), "{error}");
    assert!(error.ends_with("; check the network, or name a local folder") && !error.contains('\n'), "{error}");
}

#[test]
fn all_files_of_a_model_are_from_one_commit() {
    let hub = Hub::new(&SMALL[..1]);
    let error = hub.fetch("owner/name").0.unwrap_err();
    assert!(error.contains("no tokenizer.json on the hub"), "{error}");
    hub.state.lock().unwrap().commit = "c2".to_owned();
    for (name, text) in [SMALL[1], ("model.safetensors", "weights")] {
        fs::write(hub.files.path().join(name), text).unwrap();
    }
    assert_eq!(hub.fetch("owner/name").0.unwrap().len(), 3);
}

#[test]
fn errors_of_the_hub_are_one_line() {
    let hub = Hub::new(&[("tokenizer.json", "{ }")]);
    let fetch = |id: &str, expected: &str| assert_eq!(hub.fetch(id).0.unwrap_err(), expected);
    for id in ["owner/none", "owner/name", "owner/name@v2"] {
        let why = "no such folder, and no config.json on the hub (404); check the name and the revision";
        fetch(id, &format!("--model {id}: {why}"));
    }
    fs::write(hub.files.path().join("config.json"), "{ }").unwrap();
    fetch(
        "owner/name",
        "--model owner/name: neither model.safetensors nor model.safetensors.index.json on the hub (404); check the \
         model's page",
    );
    for name in ["../../evil.safetensors", "/evil.safetensors", "a\\\\..\\\\b", "C:evil", "https://x/y", "a?b"] {
        let hub = Hub::new(&SMALL);
        let index = format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#);
        fs::write(hub.files.path().join("model.safetensors.index.json"), index).unwrap();
        let error = hub.fetch("owner/name").0.unwrap_err();
        assert!(error.ends_with(&format!("index.json: \"{name}\" is not a valid name of a shard")), "{error}");
    }

    let hub = Hub::new(&SMALL);
    fs::write(hub.files.path().join("model.safetensors"), "weights").unwrap();
    hub.state.lock().unwrap().token = Some("bearer secret".to_owned());
    let error = hub.fetch("owner/name").0.unwrap_err();
    assert!(error.starts_with("--model owner/name: no access to config.json (401); "), "{error}");
    assert!(error.contains("HF_TOKEN"), "{error}");
    assert!(hub.fetch_from(&hub.address, Some("secret"), "owner/name").is_ok());
}

/// The commit and the tag of a file become parts of paths in the cache.
#[test]
fn headers_of_the_hub_cannot_leave_the_cache() {
    for commit in ["../../../evil", "/evil", "..", "a\\b", ".hidden"] {
        let hub = Hub::new(&SMALL);
        hub.state.lock().unwrap().commit = commit.to_owned();
        let error = hub.fetch("owner/name").0.unwrap_err();
        assert!(
            error.starts_with("--model owner/name: the hub sent ") && error.ends_with("which is no name for a file"),
            "{error}"
        );
        assert!(!hub.cache.path().join("hub").exists());
    }
}

#[test]
fn a_model_is_a_folder_or_a_hub_id() {
    let local = TempDir::new().unwrap();
    assert_eq!(hub::folder(local.path().to_str().unwrap()).unwrap(), local.path());
    for name in
        ["foo", "", "a/b/c", "/no/folder", "../x/y", "./x", "a/b@", "a/b@../x", "a/..", "a /b", "a/b?c", "C:\\a"]
    {
        let error = hub::folder(name).unwrap_err().to_string();
        assert_eq!(error, format!("--model: {name:?} is neither a folder nor a hub id (owner/name)"));
    }
}
