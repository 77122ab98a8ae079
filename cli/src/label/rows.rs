//! The two rows of a record in the format of the output file.

use std::path::Path;

use anyhow::{Result, bail};
use figa_loss::{EncodedPair, Side};
use serde::Serialize;

/// Characters of JSON for the id, label and weight of a token, rounded up.
const JSON_BYTES_PER_TOKEN: usize = 20;

#[derive(Clone, Copy, PartialEq)]
pub enum OutputFormat {
    JsonLines,
    Parquet,
}

/// A labelled record, as far as worker threads can prepare it: without its number.
pub struct LabelledPair {
    /// Of both rows together.
    pub tokens: usize,
    pub rows: PreparedRows,
}

pub enum PreparedRows {
    /// The fields after `record`, each with a comma in front.
    Json(String),
    /// The rows themselves, for a table.
    Pair(Box<EncodedPair>),
}

impl OutputFormat {
    /// The format that the name of the file says.
    pub fn of(out: &Path) -> Result<Self> {
        match out.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => Ok(Self::JsonLines),
            Some("parquet") => Ok(Self::Parquet),
            _ => bail!("--out: expected a name that ends in .jsonl or .parquet, got {}", out.display()),
        }
    }

    /// Prepares the rows of a record; runs on any thread.
    pub fn labelled(self, pair: EncodedPair) -> LabelledPair {
        let tokens = pair.rows().into_iter().map(|row| row.len()).sum();
        let rows = match self {
            Self::JsonLines => PreparedRows::Json(json_fields(&pair, tokens)),
            Self::Parquet => PreparedRows::Pair(Box::new(pair)),
        };
        LabelledPair { tokens, rows }
    }
}

fn json_fields(pair: &EncodedPair, tokens: usize) -> String {
    fn list<T: Serialize>(values: &[T]) -> String {
        serde_json::to_string(values).expect("numbers have a JSON form")
    }
    let mut json = String::with_capacity(JSON_BYTES_PER_TOKEN * tokens);
    for side in Side::ALL {
        let row = pair.row(side);
        json += &format!(
            ",\"{side}_input_ids\":{},\"{side}_labels\":{},\"{side}_weights\":{}",
            list(row.input_ids()),
            list(row.labels()),
            list(row.weights()),
        );
    }
    json
}
