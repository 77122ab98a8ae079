//! The processes of a command: a shell and all that it starts. They end together: with the command, or when a signal
//! ends the program.

use std::io;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

/// How often to look whether a process has ended, and how many times.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
const POLLS: usize = 100;

pub struct Processes {
    shell: Child,
}

impl Processes {
    /// Starts a command line with `sh`. Returns its standard input and output as well.
    pub fn start(line: &str) -> io::Result<(Self, ChildStdin, ChildStdout)> {
        let mut command = Command::new("sh");
        command.args(["-c", line]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = group::start(command)?;
        let pipes = shell.stdin.take().zip(shell.stdout.take());
        let (input, output) = pipes.ok_or_else(|| io::Error::other("no pipe"))?;
        Ok((Self { shell }, input, output))
    }

    /// The exit status of the shell; `None` if it still runs. Its output may close slightly before it has ended.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        poll(|| self.shell.try_wait().ok().flatten())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        group::end(&mut self.shell);
    }
}

/// The first value; `None` if there is none after a while.
fn poll<T>(mut value: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..POLLS {
        if let Some(value) = value() {
            return Some(value);
        }
        thread::sleep(POLL_INTERVAL);
    }
    None
}

#[cfg(unix)]
mod group {
    use std::io;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::{mem, ptr, thread};

    use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, waitpid};
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    use super::poll;

    /// The process groups that have not been ended.
    static RUNNING: Mutex<Groups> = Mutex::new(Groups { ids: vec![], are_signals_caught: false });

    struct Groups {
        ids: Vec<Pid>,
        are_signals_caught: bool,
    }

    /// Starts a process in a group of its own.
    pub fn start(mut command: Command) -> io::Result<Child> {
        let mut running = running();
        if !running.are_signals_caught {
            catch_signals()?;
            running.are_signals_caught = true;
        }
        let child = command.process_group(0).spawn()?;
        running.ids.push(Pid::from_child(&child));
        Ok(child)
    }

    /// Ends the group that a process leads.
    pub fn end(leader: &mut Child) {
        let id = Pid::from_child(leader);
        // Waits for ever while a signal ends the program, which then reports no error of a command that it has ended.
        let mut running = running();
        end_all(&[id]);
        running.ids.retain(|other| *other != id);
    }

    fn running() -> MutexGuard<'static, Groups> {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks all processes of the groups to end, and then forces them to.
    fn end_all(ids: &[Pid]) {
        let signal_all = |signal| {
            for id in ids {
                // A group that has ended cannot be signalled.
                let _ = kill_process_group(*id, signal);
            }
        };
        let has_ended = |id: &Pid| {
            // A process that has ended belongs to its group until somebody has waited for it.
            let _ = waitpid(Some(*id), WaitOptions::NOHANG);
            test_kill_process_group(*id).is_err()
        };
        signal_all(Signal::TERM);
        if poll(|| ids.iter().all(has_ended).then_some(())).is_none() {
            signal_all(Signal::KILL);
        }
    }

    /// A signal that ends the program ends the groups first.
    fn catch_signals() -> io::Result<()> {
        let signals = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| !is_ignored(*signal));
        let mut signals = Signals::new(signals)?;
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Stays locked, so that no further group starts.
                let running = running();
                end_all(&running.ids);
                let _ = emulate_default_handler(signal);
            }
        });
        Ok(())
    }

    /// Whether the program was started with this signal ignored, as `nohup` does.
    fn is_ignored(signal: i32) -> bool {
        // SAFETY: without a new action, `sigaction` only writes the present one, for which zeros are a valid value.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            libc::sigaction(signal, ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
        }
    }
}

#[cfg(not(unix))]
mod group {
    use std::io;
    use std::process::{Child, Command};

    pub fn start(mut command: Command) -> io::Result<Child> {
        command.spawn()
    }

    pub fn end(child: &mut Child) {
        let _ = child.kill();
        let _ = child.wait();
    }
}
