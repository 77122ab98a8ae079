//! Commands that answer each line of input with one line of output.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// The longest answer, in bytes. A command that never ends its line must not fill the memory.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// Lines that are read ahead of the requests. One would be enough: more than one unread line is already an error.
const LINES_AHEAD: usize = 16;

/// How long to wait for the exit status of a command that has closed its output.
const EXIT_POLLS: usize = 100;
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Characters of a line that an error quotes.
const EXCERPT_CHARS: usize = 200;

/// A shell command. It is started with the first request and runs until [`finish`](Self::finish).
pub struct LineCommand {
    /// The argument that names it.
    argument: &'static str,
    line: String,
    running: Option<Running>,
}

struct Running {
    child: Child,
    input: ChildStdin,
    output: Receiver<OutputLine>,
}

/// A line of output, with its line break, and what came together with it.
struct OutputLine {
    line: Vec<u8>,
    rest: Vec<u8>,
}

impl LineCommand {
    pub fn new(argument: &'static str, line: &str) -> Self {
        Self { argument, line: line.to_owned(), running: None }
    }

    /// The command line.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The argument and the command line, for errors.
    pub fn name(&self) -> String {
        format!("{} {:?}", self.argument, self.line)
    }

    /// Sends a line and waits for the answer.
    pub fn ask(&mut self, request: &str) -> Result<String> {
        let running = match &mut self.running {
            Some(running) => running,
            none => none.insert(Running::start(&self.line).context("starting sh")?),
        };
        running.ask(request)
    }

    /// Closes its input and waits until it has ended.
    pub fn finish(self) -> Result<()> {
        let name = self.name();
        let Some(Running { mut child, input, output }) = self.running else { return Ok(()) };
        drop(input);
        if let Ok(OutputLine { line, .. }) = output.recv() {
            bail!("{name}: {}", unrequested(&line));
        }
        // It has answered everything, so its exit status does not matter.
        let _ = child.wait();
        Ok(())
    }
}

impl Running {
    fn start(line: &str) -> Result<Self> {
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", line]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("no pipe")?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        // A thread always reads, so that a command can print before it has read its whole line.
        let (lines, receiver) = sync_channel(LINES_AHEAD);
        thread::spawn(move || read_lines(output, &lines));
        Ok(Self { child, input, output: receiver })
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        if let Ok(OutputLine { line, .. }) = self.output.try_recv() {
            bail!(unrequested(&line));
        }
        let sent = self.input.write_all(format!("{request}\n").as_bytes()).and_then(|()| self.input.flush());
        let Some(OutputLine { line, rest }) = sent.ok().and_then(|()| self.output.recv().ok()) else {
            bail!("expected one line of output for each line of input, but it {}", self.how_it_ended());
        };
        let text = lossy(&line);
        let Some(line) = line.strip_suffix(b"\n") else {
            ensure!(
                line.len() < MAX_ANSWER_BYTES as usize,
                "expected an answer of at most {MAX_ANSWER_BYTES} bytes, got {}",
                excerpt(&text)
            );
            bail!("it {} within a line: {}", self.how_it_ended(), excerpt(&text));
        };
        ensure!(
            rest.is_empty(),
            "it printed more than one line for one line of input: {}, {}",
            excerpt(&text),
            excerpt(&lossy(&rest))
        );
        let line = str::from_utf8(line).ok().with_context(|| format!("its answer is not UTF-8: {}", excerpt(&text)))?;
        Ok(line.trim().to_owned())
    }

    fn how_it_ended(&mut self) -> String {
        // Its output may close slightly before it has ended.
        for _ in 0..EXIT_POLLS {
            if let Ok(Some(status)) = self.child.try_wait() {
                return format!("ended ({status})");
            }
            thread::sleep(EXIT_POLL_INTERVAL);
        }
        "closed its input or output".to_owned()
    }
}

/// Reads lines until the output ends or nobody receives them.
fn read_lines(mut output: BufReader<ChildStdout>, lines: &SyncSender<OutputLine>) {
    loop {
        let mut line = vec![];
        match output.by_ref().take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line) {
            Ok(1..) if lines.send(OutputLine { line, rest: output.buffer().to_vec() }).is_ok() => {}
            _ => return,
        }
    }
}

/// After one line too many, each answer would be taken for the answer to the next request.
fn unrequested(line: &[u8]) -> String {
    let line = excerpt(&lossy(line));
    format!("it printed a line without being asked, {line}, so earlier answers may be wrong as well")
}

fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The beginning of a line in quotes, for errors.
pub fn excerpt(text: &str) -> String {
    let text = text.trim_end();
    match text.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
