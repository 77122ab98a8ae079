//! Records and the files that hold them.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};

/// One record of SPA, the format of the FIGA paper's data: an instruction, and an answer before and after its minimal
/// revision.
///
/// All fields are strings, `input` may be absent or null, other fields are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaRecord {
    /// What the model was asked.
    pub instruction: String,
    /// The material the instruction works on; empty where there is none.
    #[serde(default, deserialize_with = "or_empty")]
    pub input: String,
    /// The ground truth. The loss does not use it.
    pub output: String,
    /// The model's own answer.
    pub original_output: String,
    /// The answer after as small a change as makes it good.
    pub revised_output: String,
}

impl SpaRecord {
    /// Reads all records of a file: a `.json` file holds one array, a `.jsonl` file one record a line (blank lines
    /// are allowed).
    ///
    /// # Errors
    /// [`Error::Format`] for another name, [`Error::Io`] when the file cannot be read, [`Error::Record`] with path,
    /// line and column for the first broken record.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<Self>> {
        let path = path.as_ref();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let lines = match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("jsonl") => true,
            Some("json") => false,
            _ => return Err(Error::Format { path: path.into() }),
        };
        let bytes = fs::read(path).map_err(|reason| Error::Io { path: path.into(), reason })?;
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes); // byte order mark
        if lines { parse_lines(path, bytes) } else { parse_array(path, bytes) }
    }
}

fn or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn parse_array(path: &Path, bytes: &[u8]) -> Result<Vec<SpaRecord>> {
    let start = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    if bytes.get(start).is_some_and(|&byte| byte != b'[') {
        let line = 1 + bytes[..start].iter().filter(|&&byte| byte == b'\n').count();
        let message = "a .json file is one array of records; one record a line is .jsonl".into();
        return Err(Error::Record { path: path.into(), line, column: 1, message });
    }
    serde_json::from_slice(bytes).map_err(|error| broken(path, 0, &error))
}

fn parse_lines(path: &Path, bytes: &[u8]) -> Result<Vec<SpaRecord>> {
    let lines = bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    lines
        .map(|(index, line)| {
            if line.trim_ascii_start().starts_with(b"[") {
                let message = "a line of a .jsonl file is one record; one array of records is .json".into();
                return Err(Error::Record { path: path.into(), line: index + 1, column: 1, message });
            }
            serde_json::from_slice(line).map_err(|error| broken(path, index, &error))
        })
        .collect()
}

/// An error in a text that starts after `lines_before` lines of the file.
fn broken(path: &Path, lines_before: usize, error: &serde_json::Error) -> Error {
    let message = error.to_string();
    // serde_json ends its messages with a position of its own, which would contradict ours.
    let message = message.rsplit_once(" at line ").map_or(&*message, |(message, _)| message).to_owned();
    Error::Record { path: path.into(), line: lines_before + error.line(), column: error.column().max(1), message }
}
