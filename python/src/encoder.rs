//! Records -> rows, as `figa label` writes them.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_json::WriterBuilder;
use arrow_json::writer::LineDelimited;
use arrow_schema::DataType;
use figa_cli::RowTable;
use figa_loss::{
    ChatOptions, ChatTemplate, EncodedPair, Error, Fields, Format, PairEncoder, PromptTemplate, RecordReader, Side,
    model_files,
};
use numpy::IntoPyArray;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrow::{self, Batch, failed};
use crate::error::exception;
use crate::long::{interruptible, pool};
use crate::options;

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
    weights: (f32, f32, f32),
    max_length: Option<usize>,
    max_answer_tokens: Option<usize>,
    fields: Vec<(String, String)>,
}

#[pyclass(frozen)]
pub struct Encoder {
    encoder: Arc<PairEncoder>,
    fields: Fields,
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
        Ok(Self { encoder: Arc::new(encoder), fields: fields(settings.fields)? })
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
        columns(py, pair.map_err(|error| exception(&error))?)
    }

    /// A batch of records as a batch of rows.
    fn encode_batch(&self, py: Python<'_>, batch: &Bound<'_, PyAny>) -> PyResult<Batch> {
        let records = arrow::import("batch", batch)?;
        if !matches!(records.data_type(), DataType::Struct(_)) {
            return Err(PyTypeError::new_err(format!("batch: expected columns, got {}", records.data_type())));
        }
        let (encoder, fields, pool) = (self.encoder.clone(), self.fields.clone(), pool()?);
        let rows = interruptible(py, move |stop| {
            let lines = lines(&records).map_err(|error| failed(&error))?;
            let mut reader = RecordReader::from_text("batch", Format::Lines, Cursor::new(lines));
            let mut table = RowTable::default();
            pool.install(|| {
                let pairs = reader.map_in_order(|raw| raw.parse(&fields).and_then(|record| encoder.encode(&record)));
                for (row, pair) in (1..).zip(pairs.take_while(|_| !stop.load(Ordering::Relaxed))) {
                    table.push(row, &pair?);
                }
                Ok::<_, Error>(())
            })
            .map_err(|error| exception(&error))?;
            // Without the numbers of the records, which are those of the rows.
            let mut rows = table.into_batch();
            rows.remove_column(0);
            Ok::<_, PyErr>(rows)
        })??;
        Ok(Batch(rows))
    }
}

/// The records as lines of JSON. A column of a table has a value in every row, so null means that the record lacks the field.
fn lines(records: &ArrayRef) -> Result<Vec<u8>, arrow_schema::ArrowError> {
    let mut lines = vec![];
    let mut writer = WriterBuilder::new().with_explicit_nulls(false).build::<_, LineDelimited>(&mut lines);
    writer.write(&RecordBatch::from(records.as_struct()))?;
    writer.finish()?;
    Ok(lines)
}

fn columns<'py>(py: Python<'py>, pair: EncodedPair) -> PyResult<Bound<'py, PyDict>> {
    let columns = PyDict::new(py);
    for side in Side::ALL {
        let row = pair.row(side);
        let ids: Vec<i64> = row.input_ids().iter().map(|&id| id.into()).collect();
        columns.set_item(format!("{side}_input_ids"), ids.into_pyarray(py))?;
        columns.set_item(format!("{side}_labels"), row.labels().to_vec().into_pyarray(py))?;
        columns.set_item(format!("{side}_weights"), row.weights().to_vec().into_pyarray(py))?;
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
