//! The answers of commands, kept in a file until the run is complete: asking may take days.
//!
//! Next to `OUT`, `OUT.answers` holds one line per answer, in the order of the requests: a hash of the command and the
//! request, a space, and the answer. Everything else is cheap, so a resumed run starts again at the first record, and
//! takes its answers from the file until there are no more. An answer is written when it comes, so a kill loses none;
//! [`Syncer`] says what a power failure may lose.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use twox_hash::XxHash64;

use super::command::LineCommand;
use super::syncer::Syncer;

pub struct Answers {
    path: PathBuf,
    /// Locked while it is open. `None` until the first answer.
    file: Option<BufReader<File>>,
    /// `None` until the first answer of this run.
    syncer: Option<Syncer>,
    /// Whether the file may hold answers that have not been asked for again.
    recalling: bool,
    /// Whole lines in the file that have been read or written, and their bytes.
    lines: u64,
    bytes: u64,
    /// Answers from commands.
    pub asked: u64,
    /// Answers from the file.
    pub recalled: u64,
}

impl Answers {
    pub fn open(out: &Path, resume: bool) -> Result<Self> {
        let mut path = out.as_os_str().to_owned();
        path.push(".answers");
        let path = PathBuf::from(path);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            file => Some(BufReader::new(lock(&path, file.with_context(|| path.display().to_string())?)?)),
        };
        ensure!(
            resume || file.is_none(),
            "--out: {} holds the answers of an unfinished run: continue it with --resume, or remove the file",
            path.display()
        );
        Ok(Self { path, recalling: file.is_some(), file, syncer: None, lines: 0, bytes: 0, asked: 0, recalled: 0 })
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
            return parse(&answer).with_context(|| format!("{}:{}", self.path.display(), self.lines));
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
                self.lines
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

    /// Writes a line after those that have been read, in place of a cut one.
    fn append(&mut self, line: &[u8]) -> Result<()> {
        let mut append = || {
            let file = match &mut self.file {
                Some(file) => file.get_mut(),
                none => none.insert(BufReader::new(lock(&self.path, File::create_new(&self.path)?)?)).get_mut(),
            };
            file.set_len(self.bytes)?;
            file.seek(SeekFrom::Start(self.bytes))?;
            file.write_all(line)?;
            let syncer = match &mut self.syncer {
                Some(syncer) => syncer,
                none => none.insert(Syncer::new(file.try_clone()?)),
            };
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

fn lock(path: &Path, file: File) -> Result<File> {
    ensure!(file.try_lock().is_ok(), "--out: another run is writing {}", path.display());
    Ok(file)
}
