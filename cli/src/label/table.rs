//! The Parquet form of the labels: rows are collected in a table, each table becomes a segment file with one row group,
//! and the row groups of all segments become one file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow_array::{Array, ArrayRef, Float32Array, Int64Array, ListArray, RecordBatch};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, FieldRef, Schema};
use figa_atomic_file::open_own;
use figa_loss::{EncodedPair, Side};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, compute_leaves};
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{KeyValue, RowGroupMetaData};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use rayon::prelude::*;

/// The rows of `figa label`, column by column: those of a segment, or those that another program makes.
///
/// ```no_run
/// use figa_cli::RowTable;
/// use figa_loss::{PairEncoder, SpaRecord};
///
/// let encoder = PairEncoder::read("path/to/model", None)?;
/// let mut table = RowTable::default();
/// table.push(1, &encoder.encode(&SpaRecord::new("Spell cat.", "c, t", "c, a, t"))?);
/// assert_eq!(table.into_batch().schema().field(1).name(), "original_input_ids");
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Default)]
pub struct RowTable {
    records: Vec<i64>,
    original: RowColumns,
    revised: RowColumns,
}

/// The columns of one side. Their lists have the same lengths.
#[derive(Default)]
struct RowColumns {
    lengths: Vec<usize>,
    input_ids: Vec<i64>,
    labels: Vec<i64>,
    weights: Vec<f32>,
}

impl RowTable {
    /// Adds the rows of the record with this number.
    pub fn push(&mut self, record: u64, pair: &EncodedPair) {
        self.records.push(record as i64);
        for (side, columns) in [(Side::Original, &mut self.original), (Side::Revised, &mut self.revised)] {
            let row = pair.row(side);
            columns.lengths.push(row.len());
            columns.input_ids.extend(row.input_ids().iter().map(|&id| i64::from(id)));
            columns.labels.extend_from_slice(row.labels());
            columns.weights.extend_from_slice(row.weights());
        }
    }

    /// Empties the table; `None` if it has no rows.
    pub(super) fn take(&mut self) -> Option<RecordBatch> {
        (!self.records.is_empty()).then(|| mem::take(self).into_batch())
    }

    /// The columns of the file: `record`, and ids, labels and weights of both sides.
    pub fn into_batch(self) -> RecordBatch {
        let Self { records, original, revised } = self;
        let records: ArrayRef = Arc::new(Int64Array::from(records));
        let columns = [records].into_iter().chain(original.into_arrays()).chain(revised.into_arrays());
        RecordBatch::try_new(schema().into(), columns.collect()).expect("the columns of the schema")
    }
}

impl RowColumns {
    fn into_arrays(self) -> [ArrayRef; 3] {
        let values: [ArrayRef; 3] = [
            Arc::new(Int64Array::from(self.input_ids)),
            Arc::new(Int64Array::from(self.labels)),
            Arc::new(Float32Array::from(self.weights)),
        ];
        values.map(|values| {
            let offsets = OffsetBuffer::from_lengths(self.lengths.iter().copied());
            let item = item_field(values.data_type().clone());
            Arc::new(ListArray::new(item.into(), offsets, values, None)) as ArrayRef
        })
    }
}

/// `record`, and three lists for each side.
fn schema() -> Schema {
    let mut fields = vec![Field::new("record", DataType::Int64, false)];
    for side in Side::ALL {
        for (name, item) in
            [("input_ids", DataType::Int64), ("labels", DataType::Int64), ("weights", DataType::Float32)]
        {
            fields.push(Field::new(format!("{side}_{name}"), DataType::List(item_field(item).into()), false));
        }
    }
    Schema::new(fields)
}

fn item_field(item: DataType) -> Field {
    Field::new("item", item, false)
}

fn properties(metadata: Option<Vec<KeyValue>>) -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_key_value_metadata(metadata)
        .build()
}

/// Writes a Parquet file of one row group, whose columns are encoded on all cores.
pub fn write_segment(file: impl Write + Send, rows: &RecordBatch) -> Result<()> {
    let writer = ArrowWriter::try_new(file, rows.schema(), Some(properties(None)))?;
    let (mut writer, columns) = writer.into_serialized_writer()?;
    let columns = columns.create_column_writers(0)?.into_iter().zip(rows.columns()).zip(rows.schema_ref().fields());
    let columns: Vec<_> = columns.collect();
    let encode = |((mut column, values), field): ((ArrowColumnWriter, &ArrayRef), &FieldRef)| {
        for leaf in compute_leaves(field, values)? {
            column.write(&leaf)?;
        }
        column.close()
    };
    let chunks: Vec<_> = columns.into_par_iter().map(encode).collect::<Result<_, _>>()?;
    let mut group = writer.next_row_group()?;
    for chunk in chunks {
        chunk.append_to_row_group(&mut group)?;
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

/// Copies the row groups of segments into one file, without decoding them.
pub fn join_segments(segments: &[PathBuf], file: impl Write + Send) -> Result<()> {
    let Some(first) = segments.first() else {
        ArrowWriter::try_new(file, schema().into(), Some(properties(None)))?.close()?;
        return Ok(());
    };
    let first = SerializedFileReader::new(open_segment(first)?)?;
    let metadata = first.metadata().file_metadata();
    let (schema, metadata) = (metadata.schema_descr().root_schema_ptr(), metadata.key_value_metadata().cloned());
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties(metadata)))?;
    for segment in segments {
        let segment = open_segment(segment)?;
        let reader = SerializedFileReader::new(segment.try_clone()?)?;
        for group in reader.metadata().row_groups() {
            copy_row_group(&segment, group, &mut writer)?;
        }
    }
    writer.close()?;
    Ok(())
}

fn open_segment(path: &Path) -> Result<File> {
    open_own(path, OpenOptions::new().read(true)).with_context(|| path.display().to_string())
}

fn copy_row_group<W: Write + Send>(
    from: &File,
    group: &RowGroupMetaData,
    to: &mut SerializedFileWriter<W>,
) -> Result<()> {
    let mut rows = to.next_row_group()?;
    for column in group.columns() {
        let result = ColumnCloseResult {
            bytes_written: column.compressed_size() as u64,
            rows_written: group.num_rows() as u64,
            metadata: column.clone(),
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        rows.append_column(from, result)?;
    }
    rows.close()?;
    Ok(())
}
