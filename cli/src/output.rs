//! A file that is complete or absent, written by a run that may be killed at any moment and gone on with.
//!
//! Next to `OUT`, the folder `OUT.partial` holds what is done: `lines`, or a Parquet file of one row group for each
//! segment, and `state.json`, which says how far that is. A segment is a few thousand records. Its data are on the disk
//! before the state that counts it is, and whatever lies behind the state is thrown away: so a run that goes on writes
//! the same bytes as one that was never stopped. In the end the pieces become one file, which is renamed to `OUT`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use arrow_array::{Array, ArrayRef, Float32Array, Int64Array, ListArray, RecordBatch};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, FieldRef, Schema};
use figa_loss::{EncodedPair, Example, RawRecord};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, compute_leaves};
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::aside::{check_new, with_ending, write as aside};
use super::label::Counts;

/// A segment ends after so many records, or so many tokens if that is earlier: it is held in memory.
const SEGMENT: (usize, usize) = (4096, 4 << 20);

#[derive(Clone, Copy, PartialEq)]
pub enum Format {
    Lines,
    Parquet,
}

impl Format {
    fn of(out: &Path) -> Result<Self> {
        match out.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => Ok(Self::Lines),
            Some("parquet") => Ok(Self::Parquet),
            _ => bail!("--out: expected a name that ends in .jsonl or .parquet, got {}", out.display()),
        }
    }

    /// A pair as this format holds it; made on any thread.
    pub fn piece(self, EncodedPair { original, revised, .. }: EncodedPair) -> Piece {
        let tokens = original.input_ids().len() + revised.input_ids().len();
        let content = match self {
            Self::Parquet => Content::Rows(Box::new([original, revised])),
            Self::Lines => {
                let mut json = String::with_capacity(20 * tokens);
                for (side, row) in [("original", &original), ("revised", &revised)] {
                    let list = |list: serde_json::Result<String>| list.expect("numbers");
                    json += &format!(
                        ",\"{side}_input_ids\":{},\"{side}_labels\":{},\"{side}_weights\":{}",
                        list(serde_json::to_string(row.input_ids())),
                        list(serde_json::to_string(row.labels())),
                        list(serde_json::to_string(row.weights())),
                    );
                }
                Content::Json(json)
            }
        };
        Piece { record: 0, tokens, content }
    }
}

/// What becomes of one record.
pub struct Piece {
    record: u64,
    tokens: usize,
    content: Content,
}

enum Content {
    /// The fields behind `record`.
    Json(String),
    /// Original and revised.
    Rows(Box<[Example; 2]>),
}

impl Piece {
    /// Says which record it is, from 1.
    pub fn number(&mut self, record: u64) {
        self.record = record;
    }
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
struct State {
    /// What the run was asked for; another one could not go on with it.
    arguments: Value,
    files: Vec<Stamp>,
    counts: Counts,
    /// Bytes of `lines` and of the records that were set aside.
    bytes: [u64; 2],
    /// Parquet files.
    segments: usize,
    /// Nothing is left to do but to rename.
    finished: bool,
}

/// Tells whether a file has changed.
#[derive(Serialize, Deserialize, PartialEq)]
struct Stamp {
    path: PathBuf,
    bytes: u64,
    modified: Duration,
}

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata = path.metadata().with_context(|| path.display().to_string())?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self { path: path.into(), bytes: metadata.len(), modified })
    }
}

pub struct Output {
    paths: Paths,
    format: Format,
    state: State,
    lines: Appender,
    table: Table,
    set_aside: Option<Appender>,
    /// Records and tokens since the last commit.
    pending: (usize, usize),
    /// Held while the run lasts.
    _lock: File,
}

struct Paths {
    out: PathBuf,
    /// The folder of the pieces.
    partial: PathBuf,
    /// In it, what will be `out`.
    whole: PathBuf,
    bad: Option<PathBuf>,
}

