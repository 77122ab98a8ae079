//! Records -> rows, as `figa label` writes them.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, ListArray, RecordBatch, UInt8Array};
use arrow_buffer::OffsetBuffer;
use arrow_json::WriterBuilder;
use arrow_json::writer::LineDelimited;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use figa_cli::RowTable;
use figa_loss::{
    ChatOptions, ChatTemplate, EncodedPair, Error, Example, Fields, Format, PairEncoder, PromptTemplate, RecordReader,
    Side, model_files,
};
use numpy::IntoPyArray;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrow::{self, Batch, failed};
use crate::error::exception;
use crate::long::{interruptible, pool};
use crate::options;
use crate::pairs::label_number;

/// What an encoder is made of, beside the folder of the model: a mapping.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Settings {
    eos_token: Option<String>,
    prompt: Option<String>,
    template_name: Option<String>,
    /// JSON.
    template_variables: String,
    date: Option<String>,
    drop_reasoning: bool,
    aligner: String,
    granularity: String,
    weights: options::Weights,
    max_length: Option<usize>,
    max_answer_tokens: Option<usize>,
    fields: Vec<(String, String)>,
    token_labels: bool,
    skip_bad: bool,
}

#[pyclass(frozen)]
pub struct Encoder {
    encoder: Arc<PairEncoder>,
    fields: Fields,
    token_labels: bool,
    skip_bad: bool,
}

#[pymethods]
impl Encoder {
    #[new]
    fn new(model: PathBuf, settings: Settings) -> PyResult<Self> {
        let failed = |error| exception(&error);
        let mut encoder = PairEncoder::read(&model, settings.eos_token.as_deref()).map_err(failed)?;
        let mut options = ChatOptions::default();
        options.name = settings.template_name;
        options.variables = serde_json::from_str(&settings.template_variables)
            .map_err(|error| PyValueError::new_err(format!("template_variables: {error}")))?;
        options.date = settings.date;
        encoder.template = match settings.prompt.as_deref() {
            None => PromptTemplate::for_model(&model, &options).map_err(failed)?,
            Some("chat") => match ChatTemplate::read(&model, &options).map_err(failed)? {
                Some(template) => PromptTemplate::Chat(template),
                None => {
                    return Err(PyValueError::new_err("prompt: the model has no chat template; use alpaca or plain"));
                }
            },
            Some("alpaca") => PromptTemplate::Alpaca,
            Some("plain") => PromptTemplate::Plain,
            Some("verbatim") => PromptTemplate::Verbatim,
            Some(other) => {
                let message = format!("prompt: expected chat, alpaca, plain or verbatim, got {other:?}");
                return Err(PyValueError::new_err(message));
            }
        };
        encoder.drop_reasoning = settings.drop_reasoning;
        encoder.aligner = options::named(&settings.aligner)?;
        encoder.granularity = options::named(&settings.granularity)?;
        encoder.weights = options::weights(settings.weights)?;
        encoder.max_length = settings.max_length;
        encoder.max_answer_tokens = settings.max_answer_tokens.unwrap_or(encoder.max_answer_tokens);
        let Settings { token_labels, skip_bad, .. } = settings;
        Ok(Self { encoder: Arc::new(encoder), fields: fields(settings.fields)?, token_labels, skip_bad })
    }

    /// The files that shape the rows, which make the same encoder on another machine.
    #[staticmethod]
    fn files(model: PathBuf) -> PyResult<Vec<PathBuf>> {
        model_files(model).map_err(|error| exception(&error))
    }

    fn eos_id(&self) -> u32 {
        self.encoder.eos_id()
    }

    /// The time that the chat template sees; `None` if it does not ask for it.
    fn date(&self) -> Option<&str> {
        self.encoder.template.date()
    }

