//! What a run is made of, by content: a resumed run must find it unchanged.

use std::fs::File;
use std::hash::Hasher;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use figa_loss::EncodedPair;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

use crate::json;

/// The file in the folder of a run.
pub const FILE: &str = "inputs.json";

/// A hash for each argument that names an input.
#[derive(Default, Serialize, Deserialize)]
pub struct Inputs(Vec<Input>);

#[derive(Serialize, Deserialize, PartialEq)]
struct Input {
    argument: String,
    hash: String,
}

impl Inputs {
    /// Adds the content of files.
    pub fn add_files(&mut self, argument: &str, paths: &[PathBuf]) -> Result<()> {
        let mut hasher = XxHash64::with_seed(0);
        for path in paths {
            hash_file(path, &mut hasher).with_context(|| path.display().to_string())?;
        }
        self.add(argument, &hasher);
        Ok(())
    }

    /// Adds the rows of pairs, whatever file they come from.
    pub fn add_pairs(&mut self, argument: &str, pairs: &[EncodedPair]) {
        let mut hasher = XxHash64::with_seed(0);
        for row in pairs.iter().flat_map(EncodedPair::rows) {
            hasher.write_u64(row.len() as u64);
            row.input_ids().iter().for_each(|&id| hasher.write_u32(id));
            row.labels().iter().for_each(|&label| hasher.write_i64(label));
        }
        self.add(argument, &hasher);
    }

    /// Adds the tokens of a text.
    pub fn add_ids(&mut self, argument: &str, ids: &[u32]) {
        let mut hasher = XxHash64::with_seed(0);
        ids.iter().for_each(|&id| hasher.write_u32(id));
        self.add(argument, &hasher);
    }

    fn add(&mut self, argument: &str, hasher: &XxHash64) {
        self.0.push(Input { argument: argument.to_owned(), hash: format!("{:016x}", hasher.finish()) });
    }

    /// Keeps the hashes in the folder of a run, or compares with those that are there.
    pub fn keep(&self, out: &Path) -> Result<()> {
        let path = out.join(FILE);
        if !path.exists() {
            return json::write(&path, self);
        }
        let Self(before) = json::read(&path)?;
        let changed = self.0.iter().filter(|input| !before.contains(input));
        let changed: Vec<&str> = changed.map(|input| &*input.argument).collect();
        ensure!(
            changed.is_empty(),
            "--resume: the content of {} has changed since the run began: restore it, or start a new run",
            changed.join(", ")
        );
        Ok(())
    }
}

fn hash_file(path: &Path, hasher: &mut XxHash64) -> io::Result<()> {
    let mut file = BufReader::new(File::open(path)?);
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        hasher.write(bytes);
        let read = bytes.len();
        file.consume(read);
    }
}