impl Output {
    /// Begins a file, or goes on with one: the counts say how far it is. None if it is complete.
    pub fn open(
        out: &Path,
        bad: Option<&Path>,
        resume: bool,
        arguments: Value,
        files: &[PathBuf],
    ) -> Result<Option<(Self, Counts)>> {
        let format = Format::of(out)?;
        let partial = with_ending(out, ".partial");
        let paths = Paths { out: out.into(), whole: partial.join("whole"), partial, bad: bad.map(Path::to_owned) };
        let state = paths.partial.join("state.json");
        let found: Option<State> = match fs::read(&state) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            json => Some(serde_json::from_slice(&json?).with_context(|| state.display().to_string())?),
        };
        let finished = found.as_ref().is_none_or(|state| state.finished);
        if resume && finished && paths.out.exists() && !paths.whole.exists() {
            paths.tidy();
            return Ok(None);
        }
        check_new("--out", &paths.out)?;
        fs::create_dir_all(&paths.partial).with_context(|| paths.partial.display().to_string())?;
        let lock = File::create(paths.partial.join("lock"))?;
        let partial = paths.partial.display();
        ensure!(lock.try_lock().is_ok(), "--out: another run is writing {partial}");
        let files =
            files.iter().filter(|file| **file != Path::new("-")).map(|file| Stamp::of(file)).collect::<Result<_>>()?;
        let state = match found {
            None => {
                if let Some(bad) = bad {
                    check_new("--skip-bad", bad)?;
                }
                State { arguments, files, counts: Counts::default(), bytes: [0; 2], segments: 0, finished: false }
            }
            Some(found) => {
                ensure!(resume, "--out: {partial} holds an unfinished run: go on with --resume, or remove it");
                ensure!(found.arguments == arguments, "--resume: {partial} was begun with other arguments");
                if let Some(changed) = found.files.iter().zip(&files).find(|(then, now)| then != now) {
                    let file = changed.1.path.display();
                    bail!("--resume: {file} has changed since; remove {partial} to start again");
                }
                found
            }
        };
        if state.finished {
            paths.deliver()?;
            return Ok(None);
        }
        let lines = Appender::open(&paths.lines(), state.bytes[0])?;
        let set_aside = paths.bad_partial().map(|path| Appender::open(&path, state.bytes[1])).transpose()?;
        let counts = state.counts;
        let (table, pending) = (Table::default(), (0, 0));
        let output = Self { paths, format, state, lines, table, set_aside, pending, _lock: lock };
        output.write_state()?;
        Ok(Some((output, counts)))
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn push(&mut self, piece: Piece) -> Result<()> {
        self.pending.0 += 1;
        self.pending.1 += piece.tokens;
        match piece.content {
            Content::Json(json) => self.lines.write(format!("{{\"record\":{}{json}}}\n", piece.record).as_bytes()),
            Content::Rows(rows) => {
                self.table.push(piece.record, &rows);
                Ok(())
            }
        }
    }

    /// Sets a bad record aside; false if there is no place for it.
    pub fn set_aside(&mut self, raw: &mut RawRecord) -> Result<bool> {
        self.pending.0 += 1;
        let Some(appender) = &mut self.set_aside else { return Ok(false) };
        appender.copy(raw)?;
        Ok(true)
    }

    /// Is it time to [`commit`](Self::commit)?
    pub fn is_full(&self) -> bool {
        self.pending.0 >= SEGMENT.0 || self.pending.1 >= SEGMENT.1
    }

    /// Ends a segment. A run that goes on begins behind it.
    pub fn commit(&mut self, counts: &Counts) -> Result<()> {
        if let Some(batch) = self.table.take() {
            aside(&self.paths.segment(self.state.segments), |file| write_segment(file, &batch))?;
            self.state.segments += 1;
        }
        self.state.bytes[0] = self.lines.sync()?;
        if let Some(appender) = &mut self.set_aside {
            self.state.bytes[1] = appender.sync()?;
        }
        self.state.counts = *counts;
        self.pending = (0, 0);
        self.write_state()
    }

    /// Makes the pieces one file.
    pub fn finish(mut self, counts: &Counts) -> Result<()> {
        self.commit(counts)?;
        let Paths { whole, .. } = &self.paths;
        match self.format {
            Format::Lines => fs::rename(self.paths.lines(), whole)?,
            Format::Parquet => aside(whole, |file| self.join(file))?,
        }
        self.state.finished = true;
        self.write_state()?;
        self.paths.deliver()
    }

    /// Copies the row groups of the segments into one file.
    fn join(&self, mut file: &File) -> Result<()> {
        if self.state.segments == 0 {
            let schema = Arc::new(schema());
            ArrowWriter::try_new(file, schema, Some(properties(None)))?.close()?;
            return Ok(());
        }
        let open = |segment| anyhow::Ok(SerializedFileReader::new(File::open(self.paths.segment(segment))?)?);
        let first = open(0)?;
        let metadata = first.metadata().file_metadata();
        let (schema, facts) = (metadata.schema_descr().root_schema_ptr(), metadata.key_value_metadata().cloned());
        let mut writer = SerializedFileWriter::new(&mut file, schema, Arc::new(properties(facts)))?;
        for segment in 0..self.state.segments {
            let (reader, file) = (open(segment)?, File::open(self.paths.segment(segment))?);
            for group in reader.metadata().row_groups() {
                let mut rows = writer.next_row_group()?;
                for column in group.columns() {
                    let result = ColumnCloseResult {
                        bytes_written: column.compressed_size() as u64,
                        rows_written: group.num_rows() as u64,
                        metadata: column.clone(),
                        bloom_filter: None,
                        column_index: None,
                        offset_index: None,
                    };
                    rows.append_column(&file, result)?;
                }
                rows.close()?;
            }
        }
        writer.close()?;
        Ok(())
    }

    fn write_state(&self) -> Result<()> {
        aside(&self.paths.partial.join("state.json"), |mut file| {
            Ok(file.write_all(&serde_json::to_vec_pretty(&self.state)?)?)
        })
    }
}

impl Paths {
    fn lines(&self) -> PathBuf {
        self.partial.join("lines")
    }

    fn segment(&self, number: usize) -> PathBuf {
        self.partial.join(format!("{number:06}.parquet"))
    }

