//! The answers of commands, kept in a file until the run is complete: asking may take days.
//!
//! Next to `OUT`, `OUT.answers` holds a line that says so, and then one line per answer, in the order of the requests: a
//! hash of the command and the request, a space, and the answer. Everything else is cheap, so a resumed run starts again at
//! the first record, and takes its answers from the file until there are no more. An answer is written when it comes, so a
//! kill loses none; [`Syncer`] says what a power failure may lose.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use figa_atomic_file::{AtomicFile, open_own};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

use super::command::LineCommand;
use super::syncer::Syncer;
use crate::new_file::with_suffix;
use crate::stamp::FileStamp;

/// The longest first line that is read of a file that may be anything.
const MAX_HEADER_BYTES: u64 = 1 << 16;

/// The first line of the file.
#[derive(Serialize, Deserialize)]
struct Header {
    /// The file name of the output.
    answers_for: String,
    /// The files on which the requests depend, besides the records.
    files: Vec<FileStamp>,
}

pub struct Answers {
    path: PathBuf,
    /// The first line, with its line break.
    header: String,
    /// Locked while it is open. `None` until the first answer.
    file: Option<BufReader<File>>,
    /// `None` until the first answer of this run.
    syncer: Option<Syncer>,
    /// Whether the file may hold answers that have not been asked for again.
    recalling: bool,
    /// Answers in the file that have been read or written, and the bytes of the file up to them.
    lines: u64,
    bytes: u64,
    /// Answers from commands.
    pub asked: u64,
    /// Answers from the file.
    pub recalled: u64,
}

impl Answers {
    /// Takes over the answers of an earlier run, if there are some. `files` are those on which the requests depend.
    pub fn open(out: &Path, files: Vec<FileStamp>, resume: bool) -> Result<Self> {
        let path = Self::path_of(out);
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let header = Header { answers_for: name.into(), files };
        let file = match open_own(&path, &read_and_write()) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            file => Some(BufReader::new(lock(&path, file.with_context(|| format!("--out: {}", path.display()))?)?)),
        };
        let (mut answers, now) = (Self::new(path, &header)?, header);
        let Some(mut file) = file else { return Ok(answers) };
        let path = answers.path.display();
        let mut line = String::new();
        let read = file.by_ref().take(MAX_HEADER_BYTES).read_line(&mut line);
        let found: Option<Header> = read.ok().and_then(|_| serde_json::from_str(&line).ok());
        let Some(found) = found.filter(|found| found.answers_for == now.answers_for && line.ends_with('\n')) else {
            bail!(
                "--out: {path} does not hold the answers of a run with the output {}: name another file, or move that away",
                now.answers_for
            );
        };
        ensure!(
            resume,
            "--out: {path} holds the answers of an unfinished run: continue it with --resume, or remove the file"
        );
        if let Some(changed) = FileStamp::first_change(&found.files, &now.files) {
            bail!("--resume: {changed} has changed since the run began: restore it, or remove {path} to ask again");
        }
        answers.bytes = line.len() as u64;
        (answers.file, answers.recalling) = (Some(file), true);
        Ok(answers)
    }

    fn new(path: PathBuf, header: &Header) -> Result<Self> {
        let header = serde_json::to_string(header)? + "\n";
        let bytes = header.len() as u64;
        Ok(Self { path, header, file: None, syncer: None, recalling: false, lines: 0, bytes, asked: 0, recalled: 0 })
    }

    /// The file for the answers of a run with this output.
    pub fn path_of(out: &Path) -> PathBuf {
        with_suffix(out, ".answers")
    }

    /// Whether an earlier run has left answers.
    pub fn exist(&self) -> bool {
        self.file.is_some()
    }

    /// The answer to a request about the record at `place`, from the file or else from the command.
    pub fn answer<T>(
        &mut self,
        command: &mut LineCommand<'_>,
        request: &impl Serialize,
        place: &str,
        parse: impl Fn(&str) -> Result<T>,
    ) -> Result<T> {
        let request = serde_json::to_string(request)?;
        let hash = XxHash64::oneshot(0, format!("{}\n{request}", command.line()).as_bytes());
        if let Some(answer) = self.recall(hash, place)? {
            self.recalled += 1;
            return parse(&answer).with_context(|| format!("{}:{}", self.path.display(), self.lines + 1));
        }
        let answer = command.ask(&request, place).and_then(|answer| Ok((parse(&answer)?, answer)));
        let (value, answer) = answer.map_err(|error| {
            let kept = match self.lines {
                0 => String::new(),
                lines => format!(
                    "; {lines} answers are in {}: fix the command and continue with --resume, or remove the file \
                     to start again",
                    self.path.display()
                ),
            };
            anyhow!("{}: {place}: {error:#}{kept}", command.name())
        })?;
        self.append(format!("{hash:016x} {answer}\n").as_bytes())?;
        self.asked += 1;
        Ok(value)
    }

    /// The next answer of the file; `None` after the last one.
    fn recall(&mut self, hash: u64, place: &str) -> Result<Option<String>> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        match line.strip_prefix(format!("{hash:016x} ").as_bytes()) {
            Some(answer) => Ok(Some(String::from_utf8_lossy(answer).into_owned())),
            None => bail!(
                "--resume: {}:{} is not the answer about {place}: the input, a command or an option has changed; \
                 restore it, or remove {0} to ask again",
                self.path.display(),
                self.lines + 1
            ),
        }
    }

    /// The next whole line, without its line break. The last line may be cut: the run was stopped while writing it.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file.as_mut().filter(|_| self.recalling) else { return Ok(None) };
        let mut line = vec![];
        file.read_until(b'\n', &mut line).with_context(|| self.path.display().to_string())?;
        if line.pop() != Some(b'\n') {
            self.recalling = false;
            return Ok(None);
        }
        self.lines += 1;
        self.bytes += line.len() as u64 + 1;
        Ok(Some(line))
    }

    /// Writes a line after those that have been read.
    fn append(&mut self, line: &[u8]) -> Result<()> {
        let mut append = || {
            let file = match &mut self.file {
                Some(file) => file.get_mut(),
                none => none.insert(BufReader::new(create(&self.path, &self.header)?)).get_mut(),
            };
            let syncer = match &mut self.syncer {
                Some(syncer) => syncer,
                none => {
                    // The last line may be cut.
                    file.set_len(self.bytes)?;
                    file.seek(SeekFrom::Start(self.bytes))?;
                    none.insert(Syncer::new(file.try_clone()?))
                }
            };
            file.write_all(line)?;
            anyhow::Ok(syncer.written()?)
        };
        append().with_context(|| format!("writing {}", self.path.display()))?;
        self.lines += 1;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Checks that no answers remain when nothing more is asked.
    pub fn check_end(&mut self) -> Result<()> {
        ensure!(
            self.next_line()?.is_none(),
            "--resume: {} holds more answers than this run asks for: the input or an option has changed; restore it, \
             or remove the file to ask again",
            self.path.display()
        );
        Ok(())
    }

    /// The run is complete, so it is no failure if the file cannot be removed.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Creates the file with its first line, or not at all.
fn create(path: &Path, header: &str) -> Result<File> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(header.as_bytes())?;
    file.commit_new()?;
    lock(path, open_own(path, &read_and_write())?)
}

fn read_and_write() -> OpenOptions {
    OpenOptions::new().read(true).write(true).clone()
}

fn lock(path: &Path, file: File) -> Result<File> {
    ensure!(file.try_lock().is_ok(), "--out: another run is writing {}", path.display());
    Ok(file)
}