    /// A record of JSON as the columns of a row.
    fn encode<'py>(&self, py: Python<'py>, record: String) -> PyResult<Bound<'py, PyDict>> {
        let pair = py.detach(|| {
            let record = RecordReader::from_text("record", Format::Lines, Cursor::new(record)).next();
            let record = record.expect("a line is a record")?.parse(&self.fields)?;
            self.encoder.encode(&record)
        });
        columns(py, &pair.map_err(|error| exception(&error))?, self.token_labels)
    }

    /// A batch of records as a batch of rows, and what is wrong with those that are skipped.
    fn encode_batch(&self, py: Python<'_>, batch: &Bound<'_, PyAny>) -> PyResult<(Batch, Vec<String>)> {
        let records = arrow::import("batch", batch)?;
        if !matches!(records.data_type(), DataType::Struct(_)) {
            return Err(PyTypeError::new_err(format!("batch: expected columns, got {}", records.data_type())));
        }
        let (encoder, fields, pool) = (self.encoder.clone(), self.fields.clone(), pool()?);
        let (mut token_labels, skip_bad) = (self.token_labels.then(TokenLabels::default), self.skip_bad);
        let (rows, skipped) = interruptible(py, move |stop| {
            let lines = lines(&records).map_err(|error| failed(&error))?;
            let mut reader = RecordReader::from_text("batch", Format::Lines, Cursor::new(lines));
            let (mut table, mut skipped) = (RowTable::default(), vec![]);
            pool.install(|| {
                let pairs = reader.map_in_order(|raw| raw.parse(&fields).and_then(|record| encoder.encode(&record)));
                for (row, pair) in (1..).zip(pairs.take_while(|_| !stop.load(Ordering::Relaxed))) {
                    match pair {
                        Ok(pair) => {
                            table.push(row, &pair);
                            if let Some(token_labels) = &mut token_labels {
                                token_labels.push(&pair);
                            }
                        }
                        Err(error) if skip_bad => skipped.push(error.to_string()),
                        Err(error) => return Err(error),
                    }
                }
                Ok::<_, Error>(())
            })
            .map_err(|error| exception(&error))?;
            // Without the numbers of the records.
            let mut rows = table.into_batch();
            rows.remove_column(0);
            if let Some(token_labels) = token_labels {
                rows = token_labels.beside(&rows).map_err(|error| failed(&error))?;
            }
            Ok::<_, PyErr>((rows, skipped))
        })??;
        Ok((Batch(rows), skipped))
    }
}

/// The token labels of rows, as lists of each side.
#[derive(Default)]
struct TokenLabels {
    lengths: [Vec<usize>; 2],
    numbers: [Vec<u8>; 2],
}

impl TokenLabels {
    fn push(&mut self, pair: &EncodedPair) {
        for (at, row) in pair.rows().into_iter().enumerate() {
            self.lengths[at].push(row.len());
            self.numbers[at].extend(label_numbers(row));
        }
    }

    /// The columns of a batch, and these.
    fn beside(self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let schema = rows.schema();
        let mut fields = schema.fields().to_vec();
        let mut columns = rows.columns().to_vec();
        for ((side, lengths), numbers) in Side::ALL.into_iter().zip(self.lengths).zip(self.numbers) {
            let item = Arc::new(Field::new("item", DataType::UInt8, false));
            let numbers = Arc::new(UInt8Array::from(numbers));
            let lists = ListArray::new(item, OffsetBuffer::from_lengths(lengths), numbers, None);
            fields.push(Arc::new(Field::new(format!("{side}_token_labels"), lists.data_type().clone(), false)));
            columns.push(Arc::new(lists));
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
    }
}

fn label_numbers(row: &Example) -> impl Iterator<Item = u8> {
    row.token_labels().iter().map(|&label| label_number(label))
}

/// The records as lines of JSON. A column of a table has a value in every row, so null means that the record lacks the field.
fn lines(records: &ArrayRef) -> Result<Vec<u8>, ArrowError> {
    let mut lines = vec![];
    let mut writer = WriterBuilder::new().with_explicit_nulls(false).build::<_, LineDelimited>(&mut lines);
    writer.write(&RecordBatch::from(records.as_struct()))?;
    writer.finish()?;
    Ok(lines)
}

fn columns<'py>(py: Python<'py>, pair: &EncodedPair, token_labels: bool) -> PyResult<Bound<'py, PyDict>> {
    let columns = PyDict::new(py);
    for side in Side::ALL {
        let row = pair.row(side);
        let ids: Vec<i64> = row.input_ids().iter().map(|&id| id.into()).collect();
        columns.set_item(format!("{side}_input_ids"), ids.into_pyarray(py))?;
        columns.set_item(format!("{side}_labels"), row.labels().to_vec().into_pyarray(py))?;
        columns.set_item(format!("{side}_weights"), row.weights().to_vec().into_pyarray(py))?;
    }
    if token_labels {
        for side in Side::ALL {
            let numbers: Vec<u8> = label_numbers(pair.row(side)).collect();
            columns.set_item(format!("{side}_token_labels"), numbers.into_pyarray(py))?;
        }
    }
    Ok(columns)
}

fn fields(names: Vec<(String, String)>) -> PyResult<Fields> {
    let mut fields = Fields::default();
    for (field, name) in names {
        match &*field {
            "instruction" => fields.instruction = name,
            "input" => fields.input = name,
            "output" => fields.output = name,
            "original" => fields.original = name,
            "revised" => fields.revised = name,
            "system" => fields.system = Some(name),
            "tools" => fields.tools = Some(name),
            "documents" => fields.documents = Some(name),
            _ => {
                let expected = "instruction, input, output, original, revised, system, tools or documents";
                return Err(PyValueError::new_err(format!("fields: expected {expected}, got {field:?}")));
            }
        }
    }
    Ok(fields)
}
