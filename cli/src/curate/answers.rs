//! What commands have answered, kept in a file until the run is complete: asking may take days.
//!
//! Next to `OUT`, `OUT.answers` holds a line for each answer, in the order in which they were asked for: a hash of the
//! command and its request, a space, and the answer as it came. Everything else is cheap, so that a run which goes on
//! begins at the first record again, and takes its answers from there for as long as there are any.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use twox_hash::XxHash64;

use super::commands::Command;
use crate::aside::with_ending;

pub struct Answers {
    path: PathBuf,
    /// Those that have not been asked for again.
    before: Option<BufReader<File>>,
    /// Where new ones go, from the first on.
    file: Option<File>,
    /// Whole lines in the file, and their bytes.
    lines: u64,
    bytes: u64,
    pub asked: u64,
    pub recalled: u64,
}

impl Answers {
    pub fn open(out: &Path, resume: bool) -> Result<Self> {
        let path = with_ending(out, ".answers");
        let before = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            file => Some(BufReader::new(file.with_context(|| path.display().to_string())?)),
        };
        let taken = path.display();
        ensure!(
            resume || before.is_none(),
            "--out: {taken} holds the answers of an unfinished run: go on with --resume, or remove it"
        );
        Ok(Self { path, before, file: None, lines: 0, bytes: 0, asked: 0, recalled: 0 })
    }

    /// Was there a run before that is not complete?
    pub fn are_there(&self) -> bool {
        self.before.is_some()
    }

    /// The answer to a request about the record at `place`: that of the run before, or else the command's.
    pub fn answer<T>(
        &mut self,
        command: &mut Command,
        request: &impl Serialize,
        place: &str,
        read: impl Fn(&str) -> Result<T>,
    ) -> Result<T> {
        let request = serde_json::to_string(request)?;
        let hash = XxHash64::oneshot(0, format!("{}\n{request}", command.line).as_bytes());
        if let Some(answer) = self.recall(hash, place)? {
            self.recalled += 1;
            return read(&answer).with_context(|| format!("{}:{}", self.path.display(), self.lines));
        }
        let answer = command.ask(&request).and_then(|answer| Ok((read(&answer)?, answer)));
        let (value, answer) = answer.map_err(|error| {
            let kept = match self.lines {
                0 => String::new(),
                lines => format!(
                    "; {lines} answers are in {}: mend it and go on with --resume, or remove them to begin again",
                    self.path.display()
                ),
            };
            anyhow!("{}: {place}: {error:#}{kept}", command.name())
        })?;
        self.append(format!("{hash:016x} {answer}\n").as_bytes())
            .with_context(|| format!("writing {}", self.path.display()))?;
        self.asked += 1;
        Ok(value)
    }

    fn recall(&mut self, hash: u64, place: &str) -> Result<Option<String>> {
        let Some(before) = &mut self.before else { return Ok(None) };
        let mut line = vec![];
        before.read_until(b'\n', &mut line).with_context(|| self.path.display().to_string())?;
        // The end, or a line that the run was killed in.
        if line.pop() != Some(b'\n') {
            self.before = None;
            return Ok(None);
        }
        (self.lines, self.bytes) = (self.lines + 1, self.bytes + line.len() as u64 + 1);
        match line.strip_prefix(format!("{hash:016x} ").as_bytes()) {
            Some(answer) => Ok(Some(String::from_utf8_lossy(answer).into_owned())),
            None => bail!(
                "--resume: {}:{} does not answer what is asked about {place}: the input, a command or an option has \
                 changed; restore it, or remove {0} to ask again",
                self.path.display(),
                self.lines
            ),
        }
    }

    fn append(&mut self, line: &[u8]) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = File::options().create(true).truncate(false).write(true).open(&self.path)?;
                file.set_len(self.bytes)?;
                file.seek(SeekFrom::End(0))?;
                none.insert(file)
            }
        };
        file.write_all(line)?;
        (self.lines, self.bytes) = (self.lines + 1, self.bytes + line.len() as u64);
        Ok(())
    }

    /// Nothing more will be asked: are there answers left?
    pub fn check_end(&mut self) -> Result<()> {
        let left = match &mut self.before {
            Some(before) => before.fill_buf().with_context(|| self.path.display().to_string())?.contains(&b'\n'),
            None => false,
        };
        ensure!(
            !left,
            "--resume: {} holds answers to more than is asked: the input or an option has changed; restore it, or \
             remove the file to ask again",
            self.path.display()
        );
        Ok(())
    }

    /// The run is complete. That they cannot be removed is no reason to fail.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}