    fn bad_partial(&self) -> Option<PathBuf> {
        self.bad.as_ref().map(|bad| with_ending(bad, ".partial"))
    }

    /// Renames what is finished, as far as that has not been done yet.
    fn deliver(&self) -> Result<()> {
        let bad = self.bad_partial().into_iter().zip(self.bad.clone());
        for (from, to) in bad.chain([(self.whole.clone(), self.out.clone())]) {
            if from.exists() {
                fs::rename(&from, &to).with_context(|| format!("renaming {} to {}", from.display(), to.display()))?;
            }
        }
        self.tidy();
        Ok(())
    }

    /// What is left then is of no use. That it cannot be removed is no reason to fail.
    fn tidy(&self) {
        let _ = fs::remove_dir_all(&self.partial);
    }
}

/// A file that grows, and of which is kept what has been committed.
pub struct Appender {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Appender {
    pub fn open(path: &Path, bytes: u64) -> Result<Self> {
        let open = || {
            let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
            ensure!(file.try_lock().is_ok(), "another run is writing it");
            ensure!(file.metadata()?.len() >= bytes, "is shorter than the run left it");
            file.set_len(bytes)?;
            file.seek(SeekFrom::End(0))?;
            anyhow::Ok(Self { path: path.into(), file: BufWriter::with_capacity(1 << 20, file) })
        };
        open().with_context(|| path.display().to_string())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Writes a record that may not fit into memory.
    pub fn copy(&mut self, raw: &mut RawRecord) -> Result<()> {
        raw.write_to(&mut self.file).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Returns how long the file is.
    pub fn sync(&mut self) -> Result<u64> {
        let mut sync = || {
            self.file.flush()?;
            self.file.get_ref().sync_data()?;
            self.file.stream_position()
        };
        sync().with_context(|| format!("writing {}", self.path.display()))
    }
}

/// A Parquet file of one row group, whose columns are encoded on all cores.
fn write_segment(file: &File, batch: &RecordBatch) -> Result<()> {
    let writer = ArrowWriter::try_new(file, batch.schema(), Some(properties(None)))?;
    let (mut writer, columns) = writer.into_serialized_writer()?;
    let columns = columns.create_column_writers(0)?.into_iter().zip(batch.columns()).zip(batch.schema_ref().fields());
    let columns: Vec<_> = columns.collect();
    let encode = |((mut column, values), field): ((ArrowColumnWriter, &ArrayRef), &FieldRef)| {
        for leaf in compute_leaves(field, values)? {
            column.write(&leaf)?;
        }
        column.close()
    };
    let chunks: Vec<_> = columns.into_par_iter().map(encode).collect::<Result<_, _>>()?;
    let mut rows = writer.next_row_group()?;
    for chunk in chunks {
        chunk.append_to_row_group(&mut rows)?;
    }
    rows.close()?;
    writer.close()?;
    Ok(())
}

fn properties(facts: Option<Vec<KeyValue>>) -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_key_value_metadata(facts)
        .build()
}

/// The columns of a Parquet file: `record`, then three lists for each side.
fn schema() -> Schema {
    let list = |name: String, item| {
        let item = Field::new("item", item, false);
        Field::new(name, DataType::List(item.into()), false)
    };
    let of_side = |side: &str| {
        [("input_ids", DataType::Int64), ("labels", DataType::Int64), ("weights", DataType::Float32)]
            .map(|(name, item)| list(format!("{side}_{name}"), item))
    };
    let columns =
        [vec![Field::new("record", DataType::Int64, false)], of_side("original").into(), of_side("revised").into()];
    Schema::new(columns.concat())
}

/// The rows of a segment.
#[derive(Default)]
struct Table {
    records: Vec<i64>,
    sides: [Side; 2],
}

#[derive(Default)]
struct Side {
    lengths: Vec<usize>,
    input_ids: Vec<i64>,
    labels: Vec<i64>,
    weights: Vec<f32>,
}

impl Table {
    fn push(&mut self, record: u64, rows: &[Example; 2]) {
        self.records.push(record as i64);
        for (side, row) in self.sides.iter_mut().zip(rows) {
            side.lengths.push(row.input_ids().len());
            side.input_ids.extend(row.input_ids().iter().map(|&id| i64::from(id)));
            side.labels.extend_from_slice(row.labels());
            side.weights.extend_from_slice(row.weights());
        }
    }

    /// All rows so far, if there are any.
    fn take(&mut self) -> Option<RecordBatch> {
        let Self { records, sides } = mem::take(self);
        if records.is_empty() {
            return None;
        }
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(records))];
        for Side { lengths, input_ids, labels, weights } in sides {
            let values: [ArrayRef; 3] = [
                Arc::new(Int64Array::from(input_ids)),
                Arc::new(Int64Array::from(labels)),
                Arc::new(Float32Array::from(weights)),
            ];
            for values in values {
                let item = Field::new("item", values.data_type().clone(), false);
                let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
                columns.push(Arc::new(ListArray::new(item.into(), offsets, values, None)));
            }
        }
        Some(RecordBatch::try_new(schema().into(), columns).expect("columns as in the schema"))
    }
}
