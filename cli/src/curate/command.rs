//! Commands that answer each line of input with one line of output.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::processes::Processes;

/// The longest answer, in bytes. A command that never ends its line must not fill the memory.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// How long a command may be silent until a notice says so.
const FIRST_NOTICE: Duration = Duration::from_secs(30);

/// Characters of a line that an error quotes.
const EXCERPT_CHARS: usize = 200;

/// A shell command. It is started with the first request and runs until [`finish`](Self::finish), or until it is
/// dropped.
pub struct LineCommand<'a> {
    /// The argument that names it.
    argument: &'static str,
    line: &'a str,
    patience: Patience<'a>,
    running: Option<Running>,
}

/// How long to wait for a command.
struct Patience<'a> {
    /// After this long, a notice comes. The time doubles with each notice, so that a slow command causes only a few.
    notice: Duration,
    /// After this long, waiting is an error.
    timeout: Option<Duration>,
    tell: &'a dyn Fn(&str),
}

/// Its threads write requests and read answers, so that neither waits for the other.
struct Running {
    processes: Processes,
    requests: Sender<String>,
    events: Receiver<Event>,
}

enum Event {
    /// A request has been written to the input, or the input is closed.
    Written(io::Result<()>),
    /// A line of output, with its line break, and what came together with it.
    Line { line: Vec<u8>, rest: Vec<u8> },
    /// The output has ended.
    End,
}

impl<'a> LineCommand<'a> {
    /// `tell` gets a line for the user when an answer takes long.
    pub fn new(argument: &'static str, line: &'a str, timeout: Option<Duration>, tell: &'a dyn Fn(&str)) -> Self {
        Self { argument, line, patience: Patience { notice: FIRST_NOTICE, timeout, tell }, running: None }
    }

    /// The command line.
    pub fn line(&self) -> &str {
        self.line
    }

    /// The argument and the command line, for errors.
    pub fn name(&self) -> String {
        format!("{} {:?}", self.argument, self.line)
    }

    /// Sends a line about the record at `place` and waits for the answer.
    pub fn ask(&mut self, request: &str, place: &str) -> Result<String> {
        let name = format!("{}: {place}", self.name());
        let running = match &mut self.running {
            Some(running) => running,
            none => none.insert(Running::start(self.line).context("starting sh")?),
        };
        running.ask(request, &mut self.patience, &name)
    }

    /// Closes its input, waits until it has ended, and ends what it has left running.
    pub fn finish(mut self) -> Result<()> {
        let name = self.name();
        let Some(Running { mut processes, requests, events }) = self.running else { return Ok(()) };
        drop(requests);
        let start = Instant::now();
        loop {
            match self.patience.wait(&events, start, &name, "it continues after the last answer") {
                Ok(Event::Line { line, .. }) => bail!("{name}: {}", unrequested(&line)),
                Ok(Event::Written(_)) => {}
                // It has answered everything, so neither a timeout nor its exit status matters.
                Ok(Event::End) | Err(_) => break,
            }
        }
        let _ = processes.exit_status();
        Ok(())
    }
}

impl Patience<'_> {
    /// The next event. `name` says who is waited for, `state` what has not happened since `start`.
    fn wait(&mut self, events: &Receiver<Event>, start: Instant, name: &str, state: &str) -> Result<Event> {
        loop {
            let until = self.timeout.map_or(self.notice, |timeout| timeout.min(self.notice));
            match events.recv_timeout(until.saturating_sub(start.elapsed())) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Disconnected) => return Ok(Event::End),
                Err(RecvTimeoutError::Timeout) => {
                    ensure!(self.timeout != Some(until), "{state} for {} s (--command-timeout)", until.as_secs());
                    (self.tell)(&format!("{name}: {state} for {} s", until.as_secs()));
                    self.notice *= 2;
                }
            }
        }
    }
}

impl Running {
    fn start(line: &str) -> Result<Self> {
        let (processes, input, output) = Processes::start(line)?;
        let (requests, to_write) = channel();
        // A command that floods its output waits until somebody wants the next event.
        let (sender, events) = sync_channel(1);
        let written = sender.clone();
        thread::spawn(move || write_requests(input, &to_write, &written));
        thread::spawn(move || read_lines(BufReader::new(output), &sender));
        Ok(Self { processes, requests, events })
    }

