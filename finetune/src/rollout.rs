//! A model's own answers to prompts, as records for `figa curate` and for training.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use figa_loss::{Fields, RecordReader, model_files};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::args::RolloutArgs;
use crate::decoder::{Config, Decoder, Load, shards};
use crate::encode::Encoder;
use crate::generate::{Generated, Limits, Prompt, generate};
use crate::inputs::Inputs;
use crate::ranks::Ranks;
use crate::{hub, progress};

/// Answers the prompts of a file. Returns `false` if `interrupted`, which is asked after each batch, ended it early; the same
/// command then continues.
///
/// # Errors
/// One line that names the argument, or the record of the file, and what to do.
pub fn rollout(args: &RolloutArgs, interrupted: &dyn Fn() -> bool) -> Result<bool> {
    args.check()?;
    let ranks = &Ranks::from_env()?;
    let device = args.rows.device(ranks)?;
    let out = args.out.display();
    ensure!(!args.out.exists(), "--out: {out} exists; choose another file");
    let base = hub::folder(&args.model)?;
    let encoder = Encoder::new(&base, &Config::read(&base)?, &args.rows)?;
    let fields = args.rows.fields.fields();
    let records = read(args, &encoder, &fields)?;
    let mut inputs = Inputs::default();
    inputs.add_files("--model", &[model_files(&base)?, shards(&base)?].concat())?;
    for record in &records {
        inputs.add_ids("--prompts", &record.prompt);
    }
    ranks.check_same("model and prompts", &serde_json::to_string(&inputs)?)?;
    let mut partial = None;
    let done = ranks.from_first(|| {
        let opened = partial.insert(Partial::open(&args.out, &Header { inputs, args: args.clone() })?);
        Ok(opened.records)
    })?;

    let kind = args.rows.kind();
    let model = Decoder::load(&base, Load { device, kind, weights: kind, freeze_below: 0 })?.frozen();
    let stop_ids = encoder.stop_ids(&[]);
    let batch = 4 * args.rows.micro_batch;
    let limits = Limits { stop_ids: &stop_ids, max_tokens: args.max_tokens, batch };
    let sampling = args.sampling.with_seed(args.seed);
    let bar = progress::of_answers(records.len(), done, ranks.is_first())?;
    let all = records.len();
    let numbered: Vec<(u64, Record)> = (0..).zip(records).skip(done).collect();
    for records in numbered.chunks(batch * ranks.count()) {
        let prompts = records[ranks.share(records.len())].iter();
        let prompts = prompts.map(|(number, record)| Prompt { number: *number, ids: &record.prompt });
        let answers = generate(&model, &prompts.collect::<Vec<_>>(), limits, sampling);
        let answers = ranks.gather(answers)?.concat();
        if let Some(partial) = &mut partial {
            for ((_, record), answer) in records.iter().zip(&answers) {
                partial.push(&record.answered(&encoder, &fields, answer)?)?;
            }
            partial.flush()?;
        }
        bar.inc(records.len() as u64);
        let is_last = records.last().is_some_and(|(number, _)| *number as usize + 1 == all);
        if !is_last && ranks.any(interrupted())? {
            bar.abandon();
            if ranks.is_first() {
                println!("saved; run the same command again to continue");
            }
            return Ok(false);
        }
    }
    bar.finish_and_clear();
    if let Some(mut partial) = partial {
        partial.finish()?;
        println!("{} answers, written to {out}", partial.records);
    }
    Ok(true)
}

/// A record without an answer.
struct Record {
    fields: Map<String, Value>,
    /// As token ids.
    prompt: Vec<u32>,
}

fn read(args: &RolloutArgs, encoder: &Encoder, fields: &Fields) -> Result<Vec<Record>> {
    let mut records = vec![];
    for raw in RecordReader::open([&args.prompts])? {
        let raw = raw?;
        let text = raw.bytes().and_then(|bytes| str::from_utf8(bytes).ok());
        let text = text.with_context(|| format!("{}: expected JSON", raw.place()))?;
        let mut values: Map<String, Value> = serde_json::from_str(text).with_context(|| raw.place())?;
        // The answers that a record needs, to be read as one.
        values.insert(fields.original.clone(), "".into());
        values.insert(fields.revised.clone(), "".into());
        let record = raw.with_text(serde_json::to_string(&values)?).parse(fields)?;
        let prompt = encoder.prompt(&record).with_context(|| raw.place())?;
        values.remove(&fields.revised);
        records.push(Record { fields: values, prompt });
    }
    ensure!(!records.is_empty(), "{}: expected at least one record, found none", args.prompts.display());
    Ok(records)
}

impl Record {
    fn answered(&self, encoder: &Encoder, fields: &Fields, answer: &Generated) -> Result<Map<String, Value>> {
        let mut record = self.fields.clone();
        record.insert(fields.original.clone(), encoder.text(&answer.ids)?.into());
        record.insert("finish_reason".into(), if answer.is_complete { "stop" } else { "length" }.into());
        Ok(record)
    }
}

/// The first line of a file that is not complete: what a command must have in common with the one that began it.
#[derive(Serialize, Deserialize)]
struct Header {
    inputs: Inputs,
    args: RolloutArgs,
}

/// Answers so far, in a file beside that for all of them.
struct Partial {
    path: PathBuf,
    out: PathBuf,
    file: BufWriter<File>,
    records: usize,
}

impl Partial {
    fn open(out: &Path, header: &Header) -> Result<Self> {
        let mut path = out.as_os_str().to_owned();
        path.push(".rollout");
        let path = PathBuf::from(path);
        let header = serde_json::to_string(header)?;
        let place = || path.display().to_string();
        let mut records = 0;
        if path.exists() {
            let mut reader = BufReader::new(File::open(&path).with_context(place)?);
            let (mut line, mut whole) = (String::new(), 0);
            // A line that is not complete is generated again.
            while reader.read_line(&mut line).with_context(place)? > 0 && line.ends_with('\n') {
                ensure!(
                    whole > 0 || line.trim_end() == header,
                    "--out: {} was begun with other arguments, prompts or another model; remove it, or choose another file",
                    place()
                );
                records += usize::from(whole > 0);
                whole += line.len() as u64;
                line.clear();
            }
            let file = OpenOptions::new().append(true).open(&path).with_context(place)?;
            file.set_len(whole).with_context(place)?;
        }
        let file = OpenOptions::new().append(true).create(true).open(&path).with_context(place)?;
        let is_new = file.metadata().with_context(place)?.len() == 0;
        let mut partial = Self { file: BufWriter::new(file), out: out.into(), path, records };
        if is_new {
            partial.write(&header)?;
        }
        Ok(partial)
    }

    fn write(&mut self, line: &str) -> Result<()> {
        writeln!(self.file, "{line}").with_context(|| self.path.display().to_string())
    }

    fn push(&mut self, record: &Map<String, Value>) -> Result<()> {
        self.records += 1;
        self.write(&serde_json::to_string(record)?)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush().with_context(|| self.path.display().to_string())
    }

    /// Gives the answers their name.
    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        let text = fs::read_to_string(&self.path).with_context(|| self.path.display().to_string())?;
        let (_, answers) = text.split_once('\n').context("a file with a header")?;
        figa_atomic_file::write(&self.out, answers).with_context(|| format!("writing {}", self.out.display()))?;
        fs::remove_file(&self.path).with_context(|| self.path.display().to_string())
    }
}
