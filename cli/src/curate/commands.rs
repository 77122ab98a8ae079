//! Asking a command that answers each line with one line.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// No answer is longer, in bytes: a command that never ends its line must not fill the memory.
const MAX_ANSWER: u64 = 64 << 20;

/// A command of the shell. It is started when it is first asked, and then runs until [`finish`](Self::finish).
pub struct Command {
    /// The argument that names it.
    argument: &'static str,
    pub line: String,
    running: Option<Running>,
}

struct Running {
    child: Child,
    to: ChildStdin,
    /// A line, and what has come together with it.
    from: Receiver<[Vec<u8>; 2]>,
}

impl Command {
    pub fn new(argument: &'static str, line: &str) -> Self {
        Self { argument, line: line.to_owned(), running: None }
    }

    /// What errors begin with.
    pub fn name(&self) -> String {
        format!("{} {:?}", self.argument, self.line)
    }

    /// The line that it answers with.
    pub fn ask(&mut self, request: &str) -> Result<String> {
        let running = match &mut self.running {
            Some(running) => running,
            none => none.insert(Running::start(&self.line).context("starting sh")?),
        };
        running.ask(request)
    }

    /// Ends it, and waits until it has ended.
    pub fn finish(self) -> Result<()> {
        let name = self.name();
        let Some(Running { mut child, to, from }) = self.running else { return Ok(()) };
        drop(to);
        if let Ok([line, _]) = from.recv() {
            bail!("{name}: {}", unasked(&line));
        }
        // It has answered everything: how it ends does not matter.
        let _ = child.wait();
        Ok(())
    }
}

impl Running {
    fn start(line: &str) -> Result<Self> {
        let mut command = std::process::Command::new("sh");
        let mut child = command.args(["-c", line]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = child.stdin.take().context("no pipe")?;
        let mut output = BufReader::new(child.stdout.take().context("no pipe")?);
        // Read at all times, so that a command which writes before it has read all of its line does not wait for ever.
        let (lines, from) = sync_channel(16);
        thread::spawn(move || {
            loop {
                let mut line = vec![];
                match output.by_ref().take(MAX_ANSWER).read_until(b'\n', &mut line) {
                    Ok(1..) if lines.send([line, output.buffer().to_vec()]).is_ok() => {}
                    _ => return,
                }
            }
        });
        Ok(Self { child, to, from })
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        if let Ok([line, _]) = self.from.try_recv() {
            bail!(unasked(&line));
        }
        let sent = self.to.write_all(format!("{request}\n").as_bytes()).and_then(|()| self.to.flush());
        let Some([line, rest]) = sent.ok().and_then(|()| self.from.recv().ok()) else {
            bail!("expected one line in answer to each line, but it {}", self.end());
        };
        let text = lossy(&line);
        let Some(line) = line.strip_suffix(b"\n") else {
            ensure!(
                line.len() < MAX_ANSWER as usize,
                "its answer has more than {MAX_ANSWER} bytes: {}",
                excerpt(&text)
            );
            bail!("it {} within a line: {}", self.end(), excerpt(&text));
        };
        ensure!(
            rest.is_empty(),
            "it has answered one line with several: {}, {}",
            excerpt(&text),
            excerpt(&lossy(&rest))
        );
        let line = str::from_utf8(line).ok().with_context(|| format!("its answer is no UTF-8: {}", excerpt(&text)))?;
        Ok(line.trim().to_owned())
    }

    /// How it ended.
    fn end(&mut self) -> String {
        // Its output may be closed a moment before it has ended.
        for _ in 0..100 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return format!("ended ({status})");
            }
            thread::sleep(Duration::from_millis(10));
        }
        "closed its input or output".to_owned()
    }
}

/// One line too many, and each answer is taken for that of the next request.
fn unasked(line: &[u8]) -> String {
    let line = excerpt(&lossy(line));
    format!("it has printed a line that nobody asked for, {line}, so that the answers before it may be wrong as well")
}

fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// What a message quotes of a line.
pub fn excerpt(text: &str) -> String {
    let text = text.trim_end();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{:?} and so on", &text[..end]),
        None => format!("{text:?}"),
    }
}