    /// One request is on its way at a time: the command has read the whole of it when this returns.
    fn ask(&mut self, request: &str, patience: &mut Patience, name: &str) -> Result<String> {
        match self.events.try_recv() {
            Ok(Event::Line { line, .. }) => bail!(unrequested(&line)),
            Ok(Event::End) => bail!(self.too_few_lines()),
            _ => {}
        }
        // If the thread has ended, so has the input, and the event that says so is waiting.
        let _ = self.requests.send(format!("{request}\n"));
        let (mut is_written, mut answer) = (false, None);
        let start = Instant::now();
        loop {
            let state = match &answer {
                Some(_) if is_written => break,
                Some(_) => "it has answered, and has not read its line of input",
                None => "no answer",
            };
            match patience.wait(&self.events, start, name, state)? {
                Event::Written(Ok(())) => is_written = true,
                Event::Line { line, rest } => answer = Some(self.answer(answer, line, &rest)?),
                Event::Written(Err(_)) | Event::End => bail!(self.too_few_lines()),
            }
        }
        answer.context("no answer")
    }

    /// The answer in a line of output, if it is whole and the only one.
    fn answer(&mut self, earlier: Option<String>, line: Vec<u8>, rest: &[u8]) -> Result<String> {
        let text = lossy(&line);
        let more = |first: &str, second: &str| {
            let (first, second) = (excerpt(first), excerpt(second));
            format!("it printed more than one line for one line of input: {first}, {second}")
        };
        if let Some(earlier) = earlier {
            bail!(more(&earlier, &text));
        }
        let Some(line) = line.strip_suffix(b"\n") else {
            ensure!(
                line.len() < MAX_ANSWER_BYTES as usize,
                "expected an answer of at most {MAX_ANSWER_BYTES} bytes, got {}",
                excerpt(&text)
            );
            bail!("it {} within a line: {}", self.how_it_ended(), excerpt(&text));
        };
        ensure!(rest.is_empty(), more(&text, &lossy(rest)));
        let line = str::from_utf8(line).ok().with_context(|| format!("its answer is not UTF-8: {}", excerpt(&text)))?;
        Ok(line.trim().to_owned())
    }

    fn too_few_lines(&mut self) -> String {
        format!("expected one line of output for each line of input, but it {}", self.how_it_ended())
    }

    fn how_it_ended(&mut self) -> String {
        match self.processes.exit_status() {
            Some(status) => format!("ended ({status})"),
            None => "closed its input or output".to_owned(),
        }
    }
}

/// Writes requests until there are no more, and then closes the input.
fn write_requests(mut input: ChildStdin, requests: &Receiver<String>, events: &SyncSender<Event>) {
    for request in requests {
        let written = input.write_all(request.as_bytes()).and_then(|()| input.flush());
        let is_open = written.is_ok();
        if events.send(Event::Written(written)).is_err() || !is_open {
            return;
        }
    }
}

/// Reads lines until the output ends or nobody receives them.
fn read_lines(mut output: BufReader<ChildStdout>, events: &SyncSender<Event>) {
    loop {
        let mut line = vec![];
        let event = match output.by_ref().take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line) {
            Ok(1..) => Event::Line { line, rest: output.buffer().to_vec() },
            _ => Event::End,
        };
        let is_end = matches!(event, Event::End);
        if events.send(event).is_err() || is_end {
            return;
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

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::LineCommand;

    #[test]
    fn a_notice_names_a_silent_command() {
        let told = RefCell::new(vec![]);
        let tell = |line: &str| told.borrow_mut().push(line.to_owned());
        let mut command = LineCommand::new("--scorer", "read -r line; sleep 1; echo 2", None, &tell);
        command.patience.notice = Duration::from_millis(1);
        assert_eq!(command.ask("1", "pairs.jsonl:7").unwrap(), "2");
        command.finish().unwrap();
        let told = told.into_inner();
        let expected = "--scorer \"read -r line; sleep 1; echo 2\": pairs.jsonl:7: no answer for 0 s";
        assert_eq!(told.first().map(String::as_str), Some(expected));
        assert!(told.len() <= 12, "each notice doubles the time until the next: {told:?}");
    }
}
