//! From a file of records to the rows of a model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use figa_loss::{EncodedPair, Example, Fields, IGNORE_INDEX, PairEncoder, RecordReader, SpaRecord};

use crate::args::RowArgs;
use crate::decoder::Config;
use crate::method::Method;
use crate::rows::Row;

/// The records of a file.
pub struct Dataset {
    /// The file.
    pub path: PathBuf,
    /// At least one record.
    pub records: Vec<SpaRecord>,
}

impl Dataset {
    /// Reads a file of records with these fields.
    pub fn read(path: &Path, fields: &Fields) -> Result<Self> {
        let records = RecordReader::open([path])?.map(|raw| raw?.parse(fields));
        let records: Vec<SpaRecord> = records.collect::<Result<_, _>>()?;
        ensure!(!records.is_empty(), "{}: expected at least one record, found none", path.display());
        Ok(Self { path: path.into(), records })
    }

    /// How many pairs there are, and how many of their rows are truncated.
    pub fn summary(&self, pairs: &[EncodedPair], encoder: &Encoder, args: &RowArgs) -> String {
        let (path, truncated) = (self.path.display(), encoder.truncated(pairs));
        format!("{path}: {} pairs, {truncated} rows truncated to {} tokens", pairs.len(), args.max_length)
    }
}

/// Encodes texts and records for one model.
pub struct Encoder {
    encoder: PairEncoder,
}

impl Encoder {
    /// Reads the tokenizer, the prompt and the EOS token from the folder of a model. The arguments may override prompt
    /// and EOS, and set the maximum length of a row.
    pub fn new(folder: &Path, config: &Config, args: &RowArgs) -> Result<Self> {
        let mut encoder = args.prompt.encoder("--model", folder)?;
        let largest_id = encoder.tokenizer().get_vocab(true).into_values().max().unwrap_or(0);
        let vocab_size = config.vocab_size;
        ensure!(
            i64::from(largest_id) < vocab_size,
            "{}: expected token ids below {vocab_size}, the vocab_size of the model, found {largest_id}; use the \
             tokenizer of this model",
            folder.join("tokenizer.json").display()
        );
        let (max_length, positions) = (args.max_length, config.max_position_embeddings);
        ensure!(
            max_length as i64 <= positions,
            "--max-length: expected at most {positions}, the number of positions of the model, got {max_length}"
        );
        encoder.max_length = Some(max_length);
        Ok(Self { encoder })
    }

    /// The date that the chat template sees, if it asks for it.
    pub fn date(&self) -> Option<&str> {
        self.encoder.template.date()
    }

    /// The id of the token that ends an answer. It also serves as padding.
    pub fn eos_id(&self) -> u32 {
        self.encoder.eos_id()
    }

    /// The ids that stop a greedy answer: those of the model, and those in which complete rows end.
    pub fn stop_ids(&self, pairs: &[EncodedPair]) -> Vec<u32> {
        let rows = pairs.iter().flat_map(EncodedPair::rows).filter(|row| row.is_complete());
        let mut ids = self.encoder.stop_ids().to_vec();
        for end in rows.filter_map(|row| row.input_ids().last()) {
            if !ids.contains(end) {
                ids.push(*end);
            }
        }
        ids
    }

    /// The tokens of a record's prompt.
    pub fn prompt(&self, record: &SpaRecord) -> Result<Vec<u32>> {
        let row = self.encoder.encode(record)?.revised;
        let prompt = row.labels().iter().take_while(|&&label| label == IGNORE_INDEX).count();
        Ok(row.input_ids()[..prompt].to_vec())
    }

    /// Encodes a text without special tokens.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.encoder.tokenizer().encode(text, false).map_err(|error| anyhow!("{error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Decodes token ids and skips special tokens.
    pub fn text(&self, ids: &[u32]) -> Result<String> {
        self.encoder.tokenizer().decode(ids, true).map_err(|error| anyhow!("{error}"))
    }

    /// Encodes records with the labels and weights of plain FIGA.
    pub fn pairs(&self, data: &Dataset) -> Result<Vec<EncodedPair>> {
        encode(&self.encoder, data)
    }

    /// The rows that a method trains on, grouped by pair.
    pub fn rows(&self, data: &Dataset, method: Method) -> Result<Vec<Vec<Row>>> {
        let pairs = encode(&method.encoder(&self.encoder), data)?;
        let rows: Vec<Vec<Row>> = pairs.iter().map(|pair| method.rows(pair)).collect();
        let (path, name) = (data.path.display(), method.name);
        let useless = rows.iter().filter(|rows| !method.learns_from(rows)).count();
        ensure!(
            useless < rows.len(),
            "{path}: --method {name} learns nothing from any pair; check that the answers differ within --max-length, or \
             choose another method"
        );
        Ok(rows)
    }

    /// The number of rows that the maximum length has truncated, or that it only just holds without EOS.
    pub fn truncated(&self, pairs: &[EncodedPair]) -> usize {
        let is_truncated = |row: &&Example| !row.is_complete() && Some(row.len()) == self.encoder.max_length;
        pairs.iter().flat_map(EncodedPair::rows).filter(is_truncated).count()
    }
}

fn encode(encoder: &PairEncoder, data: &Dataset) -> Result<Vec<EncodedPair>> {
    let encode = |(record, number): (&SpaRecord, usize)| {
        encoder.encode(record).with_context(|| format!("{}: record {number}", data.path.display()))
    };
    data.records.iter().zip(1..).map(encode).collect()
}
